//! End-to-end suites: the real binary, driven over its public surfaces. One module for each part of the promise.

mod canary;
mod drain;
mod hostile;
mod kill;
mod limits;
mod protocol;
mod rest;
mod slow;
mod sockets;
