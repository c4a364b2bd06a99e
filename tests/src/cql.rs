//! The CQL store over its native protocol itself: enough to clean up after a test, to see whether the store answers, and to read
//! whole tables, without the driver that is under test.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const VERSION: u8 = 4;
const STARTUP: u8 = 0x01;
const QUERY: u8 = 0x07;
const READY: u8 = 0x02;
const RESULT: u8 = 0x08;
const CONSISTENCY_ONE: u16 = 1;
/// Of a query: answer without names and types of columns, in pages, from where the page before ended.
const SKIP_METADATA: u8 = 0x02;
const WITH_PAGE_SIZE: u8 = 0x04;
const WITH_PAGING_STATE: u8 = 0x08;
/// Of an answer.
const ROWS: i32 = 2;
const HAS_MORE_PAGES: i32 = 0x02;
const ROWS_A_PAGE: i32 = 2_000;

/// One row: the bytes of each column, `None` for a null.
pub type Row = Vec<Option<Vec<u8>>>;

/// Runs one statement at `address`, without looking at its rows.
///
/// # Errors
/// When the store cannot be reached, or refuses.
pub fn run(address: &str, statement: &str, deadline: Duration) -> io::Result<()> {
    Connection::open(address, deadline)?.page(statement, None).map(drop)
}

/// Every row that `statement` selects.
///
/// # Errors
/// When the store cannot be reached, or refuses.
pub fn rows(address: &str, statement: &str, deadline: Duration) -> io::Result<Vec<Row>> {
    let mut connection = Connection::open(address, deadline)?;
    let (mut rows, mut state) = connection.page(statement, None)?;
    while let Some(from) = state {
        let page = connection.page(statement, Some(&from))?;
        rows.extend(page.0);
        state = page.1;
    }
    Ok(rows)
}

struct Connection(TcpStream);

impl Connection {
    fn open(address: &str, deadline: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        let mut startup = 1u16.to_be_bytes().to_vec();
        for text in ["CQL_VERSION", "3.0.0"] {
            startup.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
            startup.extend(text.as_bytes());
        }
        let mut connection = Self(stream);
        connection.ask(STARTUP, &startup, READY)?;
        Ok(connection)
    }

    /// One page of rows, and where the next one begins if there is one.
    fn page(&mut self, statement: &str, from: Option<&[u8]>) -> io::Result<(Vec<Row>, Option<Vec<u8>>)> {
        let mut query = u32::try_from(statement.len()).expect("short").to_be_bytes().to_vec();
        query.extend(statement.as_bytes());
        query.extend(CONSISTENCY_ONE.to_be_bytes());
        query.push(SKIP_METADATA | WITH_PAGE_SIZE | if from.is_some() { WITH_PAGING_STATE } else { 0 });
        query.extend(ROWS_A_PAGE.to_be_bytes());
        if let Some(from) = from {
            query.extend(u32::try_from(from.len()).expect("short").to_be_bytes());
            query.extend(from);
        }
        let answer = self.ask(QUERY, &query, RESULT)?;
        let mut answer = Cursor(&answer);
        if answer.number()? != ROWS {
            return Ok((Vec::new(), None));
        }
        let (flags, columns) = (answer.number()?, answer.number()?);
        let state = if flags & HAS_MORE_PAGES == 0 { None } else { answer.bytes()? };
        let count = answer.number()?;
        let rows = (0..count).map(|_| (0..columns).map(|_| answer.bytes()).collect());
        Ok((rows.collect::<io::Result<_>>()?, state))
    }

    fn ask(&mut self, opcode: u8, body: &[u8], wanted: u8) -> io::Result<Vec<u8>> {
        let mut frame = vec![VERSION, 0, 0, 0, opcode];
        frame.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
        frame.extend(body);
        self.0.write_all(&frame)?;
        let mut header = [0; 9];
        self.0.read_exact(&mut header)?;
        let [_, _, _, _, answered, length @ ..] = header;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("fits")];
        self.0.read_exact(&mut answer)?;
        if answered == wanted {
            return Ok(answer);
        }
        Err(io::Error::other(format!("the store answered {answered}: {}", String::from_utf8_lossy(&answer))))
    }
}

/// The rest of an answer.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn bytes(&mut self) -> io::Result<Option<Vec<u8>>> {
        match usize::try_from(self.number()?) {
            Ok(length) => self.take(length).map(|bytes| Some(bytes.to_vec())),
            // A negative length is a null.
            Err(_) => Ok(None),
        }
    }
}
