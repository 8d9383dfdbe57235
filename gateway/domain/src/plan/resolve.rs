//! Resolves one service under one combination of arms: every feature reference becomes a slot, every slot is
//! filled by a read, a transform step or the request, and what does not resolve is a mistake with its place.

use std::collections::HashMap;
use std::sync::Arc;

use super::{HashSource, Key, Output, OutputSource, Plan, Read, ReadFeature, RequestSlot, Step, Texts};
use crate::FeatureType;
use crate::Needs;
use crate::catalog::{Catalog, FeatureRef, Layout, Mistake, OnAbsent, Place, Scope, Service, Transform, View};
use crate::experiment::{Arm, Experiment};

/// Deepest chain of transforms. Each is a Wasm call in sequence, inside one budget.
const STEPS_DEEP_MAX: usize = 16;

/// One combination of arms being compiled.
pub(super) struct Compiler<'a> {
    catalog: &'a Catalog,
    service: &'a Service,
    arms: &'a [(&'a Experiment, &'a Arm)],
    /// `None` = does not resolve, which was said once.
    slots: HashMap<FeatureRef, Option<Slot>>,
    reads: Vec<Read>,
    steps: Vec<Step>,
    /// For each step: how many transforms run one after the other up to and with it.
    depths: Vec<usize>,
    keys: Vec<Key>,
    /// For each key: what first reads by it, and so says of which kind it is.
    read_by: Vec<Option<Arc<str>>>,
    request: Vec<RequestSlot>,
    next_slot: usize,
    /// Transforms on the way from the output to here, to see cycles.
    path: Vec<Arc<str>>,
    mistakes: Vec<Mistake>,
}

#[derive(Clone)]
struct Slot {
    slot: usize,
    of: FeatureType,
    scope: Scope,
    source: OutputSource,
    default: Option<crate::Value>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(catalog: &'a Catalog, service: &'a Service, arms: &'a [(&'a Experiment, &'a Arm)]) -> Self {
        Self {
            catalog,
            service,
            arms,
            slots: HashMap::new(),
            reads: Vec::new(),
            steps: Vec::new(),
            depths: Vec::new(),
            keys: Vec::new(),
            read_by: Vec::new(),
            request: Vec::new(),
            next_slot: 0,
            path: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    pub(super) fn compile(mut self) -> Result<Plan, Vec<Mistake>> {
        self.bind_keys();
        for slot in &self.service.request {
            // Sent by the caller whether or not an output shows it: a transform may need it.
            self.request.push(RequestSlot { feature: slot.feature.clone(), scope: slot.scope, slot: self.next_slot });
            self.next_slot += 1;
        }
        let mut outputs = Vec::with_capacity(self.service.features.len());
        for feature in &self.service.features {
            let Some(slot) = self.resolve(feature, &self.service.doc.at) else { continue };
            let default = match self.service.on_absent {
                OnAbsent::Default => self.replaced_default(feature, slot.of).or(slot.default),
                OnAbsent::Null => None,
            };
            outputs.push(Output {
                name: feature.to_string().into(),
                of: slot.of,
                slot: slot.slot,
                source: slot.source,
                default,
            });
        }
        if !self.mistakes.is_empty() {
            return Err(self.mistakes);
        }
        self.reads.iter_mut().for_each(|read| hash_of(read, self.catalog));
        let arm = |pick: fn(&Arm) -> bool| self.arms.iter().map(|(_, arm)| *arm).rfind(|a| pick(a));
        Ok(Plan {
            service: Arc::clone(&self.service.doc.name),
            catalog: Arc::clone(&self.catalog.version),
            budget: self.service.budget,
            max_stale: arm(|a| a.max_stale.is_some()).and_then(|a| a.max_stale).or(self.service.max_stale),
            fallback: self.service.fallback.clone(),
            sample: self.service.sample,
            model: arm(|a| a.model.is_some()).and_then(|a| a.model.clone()),
            keys: self.keys,
            request: self.request,
            reads: self.reads,
            needs: Needs::of(self.steps.len()),
            texts: Texts::default(),
            steps: self.steps,
            outputs,
            slots: self.next_slot,
        })
    }

    fn mistake(&mut self, at: &Place, message: String) {
        self.mistakes.push(Mistake { at: at.clone(), message });
    }

    /// The join keys of the request, in order. What reads by a key says of which kind it is; until then, and for one
    /// that only other arms read by, it is what the catalog says first.
    fn bind_keys(&mut self) {
        let service = self.service;
        let columns =
            service.context.iter().map(|n| (n, Scope::Context)).chain(service.items.iter().map(|n| (n, Scope::Item)));
        for (name, scope) in columns {
            let mapped =
                service.reads.iter().flat_map(|r| r.keys.iter().map(move |(key, column)| (&r.view, key, column)));
            let renamed = mapped
                .filter(|(_, _, column)| *column == name)
                .filter_map(|(view, key, _)| self.catalog.views.iter().find(|v| v.doc.name == *view).map(|v| (v, key)))
                .find_map(|(view, key)| view.entity.keys.iter().find(|k| k.name == *key));
            let own = || self.catalog.views.iter().flat_map(|v| &v.entity.keys).find(|k| k.name == *name);
            match renamed.or_else(own) {
                Some(key) => {
                    let key = crate::catalog::JoinKey { name: Arc::clone(name), kind: key.kind };
                    self.keys.push(Key { key, scope });
                    self.read_by.push(None);
                }
                None => self.mistake(
                    &service.doc.at,
                    format!("service {:?}: no view is read by the join key {name:?}", service.doc.name),
                ),
            }
        }
    }

    fn resolve(&mut self, feature: &FeatureRef, at: &Place) -> Option<Slot> {
        if let Some(slot) = self.slots.get(feature) {
            return slot.clone();
        }
        let slot = if *feature.source == *FeatureRef::REQUEST {
            self.resolve_request(feature, at)
        } else if let Some(read) = self.service.reads.iter().find(|r| r.alias == feature.source) {
            self.resolve_view(feature, &read.view.clone(), at)
        } else if self.catalog.views.iter().any(|v| v.doc.name == feature.source) {
            self.resolve_view(feature, &feature.source, at)
        } else if self.catalog.transforms.iter().any(|t| t.doc.name == feature.source) {
            self.resolve_transform(feature, at)
        } else {
            let message = format!("{feature}: no view, transform or alias is named {:?}", feature.source);
            self.mistake(at, message);
            None
        };
        self.slots.insert(feature.clone(), slot.clone());
        slot
    }

    fn resolve_request(&mut self, feature: &FeatureRef, at: &Place) -> Option<Slot> {
        let Some(index) = self.request.iter().position(|r| r.feature.name == feature.feature) else {
            let message = format!(
                "{feature}: the service {:?} has no request feature {:?}",
                self.service.doc.name, feature.feature
            );
            self.mistake(at, message);
            return None;
        };
        let slot = &self.request[index];
        Some(Slot {
            slot: slot.slot,
            of: slot.feature.of,
            scope: slot.scope,
            source: OutputSource::Request(index),
            default: slot.feature.default.clone(),
        })
    }

    fn resolve_view(&mut self, feature: &FeatureRef, view: &str, at: &Place) -> Option<Slot> {
        let view = self.pinned(view, at, |c| &c.views, |v| (&v.doc.name, v.version))?;
        let Some(index) = view.features.iter().position(|f| f.name == feature.feature) else {
            let has: Vec<_> = view.features.iter().map(|f| &*f.name).collect();
            let message = format!(
                "{feature}: view {}@{} has no such feature; it has {}",
                view.doc.name,
                view.version,
                has.join(", ")
            );
            self.mistake(at, message);
            return None;
        };
        let read = match self.reads.iter().position(|r| r.alias == feature.source) {
            Some(read) => read,
            None => self.add_read(feature, &view, at)?,
        };
        let slot = self.next_slot;
        self.next_slot += 1;
        self.reads[read].features.push(ReadFeature { index, slot });
        let written = &view.features[index];
        Some(Slot {
            slot,
            of: written.of,
            scope: self.reads[read].scope,
            source: OutputSource::Read(read),
            default: written.default.clone(),
        })
    }

    fn add_read(&mut self, feature: &FeatureRef, view: &Arc<View>, at: &Place) -> Option<usize> {
        let service = self.service;
        let mapped = service.reads.iter().find(|r| r.alias == feature.source);
        let mut keys = Vec::with_capacity(view.entity.keys.len());
        for join in &view.entity.keys {
            let renamed =
                mapped.and_then(|r| r.keys.iter().find(|(key, _)| *key == join.name).map(|(_, column)| column));
            let column = renamed.unwrap_or(&join.name);
            let Some(index) = self.keys.iter().position(|k| k.key.name == *column) else {
                let message = format!(
                    "{feature}: view {:?} is read by {column:?}, which the service {:?} has neither in context nor in items",
                    view.doc.name, service.doc.name
                );
                self.mistake(at, message);
                return None;
            };
            let sent = &mut self.keys[index].key;
            match &self.read_by[index] {
                None => {
                    sent.kind = join.kind;
                    self.read_by[index] = Some(Arc::clone(&feature.source));
                }
                Some(other) if sent.kind != join.kind => {
                    let message = format!(
                        "{feature}: join key {column:?} is {} here but {} in {other:?}",
                        join.kind.name(),
                        sent.kind.name()
                    );
                    self.mistake(at, message);
                    return None;
                }
                Some(_) => {}
            }
            keys.push(index);
        }
        let scope = self.widest(keys.iter().map(|k| self.keys[*k].scope));
        self.reads.push(Read {
            alias: Arc::clone(&feature.source),
            view: Arc::clone(view),
            keys,
            scope,
            features: Vec::new(),
            hash: None,
        });
        Some(self.reads.len() - 1)
    }

    fn resolve_transform(&mut self, feature: &FeatureRef, at: &Place) -> Option<Slot> {
        let transform: Arc<Transform> =
            self.pinned(&feature.source, at, |c| &c.transforms, |t| (&t.doc.name, t.version))?;
        let Some(output) = transform.outputs.iter().position(|o| o.name == feature.feature) else {
            let has: Vec<_> = transform.outputs.iter().map(|o| &*o.name).collect();
            let message = format!(
                "{feature}: transform {}@{} has no such output; it has {}",
                transform.doc.name,
                transform.version,
                has.join(", ")
            );
            self.mistake(at, message);
            return None;
        };
        let step = match self.steps.iter().position(|s| Arc::ptr_eq(&s.transform, &transform)) {
            Some(step) => step,
            None => self.add_step(&transform, at)?,
        };
        let written = &transform.outputs[output];
        Some(Slot {
            slot: self.steps[step].outputs[output],
            of: written.of,
            scope: self.steps[step].scope,
            source: OutputSource::Step(step),
            default: written.default.clone(),
        })
    }

    /// Depth first: whatever a transform needs is computed before it.
    fn add_step(&mut self, transform: &Arc<Transform>, at: &Place) -> Option<usize> {
        let name = &transform.doc.name;
        let circle = self.path.contains(name);
        if circle || self.path.len() == STEPS_DEEP_MAX {
            let chain: Vec<_> = self.path.iter().chain([name]).map(|n| &**n).collect();
            let what = if circle { "transforms in a circle" } else { "transforms too deep" };
            self.mistake(at, format!("{what}: {}", chain.join(" needs ")));
            return None;
        }
        self.path.push(Arc::clone(name));
        let inputs: Vec<_> =
            transform.inputs.iter().map(|(_, feature)| self.resolve(feature, &transform.doc.at)).collect();
        self.path.pop();
        let inputs: Vec<Slot> = inputs.into_iter().collect::<Option<_>>()?;
        // A step that an earlier output needed was not walked through again: its depth was kept.
        let depth = 1 + inputs.iter().map(|s| self.depth(s.source)).max().unwrap_or(0);
        if depth > STEPS_DEEP_MAX {
            let message = format!("transforms too deep: {name:?} would be the {depth}th in a row, of {STEPS_DEEP_MAX}");
            self.mistake(at, message);
            return None;
        }
        self.depths.push(depth);
        let scope = self.widest(inputs.iter().map(|s| s.scope));
        let first = self.next_slot;
        self.next_slot += transform.outputs.len();
        self.steps.push(Step {
            transform: Arc::clone(transform),
            inputs: inputs.iter().map(|s| s.slot).collect(),
            outputs: (first..self.next_slot).collect(),
            scope,
        });
        Some(self.steps.len() - 1)
    }

    fn depth(&self, source: OutputSource) -> usize {
        match source {
            OutputSource::Step(step) => self.depths[step],
            OutputSource::Read(_) | OutputSource::Request(_) => 0,
        }
    }

    fn widest(&self, mut scopes: impl Iterator<Item = Scope>) -> Scope {
        if scopes.any(|s| s == Scope::Item) { Scope::Item } else { Scope::Context }
    }

    /// The version of a view or transform: the last arm that pins it, else the service, else the only one.
    fn pinned<T>(
        &mut self,
        name: &str,
        at: &Place,
        all: fn(&Catalog) -> &Vec<Arc<T>>,
        id: fn(&T) -> (&Arc<str>, u32),
    ) -> Option<Arc<T>> {
        let pin = |pins: &[(Arc<str>, u32)]| pins.iter().find(|(n, _)| **n == *name).map(|(_, v)| *v);
        let arm = self.arms.iter().rev().find_map(|(experiment, arm)| pin(&arm.pins).map(|v| (v, &experiment.doc.at)));
        let wanted = arm.or_else(|| pin(&self.service.pins).map(|v| (v, &self.service.doc.at)));
        let versions: Vec<&Arc<T>> = all(self.catalog).iter().filter(|t| **id(t).0 == *name).collect();
        let found = match wanted {
            Some((version, _)) => versions.iter().find(|t| id(t).1 == version),
            None if versions.len() == 1 => versions.first(),
            None => None,
        };
        if let Some(found) = found {
            return Some(Arc::clone(found));
        }
        let there: Vec<_> = versions.iter().map(|t| id(t).1).collect();
        let (at, message) = match wanted {
            Some((version, at)) => (at, no_such_version(name, version, &there)),
            None => (
                at,
                format!("{name:?} has versions {}: pin one in service {:?}", listed(&there), self.service.doc.name),
            ),
        };
        let at = at.clone();
        self.mistake(&at, message);
        None
    }

    fn replaced_default(&mut self, feature: &FeatureRef, of: FeatureType) -> Option<crate::Value> {
        let (experiment, value) = self.arms.iter().rev().find_map(|(experiment, arm)| {
            arm.defaults.iter().find(|(f, _)| f == feature).map(|(_, v)| (experiment, v.clone()))
        })?;
        match value.cast(of) {
            Some(value) => Some(value),
            None => {
                let message = format!("default of {feature}: {} where {of} is expected", value.feature_type());
                self.mistake(&experiment.doc.at.clone(), message);
                None
            }
        }
    }
}

/// Once all features of a read are known: where they lie, when that is in Feast's hashes.
fn hash_of(read: &mut Read, catalog: &Catalog) {
    let Layout::Feast(layout) = &read.view.layout else { return };
    // In the order of the service, which is that of Feast's own: both are answered from the same rows in the cache.
    let hash = layout.read(&read.view, read.features.iter().map(|f| f.index), &catalog.views);
    let (names, order) = layout.key_prefix();
    let parts = order.into_iter().map(|key| (read.keys[key], layout.keys[key].of)).collect();
    let prefix = [&hash.id[..], &names].concat();
    read.hash = Some(HashSource { read: Arc::new(hash), prefix, parts, project: Arc::clone(&layout.project) });
}

pub(super) fn no_such_version(name: &str, version: u32, there: &[u32]) -> String {
    format!("{name:?} is pinned to version {version}, but there is only {}", listed(there))
}

fn listed(versions: &[u32]) -> String {
    versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
