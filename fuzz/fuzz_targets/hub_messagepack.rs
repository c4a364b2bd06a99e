//! MessagePack records of the hub protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chatify_host::fuzz::hub_messagepack(bytes));
