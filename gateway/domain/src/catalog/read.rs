//! Reads the catalog's files into checked types: names resolve, types fit, limits hold, and everything
//! that serves says who owns it and what it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};

use super::{
    Catalog, Doc, Entity, Fallback, Feature, FeatureRef, Freshness, JoinKey, Keys, Mistake, Mistakes, OnAbsent, Place,
    Read, RequestFeature, Sample, Scope, Service, Transform, View, callers, layout, read_experiments,
};
use crate::{FeatureType, Kind};

/// A row is believed fresh for a second unless the view says otherwise: long enough to take a burst, short
/// enough that nobody asks why a write is not seen.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// A store outage of a minute goes unnoticed but for the provenance.
const STALE_FOR: Duration = Duration::from_secs(60);
/// A new entity is found a second after it is written.
const NEGATIVE_FOR: Duration = Duration::from_secs(1);
/// Nothing in a cache is worth more than a year.
const CACHE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Online inference with a budget of more than a minute is a batch job.
const BUDGET_MAX: Duration = Duration::from_secs(60);
/// What a transform may take when its author says nothing; the budget's share is what bounds it in practice. A
/// small one needs microseconds, but a busy core may look away for a few milliseconds.
const TRANSFORM_TIME: Duration = Duration::from_millis(10);
const TRANSFORM_MEMORY_MIB: u64 = 16;
/// Killing a call that copies more memory than this takes over a millisecond.
const TRANSFORM_MEMORY_MIB_MAX: u64 = 64;
/// A packed row counts its values in 16 bits.
const FEATURES_MAX: usize = 65_535;

/// Reads every file (name as the operator knows it, text) as one catalog, or lists every mistake.
pub fn read(files: &[(String, String)]) -> Result<Catalog, Vec<Mistake>> {
    let mistakes = Mistakes::default();
    let mut written = Written::default();
    let mut digest = Md5::new();
    for (name, text) in files {
        // The same catalog in another folder has the same version. Lengths separate the parts: moving a line from
        // one file to the next is another catalog.
        let file = name.rsplit('/').next().unwrap_or(name);
        for part in [file, text] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        if let Some(keys) = Keys::parse(name, text, &mistakes) {
            written.add(keys);
        }
    }
    let names = written.names();
    let version: String = digest.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();

    let entities: Vec<Arc<Entity>> =
        written.entities.into_iter().filter_map(|k| entity(k, &mistakes)).map(Arc::new).collect();
    unique(entities.iter().map(|e| (&e.doc, e.doc.name.to_string())), "entity", &mistakes);
    let views: Vec<Arc<View>> =
        written.views.into_iter().filter_map(|k| view(k, &entities, &names, &mistakes)).map(Arc::new).collect();
    unique(views.iter().map(|v| (&v.doc, format!("{}@{}", v.doc.name, v.version))), "view", &mistakes);
    let transforms: Vec<Arc<Transform>> =
        written.transforms.into_iter().filter_map(|k| transform(k, &mistakes)).map(Arc::new).collect();
    unique(transforms.iter().map(|t| (&t.doc, format!("{}@{}", t.doc.name, t.version))), "transform", &mistakes);
    for transform in transforms.iter().filter(|t| names.views.contains(&*t.doc.name)) {
        mistakes.add(&transform.doc.at, format!("transform {:?}: a view has this name", transform.doc.name));
    }
    let sources = views.iter().map(|v| ("view", &v.doc)).chain(transforms.iter().map(|t| ("transform", &t.doc)));
    for (what, doc) in sources.filter(|(_, doc)| *doc.name == *FeatureRef::REQUEST) {
        mistakes.add(&doc.at, format!("{what} {:?}: this is what features of the request are named by", doc.name));
    }
    let services: Vec<Arc<Service>> =
        written.services.into_iter().filter_map(|k| service(k, &views, &names, &mistakes)).map(Arc::new).collect();
    unique(services.iter().map(|s| (&s.doc, s.doc.name.to_string())), "service", &mistakes);
    let callers = callers::read(written.callers, &mistakes);
    let experiments = read_experiments::read(written.layers, written.holdouts, written.experiments, &names, &mistakes);

    if mistakes.is_empty() {
        Ok(Catalog { version: version.into(), views, transforms, services, callers, experiments })
    } else {
        Err(mistakes.into_vec())
    }
}

#[derive(Default)]
struct Written<'de, 'm> {
    entities: Vec<Keys<'de, 'm>>,
    views: Vec<Keys<'de, 'm>>,
    transforms: Vec<Keys<'de, 'm>>,
    services: Vec<Keys<'de, 'm>>,
    callers: Vec<Keys<'de, 'm>>,
    layers: Vec<Keys<'de, 'm>>,
    holdouts: Vec<Keys<'de, 'm>>,
    experiments: Vec<Keys<'de, 'm>>,
}

impl<'de, 'm> Written<'de, 'm> {
    fn add(&mut self, mut file: Keys<'de, 'm>) {
        self.entities.append(&mut file.tables("entity"));
        self.views.append(&mut file.tables("view"));
        self.transforms.append(&mut file.tables("transform"));
        self.services.append(&mut file.tables("service"));
        self.callers.append(&mut file.tables("caller"));
        self.layers.append(&mut file.tables("layer"));
        self.holdouts.append(&mut file.tables("holdout"));
        self.experiments.append(&mut file.tables("experiment"));
        file.finish();
    }
}

/// Names as written, rightly or not: what refers to a thing that has a mistake of its own is not wrong too.
pub(super) struct Names {
    entities: HashSet<String>,
    views: HashSet<String>,
    transforms: HashSet<String>,
    pub(super) services: HashSet<String>,
    pub(super) layers: HashSet<String>,
}

impl Written<'_, '_> {
    fn names(&self) -> Names {
        let of = |tables: &[Keys<'_, '_>]| tables.iter().filter_map(Keys::name_written).map(str::to_owned).collect();
        Names {
            entities: of(&self.entities),
            views: of(&self.views),
            transforms: of(&self.transforms),
            services: of(&self.services),
            layers: of(&self.layers),
        }
    }
}

/// Name, owner and description: what everything in a catalog has to say about itself.
pub(super) fn doc(keys: &mut Keys<'_, '_>) -> Option<Doc> {
    let name = keys.required_name("name");
    if let Some(name) = &name {
        let what = format!("{} {name:?}", keys.what());
        keys.rename(what);
    }
    let owner = keys.required_text("owner");
    let description = keys.required_text("description");
    Some(Doc { name: name?, owner: owner?, description: description?, at: keys.place().clone() })
}

pub(super) fn unique<'a>(all: impl Iterator<Item = (&'a Doc, String)>, what: &str, mistakes: &Mistakes) {
    let mut seen = Vec::<(String, &Place)>::new();
    for (doc, id) in all {
        match seen.iter().find(|(other, _)| *other == id) {
            Some((_, first)) => mistakes.add(&doc.at, format!("{what} {id}: is already defined at {first}")),
            None => seen.push((id, &doc.at)),
        }
    }
}

fn entity(mut keys: Keys<'_, '_>, mistakes: &Mistakes) -> Option<Entity> {
    let doc = doc(&mut keys);
    let mut joins: Vec<JoinKey> = Vec::new();
    let tables = keys.tables("keys");
    if tables.is_empty() && !keys.has("keys") {
        mistakes.add(keys.place(), format!("{}: no join key", keys.what()));
    }
    let (has_keys, written) = (keys.has("keys"), tables.len());
    for mut key in tables {
        let name = key.required_name("name");
        let kind = required_type(&mut key).and_then(|of| match of {
            FeatureType::One(kind @ (Kind::String | Kind::I64 | Kind::Bytes | Kind::Timestamp)) => Some(kind),
            _ => {
                key.mistake("type", "a join key is string, i64, bytes or timestamp");
                None
            }
        });
        if let (Some(name), Some(kind)) = (name, kind) {
            if joins.iter().any(|k| k.name == name) {
                mistakes.add(key.place(), format!("{} {name:?}: is there twice", key.what()));
            }
            joins.push(JoinKey { name, kind });
        }
        key.finish();
    }
    keys.finish();
    // Without all of its keys it would only make what reads by them look wrong.
    Some(Entity { doc: doc?, keys: Some(joins).filter(|j| has_keys && j.len() == written)? })
}

fn view(mut keys: Keys<'_, '_>, entities: &[Arc<Entity>], names: &Names, mistakes: &Mistakes) -> Option<View> {
    let doc = doc(&mut keys);
    let version = version(&mut keys);
    let entity = keys.required_text("entity").and_then(|name| {
        let found = entities.iter().find(|e| *e.doc.name == *name).cloned();
        if !names.entities.contains(&name) {
            keys.mistake("entity", format!("no entity is named {name:?}"));
        }
        found
    });
    let source = keys.text("source");
    let event_time = keys.text("event_time").unwrap_or_else(|| "event_time".to_owned());
    let ttl = keys.number("ttl_s", 0..=CACHE_MAX.as_secs() * 100).filter(|s| *s > 0).map(Duration::from_secs);
    let fresh_for = keys.millis("fresh_for_ms", CACHE_MAX).unwrap_or(FRESH_FOR);
    let stale_for = keys.millis("stale_for_ms", CACHE_MAX);
    let negative_for = keys.millis("negative_for_ms", CACHE_MAX).unwrap_or(NEGATIVE_FOR);
    if stale_for.is_some_and(|s| s < fresh_for) {
        keys.mistake("stale_for_ms", "is less than fresh_for_ms: a row cannot be too old while it is fresh");
    }
    let revalidate_for = keys.millis("stale_while_revalidate_ms", CACHE_MAX).unwrap_or(Duration::ZERO);
    let stale_for = stale_for.unwrap_or(STALE_FOR.max(fresh_for));
    if !revalidate_for.is_zero() && fresh_for + revalidate_for > stale_for {
        keys.mistake("stale_while_revalidate_ms", "with fresh_for_ms is beyond stale_for_ms: nothing older is served");
    }
    let cache = Freshness { fresh_for, revalidate_for, stale_for, negative_for };
    let tags = keys.texts("tags").unwrap_or_default();
    let tables = keys.tables("feature");
    if tables.is_empty() || tables.len() > FEATURES_MAX {
        mistakes
            .add(keys.place(), format!("{}: {} features; a view has 1 to {FEATURES_MAX}", keys.what(), tables.len()));
    }
    let features = features(tables, mistakes);
    let layout = layout::read(&mut keys, doc.as_ref().map(|doc| &*doc.name), entity.as_deref(), &features);
    keys.finish();
    let (doc, version) = (doc?, version?);
    let fingerprint = fingerprint(&doc.name, version, &features);
    let (entity, layout) = (entity?, layout?);
    Some(View { doc, version, entity, source, event_time, ttl, cache, layout, tags, features, fingerprint })
}

/// Any change of a view's name, version, feature names, order or types gives another number.
fn fingerprint(name: &str, version: u32, features: &[Feature]) -> u32 {
    let mut digest = Md5::new().chain_update(format!("{name}@{version}"));
    for feature in features {
        digest.update(format!(";{}:{}", feature.name, feature.of));
    }
    let digest = digest.finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

fn version(keys: &mut Keys<'_, '_>) -> Option<u32> {
    let number = keys.number("version", 1..=u64::from(u32::MAX));
    keys.required("version", number).map(|v| v as u32)
}

fn required_type(keys: &mut Keys<'_, '_>) -> Option<FeatureType> {
    let text = keys.required_text("type")?;
    let of = FeatureType::parse(&text);
    if of.is_none() {
        keys.mistake(
            "type",
            format!("{text:?} is no type: bool, i64, f64, f32, string, bytes, timestamp or list<…> of one is"),
        );
    }
    of
}

fn features(tables: Vec<Keys<'_, '_>>, mistakes: &Mistakes) -> Vec<Feature> {
    let mut features: Vec<Feature> = Vec::with_capacity(tables.len());
    for mut keys in tables {
        let at = keys.place().clone();
        if let Some(feature) = feature(&mut keys) {
            if features.iter().any(|f| f.name == feature.name) {
                mistakes.add(&at, format!("{}: is there twice", keys.what()));
            }
            features.push(feature);
        }
        keys.finish();
    }
    features
}

fn feature(keys: &mut Keys<'_, '_>) -> Option<Feature> {
    let name = keys.required_name("name");
    if let Some(name) = &name {
        let what = format!("{} {name:?}", keys.what());
        keys.rename(what);
    }
    let of = required_type(keys);
    let default = keys.value("default").and_then(|value| {
        let cast = value.cast(of?);
        if let (None, Some(of)) = (&cast, of) {
            keys.mistake("default", format!("{} where {of} is expected", value.feature_type()));
        }
        cast
    });
    let description = keys.required_text("description");
    Some(Feature { name: name?, of: of?, default, description: description? })
}

fn transform(mut keys: Keys<'_, '_>, mistakes: &Mistakes) -> Option<Transform> {
    let doc = doc(&mut keys);
    let version = version(&mut keys);
    let component = keys.required_text("component");
    let digest = keys.text("digest");
    if digest.as_ref().is_some_and(|d| !is_digest(d)) {
        keys.mistake("digest", "sha256: followed by 64 lower-case hex digits is expected");
    }
    let mut inputs = Vec::new();
    for (parameter, text) in keys.text_map("inputs") {
        match FeatureRef::parse(&text) {
            Some(feature) => inputs.push((Arc::from(parameter), feature)),
            None => keys.mistake("inputs", format!("{parameter}: {text:?} is no source:feature")),
        }
    }
    let time_limit = keys.millis("time_limit_ms", BUDGET_MAX).unwrap_or(TRANSFORM_TIME);
    if time_limit.is_zero() {
        keys.mistake("time_limit_ms", "a call needs at least a millisecond");
    }
    let memory_limit_mib =
        keys.number("memory_limit_mib", 1..=TRANSFORM_MEMORY_MIB_MAX).unwrap_or(TRANSFORM_MEMORY_MIB) as u32;
    let tables = keys.tables("output");
    if tables.is_empty() {
        mistakes.add(keys.place(), format!("{}: no output", keys.what()));
    }
    let outputs = features(tables, mistakes);
    keys.finish();
    Some(Transform {
        doc: doc?,
        version: version?,
        component: component?,
        digest,
        inputs,
        outputs,
        time_limit,
        memory_limit_mib,
    })
}

fn is_digest(text: &str) -> bool {
    let hex = |h: &str| h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    text.strip_prefix("sha256:").is_some_and(hex)
}

fn service(mut keys: Keys<'_, '_>, views: &[Arc<View>], names: &Names, mistakes: &Mistakes) -> Option<Service> {
    let doc = doc(&mut keys);
    let context = keys.names("context");
    let items = keys.names("items");
    for both in context.iter().filter(|c| items.contains(c)) {
        keys.mistake("items", format!("{both:?} is in context too"));
    }
    let features = feature_refs(&mut keys);
    let request = request_features(&mut keys, mistakes);
    let mut reads: Vec<Read> = Vec::new();
    for read in keys.tables("read").into_iter().filter_map(|k| read_as(k, views, names)) {
        if reads.iter().any(|r| r.alias == read.alias) {
            mistakes.add(&read.at, format!("{}: read as {:?}: is there twice", keys.what(), read.alias));
        }
        reads.push(read);
    }
    let pins = keys.versions("pin");
    let budget = keys.millis("budget_ms", BUDGET_MAX);
    let budget = keys.required("budget_ms", budget);
    if budget.is_some_and(|b| b.is_zero()) {
        keys.mistake("budget_ms", "an answer needs at least a millisecond");
    }
    let max_stale = keys.millis("max_stale_ms", CACHE_MAX);
    let on_absent = match keys.text("on_absent").as_deref() {
        None | Some("default") => OnAbsent::Default,
        Some("null") => OnAbsent::Null,
        Some(other) => {
            keys.mistake("on_absent", format!("{other:?} is neither \"default\" nor \"null\""));
            OnAbsent::Default
        }
    };
    let model = keys.text("fallback_model");
    let above_pct = keys.number("fallback_above_pct", 0..=100);
    if model.is_none() && above_pct.is_some() {
        keys.mistake("fallback_above_pct", "there is no fallback_model");
    }
    let fallback =
        model.map(|m| Fallback { model: m.into(), above_pct: above_pct.unwrap_or(FALLBACK_ABOVE_PCT) as u32 });
    let sample = match keys.decimal("sample").map(|share| (share, Sample::of(share))) {
        None => Sample::ALL,
        Some((_, Some(sample))) => sample,
        Some((share, None)) => {
            keys.mistake("sample", format!("{share} is not between 0.0001 and 1"));
            Sample::ALL
        }
    };
    keys.finish();
    Some(Service {
        doc: doc?,
        context,
        items,
        features,
        request,
        reads,
        pins,
        budget: budget?,
        max_stale,
        on_absent,
        fallback,
        sample,
    })
}

/// Half of the values made up is where a simple model beats a good one on bad input.
const FALLBACK_ABOVE_PCT: u64 = 50;

fn feature_refs(keys: &mut Keys<'_, '_>) -> Vec<FeatureRef> {
    let texts = keys.texts("features");
    if texts.as_ref().is_some_and(Vec::is_empty) {
        keys.mistake("features", "a service without features answers nothing");
    }
    let texts = keys.required("features", texts).unwrap_or_default();
    let mut features = Vec::with_capacity(texts.len());
    let mut seen = HashSet::new();
    for text in &texts {
        match FeatureRef::parse(text) {
            None => keys.mistake("features", format!("{text:?} is no source:feature")),
            Some(_) if !seen.insert(text) => keys.mistake("features", format!("{text:?} is there twice")),
            Some(feature) => features.push(feature),
        }
    }
    features
}

fn request_features(keys: &mut Keys<'_, '_>, mistakes: &Mistakes) -> Vec<RequestFeature> {
    let mut request: Vec<RequestFeature> = Vec::new();
    for mut table in keys.tables("request") {
        let scope = match table.required_text("scope").as_deref() {
            Some("context") => Some(Scope::Context),
            Some("item") => Some(Scope::Item),
            Some(other) => {
                table.mistake("scope", format!("{other:?} is neither \"context\" nor \"item\""));
                None
            }
            None => None,
        };
        if let (Some(feature), Some(scope)) = (feature(&mut table), scope) {
            if request.iter().any(|r| r.feature.name == feature.name) {
                mistakes.add(table.place(), format!("{}: is there twice", table.what()));
            }
            request.push(RequestFeature { feature, scope });
        }
        table.finish();
    }
    request
}

fn read_as(mut keys: Keys<'_, '_>, views: &[Arc<View>], names: &Names) -> Option<Read> {
    let view = keys.required_name("view");
    let alias = keys.name("as");
    if let Some(alias) = alias.as_deref() {
        if names.views.contains(alias) || names.transforms.contains(alias) {
            keys.mistake("as", format!("{alias:?} is the name of a view or of a transform"));
        } else if alias == FeatureRef::REQUEST {
            keys.mistake("as", format!("{alias:?} is what features of the request are named by"));
        }
    }
    let found = view.as_ref().and_then(|name| views.iter().find(|v| v.doc.name == *name));
    if let Some(name) = view.as_ref().filter(|name| !names.views.contains(&***name)) {
        keys.mistake("view", format!("no view is named {name:?}"));
    }
    let renames = keys.text_map("keys");
    for (join, _) in &renames {
        if found.is_some_and(|v| !v.entity.keys.iter().any(|k| *k.name == **join)) {
            keys.mistake("keys", format!("{join:?} is no join key of the view"));
        }
    }
    let at = keys.place().clone();
    keys.finish();
    let view = view?;
    let alias = alias.unwrap_or_else(|| Arc::clone(&view));
    Some(Read { alias, view, keys: renames.into_iter().map(|(k, c)| (k.into(), c.into())).collect(), at })
}
