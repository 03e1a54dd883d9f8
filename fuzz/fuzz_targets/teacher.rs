#![no_main]

use koopflow_fuzz::readers::{read, Reader};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    read(Reader::Teacher, input);
});
