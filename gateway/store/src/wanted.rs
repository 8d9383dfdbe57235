//! Which entities a request wants: one key each, however many rows or reads name it. All keys lie in one
//! buffer, so a request that finds everything in the cache allocates no key.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use weir_domain::catalog::{Scope, View};
use weir_domain::plan::{Bound, Plan, Read};

use crate::key::{push_parts, push_prefix};

/// The distinct entities of a request.
pub(crate) struct Wanted<'p> {
    /// Every key, one after another; the i-th ends at `ends[i]`.
    keys: Vec<u8>,
    ends: Vec<usize>,
    views: Vec<&'p Arc<View>>,
    /// By read of the plan: the entity of each row, one for a context read.
    pub(crate) rows: Vec<Vec<u32>>,
}

impl<'p> Wanted<'p> {
    pub(crate) fn of(plan: &'p Plan, bound: &Bound, namespace: &str, hasher: &DefaultHashBuilder) -> Self {
        let mut wanted = Self { keys: Vec::new(), ends: Vec::new(), views: Vec::new(), rows: Vec::new() };
        // As if no row named the same entity twice: growing would hash them all again.
        let mut seen = HashTable::with_capacity(plan.reads.len() * bound.rows.max(1));
        for read in &plan.reads {
            let rows = wanted.add(plan, read, bound, namespace, hasher, &mut seen);
            wanted.rows.push(rows);
        }
        wanted
    }

    fn add(
        &mut self,
        plan: &Plan,
        read: &'p Read,
        bound: &Bound,
        namespace: &str,
        hasher: &DefaultHashBuilder,
        seen: &mut HashTable<u32>,
    ) -> Vec<u32> {
        let rows = if read.scope == Scope::Context { 1 } else { bound.rows };
        let mut prefix = Vec::with_capacity(64);
        push_prefix(&mut prefix, namespace, &read.view);
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
            let (before, key) = self.keys.split_at(start);
            let hash = hasher.hash_one(key);
            let ends = &self.ends;
            let known = |entity: u32| {
                let at = start_of(ends, entity as usize)..ends[entity as usize];
                &before[at]
            };
            if let Some(&entity) = seen.find(hash, |&entity| known(entity) == key) {
                self.keys.truncate(start);
                entities.push(entity);
                continue;
            }
            let entity = self.ends.len() as u32;
            self.ends.push(self.keys.len());
            self.views.push(&read.view);
            let (keys, ends) = (&self.keys, &self.ends);
            let rehash = |&e: &u32| hasher.hash_one(&keys[start_of(ends, e as usize)..ends[e as usize]]);
            seen.insert_unique(hash, entity, rehash);
            entities.push(entity);
        }
        entities
    }

    /// Number of entities.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn key(&self, entity: usize) -> &[u8] {
        &self.keys[start_of(&self.ends, entity)..self.ends[entity]]
    }

    pub(crate) fn view(&self, entity: usize) -> &'p Arc<View> {
        self.views[entity]
    }
}

fn start_of(ends: &[usize], entity: usize) -> usize {
    if entity == 0 { 0 } else { ends[entity - 1] }
}
