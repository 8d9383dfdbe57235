//! How the rows of an entity are stored, read and kept: as one packed string, or as fields of a Feast hash. Whatever
//! keeps rows or waits for them asks here and is the same for both.

use std::sync::Arc;

use bytes::Bytes;
use weir_domain::catalog::{Freshness, View};
use weir_domain::feast::{HashRead, HashRow};

use crate::row::{Invalid, Row};

/// What is read of one entity.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// The view's packed row, under a key of its own.
    Packed(Arc<View>),
    /// Some fields of a Feast hash; their digest stands before the hash's key.
    Hash(Arc<HashRead>),
}

impl Shape {
    /// How long a row may be kept.
    pub(crate) fn limits(&self) -> Freshness {
        match self {
            Self::Packed(view) => view.cache,
            Self::Hash(read) => read.cache,
        }
    }

    /// A row of this shape, or why the bytes are none.
    pub(crate) fn parse(&self, bytes: Bytes) -> Result<Row, Invalid> {
        let event_time_us = self.check(&bytes)?;
        Ok(Row::unchecked(bytes, event_time_us))
    }

    /// The event time of a row of this shape, or why the bytes are none.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<i64, Invalid> {
        match self {
            Self::Packed(view) => Row::check(bytes, view),
            // Not what the store holds but what we made of it: it is always well formed.
            Self::Hash(_) => HashRow::parse(bytes).map(|row| hash_time_us(&row)).ok_or(Invalid::Short),
        }
    }
}

/// A row of a hash, with the event time that it carries.
pub(crate) fn hash_row(bytes: Bytes) -> Row {
    let event_time_us = HashRow::parse(&bytes).map(|row| hash_time_us(&row)).unwrap_or_default();
    Row::unchecked(bytes, event_time_us)
}

fn hash_time_us(row: &HashRow<'_>) -> i64 {
    let (seconds, nanos) = row.time();
    seconds.saturating_mul(1_000_000).saturating_add(i64::from(nanos / 1_000))
}
