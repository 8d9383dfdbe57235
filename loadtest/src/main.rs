//! The `weir-loadtest` binary: the parts of a benchmark that Python would be too slow for. `bench.py` starts
//! them, one process each, and does the arithmetic. Every address is on loopback: this loads our own machine
//! and nobody else's.

mod ask;
mod call;
mod client;
mod floor;
mod load;
mod raw_mget;
mod report;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The same as in `weir`, so that the floor stands on the same ground.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command ends in when it fails: a chain of reasons for whoever typed it.
type Failed = Box<dyn std::error::Error>;

/// Floors and closed-loop load for Weir, on loopback only. Results are one JSON object on stdout.
#[derive(Debug, Parser)]
#[command(name = "weir-loadtest", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Call GetFeatures once and say what came; can write the request and the reply to files.
    Call(call::Call),
    /// Serve one fixed reply with bare tonic and prost: what a gateway cannot beat by much.
    Floor(floor::Floor),
    /// Call GetFeatures as fast as the replies come.
    Load(load::Load),
    /// Read the same rows from Redis with a bare MGET.
    RawMget(raw_mget::RawMget),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Call(call) => call.run(),
        Command::Floor(floor) => floor.run(),
        Command::Load(load) => load.run(),
        Command::RawMget(raw) => raw.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// Reads an address and insists that it is on this machine.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is no IP:PORT"))?;
    if address.ip().is_loopback() { Ok(address) } else { Err(format!("{address} is not on loopback")) }
}
