//! One process of the real binary, watched through its log and ended by signals.

use crate::http::Http;
use crate::waiting::{LONG, eventually, within};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use tokio::process::{Child, Command};

/// How many lines of a pod's log a failing test shows.
const LOG_LINES_SHOWN: usize = 120;

/// A running process. Dropping it kills the process.
#[derive(Debug)]
pub struct Pod {
    child: Child,
    pid: u32,
    address: SocketAddr,
    log: PathBuf,
}

impl Pod {
    /// Starts the server that `command` describes. It logs into the file `log` and announces its address in the file `announcement`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command, log: PathBuf, announcement: &Path) -> Self {
        // A server that was killed could not remove its own.
        drop(fs::remove_file(announcement));
        // What it prints for people (with a token in it) is no part of the log.
        command.stdout(Stdio::null()).stderr(File::create(&log).expect("a log file"));
        let child = command.spawn().expect("the binary can be started");
        let pid = child.id().expect("a child that was not waited for has an id");
        Self { child, pid, address: SocketAddr::from(([0, 0, 0, 0], 0)), log }
    }

    /// Waits until it listens.
    ///
    /// # Panics
    /// When it ends before, or does not listen in time.
    pub async fn listening(&mut self, announcement: &Path) {
        let child = Mutex::new(&mut self.child);
        self.address = eventually(LONG, "the server listens", || {
            let ended = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("a child's state");
            assert!(ended.is_none(), "the server ended before it listened: {ended:?}");
            let address = fs::read_to_string(announcement).ok().and_then(|text| text.trim().parse().ok());
            std::future::ready(address)
        })
        .await;
    }

    /// Waits until its readiness probe answers 200.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ready(&self) {
        let http = Http::new(self.address, None);
        eventually(LONG, "the server is ready", || async {
            let answer = http.request(Method::GET, "/health/ready", &[], None).await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
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

    /// Everything that it has logged so far.
    ///
    /// # Panics
    /// When the log is not text.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is a file of text")
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
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// How it ended, when it has.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's state")
    }

    /// Waits for as long as it lives. May be cancelled.
    ///
    /// # Panics
    /// When the system does not say how it ended.
    pub async fn end(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a child's state")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn ended(&mut self) -> ExitStatus {
        within(LONG, "the end of the server", self.end()).await
    }
}

impl Drop for Pod {
    #[expect(clippy::print_stderr, reason = "the log of a failing test is shown to whoever reads its output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let name = self.log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            eprintln!("the log of {name} ({} of {} lines):\n{}", shown.len(), lines.len(), shown.join("\n"));
        }
    }
}
