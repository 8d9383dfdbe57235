//! The commands of `weir-loadtest`, one process each; results are one JSON object on stdout.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{call, floor, load, raw_mget, report};

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

/// Does what the command line says.
pub fn main() -> ExitCode {
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
