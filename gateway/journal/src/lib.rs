//! Writes down what was served. Promises: [`Journal::record`] never waits; every row it kept survives the
//! process, also `kill -9`; every row it did not keep is counted.
//!
//! A record travels one way: into the queue (shared memory, `queue.rs`), from there into a segment on disk
//! (`writer.rs`), from there into Parquet (`sealer.rs`, `seal/`). Whatever was on its way when a process died
//! goes on from where it was (`recover.rs`). This crate alone knows Arrow, so it also reads the Parquet
//! files that features are loaded from ([`table`]); and it alone knows object stores ([`remote`]).
//!
//! ```text
//! <folder>/served/service=…/dt=YYYY-MM-DD/hour=HH/<segment>-<k>.parquet   one row per row of an answer
//! <folder>/exposures/dt=…/hour=…/<segment>.parquet                        one row per experiment, unit and arm
//! <folder>/feast/<service>/YYYY-MM-DD/<segment>-<k>.parquet               `served` as Feast's feature log, on request
//! <folder>/_manifest/<segment>.json                                       rows, sizes and checksums of those
//! <folder>/wal/<segment>.seg                                              not sealed yet
//! <folder>/quarantine/                                                    damaged; what was readable is sealed
//! ```

mod counts;
mod frame;
mod journal;
mod known;
mod put;
mod queue;
mod record;
mod recover;
pub mod remote;
mod rows;
mod schema;
mod seal;
mod sealer;
mod segment;
mod settings;
pub mod table;
mod wire;
mod writer;

pub use counts::{Counted, Counts, DropReason};
pub use journal::{Journal, OpenError, Recorded};
pub use seal::SealFault;
pub use sealer::SealError;
pub use settings::{BACKLOG_BYTES_MAX, FSYNC_EVERY, QUEUE_BYTES, SEAL_AFTER, SEGMENT_BYTES, Settings};
