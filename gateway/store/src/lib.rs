//! Reads features: cache, single flight, breaker, and the two places where rows are kept, Redis and this
//! process. The promise: [`Store::fetch`] never fails and never outlives its deadline; what it could not get
//! says why, value by value.
//!
//! A fetch goes through the files in this order: `wanted` (which entities, each once), `cache`, `flight` (one
//! read per key at a time, whoever asks), `redis` or `embedded`, and `decode` or `decode_hash` (rows to columns).

pub mod alarm;
mod breaker;
mod cache;
/// Real servers for the tests that need what this crate keeps to itself.
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
mod counters;
mod decode;
mod decode_hash;
mod embedded;
mod fetch;
mod flight;
mod front;
mod hash;
mod hash_write;
mod key;
mod redis;
mod row;
mod shape;
mod tracking;
mod trouble;
mod wanted;

pub use breaker::State as BreakerState;
pub use cache::CacheSettings;
pub use counters::{Counter, Counters, Nodes, Withheld};
pub use decode::fill_hashes;
pub use embedded::Embedded;
pub use fetch::{Backend, Limits, Store};
pub use hash_write::{HashWrite, HashWriteSettings, HashWriter};
pub use key::entity_keys;
pub use redis::load::{LOAD_CHUNK_ROWS, LoadCommand, LoadError, LoadReply, LoadScript, Loader};
pub use redis::{AddressError, Redis, RedisAddress, RedisLayout, RedisLogin, RedisTls, Replicas, TlsCheck};
pub use row::{Invalid, PackError, Row, pack_rows};
pub use trouble::Trouble;
pub use wanted::{HashAsk, HashFound, Hashes};
