//! End-to-end suites: the real binary, driven over its public surfaces. One module for each part of the promise.

mod canary;
mod drain;
mod faults;
mod hostile;
mod kill;
mod limits;
mod operate;
mod protocol;
mod rest;
mod slow;
mod sockets;
