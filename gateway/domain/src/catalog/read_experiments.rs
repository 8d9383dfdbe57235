//! Reads layers, holdouts and experiments: ranges lie inside 10,000 and do not overlap, weights sum up,
//! salts differ, arms have names of their own.

use std::sync::Arc;
use std::time::Duration;

use super::read::{doc, unique};
use super::{Doc, FeatureRef, Keys, Mistakes, Service};
use crate::Value;
use crate::experiment::{Arm, BUCKETS, Condition, Experiment, Experiments, Holdout, Layer, Op, Range, Status};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(
    layers: Vec<Keys<'_, '_>>,
    holdouts: Vec<Keys<'_, '_>>,
    experiments: Vec<Keys<'_, '_>>,
    services: &[Arc<Service>],
    mistakes: &Mistakes,
) -> Experiments {
    let mut all =
        Experiments { layers: layers.into_iter().filter_map(|k| layer(k, mistakes)).collect(), holdouts: Vec::new() };
    for (i, layer) in all.layers.iter().enumerate() {
        if all.layers[..i].iter().any(|l| l.name == layer.name || l.salt == layer.salt) {
            mistakes.add(&layer.at, format!("layer {:?}: another layer has this name or salt", layer.name));
        }
    }
    let mut docs: Vec<Doc> = Vec::new();
    for mut keys in experiments {
        let Some(experiment) = experiment(&mut keys, services, mistakes).map(Arc::new) else {
            keys.finish();
            continue;
        };
        docs.push(experiment.doc.clone());
        match all.layers.iter_mut().find(|l| l.name == experiment.layer) {
            Some(layer) => {
                join(layer, &experiment, &keys);
                layer.experiments.push(experiment);
            }
            None => keys.mistake("layer", format!("no layer is named {:?}", experiment.layer)),
        }
        keys.finish();
    }
    unique(docs.iter().map(|d| (d, d.name.to_string())), "experiment", mistakes);
    let names: Vec<Arc<str>> = all.layers.iter().map(|l| Arc::clone(&l.name)).collect();
    all.holdouts = holdouts.into_iter().filter_map(|k| holdout(k, &names)).collect();
    unique(all.holdouts.iter().map(|h| (&h.doc, h.doc.name.to_string())), "holdout", mistakes);
    all
}

fn layer(mut keys: Keys<'_, '_>, mistakes: &Mistakes) -> Option<Layer> {
    let name = keys.required_name("name");
    let salt = keys.required_text("salt");
    let _ = keys.text("description");
    let at = keys.place().clone();
    keys.finish();
    let (name, salt) = (name?, salt?);
    if salt.contains('\n') {
        mistakes.add(&at, format!("layer {name:?}: a salt is one line"));
    }
    Some(Layer { name, salt, experiments: Vec::new(), at })
}

/// What only shows against the rest of the layer.
fn join(layer: &Layer, experiment: &Experiment, keys: &Keys<'_, '_>) {
    if experiment.salt == layer.salt {
        keys.mistake("salt", "is the layer's: slot and arm would be the same draw");
    }
    for other in &layer.experiments {
        if other.salt == experiment.salt {
            keys.mistake(
                "salt",
                format!("is the salt of experiment {:?}: their arms would be the same draw", other.doc.name),
            );
        }
        if other.slots.overlaps(experiment.slots) {
            keys.mistake("slots", format!("overlap those of experiment {:?} in the same layer", other.doc.name));
        }
    }
}

fn range(keys: &mut Keys<'_, '_>, key: &'static str) -> Option<Range> {
    let (start, end) = keys.pair(key)?;
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if start < end && end <= BUCKETS => Some(Range { start, end }),
        _ => {
            keys.mistake(key, format!("[{start}, {end}] is no half-open range within 0..{BUCKETS}"));
            None
        }
    }
}

fn holdout(mut keys: Keys<'_, '_>, layers: &[Arc<str>]) -> Option<Holdout> {
    let doc = doc(&mut keys);
    let salt = keys.required_text("salt");
    let buckets = range(&mut keys, "buckets");
    let buckets = keys.required("buckets", buckets);
    let mut covered = Vec::new();
    for name in keys.names("layers") {
        match layers.iter().position(|l| *l == name) {
            Some(layer) => covered.push(layer),
            None => keys.mistake("layers", format!("no layer is named {name:?}")),
        }
    }
    if covered.is_empty() {
        covered = (0..layers.len()).collect();
    }
    keys.finish();
    Some(Holdout { doc: doc?, salt: salt?, buckets: buckets?, layers: covered })
}

fn experiment(keys: &mut Keys<'_, '_>, services: &[Arc<Service>], mistakes: &Mistakes) -> Option<Experiment> {
    let doc = doc(keys);
    let layer = keys.required_name("layer");
    let salt = keys.required_text("salt");
    let slots = range(keys, "slots").unwrap_or(Range { start: 0, end: BUCKETS });
    let status = match keys.required_text("status").as_deref() {
        Some("draft") => Some(Status::Draft),
        Some("running") => Some(Status::Running),
        Some("stopped") => Some(Status::Stopped),
        Some(other) => {
            keys.mistake("status", format!("{other:?} is not \"draft\", \"running\" or \"stopped\""));
            None
        }
        None => None,
    };
    let coverage = keys.number("coverage", 0..=u64::from(BUCKETS)).unwrap_or(u64::from(BUCKETS)) as u32;
    let concerned = keys.names("services");
    for name in concerned.iter().filter(|n| !services.iter().any(|s| s.doc.name == **n)) {
        keys.mistake("services", format!("no service is named {name:?}"));
    }
    let targeting = keys.tables("where").into_iter().filter_map(condition).collect();
    let arms: Vec<Arm> = keys.tables("arm").into_iter().filter_map(arm).collect();
    if arms.len() < 2 {
        mistakes.add(keys.place(), format!("{}: an experiment compares at least two arms", keys.what()));
    }
    let sum: u64 = arms.iter().map(|a| u64::from(a.weight)).sum();
    if sum != u64::from(BUCKETS) {
        mistakes.add(keys.place(), format!("{}: the arms' weights sum up to {sum}, not to {BUCKETS}", keys.what()));
    }
    for (i, arm) in arms.iter().enumerate() {
        if arms[..i].iter().any(|a| a.name == arm.name) {
            mistakes.add(keys.place(), format!("{}: two arms are named {:?}", keys.what(), arm.name));
        }
    }
    let mut forced = Vec::new();
    for (unit, name) in keys.text_map("forced") {
        match arms.iter().position(|a| *a.name == *name) {
            Some(arm) => forced.push((unit, arm)),
            None => keys.mistake("forced", format!("{unit}: no arm is named {name:?}")),
        }
    }
    Some(Experiment {
        doc: doc?,
        layer: layer?,
        slots,
        salt: salt?,
        status: status?,
        services: concerned,
        coverage,
        targeting,
        arms,
        forced,
    })
}

fn arm(mut keys: Keys<'_, '_>) -> Option<Arm> {
    let name = keys.required_name("name");
    let weight = keys.number("weight", 0..=u64::from(BUCKETS));
    let weight = keys.required("weight", weight);
    let pins = keys.versions("pin");
    let mut defaults = Vec::new();
    for (text, value) in keys.value_map("defaults") {
        match FeatureRef::parse(&text) {
            Some(feature) => defaults.push((feature, value)),
            None => keys.mistake("defaults", format!("{text:?} is no source:feature")),
        }
    }
    let max_stale = keys.millis("max_stale_ms", DAY);
    let model = keys.text("model").map(Arc::from);
    let params = keys.value_map("params").into_iter().map(|(name, value)| (name.into(), value)).collect();
    keys.finish();
    Some(Arm { name: name?, weight: weight? as u32, pins, defaults, max_stale, model, params })
}

fn condition(mut keys: Keys<'_, '_>) -> Option<Condition> {
    let attribute = keys.required_text("attribute");
    let spelled = keys.required_text("op");
    let op = spelled.as_ref().and_then(|text| {
        let found = Op::ALL.into_iter().find(|(name, _)| name == text).map(|(_, op)| op);
        if found.is_none() {
            let all: Vec<_> = Op::ALL.iter().map(|(name, _)| *name).collect();
            keys.mistake("op", format!("{text:?} is none of {}", all.join(", ")));
        }
        found
    });
    let one = keys.value("value");
    let many = keys.values("values");
    let values: Vec<Value> = match (op, one, many) {
        (Some(Op::Exists | Op::NotExists), None, None) => Vec::new(),
        (Some(Op::In | Op::NotIn), None, Some(values)) => values,
        (Some(Op::In | Op::NotIn), ..) => {
            keys.mistake("values", "a list of values is expected");
            Vec::new()
        }
        (Some(Op::Exists | Op::NotExists), ..) => {
            keys.mistake("value", "this operator takes no value");
            Vec::new()
        }
        (Some(_), Some(value), None) => vec![value],
        (Some(_), ..) => {
            keys.mistake("value", "one value is expected");
            Vec::new()
        }
        (None, ..) => Vec::new(),
    };
    keys.finish();
    Some(Condition { attribute: attribute?, op: op?, values })
}
