//! A server that speaks just enough of CQL's native protocol (version 4) to refuse a login, for the reason that a test wants.

use chatify_building_blocks::tasks::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const STARTUP: u8 = 0x01;
const AUTHENTICATE: u8 = 0x03;
const ERROR: u8 = 0x00;
const BAD_CREDENTIALS: i32 = 0x0100;

/// What Cassandra says of a name or a password that is wrong.
pub(super) const WRONG: &str = "Provided username and/or password are incorrect";

/// Listens until the test ends; answers with its address. Every login is refused.
pub(super) async fn refusing_logins(supervisor: &Supervisor, reason: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let connections = supervisor.clone();
    supervisor.work("refusing server", async move {
        while let Ok((client, _)) = listener.accept().await {
            connections.work("refused connection", serve(client, reason));
        }
    });
    address
}

async fn serve(mut client: TcpStream, reason: &'static str) {
    let mut header = [0; 9];
    while client.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
        let mut body = vec![0; length];
        if client.read_exact(&mut body).await.is_err() {
            return;
        }
        let (operation, answer) = match header[4] {
            OPTIONS => (SUPPORTED, 0u16.to_be_bytes().to_vec()),
            STARTUP => (AUTHENTICATE, text("org.apache.cassandra.auth.PasswordAuthenticator")),
            _ => (ERROR, [&BAD_CREDENTIALS.to_be_bytes()[..], &text(reason)].concat()),
        };
        let size = u32::try_from(answer.len()).expect("a short answer");
        let frame = [&[0x84, 0, header[2], header[3], operation][..], &size.to_be_bytes(), &answer].concat();
        if client.write_all(&frame).await.is_err() {
            return;
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("a short text").to_be_bytes()[..], text.as_bytes()].concat()
}
