//! What the server's process holds, read from the kernel.

use std::fs;
use std::time::Duration;

/// Memory that `pid` has in RAM, in bytes.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a live process has a VmRSS line");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("VmRSS is a number of KiB") * 1024
}

/// CPU time that the living threads of `pid` have had so far, the kernel's work for them included.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    // A thread may end while it is looked at.
    let times = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    let nanoseconds = times.filter_map(|times| times.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanoseconds.sum())
}

/// Files and sockets that `pid` has open, as the kernel names them.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn open_files(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    // One that is closed while it is looked at is not open.
    let names = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Sockets of `pid` that belong to its listening `port`, the listener itself among them, as the kernel names them.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn sockets_to_clients(pid: u32, port: u16) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the process lives");
    let local = format!(":{port:04X}");
    let inode = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ours = columns.get(1).is_some_and(|address| address.ends_with(&local));
        if ours { columns.get(9).map(|inode| format!("socket:[{inode}]")) } else { None }
    };
    let ours: Vec<String> = table.lines().skip(1).filter_map(inode).collect();
    open_files(pid).into_iter().filter(|name| ours.contains(name)).collect()
}

/// Raises this process's limit of open files to what the system allows, so that a suite can hold thousands of sockets. The
/// servers that it starts inherit the limit.
///
/// # Panics
/// When even the highest limit is below `needed`: the machine cannot run the suite.
pub fn allow_open_files(needed: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    assert!(allowed >= needed, "this suite needs {needed} open files, the machine allows {allowed} (ulimit -Hn)");
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("raising a soft limit up to the hard one is allowed");
    }
}
