//! What outlives the servers which run one after the other: their data, their logs, their users' tokens; and how they are to run.

use crate::cluster::{ClusterNames, Services};
use crate::profile::{ONE_POD, PODS, Profile};
use crate::waiting::{LONG, eventually, within};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::process::Command;

/// A directory that outlives the servers which run in it one after the other, and in the cluster profile the names of a topic,
/// a keyspace and the like that are theirs alone.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    starts: AtomicU32,
    tokens: Mutex<HashMap<String, String>>,
    cluster: Option<ClusterNames>,
}

/// How a server is to run: settings on top of the harness's own.
#[derive(Clone, Debug)]
pub struct Options {
    settings: Vec<(String, String)>,
    expected_errors: Vec<String>,
    pods: usize,
    binary: Option<PathBuf>,
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

    /// Runs one pod in the cluster profile too, for a reason that is in [`ONE_POD`] under this name.
    ///
    /// # Panics
    /// When there is no such reason.
    #[must_use]
    pub fn on_one_pod(mut self, reason: &str) -> Self {
        assert!(ONE_POD.iter().any(|(name, _)| *name == reason), "`{reason}` is no reason for one pod");
        self.pods = 1;
        self
    }

    /// Runs so many pods in the cluster profile.
    #[must_use]
    pub const fn with_pods(mut self, pods: usize) -> Self {
        self.pods = pods;
        self
    }

    /// Runs another program than the binary under test.
    #[must_use]
    pub fn with_binary(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Whether an ERROR line is one that the test provokes.
    #[must_use]
    pub fn expects(&self, line: &str) -> bool {
        self.expected_errors.iter().any(|text| line.contains(text.as_str()))
    }

    /// The log's epoch that is asked for.
    #[must_use]
    pub fn epoch(&self) -> &str {
        let found = self.settings.iter().find(|(name, _)| name == "CHATIFY__MESSAGE_BROKER__LOG_EPOCH");
        found.map_or("1", |(_, value)| value.as_str())
    }

    /// How many pods there are in the cluster profile.
    #[must_use]
    pub const fn pods(&self) -> usize {
        self.pods
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { settings: Vec::new(), expected_errors: Vec::new(), pods: PODS, binary: None }
    }
}

impl Home {
    /// A new directory without data, for the profile of this run.
    ///
    /// # Panics
    /// When the machine gives no temporary directory.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let cluster = match Profile::of_this_run() {
            Profile::Embedded => None,
            Profile::Cluster => Some(ClusterNames::new(Services::of_this_run())),
        };
        Self::with_cluster(cluster)
    }

    /// A new directory, with the names of a cluster or for the embedded profile.
    ///
    /// # Panics
    /// When the machine gives no temporary directory.
    #[must_use]
    pub fn with_cluster(cluster: Option<ClusterNames>) -> Arc<Self> {
        let directory = tempfile::Builder::new().prefix("chatify-test-").tempdir().expect("a temporary directory");
        Arc::new(Self { directory, starts: AtomicU32::new(0), tokens: Mutex::default(), cluster })
    }

    /// Where a server of the embedded profile keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where pod `number` may keep what it likes.
    #[must_use]
    pub fn pod_dir(&self, number: usize) -> PathBuf {
        match self.cluster {
            Some(_) => self.directory.path().join(format!("pod-{number}")),
            None => self.data_dir(),
        }
    }

    /// A file for the log of the next process.
    #[must_use]
    pub fn next_log(&self) -> PathBuf {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        self.directory.path().join(format!("server-{number}.log"))
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The cluster's names, in the cluster profile.
    #[must_use]
    pub const fn cluster(&self) -> Option<&ClusterNames> {
        self.cluster.as_ref()
    }

    /// The secret that tokens are signed with.
    ///
    /// # Panics
    /// When the server has not made one yet.
    #[must_use]
    pub fn key(&self) -> String {
        match &self.cluster {
            Some(cluster) => cluster.key().to_owned(),
            None => {
                fs::read_to_string(self.data_dir().join("auth.key")).expect("the key that was made").trim().to_owned()
            }
        }
    }

    /// Runs the binary to its end, as a person at a terminal would.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(&self, arguments: &[&str], options: &Options) -> Output {
        let mut command = self.command(arguments, options, 0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().expect("the binary can be started").wait_with_output();
        within(LONG, &format!("the end of `chatify {}`", arguments.join(" ")), running).await.expect("its output")
    }

    /// Waits until the log of a cluster has so many records and the history all of them.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn caught_up(&self, options: &Options, records: i64) {
        eventually(LONG, "the history has everything", || async {
            let output = self.run(&["lag", "--json"], options).await;
            // Brokers that do not answer in time are asked again.
            let lag: Value = output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))?;
            let ends = lag["partitions"].as_array().expect("partitions").iter().map(|row| row["end"].as_i64());
            (lag["lag"] == 0 && ends.sum::<Option<i64>>() == Some(records)).then_some(())
        })
        .await;
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

    /// How pod `number` is started with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str], options: &Options, number: usize) -> Command {
        let mut command = Command::new(options.binary.clone().unwrap_or_else(binary));
        command.args(arguments).current_dir(self.directory.path()).kill_on_drop(true).stdin(Stdio::null());
        // Nothing of the developer's own environment may change what the tests see.
        command.env_clear().env("RUST_BACKTRACE", "1");
        command.env("CHATIFY__SERVER__LISTEN", "127.0.0.1:0").env("CHATIFY__SERVER__DATA_DIR", self.pod_dir(number));
        if let Some(cluster) = &self.cluster {
            command.envs(cluster.settings(number, options.epoch()));
            if options.settings.iter().any(|(name, _)| name.starts_with("CHATIFY__AUTH__KEY")) {
                // The test is about keys.
                command.env_remove("CHATIFY__AUTH__KEY");
            }
        }
        command.envs(options.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The binary under test: `CHATIFY_BIN`, or the one that was built next to this test.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CHATIFY_BIN") {
        return fs::canonicalize(path).expect("CHATIFY_BIN names the binary");
    }
    let this = std::env::current_exe().expect("the path of this program");
    // A test lies in `deps` of the profile's directory, a program in the directory itself.
    let beside = this.ancestors().skip(1).take(2).map(|directory| directory.join("chatify"));
    let found = beside.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no `chatify` near {}: run `cargo build -p chatify-host` first", this.display()))
}
