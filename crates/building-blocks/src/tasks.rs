//! The one place that starts tasks: each has a name, an owner and a rule for its end.
//!
//! A task that fails, panics or ends although it should run for as long as the process is a **crash**: the supervisor cancels
//! everything and [`Supervisor::join`] reports it, so that the process ends with a non-zero code instead of running on with a
//! missing part.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Runs until it is cancelled; ending earlier is a crash.
    Service,
    /// Belongs to one client or one piece of work; it may end at any time, only a panic is worth a log line.
    Work,
}

/// The first crash of a supervised task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` crashed: {cause}")]
pub struct TaskCrash {
    /// The task's name.
    pub task: &'static str,
    /// What it said, or that it panicked.
    pub cause: String,
}

/// Owner of all tasks of a process (or of a test). Cloning gives another handle to the same set.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tracker: TaskTracker,
    cancelled: CancellationToken,
    crash: Arc<Mutex<Option<TaskCrash>>>,
}

impl Supervisor {
    /// An empty set of tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the tasks are to end: by [`Supervisor::cancel`] or because one of them crashed.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Starts a [`TaskKind::Service`]. Its error, panic or early end is a crash.
    pub fn service<E: Display>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let this = self.clone();
        self.spawn(name, TaskKind::Service, async move {
            let outcome = future.await;
            match outcome {
                Err(error) => this.crashed(name, error.to_string()),
                Ok(()) if !this.cancelled.is_cancelled() => this.crashed(name, "ended early".into()),
                Ok(()) => {}
            }
        });
    }

    /// Starts a [`TaskKind::Work`].
    pub fn work(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, TaskKind::Work, future);
    }

    /// Starts a thread for what has to wait where tasks must not. Its panic is a crash; nobody waits for its end.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn thread(&self, name: &'static str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let guard = PanicGuard { name, kind: TaskKind::Service, supervisor: self.clone(), done: false };
        let body = move || {
            let mut guard = guard;
            body();
            guard.done = true;
        };
        std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
    }

    /// Records a crash seen outside of a task and ends everything.
    pub fn crashed(&self, task: &'static str, cause: String) {
        tracing::error!(task, cause, "task crashed");
        self.crash.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(TaskCrash { task, cause });
        self.cancelled.cancel();
    }

    /// Asks every task to end.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    /// The first crash, when there was one.
    pub async fn join(&self) -> Result<(), TaskCrash> {
        self.tracker.close();
        self.tracker.wait().await;
        match self.crash.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(crash) => Err(crash),
            None => Ok(()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    fn spawn(&self, name: &'static str, kind: TaskKind, future: impl Future<Output = ()> + Send + 'static) {
        let guard = PanicGuard { name, kind, supervisor: self.clone(), done: false };
        // Boxed: the block below would hold it twice, before and while it runs.
        let future = Box::pin(future);
        self.tracker.spawn(async move {
            let mut guard = guard;
            future.await;
            guard.done = true;
        });
    }
}

/// Sees a panic: it is dropped without `done` only when the task unwinds or is dropped with its runtime.
struct PanicGuard {
    name: &'static str,
    kind: TaskKind,
    supervisor: Supervisor,
    done: bool,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if self.done || !std::thread::panicking() {
            return;
        }
        match self.kind {
            TaskKind::Service => self.supervisor.crashed(self.name, "panicked".into()),
            TaskKind::Work => tracing::error!(task = self.name, "task panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_panics_is_a_crash_and_one_that_ends_is_not() {
        let supervisor = Supervisor::new();
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        supervisor.thread("quiet", move || drop(ended)).expect("a thread");
        end.await.expect_err("it ended without a word");
        assert!(!supervisor.token().is_cancelled());
        supervisor.thread("loud", || panic!("on purpose")).expect("a thread");
        supervisor.token().cancelled().await;
        assert_eq!(supervisor.join().await.expect_err("a crash").task, "loud");
    }

    #[tokio::test]
    async fn a_service_that_fails_ends_the_others_and_is_reported() {
        let supervisor = Supervisor::new();
        let token = supervisor.token();
        supervisor.service::<String>("waits", async move {
            token.cancelled().await;
            Ok(())
        });
        supervisor.service("fails", async { Err("disk on fire") });
        let crash = supervisor.join().await.expect_err("a crash");
        assert_eq!(crash, TaskCrash { task: "fails", cause: "disk on fire".into() });
    }

    #[tokio::test]
    async fn a_service_that_panics_or_ends_early_is_a_crash_and_work_is_not() {
        for panics in [true, false] {
            let supervisor = Supervisor::new();
            supervisor.service::<String>("service", async move {
                assert!(!panics, "on purpose");
                Ok(())
            });
            assert_eq!(supervisor.join().await.expect_err("a crash").task, "service");
        }
        let supervisor = Supervisor::new();
        supervisor.work("work", async { panic!("on purpose") });
        assert_eq!(supervisor.join().await, Ok(()));
    }
}
