//! A request as decoded, before anything is known about its service.

use std::time::Duration;

use crate::Named;
use crate::experiment::Attributes;

/// What a caller asks for, whatever the encoding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Name of the feature service.
    pub service: String,
    /// Join keys that hold for the whole request: one value each.
    pub context: Vec<Named>,
    /// Join keys per item: as many values each as there are items.
    pub items: Vec<Named>,
    /// Features that the caller knows: one value, or one per item.
    pub features: Vec<Named>,
    /// Cached rows read from the store longer ago are not good enough.
    pub max_stale: Option<Duration>,
    /// Whom experiments split by.
    pub unit: Option<String>,
    /// What experiments may target.
    pub attributes: Attributes,
}

/// Most items of one request. Ten times what rankers ask for; beyond it, one request starves the others.
pub const ITEMS_MAX: usize = 10_000;

/// Longest join key in bytes. A Redis key is hashed and compared whole; ids are a hundred times shorter.
pub const KEY_BYTES_MAX: usize = 1_024;
