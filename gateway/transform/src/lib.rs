//! Runs user Wasm on columns. Promise: *a guest can only fail to answer*. Whatever it does, it ends within
//! its slice, stays within its memory, and leaves nothing behind but a [`Failure`].
//!
//! [`Engine::load`] turns a component's bytes into a [`Plugin`], once a digest. A [`Runner`] binds a plugin
//! to one transform of the catalog and calls it, a batch of rows at a time. Only this crate knows wasmtime.

mod batch;
mod breaker;
mod engine;
mod guest;
mod pack;
mod plugin;
mod runner;
mod ticker;

pub use engine::{Engine, EngineError, Settings};
pub use pack::{PackError, digest, pack};
pub use plugin::{Field, LoadError, Plugin, Schema};
pub use runner::{BindError, Failure, Runner};
