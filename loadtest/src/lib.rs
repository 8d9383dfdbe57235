//! Load, floors, faults and peers for Weir: what its tests and benchmarks share, and the commands of `weir-loadtest`.
//! Every address is on loopback: this loads our own machine and nobody else's.

mod ask;
mod call;
mod caller;
pub mod cli;
mod client;
mod figures;
mod floor;
mod freshness;
mod hashes;
mod http1;
mod load;
mod metrics;
mod mux;
mod nodes;
mod open;
mod pace;
mod plot;
mod priority;
pub mod proxy;
mod random;
mod raw;
mod report;
mod resp;
mod rows;
mod run;
mod scenario;
mod stage;
mod tally;
mod verdict;

use std::net::SocketAddr;

/// What a command ends in when it fails: a chain of reasons for whoever typed it.
pub type Failed = Box<dyn std::error::Error>;

/// Reads an address and insists that it is on this machine.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is no IP:PORT"))?;
    if address.ip().is_loopback() { Ok(address) } else { Err(format!("{address} is not on loopback")) }
}
