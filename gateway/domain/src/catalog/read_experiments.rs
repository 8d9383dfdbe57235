//! Reads layers, holdouts and experiments: ranges lie inside 10,000 and do not overlap, weights sum up,
//! salts differ, arms have names of their own.

use std::sync::Arc;
use std::time::Duration;

use super::read::{Names, doc, unique};
use super::{Doc, FeatureRef, Keys, Mistakes};
use crate::Value;
use crate::experiment::{Arm, BUCKETS, Condition, Experiment, Experiments, Holdout, Layer, Op, Range, Status};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(
    layers: Vec<Keys<'_, '_>>,
    holdouts: Vec<Keys<'_, '_>>,
    experiments: Vec<Keys<'_, '_>>,
    names: &Names,
    mistakes: &Mistakes,
) -> Experiments {
    let mut salts = Salts::default();
    let mut all =
        Experiments { layers: layers.into_iter().filter_map(|k| layer(k, &mut salts)).collect(), holdouts: Vec::new() };
    for (i, layer) in all.layers.iter().enumerate() {
        if let Some(other) = all.layers[..i].iter().find(|l| l.name == layer.name) {
            mistakes.add(&layer.at, format!("layer {}: is already defined at {}", layer.name, other.at));
        }
    }
    let mut docs: Vec<Doc> = Vec::new();
    for mut keys in experiments {
        let Some(experiment) = experiment(&mut keys, names, &mut salts, mistakes).map(Arc::new) else {
            keys.finish();
            continue;
        };
        docs.push(experiment.doc.clone());
        match all.layers.iter_mut().find(|l| l.name == experiment.layer) {
            Some(layer) => {
                join(layer, &experiment, &keys);
                layer.experiments.push(experiment);
            }
            None if names.layers.contains(&*experiment.layer) => {}
            None => keys.mistake("layer", format!("no layer is named {:?}", experiment.layer)),
        }
        keys.finish();
    }
    unique(docs.iter().map(|d| (d, d.name.to_string())), "experiment", mistakes);
    all.holdouts = holdouts.into_iter().filter_map(|k| holdout(k, &all.layers, names, &salts)).collect();
    unique(all.holdouts.iter().map(|h| (&h.doc, h.doc.name.to_string())), "holdout", mistakes);
    all
}

/// Salts of layers and experiments, with whose each is: two things with one salt would be one draw.
#[derive(Default)]
struct Salts(Vec<(String, String)>);

impl Salts {
    /// The salt of a layer or of an experiment, which nothing else has.
    fn claim(&mut self, keys: &mut Keys<'_, '_>) -> Option<String> {
        let salt = self.foreign(keys)?;
        self.0.push((salt.clone(), keys.what().to_owned()));
        Some(salt)
    }

    /// A salt that no layer or experiment has. Holdouts may share one: that is how they are nested or kept apart.
    fn foreign(&self, keys: &mut Keys<'_, '_>) -> Option<String> {
        let salt = keys.required_text("salt")?;
        if salt.contains('\n') {
            keys.mistake("salt", "a salt is one line");
        }
        if let Some((_, whose)) = self.0.iter().find(|(other, _)| *other == salt) {
            keys.mistake("salt", format!("is the salt of {whose} too: the two would be the same draw"));
        }
        Some(salt)
    }
}

fn layer(mut keys: Keys<'_, '_>, salts: &mut Salts) -> Option<Layer> {
    let name = keys.required_name("name");
    if let Some(name) = &name {
        keys.rename(format!("layer {name:?}"));
    }
    let salt = salts.claim(&mut keys);
    let _ = keys.text("description");
    let at = keys.place().clone();
    keys.finish();
    Some(Layer { name: name?, salt: salt?, experiments: Vec::new(), at })
}

/// What only shows against the rest of the layer.
fn join(layer: &Layer, experiment: &Experiment, keys: &Keys<'_, '_>) {
    for other in &layer.experiments {
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

fn holdout(mut keys: Keys<'_, '_>, layers: &[Layer], names: &Names, salts: &Salts) -> Option<Holdout> {
    let doc = doc(&mut keys);
    let salt = salts.foreign(&mut keys);
    let buckets = range(&mut keys, "buckets");
    let buckets = keys.required("buckets", buckets);
    let mut covered = Vec::new();
    for name in keys.names("layers") {
        match layers.iter().position(|l| l.name == name) {
            Some(layer) => covered.push(layer),
            None if names.layers.contains(&*name) => {}
            None => keys.mistake("layers", format!("no layer is named {name:?}")),
        }
    }
    if covered.is_empty() {
        covered = (0..layers.len()).collect();
    }
    keys.finish();
    Some(Holdout { doc: doc?, salt: salt?, buckets: buckets?, layers: covered })
}

fn experiment(keys: &mut Keys<'_, '_>, names: &Names, salts: &mut Salts, mistakes: &Mistakes) -> Option<Experiment> {
    let doc = doc(keys);
    let layer = keys.required_name("layer");
    let salt = salts.claim(keys);
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
    for name in concerned.iter().filter(|n| !names.services.contains(&***n)) {
        keys.mistake("services", format!("no service is named {name:?}"));
    }
    let targeting = keys.tables("where").into_iter().filter_map(condition).collect();
    let tables = keys.tables("arm");
    let written = tables.len();
    let arms: Vec<Arm> = tables.into_iter().filter_map(arm).collect();
    if written < 2 {
        mistakes.add(keys.place(), format!("{}: an experiment compares at least two arms", keys.what()));
    }
    let sum: u64 = arms.iter().map(|a| u64::from(a.weight)).sum();
    // An arm that could not be read has said so itself, and its weight is not known.
    let complete = arms.len() == written;
    if complete && written > 0 && sum != u64::from(BUCKETS) {
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
            None if !complete => {}
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
        (Some(Op::In | Op::NotIn), None, Some(values)) if !values.is_empty() => values,
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
    if let Some((key, message)) = op.and_then(|op| never_holds(op, &values)) {
        keys.mistake(key, message);
    }
    keys.finish();
    Some(Condition { attribute: attribute?, op: op?, values })
}

/// What is wrong with values that no attribute could ever be compared with.
fn never_holds(op: Op, values: &[Value]) -> Option<(&'static str, &'static str)> {
    let list = |v: &Value| matches!(v, Value::List(..));
    let number_or_text = |v: &Value| matches!(v, Value::I64(_) | Value::F64(_) | Value::String(_));
    match op {
        Op::In | Op::NotIn => {
            values.iter().any(list).then_some(("values", "a list of booleans, numbers or texts is expected"))
        }
        Op::Eq | Op::Ne => values.iter().any(list).then_some(("value", "a boolean, a number or a text is expected")),
        Op::Lt | Op::Le | Op::Gt | Op::Ge => {
            (!values.iter().all(number_or_text)).then_some(("value", "a number or a text is expected"))
        }
        Op::StartsWith | Op::EndsWith => {
            (!values.iter().all(|v| matches!(v, Value::String(_)))).then_some(("value", "text is expected"))
        }
        Op::Exists | Op::NotExists => None,
    }
}
