//! Cursors, ids and scopes from outside.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatify_host::fuzz::cursors(bytes));
