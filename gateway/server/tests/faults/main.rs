//! The faults a gateway must survive, each injected into real processes: one file a fault. A test asserts what callers
//! get, what the metrics say, and where each value came from; none sleeps for luck, and none measures the machine.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails panics, and says what it saw"
)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/stored.rs"]
mod stored;

mod frozen;
