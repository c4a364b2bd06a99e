//! Which profile the suites run with, and the one list of what is not run the same way in both.

use std::sync::OnceLock;

/// What stands behind the ports of the servers under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One process with everything in one data directory.
    Embedded,
    /// Three pods behind a load balancer, over Kafka, a CQL store and Redis.
    Cluster,
}

/// Pods of a server in the cluster profile.
pub const PODS: usize = 3;

/// Tests, or groups of them, that make sense for the embedded profile only, and why. Nothing else is left out of a run with the cluster.
pub const EMBEDDED_ONLY: &[(&str, &str)] = &[
    ("a_second_process_on_the_same_data_is_refused", "pods of a cluster share their data on purpose"),
    ("data_that_cannot_be_kept_is_refused_at_the_start", "pods of a cluster keep nothing on their own disk"),
    ("disk faults", "pods of a cluster keep nothing on their own disk"),
    ("fifty_kills_under_load_lose_repeat_and_reorder_nothing", "the fault suite kills pods, and more, under more load"),
];

/// Tests that count what one process allows or holds; in the cluster profile they run with one pod, and why.
pub const ONE_POD: &[(&str, &str)] = &[("limits", "the limits of connections and memory are those of one pod")];

impl Profile {
    /// The one that `CHATIFY_TEST_PROFILE` names, `embedded` by default.
    ///
    /// # Panics
    /// When the variable names none.
    #[must_use]
    pub fn of_this_run() -> Self {
        static PROFILE: OnceLock<Profile> = OnceLock::new();
        *PROFILE.get_or_init(|| match std::env::var("CHATIFY_TEST_PROFILE").as_deref() {
            Ok("cluster") => Self::Cluster,
            Ok("embedded") | Err(_) => Self::Embedded,
            Ok(other) => panic!("CHATIFY_TEST_PROFILE is `{other}`; it may be `embedded` or `cluster`"),
        })
    }
}

/// Whether `test` must not run because this run is one with the cluster. Says so, with the reason.
///
/// # Panics
/// When the test is not in [`EMBEDDED_ONLY`].
#[must_use]
#[expect(clippy::print_stderr, reason = "what a run leaves out is told to whoever reads its output")]
pub fn embedded_only(test: &str) -> bool {
    let found = EMBEDDED_ONLY.iter().find(|(name, _)| *name == test);
    let (_, reason) = found.unwrap_or_else(|| panic!("`{test}` is not in the list of embedded-only tests"));
    let left_out = Profile::of_this_run() == Profile::Cluster;
    if left_out {
        eprintln!("{test}: not run with the cluster, because {reason}");
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tests_are_left_out_and_each_says_why() {
        assert!(EMBEDDED_ONLY.len() <= 6, "{} tests are left out of a run with the cluster", EMBEDDED_ONLY.len());
        assert!(ONE_POD.len() <= 4, "{} groups of tests run with one pod", ONE_POD.len());
        for (name, reason) in EMBEDDED_ONLY.iter().chain(ONE_POD) {
            assert!(!name.is_empty() && reason.split(' ').count() > 4, "{name} needs a reason");
        }
    }
}
