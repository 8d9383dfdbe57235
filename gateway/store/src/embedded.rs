//! The store inside the process, for one machine and for the demo: a map from key to packed row. It is memory
//! already, so no cache stands before it, and it cannot be late or away.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use hashbrown::HashMap;

/// Rows in this process. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    rows: Arc<RwLock<HashMap<Bytes, Bytes>>>,
}

impl Embedded {
    /// Puts rows under their keys (see [`entity_keys`](crate::entity_keys)), in place of what was there.
    pub fn insert(&self, rows: impl IntoIterator<Item = (Bytes, Bytes)>) {
        let mut table = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        table.extend(rows);
    }

    /// Replaces everything at once: a request sees the old rows or the new ones.
    pub fn replace(&self, rows: impl IntoIterator<Item = (Bytes, Bytes)>) {
        let new = rows.into_iter().collect();
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// No row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of a batch, all as of one moment.
    pub(crate) fn read<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Vec<Option<Bytes>> {
        let table = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        keys.map(|key| table.get(key).cloned()).collect()
    }
}
