//! Where a view's rows lie: packed into one value per entity, which is ours, or as fields of the hashes that Feast
//! writes. Everything that a Feast hash is found by is in the catalog, so serving needs no registry.

use std::sync::Arc;

use super::{Entity, Feature, Keys, View};
use crate::Kind;
use crate::feast::{DUMMY_KEY, HashRead, KeyFormat, KeyPart};

/// `entity_key_serialization_version` where it is not written: what Feast itself writes by default.
const KEY_VERSION: u64 = 3;
/// More fields than any hash has; only keeps sums from overflowing.
const HASH_FIELDS_MAX: u64 = 1 << 24;

/// How the rows of a view are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// One packed value per entity, under a key of its own.
    Packed,
    /// Fields of a hash that the views of an entity share.
    Feast(FeastLayout),
}

/// What the hashes and fields of a view are called in Feast.
#[derive(Clone, Debug, PartialEq)]
pub struct FeastLayout {
    /// The project, which ends every key.
    pub project: Arc<str>,
    /// How keys are written.
    pub format: KeyFormat,
    /// The view's name in the store: with its version, where versions are kept apart.
    pub view: Arc<str>,
    /// By join key of the view's entity. None at all is Feast's view without an entity.
    pub keys: Vec<FeastKey>,
    /// By feature of the view: its name in Feast.
    pub features: Vec<Arc<str>>,
    /// How many fields a hash has, if the catalog does not have all views that write into it.
    pub hash_fields: Option<usize>,
}

/// A join key as Feast has it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeastKey {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub of: KeyType,
}

/// Types of join keys in Feast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// STRING.
    String,
    /// INT32.
    I32,
    /// INT64.
    I64,
    /// BYTES.
    Bytes,
    /// UNIX_TIMESTAMP.
    Timestamp,
}

impl KeyType {
    const ALL: [(Self, &'static str, Kind); 5] = [
        (Self::String, "string", Kind::String),
        (Self::I32, "int32", Kind::I64),
        (Self::I64, "int64", Kind::I64),
        (Self::Bytes, "bytes", Kind::Bytes),
        (Self::Timestamp, "unix_timestamp", Kind::Timestamp),
    ];

    /// The name used in the catalog.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(of, ..)| *of == self).map_or("", |(_, name, _)| name)
    }

    /// What callers send for it.
    pub fn kind(self) -> Kind {
        Self::ALL.into_iter().find(|(of, ..)| *of == self).map_or(Kind::String, |(.., kind)| kind)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name, _)| *name == text).map(|(of, ..)| of)
    }

    /// What a join key of this kind is in Feast, unless the catalog says otherwise.
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::I64 => Self::I64,
            Kind::Bytes => Self::Bytes,
            Kind::Timestamp => Self::Timestamp,
            Kind::Bool | Kind::F64 | Kind::F32 | Kind::String => Self::String,
        }
    }
}

impl FeastLayout {
    /// What the keys of all the view's hashes begin with, and the order in which the values of the entity's join keys
    /// follow: Feast sorts them by name.
    pub fn key_prefix(&self) -> (Vec<u8>, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by(|a, b| self.keys[*a].name.cmp(&self.keys[*b].name));
        let mut prefix = Vec::new();
        if order.is_empty() {
            self.format.push_names(&mut prefix, [DUMMY_KEY].into_iter());
            KeyFormat::push_part(&mut prefix, KeyPart::String(b""));
        } else {
            self.format.push_names(&mut prefix, order.iter().map(|key| &*self.keys[*key].name));
        }
        (prefix, order)
    }

    /// Whether both write into the same hashes.
    fn shares_hashes_with(&self, other: &Self) -> bool {
        let has = |key: &FeastKey| other.keys.iter().any(|own| own.name == key.name);
        self.project == other.project && self.keys.len() == other.keys.len() && self.keys.iter().all(has)
    }

    /// The fields of these features. `all` are the views that may write into the same hashes.
    pub fn read(&self, view: &View, features: impl Iterator<Item = usize>, all: &[Arc<View>]) -> HashRead {
        let hash_fields = self.hash_fields.unwrap_or_else(|| {
            let others = all.iter().filter_map(|v| match &v.layout {
                Layout::Feast(layout) => Some(layout),
                Layout::Packed => None,
            });
            // A field for the event time beside the features.
            others.filter(|layout| layout.shares_hashes_with(self)).map(|layout| layout.features.len() + 1).sum()
        });
        HashRead::new(&self.view, features.map(|feature| &*self.features[feature]), hash_fields, view.cache)
    }
}

/// Reads `layout` and `[view.feast]`.
pub(super) fn read(
    keys: &mut Keys<'_, '_>,
    name: Option<&str>,
    entity: Option<&Entity>,
    features: &[Feature],
) -> Option<Layout> {
    let layout = keys.text("layout");
    let feast = keys.table("feast");
    match (layout.as_deref().unwrap_or("packed"), feast) {
        ("packed", None) => {
            if let Some(entity) = entity.filter(|entity| entity.keys.is_empty()) {
                let message =
                    format!("{:?} has no join key: only views with layout = \"feast\" can do without", entity.doc.name);
                keys.mistake("entity", message);
            }
            Some(Layout::Packed)
        }
        ("packed", Some(_)) => {
            keys.mistake("feast", "has no meaning without layout = \"feast\"");
            None
        }
        ("feast", Some(mut table)) => {
            table.rename(format!("{}: feast", keys.what()));
            let layout = feast_layout(&mut table, name, entity, features);
            table.finish();
            layout.map(Layout::Feast)
        }
        ("feast", None) => {
            keys.mistake("layout", "a table [view.feast] says where Feast keeps the rows");
            None
        }
        (other, _) => {
            keys.mistake("layout", format!("{other:?} is neither \"packed\" nor \"feast\""));
            None
        }
    }
}

fn feast_layout(
    keys: &mut Keys<'_, '_>,
    name: Option<&str>,
    entity: Option<&Entity>,
    features: &[Feature],
) -> Option<FeastLayout> {
    let project = keys.required_text("project");
    let format = match keys.number("entity_key_serialization_version", 2..=3).unwrap_or(KEY_VERSION) {
        2 => KeyFormat::V2,
        _ => KeyFormat::V3,
    };
    let view = keys.text("view");
    let hash_fields = keys.number("hash_fields", 1..=HASH_FIELDS_MAX).map(|fields| fields as usize);
    let (key_types, key_names) = (keys.text_map("key_types"), keys.text_map("key_names"));
    let feature_names = keys.text_map("feature_names");
    let renamed = |names: &[(String, String)], name: &str| -> Arc<str> {
        names.iter().find(|(own, _)| own == name).map_or(name, |(_, feast)| feast).into()
    };
    for (own, _) in feature_names.iter().filter(|(own, _)| !features.iter().any(|f| *f.name == **own)) {
        keys.mistake("feature_names", format!("{own:?} is no feature of the view"));
    }
    // Without the entity nothing can be said about its keys; that it is wrong was said already.
    let entity = entity?;
    let is_key = |name: &String| entity.keys.iter().any(|key| *key.name == **name);
    for (key, map) in [("key_types", &key_types), ("key_names", &key_names)] {
        for (own, _) in map.iter().filter(|(own, _)| !is_key(own)) {
            keys.mistake(key, format!("{own:?} is no join key of {:?}", entity.doc.name));
        }
    }
    let mut found: Vec<FeastKey> = Vec::with_capacity(entity.keys.len());
    for key in &entity.keys {
        let written = key_types.iter().find(|(own, _)| **own == *key.name).map(|(_, of)| of.as_str());
        let of = written.map_or(Some(KeyType::of(key.kind)), KeyType::parse);
        let Some(of) = of.filter(|of| of.kind() == key.kind) else {
            let fitting = KeyType::ALL.into_iter().filter(|(.., kind)| *kind == key.kind).map(|(_, name, _)| name);
            let message = format!(
                "{}: {:?} where the join key is {}: {} is expected",
                key.name,
                written.unwrap_or_default(),
                key.kind.name(),
                fitting.collect::<Vec<_>>().join(" or ")
            );
            keys.mistake("key_types", message);
            continue;
        };
        let name = renamed(&key_names, &key.name);
        if found.iter().any(|other| other.name == name) {
            keys.mistake("key_names", format!("{name:?} is there twice"));
        }
        found.push(FeastKey { name, of });
    }
    Some(FeastLayout {
        project: project?.into(),
        format,
        view: view.as_deref().or(name)?.into(),
        keys: Some(found).filter(|found| found.len() == entity.keys.len())?,
        features: features.iter().map(|feature| renamed(&feature_names, &feature.name)).collect(),
        hash_fields,
    })
}
