//! Records as the log stores them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatify_infrastructure::record::fuzz(bytes));
