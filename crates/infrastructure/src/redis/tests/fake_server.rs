//! A server that speaks just enough of Redis's protocol to be in trouble.

use chatify_building_blocks::tasks::Supervisor;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Answers every command by `+OK`, or all but those of connecting by an error.
pub(super) struct FakeServer {
    port: u16,
    trouble: Arc<Mutex<Option<&'static str>>>,
}

impl FakeServer {
    pub(super) async fn start(supervisor: &Supervisor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let trouble = Arc::<Mutex<Option<&str>>>::default();
        let (shared, tasks) = (Arc::clone(&trouble), supervisor.clone());
        supervisor.work("fake-redis", async move {
            while let Ok((client, _)) = listener.accept().await {
                let trouble = Arc::clone(&shared);
                tasks.work("fake-redis-client", async move { drop(serve(client, &trouble).await) });
            }
        });
        Self { port, trouble }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn set_trouble(&self, error: Option<&'static str>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

async fn serve(client: TcpStream, trouble: &Mutex<Option<&'static str>>) -> std::io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut read = BufReader::new(read);
    loop {
        let words = read_command(&mut read).await?;
        let trouble = *trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match (words[0].as_str(), trouble) {
            ("CLIENT", _) | (_, None) => "+OK\r\n".to_owned(),
            (_, Some(error)) => format!("-{error}\r\n"),
        };
        write.write_all(answer.as_bytes()).await?;
    }
}

async fn read_command(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..read_number(read).await? {
        let mut word = vec![0; read_number(read).await? + 2];
        read.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Ok(words)
}

/// The number of a line such as `*3` or `$12`.
async fn read_number(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<usize> {
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let number = line.trim_end().get(1..).and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
}
