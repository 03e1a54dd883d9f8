//! Readers of outside bytes, for libFuzzer. See `README.md` beside this crate for how to run it.

pub mod readers;
