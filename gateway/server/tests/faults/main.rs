//! The faults a gateway must survive, each injected into real processes: one file a fault. A test asserts what callers
//! get, what the metrics say, and where each value came from; none sleeps for luck, and none measures the machine,
//! unless it is told that it has the machine to itself. Which fault is where: README.md beside this.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails panics, and says what it saw"
)]

#[path = "../../../store/tests/common/fake.rs"]
mod fake;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/python.rs"]
mod python;
#[path = "../harness/feast.rs"]
mod repo;
#[path = "../harness/stored.rs"]
mod stored;
#[path = "../harness/wire.rs"]
mod wire;

mod assigned;
mod cards;
mod corrupt;
mod dawdlers;
mod deadlines;
mod exhausted;
mod failover;
mod feast_crowd;
mod feast_large;
mod feast_ledger;
mod floods;
mod frozen;
mod garbage;
mod killed;
mod leavers;
mod memory;
mod moved;
mod noisy;
mod nonsense;
mod overload;
mod oversize;
mod refused;
mod severed;
mod slow;
mod slow_node;
mod stampede;

/// Nothing else runs on the machine (`make test-faults`): then figures of time may be held to what was promised.
fn is_quiet() -> bool {
    std::env::var_os("WEIR_QUIET").is_some_and(|v| v == "1")
}
