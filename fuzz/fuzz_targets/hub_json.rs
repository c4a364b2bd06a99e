//! JSON records of the hub protocol, and its handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatify_host::fuzz::hub_json(bytes));
