//! The commands of `weir-loadtest`, one process each; results are one JSON object on stdout.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{call, floor, freshness, hashes, load, raw, report, run};

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
    /// Serve one fixed reply with bare tonic or hyper: what a gateway cannot beat by much.
    Floor(floor::Floor),
    /// Measure what a cache that believes rows for longer is worth, and what it costs.
    Freshness(freshness::Freshness),
    /// Fill a Redis with rows as Feast keeps them, and write the repository that says so.
    Hashes(hashes::Hashes),
    /// Call GetFeatures as fast as the replies come.
    Load(load::Load),
    /// Read the same rows from Redis over bare sockets.
    Raw(raw::Raw),
    /// Play a scenario in an open loop and judge it.
    Run(run::Run),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Call(call) => call.run().map(|()| ExitCode::SUCCESS),
        Command::Floor(floor) => floor.run().map(|()| ExitCode::SUCCESS),
        Command::Hashes(hashes) => hashes.run().map(|()| ExitCode::SUCCESS),
        Command::Load(load) => load.run().map(|()| ExitCode::SUCCESS),
        Command::Raw(raw) => raw.run().map(|()| ExitCode::SUCCESS),
        Command::Freshness(freshness) => freshness.run(),
        Command::Run(run) => run.run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            report::complain(&*error);
            ExitCode::FAILURE
        }
    }
}
