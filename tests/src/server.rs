//! The real binary as a child process: configured by the environment, watched through its log, ended by signals.

use crate::http::Http;
use crate::hub::{Hub, HubError, HubOptions};
use crate::message::ChatMessage;
use crate::waiting::{LONG, SOON, eventually, within};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How many lines of a server's log a failing test shows.
const LOG_LINES_SHOWN: usize = 120;

/// A directory that outlives the servers which run in it one after the other: their data, their logs, their users' tokens.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    starts: AtomicU32,
    tokens: Mutex<HashMap<String, String>>,
}

/// How a server is to run: settings on top of the harness's own.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    expected_errors: Vec<String>,
}

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: u32,
    address: SocketAddr,
    home: Arc<Home>,
    options: Options,
    log: PathBuf,
}

impl Options {
    /// Settings that let a test send as much as it likes and log in a way that is easy to read.
    #[must_use]
    pub fn new() -> Self {
        Self::default().with("LIMITS__SEND_MESSAGES", "1000000")
    }

    /// Sets one configuration key, written as in the environment but without the prefix: `SERVER__LISTEN`.
    #[must_use]
    pub fn with(self, key: &str, value: &str) -> Self {
        self.with_variable(&format!("CHATIFY__{key}"), value)
    }

    /// Sets any environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets log lines of level ERROR pass that contain `text`, because the test provokes them.
    #[must_use]
    pub fn expecting_error(mut self, text: &str) -> Self {
        self.expected_errors.push(text.to_owned());
        self
    }
}

impl Home {
    /// A new directory without data.
    ///
    /// # Panics
    /// When the machine gives no temporary directory.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let directory = tempfile::Builder::new().prefix("chatify-test-").tempdir().expect("a temporary directory");
        Arc::new(Self { directory, starts: AtomicU32::new(0), tokens: Mutex::default() })
    }

    /// Where the server keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs the binary to its end, as a person at a terminal would.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(&self, arguments: &[&str], options: &Options) -> Output {
        let mut command = self.command(arguments, options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().expect("the binary can be started").wait_with_output();
        within(SOON, &format!("the end of `chatify {}`", arguments.join(" ")), running).await.expect("its output")
    }

    /// A token for `user` that is good for the whole test. Minted once and remembered.
    ///
    /// # Panics
    /// When the binary does not mint one.
    pub async fn token(&self, user: &str) -> String {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some(token) = known {
            return token;
        }
        let token = self.mint(&["--user", user]).await;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), token.clone());
        token
    }

    /// A token for `user` that ends after `ttl`, such as `3s`.
    ///
    /// # Panics
    /// When the binary does not mint one.
    pub async fn token_for(&self, user: &str, ttl: &str) -> String {
        self.mint(&["--user", user, "--ttl", ttl]).await
    }

    async fn mint(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["token"], arguments].concat(), &Options::new()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`chatify token` ended with {}: {errors}", output.status);
        String::from_utf8(output.stdout).expect("a token is text").trim().to_owned()
    }

    fn command(&self, arguments: &[&str], options: &Options) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.directory.path()).kill_on_drop(true).stdin(Stdio::null());
        // Nothing of the developer's own environment may change what the tests see.
        command.env_clear().env("RUST_BACKTRACE", "1");
        command.env("CHATIFY__SERVER__LISTEN", "127.0.0.1:0").env("CHATIFY__SERVER__DATA_DIR", self.data_dir());
        command.envs(options.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Server {
    /// Starts a server in a new directory and waits until it accepts connections.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn start(options: Options) -> Self {
        Self::start_in(&Home::new(), options).await
    }

    /// Starts a server over the data that an earlier one left.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn start_in(home: &Arc<Home>, options: Options) -> Self {
        let number = home.starts.fetch_add(1, Ordering::Relaxed);
        let log = home.directory.path().join(format!("server-{number}.log"));
        let announcement = home.data_dir().join("listening");
        // A server that was killed could not remove its own.
        drop(fs::remove_file(&announcement));
        let mut command = home.command(&["serve"], &options);
        // What it prints for people (with a token in it) is no part of the log.
        command.stdout(Stdio::null()).stderr(File::create(&log).expect("a log file"));
        let child = command.spawn().expect("the binary can be started");
        let pid = child.id().expect("a child that was not waited for has an id");
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, pid, address, home: Arc::clone(home), options, log };
        server.address = server.announced(&announcement).await;
        server
    }

    async fn announced(&mut self, announcement: &Path) -> SocketAddr {
        let child = Mutex::new(&mut self.child);
        eventually(SOON, "the server listens", || {
            let ended = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("a child's state");
            assert!(ended.is_none(), "the server ended before it listened: {ended:?}");
            let address = fs::read_to_string(announcement).ok().and_then(|text| text.trim().parse().ok());
            std::future::ready(address)
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it keeps between starts.
    #[must_use]
    pub const fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Everything that this process has logged so far.
    ///
    /// # Panics
    /// When the log is not text.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is a file of text")
    }

    /// A token for `user`.
    pub async fn token(&self, user: &str) -> String {
        self.home.token(user).await
    }

    /// A REST client that is signed in as `user`.
    pub async fn http(&self, user: &str) -> Http {
        Http::new(self.address, Some(self.token(user).await))
    }

    /// A hub client that is signed in as `user`.
    ///
    /// # Panics
    /// When the server does not let it in.
    pub async fn hub(&self, user: &str) -> Hub {
        self.try_hub(user, HubOptions::default()).await.unwrap_or_else(|error| panic!("{user} connects: {error}"))
    }

    /// Tries to connect a hub client that is signed in as `user`.
    ///
    /// # Errors
    /// Why the server did not let it in.
    pub async fn try_hub(&self, user: &str, options: HubOptions) -> Result<Hub, HubError> {
        Hub::connect(self.address, &self.token(user).await, options).await
    }

    /// Waits until the readiness probe answers 200.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ready(&self) {
        let http = Http::new(self.address, None);
        eventually(SOON, "the server is ready", || async {
            (http.get("/health/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until the pod's memory has `last`, the newest message of its scope: a join answers from there, and what has not
    /// got there yet comes live.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn remembers(&self, last: &ChatMessage) {
        let (http, path) = (self.http(&last.sender_id).await, last.scope.replacen(':', "/", 1));
        let newest = async || http.page(&path, "limit=1").await.items;
        eventually(SOON, "the newest message is known", || async {
            (newest().await.last() == Some(last)).then_some(())
        })
        .await;
    }

    /// The sum of a metric's series whose line contains `labels`.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let answer = Http::new(self.address, None).get("/metrics").await;
        assert_eq!(answer.status, 200, "/metrics");
        let text = answer.text();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        });
        let values: Vec<f64> = series.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process id is a positive number");
        kill_process(pid, signal).expect("the process lives");
    }

    /// Ends it without a warning, as a power cut would, and waits until the kernel has closed what it held.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Arc<Home> {
        self.child.kill().await.expect("a child can be killed");
        Arc::clone(&self.home)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ended(&mut self) -> ExitStatus {
        within(LONG, "the end of the server", self.child.wait()).await.expect("a child's state")
    }

    /// Asks it to end, waits for that, and checks that nothing was left behind.
    ///
    /// # Panics
    /// When it does not end in time, ends with another code than 0, panicked, or logged an error that nobody expected.
    pub async fn stop(mut self) -> Arc<Home> {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "after SIGTERM the server ended with {status}");
        self.check_log();
        Arc::clone(&self.home)
    }

    /// Checks that the log tells of no panic and of no error that nobody expected.
    ///
    /// # Panics
    /// When it does.
    pub fn check_log(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "something panicked");
        let is_error = |line: &&str| line.contains("ERROR");
        let is_expected = |line: &&str| self.options.expected_errors.iter().any(|text| line.contains(text.as_str()));
        let errors: Vec<&str> = log.lines().filter(is_error).filter(|line| !is_expected(line)).collect();
        assert!(errors.is_empty(), "unexpected errors in the log: {errors:#?}");
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "the log of a failing test is shown to whoever reads its output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("the server's log ({} of {} lines):\n{}", shown.len(), lines.len(), shown.join("\n"));
        }
    }
}

/// The binary under test: `CHATIFY_BIN`, or the one that was built next to this test.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CHATIFY_BIN") {
        return fs::canonicalize(path).expect("CHATIFY_BIN names the binary");
    }
    let test = std::env::current_exe().expect("the path of this test");
    let beside = test.parent().and_then(Path::parent).expect("a test lies in `deps` of the profile's directory");
    let binary = beside.join("chatify");
    assert!(binary.exists(), "{} is missing: run `cargo build -p chatify-host` first", binary.display());
    binary
}
