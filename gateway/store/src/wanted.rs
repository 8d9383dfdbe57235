//! Which entities a request wants: one key each, however many rows or reads name it. All keys lie in one
//! buffer, so a request that finds everything in the cache allocates no key.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use weir_domain::catalog::{KeyType, Scope};
use weir_domain::feast::{HashRead, KeyFormat, KeyPart};
use weir_domain::plan::{Bound, HashSource, Plan, Read};
use weir_domain::{Column, Provenance};

use crate::key::{push_parts, push_prefix};
use crate::shape::Shape;

/// Stands for an entity that cannot be, until all others are known.
const NOBODY: u32 = u32::MAX;
/// What a join key takes in a key besides its own bytes, or as a number: a guess that spares growing.
const PART_BYTES: usize = 8;
/// Weir's timestamps are in microseconds, Feast's join keys in seconds.
const MICROS: i64 = 1_000_000;

/// The distinct entities of a request.
pub(crate) struct Wanted {
    /// Every key, one after another; the i-th ends at `ends[i]`.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// Of each key, as the cache hashes them.
    hashes: Vec<u64>,
    /// By entity: the read that first wanted it.
    reads: Vec<u32>,
    /// By read: how its rows are stored.
    shapes: Vec<Shape>,
    /// By read: the entity of each row, one for a context read.
    pub(crate) rows: Vec<Vec<u32>>,
    /// Some rows name an entity that no store can have: their entity is the one after the last.
    pub(crate) has_nobody: bool,
}

/// Rows of one Feast hash view to read, by the names of their hashes.
#[derive(Clone, Debug)]
pub struct HashAsk {
    /// Which fields.
    pub read: Arc<HashRead>,
    /// The names of the hashes, one after another, one a row.
    pub keys: Vec<u8>,
    /// Where each name ends.
    pub ends: Vec<usize>,
}

/// What became of the rows of Feast hashes.
#[derive(Debug)]
pub struct Hashes {
    /// By distinct entity.
    pub found: Vec<HashFound>,
    /// By ask: the entity of each row.
    pub rows: Vec<Vec<u32>>,
    /// The deadline cut it short.
    pub was_cut: bool,
}

/// What became of one entity's row.
#[derive(Clone, Debug)]
pub enum HashFound {
    /// Its fields, where they came from and how long ago they were read from the store.
    Row {
        /// The fields, as a [`HashRow`](weir_domain::feast::HashRow).
        row: Bytes,
        /// STORE, CACHE or STALE.
        provenance: Provenance,
        /// Milliseconds since the store was asked.
        age_ms: u32,
    },
    /// No row, and why.
    Hole(Provenance),
}

impl Wanted {
    pub(crate) fn of(plan: &Plan, bound: &Bound, namespace: &str, hasher: &DefaultHashBuilder) -> Self {
        let mut wanted = Self::with_capacity(plan.reads.len());
        // As if no row named the same entity twice: growing would hash them all again.
        let mut seen = HashTable::with_capacity(plan.reads.len() * bound.rows.max(1));
        for read in &plan.reads {
            let (rows, shape) = match &read.hash {
                None => {
                    let rows = wanted.add(plan, read, bound, namespace, hasher, &mut seen);
                    (rows, Shape::Packed(read.view.clone()))
                }
                Some(source) => {
                    let rows = wanted.add_hashes(plan, read, source, bound, hasher, &mut seen);
                    (rows, Shape::Hash(source.read.clone()))
                }
            };
            wanted.rows.push(rows);
            wanted.shapes.push(shape);
        }
        if wanted.has_nobody {
            let last = wanted.len() as u32;
            wanted.rows.iter_mut().flatten().filter(|row| **row == NOBODY).for_each(|row| *row = last);
        }
        wanted
    }

    pub(crate) fn of_hashes(asks: &[HashAsk], hasher: &DefaultHashBuilder) -> Self {
        let mut wanted = Self::with_capacity(asks.len());
        let mut seen = HashTable::with_capacity(asks.iter().map(|ask| ask.ends.len()).sum());
        for (read, ask) in asks.iter().enumerate() {
            let mut before = 0;
            let rows = ask.ends.iter().map(|&end| {
                let start = wanted.keys.len();
                wanted.keys.extend_from_slice(&ask.read.id);
                wanted.keys.extend_from_slice(&ask.keys[before..end]);
                before = end;
                wanted.entity(start, read, hasher, &mut seen)
            });
            let rows = rows.collect();
            wanted.rows.push(rows);
            wanted.shapes.push(Shape::Hash(ask.read.clone()));
        }
        wanted
    }

    /// Of entities that have nothing but keys.
    #[cfg(test)]
    pub(crate) fn of_keys(keys: &[&str], hasher: &DefaultHashBuilder) -> Self {
        let mut wanted = Self::with_capacity(1);
        for key in keys {
            wanted.keys.extend_from_slice(key.as_bytes());
            wanted.ends.push(wanted.keys.len());
            wanted.hashes.push(hasher.hash_one(key.as_bytes()));
            wanted.reads.push(0);
        }
        wanted
    }

    fn with_capacity(reads: usize) -> Self {
        let (shapes, rows) = (Vec::with_capacity(reads), Vec::with_capacity(reads));
        let (keys, ends, hashes, reads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { keys, ends, hashes, reads, shapes, rows, has_nobody: false }
    }

    fn reserve(&mut self, entities: usize, bytes: usize) {
        self.keys.reserve(bytes);
        self.ends.reserve(entities);
        self.hashes.reserve(entities);
        self.reads.reserve(entities);
    }

    fn add(
        &mut self,
        plan: &Plan,
        read: &Read,
        bound: &Bound,
        namespace: &str,
        hasher: &DefaultHashBuilder,
        seen: &mut HashTable<u32>,
    ) -> Vec<u32> {
        let rows = if read.scope == Scope::Context { 1 } else { bound.rows };
        let mut prefix = Vec::with_capacity(64);
        push_prefix(&mut prefix, namespace, &read.view);
        let parts: usize = read.keys.iter().map(|&key| bound.keys[key].bytes() + rows * PART_BYTES).sum();
        self.reserve(rows, rows * prefix.len() + parts);
        let index = self.shapes.len();
        let mut entities = Vec::with_capacity(rows);
        for row in 0..rows {
            let start = self.keys.len();
            self.keys.extend_from_slice(&prefix);
            // A context key has one value, which belongs to every row.
            let part = |&key: &usize| {
                let column = &bound.keys[key];
                (column, if plan.keys[key].scope == Scope::Context { 0 } else { row })
            };
            push_parts(&mut self.keys, read.keys.iter().map(part));
            entities.push(self.entity(start, index, hasher, seen));
        }
        entities
    }

    fn add_hashes(
        &mut self,
        plan: &Plan,
        read: &Read,
        source: &HashSource,
        bound: &Bound,
        hasher: &DefaultHashBuilder,
        seen: &mut HashTable<u32>,
    ) -> Vec<u32> {
        let rows = if read.scope == Scope::Context { 1 } else { bound.rows };
        let index = self.shapes.len();
        let mut entities = Vec::with_capacity(rows);
        for row in 0..rows {
            let start = self.keys.len();
            self.keys.extend_from_slice(&source.prefix);
            let can_be = source.parts.iter().all(|&(key, of)| {
                let row = if plan.keys[key].scope == Scope::Context { 0 } else { row };
                let part = hash_part(&bound.keys[key], row, of);
                part.map(|part| KeyFormat::push_part(&mut self.keys, part)).is_some()
            });
            if can_be {
                self.keys.extend_from_slice(source.project.as_bytes());
                entities.push(self.entity(start, index, hasher, seen));
            } else {
                self.keys.truncate(start);
                self.has_nobody = true;
                entities.push(NOBODY);
            }
        }
        entities
    }

    /// The entity whose key was just written from `start` on: a new one, or one that was wanted before.
    fn entity(&mut self, start: usize, read: usize, hasher: &DefaultHashBuilder, seen: &mut HashTable<u32>) -> u32 {
        let (before, key) = self.keys.split_at(start);
        let hash = hasher.hash_one(key);
        let ends = &self.ends;
        let known = |entity: u32| {
            let at = start_of(ends, entity as usize)..ends[entity as usize];
            &before[at]
        };
        if let Some(&entity) = seen.find(hash, |&entity| known(entity) == key) {
            self.keys.truncate(start);
            return entity;
        }
        let entity = self.ends.len() as u32;
        self.ends.push(self.keys.len());
        self.hashes.push(hash);
        self.reads.push(read as u32);
        let hashes = &self.hashes;
        seen.insert_unique(hash, entity, |&entity| hashes[entity as usize]);
        entity
    }

    /// Number of entities.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn key(&self, entity: usize) -> &[u8] {
        &self.keys[start_of(&self.ends, entity)..self.ends[entity]]
    }

    pub(crate) fn hash(&self, entity: usize) -> u64 {
        self.hashes[entity]
    }

    pub(crate) fn shape(&self, entity: usize) -> &Shape {
        &self.shapes[self.reads[entity] as usize]
    }
}

/// A join key as Feast writes it; `None` for a number that Feast's type cannot hold.
fn hash_part(column: &Column, row: usize, of: KeyType) -> Option<KeyPart<'_>> {
    Some(match (column, of) {
        (Column::String(text), KeyType::String) => KeyPart::String(text.get(row)),
        (Column::Bytes(bytes), KeyType::Bytes) => KeyPart::Bytes(bytes.get(row)),
        (Column::I64(numbers), KeyType::I64) => KeyPart::I64(numbers[row]),
        (Column::I64(numbers), KeyType::I32) => KeyPart::I32(i32::try_from(numbers[row]).ok()?),
        // Feast cuts fractions of a second off, too.
        (Column::Timestamp(micros), KeyType::Timestamp) => KeyPart::Timestamp(micros[row] / MICROS),
        // The catalog gives each kind its own types.
        _ => return None,
    })
}

fn start_of(ends: &[usize], entity: usize) -> usize {
    if entity == 0 { 0 } else { ends[entity - 1] }
}
