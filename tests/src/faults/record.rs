//! The history of a run: one JSON object a line for every operation of a client and every action of the nemesis.

use chatify_building_blocks::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was not done and will not be.
    Refused,
    /// Whether it was done is not known.
    Unknown,
}

/// One operation, or one action of the nemesis.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Who.
    pub actor: &'a str,
    /// What: `send`, `join`, `see`, `read`, `break`, `heal`.
    pub operation: &'a str,
    /// Where.
    pub scope: &'a str,
    /// The message's id, or what the nemesis did.
    pub id: &'a str,
    /// The position in the answer.
    pub position: Option<i64>,
    /// What came of it.
    pub outcome: Outcome,
    /// The pod that answered, when it said so.
    pub pod: &'a str,
    /// The correlation id of the answer, or the error's text.
    pub cause: &'a str,
}

impl Entry<'_> {
    /// Nothing done by nobody; to be filled.
    pub const EMPTY: Self =
        Self { actor: "", operation: "", scope: "", id: "", position: None, outcome: Outcome::Ok, pod: "", cause: "" };
}

/// Writes the history of one run into a file, which is removed when all was well.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    clock: SystemClock,
    file: Mutex<BufWriter<File>>,
}

impl Recorder {
    /// A new history in `directory`.
    ///
    /// # Panics
    /// When the file cannot be made.
    #[must_use]
    pub fn create(directory: &Path, name: &str) -> Self {
        fs::create_dir_all(directory).expect("the directory of histories can be made");
        let path = directory.join(format!("{name}.jsonl"));
        let file = Mutex::new(BufWriter::new(File::create(&path).expect("a history file")));
        Self { path, clock: SystemClock::new(), file }
    }

    /// The time since the run began, on the one clock of all its actors.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.uptime()
    }

    /// Adds one line.
    ///
    /// # Panics
    /// When the disk does not take it.
    pub fn record(&self, entry: &Entry<'_>) {
        let outcome = match entry.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
        };
        let mut line = json!({
            "t": u64::try_from(self.now().as_millis()).expect("a run is short"),
            "actor": entry.actor,
            "op": entry.operation,
            "outcome": outcome,
        });
        let texts = [("scope", entry.scope), ("id", entry.id), ("pod", entry.pod), ("cause", entry.cause)];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            line[name] = Value::from(text);
        }
        if let Some(position) = entry.position {
            line["position"] = Value::from(position);
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").expect("the history can be written");
    }

    /// Writes what is still in memory; gives where the history is.
    ///
    /// # Panics
    /// When the disk does not take it.
    pub fn flush(&self) -> &Path {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush().expect("the history can be written");
        &self.path
    }

    /// Removes the history of a run in which all was well.
    pub fn discard(&self) {
        drop(fs::remove_file(&self.path));
    }
}
