//! Entities and views. A view of Weir's is one of Feast's under the name that it has in the store, so versions that are
//! stored apart are views of their own.

use std::collections::HashSet;
use std::sync::Arc;

use weir_domain::catalog::KeyType;
use weir_domain::feast::{KeyFormat, TIME_FIELD};
use weir_domain::{FeatureType, Kind};
use weir_proto::feast::types::value_type::Enum as ValueType;

use super::names::Names;
use super::text::Toml;
use super::{Chunk, File, LeftOut, column_of, described, head, no_column, owned};
use crate::lookup::{Options, ViewRead};
use crate::registry::{Field, Registry, View};
use crate::rows::Naming;

/// What the entity of views without one is called.
const EVERYTHING: &str = "everything";
/// Longest ttl that the catalog takes; three thousand years are as good as none.
const TTL_S_MAX: u64 = 100 * 365 * 86_400;

/// A view that is read from the store.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) view: Arc<View>,
    /// Its name in the store.
    pub(super) stored: String,
    pub(super) join_keys: Vec<String>,
    /// What the fields of this name hold: of two definitions the earlier counts.
    definitions: Vec<Arc<View>>,
}

impl Draft {
    pub(super) fn of(registry: &Registry, options: &Options, read: &ViewRead) -> Self {
        let stored = stored_name(read);
        let mut definitions = vec![Arc::clone(&read.view)];
        if options.versioning && read.view.version > 0 && stored == read.view.name {
            // Through a service Feast reads what was written at version 0, whatever the version is now.
            let first = registry.versions.get(&(read.view.name.clone(), 0));
            definitions.splice(0..0, first.cloned());
        }
        let mut join_keys = read.join_keys.clone();
        join_keys.dedup();
        if read.view.is_entityless() {
            join_keys.clear();
        }
        Self { view: Arc::clone(&read.view), stored, join_keys, definitions }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.view.name == other.view.name && self.stored == other.stored
    }

    /// Another version that reads the same fields.
    pub(super) fn take_in(&mut self, other: Self) {
        let new = other.definitions.into_iter();
        let new: Vec<_> = new.filter(|view| !self.definitions.iter().any(|known| Arc::ptr_eq(known, view))).collect();
        self.definitions.extend(new);
    }

    fn is_left_behind(&self) -> bool {
        self.definitions.len() > 1
    }

    fn key_type(&self, key: &str) -> Result<KeyType, String> {
        let columns = self.definitions.iter().flat_map(|view| &view.entity_columns);
        let of = columns.filter(|column| column.name == key).map(|column| column.of).next();
        match of {
            Some(ValueType::String) => Ok(KeyType::String),
            Some(ValueType::Int32) => Ok(KeyType::I32),
            Some(ValueType::Int64) => Ok(KeyType::I64),
            Some(ValueType::Bytes) => Ok(KeyType::Bytes),
            Some(ValueType::UnixTimestamp) => Ok(KeyType::Timestamp),
            Some(of) => Err(format!("its join key {key:?} is {}, which no key in the store can be", of.as_str_name())),
            None => Err(format!("the registry has no type for its join key {key:?}")),
        }
    }

    fn features(&self) -> Vec<&Field> {
        let mut seen = HashSet::new();
        self.definitions.iter().flat_map(|view| &view.features).filter(|field| seen.insert(&field.name)).collect()
    }
}

/// The name of a read's view in the store.
fn stored_name(read: &ViewRead) -> String {
    let time_field = String::from_utf8_lossy(&read.hash.time_field);
    time_field.strip_prefix(TIME_FIELD).unwrap_or(&time_field).to_owned()
}

/// Things that features describe: one for each set of join keys.
#[derive(Debug, Default)]
pub(super) struct Entities {
    names: Names,
    all: Vec<Entity>,
}

#[derive(Debug)]
struct Entity {
    name: String,
    keys: Vec<(String, Kind)>,
    feast: Vec<String>,
}

impl Entities {
    fn with(&mut self, feast: &[String], keys: Vec<(String, Kind)>) -> usize {
        let same =
            |entity: &Entity| entity.keys.len() == keys.len() && keys.iter().all(|key| entity.keys.contains(key));
        self.all.iter().position(same).unwrap_or_else(|| {
            let like = if keys.is_empty() { EVERYTHING.to_owned() } else { feast.join("_") };
            let name = self.names.unique(&like);
            self.all.push(Entity { name, keys, feast: feast.to_vec() });
            self.all.len() - 1
        })
    }

    pub(super) fn file(&self, registry: &Registry) -> File {
        let chunk = |entity: &Entity| {
            let known = registry.entities.iter().filter(|known| entity.feast.contains(&known.name));
            let known: Vec<_> = known.collect();
            let (owner, description) = match known.as_slice() {
                [one] => (one.owner.as_str(), one.description.as_str()),
                _ => ("", ""),
            };
            let mut toml = Toml::default();
            toml.table("[[entity]]");
            toml.string("name", &entity.name);
            toml.string("owner", &owned(owner, registry));
            let or = || match (entity.keys.as_slice(), entity.feast.as_slice()) {
                ([], _) => "Everything: features that are the same for all.".to_owned(),
                (_, [one]) => format!("Feast's entity {one} of project {}.", registry.project),
                (_, more) => format!("Feast's entities {} of project {}.", more.join(", "), registry.project),
            };
            toml.string("description", &described(description, or));
            let keys =
                entity.keys.iter().map(|(name, kind)| format!("{{ name = \"{name}\", type = \"{}\" }}", kind.name()));
            toml.plain("keys", format_args!("[{}]", keys.collect::<Vec<_>>().join(", ")));
            Chunk { what: Some(format!("entity {:?}", entity.name)), text: toml.text }
        };
        File { name: "entities.toml", head: head(registry, "Entities"), chunks: self.all.iter().map(chunk).collect() }
    }
}

/// Views as the catalog has them.
#[derive(Debug)]
pub(super) struct Views {
    pub(super) all: Vec<ViewOut>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug)]
pub(super) struct ViewOut {
    pub(super) name: String,
    pub(super) draft: Draft,
    entity: usize,
    /// Name here, name in Feast, type in Feast.
    pub(super) keys: Vec<(String, String, KeyType)>,
    pub(super) features: Vec<FeatureOut>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug)]
pub(super) struct FeatureOut {
    pub(super) name: String,
    pub(super) feast: String,
    pub(super) of: FeatureType,
    description: String,
}

impl Views {
    pub(super) fn of(
        registry: &Registry,
        drafts: Vec<Draft>,
        sources: &Names,
        keys: &Names,
        entities: &mut Entities,
        left_out: &mut Vec<LeftOut>,
    ) -> Self {
        let mut views = Self { all: Vec::with_capacity(drafts.len()), left_out: left_out.clone() };
        for draft in drafts {
            let (what, name) = (format!("view {:?}", draft.stored), sources.of(&draft.stored));
            match view(draft, name, keys, entities) {
                Ok(view) => {
                    left_out.extend(view.left_out.iter().cloned());
                    views.all.push(view);
                }
                Err(why) => {
                    let why = LeftOut { what, why };
                    left_out.push(why.clone());
                    views.left_out.push(why);
                }
            }
        }
        views.left_out.retain(|left_out| left_out.what.starts_with("view "));
        views.note_unread_entities(registry, left_out);
        views
    }

    /// Entities that no view could be imported for.
    fn note_unread_entities(&mut self, registry: &Registry, left_out: &mut Vec<LeftOut>) {
        for entity in &registry.entities {
            let uses = |view: &View| view.entities.contains(&entity.name) && view.computed().is_none();
            let is_used = registry.views.values().any(|view| uses(view));
            if is_used && !self.all.iter().any(|view| uses(&view.draft.view)) {
                let what = format!("entity {:?}", entity.name);
                let why = LeftOut { what, why: "none of its views can be imported".to_owned() };
                left_out.push(why.clone());
                self.left_out.push(why);
            }
        }
    }

    /// The view behind a read of Feast's.
    pub(super) fn of_read(&self, read: &ViewRead) -> Option<&ViewOut> {
        let stored = stored_name(read);
        self.all.iter().find(|view| view.draft.stored == stored && view.draft.view.name == read.view.name)
    }

    pub(super) fn file(&self, registry: &Registry, options: &Options, naming: &Naming, entities: &Entities) -> File {
        let mut head = head(registry, "Views");
        let mut toml = Toml::default();
        toml.comment(
            "Their rows lie in Feast's hashes, where Feast goes on to write them. With fresh_for_ms = 0 every request reads \
             the store, as Feast does; raise it, and rows are answered from the cache for so long. ttl_s counts: a value \
             that is too old is EXPIRED, where Feast's Python server hands it out all the same.",
        );
        head.push_str(&toml.text);
        let chunk = |view: &ViewOut| Chunk {
            what: Some(format!("view {:?}", view.draft.stored)),
            text: view.text(registry, options, naming, entities, self.hash_fields(registry, view)),
        };
        let left_out = self.left_out.iter().map(Chunk::left_out);
        File { name: "views.toml", head, chunks: self.all.iter().map(chunk).chain(left_out).collect() }
    }

    /// How many fields the view's hashes have, where the catalog does not know them all.
    fn hash_fields(&self, registry: &Registry, view: &ViewOut) -> Option<usize> {
        let known: usize =
            self.all.iter().filter(|other| other.entity == view.entity).map(|other| other.features.len() + 1).sum();
        let all = crate::lookup::hash_fields(registry, &view.draft.view);
        (all > known).then_some(all)
    }
}

fn view(draft: Draft, name: String, keys: &Names, entities: &mut Entities) -> Result<ViewOut, String> {
    let key = |key: &String| Ok((keys.of(key), key.clone(), draft.key_type(key)?));
    let joined: Vec<_> = draft.join_keys.iter().map(key).collect::<Result<_, String>>()?;
    if joined.is_empty() && !draft.view.is_entityless() {
        return Err("it has no entity, so no key to read it by".to_owned());
    }
    let mut names = Names::default();
    let fields = draft.features();
    names.add(fields.iter().map(|field| field.name.as_str()));
    let (mut features, mut left_out) = (Vec::with_capacity(fields.len()), Vec::new());
    for field in fields {
        match column_of(field.of) {
            Some(of) => features.push(FeatureOut {
                name: names.of(&field.name),
                feast: field.name.clone(),
                of,
                description: described(&field.description, || {
                    format!("Feature {} of Feast's view {}.", field.name, draft.view.name)
                }),
            }),
            None => left_out.push(LeftOut {
                what: format!("feature {:?} of view {:?}", field.name, draft.stored),
                why: no_column(field.of),
            }),
        }
    }
    if features.is_empty() {
        return Err(left_out.pop().map(|left_out| left_out.why).unwrap_or_else(|| "it has no feature".to_owned()));
    }
    let kinds = joined.iter().map(|(name, _, of)| (name.clone(), of.kind())).collect();
    let entity = entities.with(&draft.view.entities, kinds);
    Ok(ViewOut { name, entity, keys: joined, features, left_out, draft })
}

impl ViewOut {
    /// Why a feature of Feast's is not here.
    pub(super) fn why_not(&self, feature: &str) -> String {
        let of = self.draft.features().into_iter().find(|field| field.name == feature).map(|field| field.of);
        of.map_or_else(|| "its view does not have it".to_owned(), no_column)
    }

    fn text(
        &self,
        registry: &Registry,
        options: &Options,
        naming: &Naming,
        entities: &Entities,
        hash_fields: Option<usize>,
    ) -> String {
        let (view, mut toml) = (&self.draft.view, Toml::default());
        if self.draft.is_left_behind() {
            toml.comment(&format!(
                "What Feast's services read of {:?}: its version 0, whatever its version is now.",
                view.name
            ));
        }
        toml.line("[[view]]");
        toml.string("name", &self.name);
        toml.plain("version", 1);
        toml.string("entity", &entities.all[self.entity].name);
        toml.string("owner", &owned(&view.owner, registry));
        let or = || format!("From Feast's feature view {} of project {}.", view.name, registry.project);
        toml.string("description", &described(&view.description, or));
        if !view.ttl.is_zero() {
            // Whole seconds, and 0 would be for ever.
            toml.plain("ttl_s", (view.ttl.as_secs_f64().ceil() as u64).min(TTL_S_MAX));
        }
        toml.plain("fresh_for_ms", options.cache.fresh_for.as_millis());
        toml.plain("stale_for_ms", options.cache.stale_for.as_millis());
        toml.plain("negative_for_ms", options.cache.negative_for.as_millis());
        toml.string("layout", "feast");

        toml.table("[view.feast]");
        toml.string("project", &naming.project);
        toml.plain("entity_key_serialization_version", if naming.format == KeyFormat::V2 { 2 } else { 3 });
        if self.draft.stored != self.name {
            toml.string("view", &self.draft.stored);
        }
        let differs = |(own, feast): &(String, String)| own != feast;
        // Every other type is what the catalog takes the entity's own for.
        let narrow = self.keys.iter().filter(|(.., of)| *of == KeyType::I32);
        let key_types: Vec<_> = narrow.map(|(own, _, of)| (own.clone(), of.name().to_owned())).collect();
        let key_names = self.keys.iter().map(|(own, feast, _)| (own.clone(), feast.clone())).filter(differs);
        let feature_names = self.features.iter().map(|f| (f.name.clone(), f.feast.clone())).filter(differs);
        toml.map("key_types", &key_types);
        toml.map("key_names", &key_names.collect::<Vec<_>>());
        toml.map("feature_names", &feature_names.collect::<Vec<_>>());
        if let Some(fields) = hash_fields {
            toml.plain("hash_fields", fields);
        }
        for feature in &self.features {
            toml.table("[[view.feature]]");
            toml.string("name", &feature.name);
            toml.string("type", &feature.of.to_string());
            toml.string("description", &feature.description);
        }
        for left_out in &self.left_out {
            toml.line("");
            toml.comment(&format!("Left out: {left_out}"));
        }
        toml.text
    }
}
