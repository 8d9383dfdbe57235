//! The Weir gateway: wires store, transforms, experiments and journal together, speaks gRPC and HTTP, lives and
//! dies gracefully. Read [`pipeline`] first: it is the life of a request.

mod admin;
pub mod admission;
pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cores;
mod decode;
pub mod demo;
mod doors;
mod encode;
pub mod feast;
mod gate;
pub mod gateway;
mod grpc;
mod http;
pub mod import;
mod json;
mod load;
pub mod memory;
pub mod metrics;
pub mod pipeline;
mod refuse;
mod reload;
pub mod snapshot;
pub mod telemetry;
mod timeout;
mod transform;
mod unary;
