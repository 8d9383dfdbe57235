//! What a request for features asks of the store: references and feature services resolved against the registry, in
//! the order in which Feast resolves them, so that of several mistakes the same one is told. Compiled once for each
//! list of references; requests only bind their entities to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use weir_domain::catalog::Freshness;
use weir_domain::feast::{DUMMY_KEY, HashRead};
use weir_proto::feast::core::FeatureViewState;
use weir_proto::feast::types::value_type::Enum as ValueType;

use crate::json;
use crate::raised::Raised;
use crate::reference::{Reference, Version, collisions};
use crate::registry::{DUMMY_ENTITY, Field, Projection, Registry, Service, View, ViewKind};

/// How the registry's views are served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Versions of a view are stored apart and may be asked for (`enable_online_feature_view_versioning`).
    pub versioning: bool,
    /// `serve_features_while_materializing`.
    pub serves_while_materializing: bool,
    /// Services whose answers Feast computes beforehand are answered from those alone, as its Python server does.
    pub reads_precomputed: bool,
    /// How long rows may be kept.
    pub cache: Freshness,
}

impl Options {
    /// The name under which rows of a view's current version lie in the store.
    pub fn stored_name(&self, view: &View) -> String {
        self.name_of(view, view.version)
    }

    fn name_of(&self, view: &View, version: i32) -> String {
        if self.versioning && version > 0 { format!("{}_v{version}", view.name) } else { view.name.clone() }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// `view:feature` each.
    Features(&'a [String]),
    /// A feature service.
    Service(&'a str),
}

/// References, resolved.
#[derive(Debug)]
pub struct Lookup {
    /// One for each view (and alias), in the order of the answer's columns.
    pub reads: Vec<ViewRead>,
    /// On-demand views whose values are asked for.
    pub computed: Vec<Computed>,
    /// The feature service, if one was asked for.
    pub service: Option<String>,
    /// What to read instead of everything else, by the keys of the first read: what Feast computed beforehand.
    pub vectors: Option<Arc<HashRead>>,
    /// Columns that the request must bring for them.
    pub(crate) request_data: BTreeSet<String>,
    /// Type of each column that a view reads by.
    pub(crate) entity_types: HashMap<String, ValueType>,
    /// Entity name → join key.
    pub(crate) join_key_of: HashMap<String, String>,
    /// Every join key, those of other entities included.
    pub(crate) join_keys: HashSet<String>,
    /// The same without the dummy, sorted.
    pub(crate) expected: Vec<String>,
    /// A view without an entity is among them.
    pub(crate) entityless: bool,
    /// Names of the columns that are read, as JSON.
    pub(crate) names: Vec<u8>,
}

/// An on-demand view's part.
#[derive(Debug)]
pub struct Computed {
    /// The view.
    pub view: Arc<View>,
    /// Its features that are asked for, with the name of each one's column.
    pub outputs: Vec<(Field, String)>,
}

/// One view's part.
#[derive(Debug)]
pub struct ViewRead {
    /// The view.
    pub view: Arc<View>,
    /// Features, in the order of [`HashRead::fields`].
    pub features: Vec<String>,
    /// The name of each one's column; `None` when it was read for an on-demand view alone.
    pub columns: Vec<Option<String>>,
    /// What to read of the hashes.
    pub hash: Arc<HashRead>,
    /// The view's name or alias, and its version, as metadata gives them.
    pub named: (String, i32),
    /// What references to its features begin with.
    pub(crate) key: String,
    /// Join keys of the view's entities.
    pub(crate) join_keys: Vec<String>,
    /// Column of the request → join key.
    pub(crate) renamed: HashMap<String, String>,
}

/// A view as one request uses it.
struct Used {
    key: String,
    view: Arc<View>,
    projection: Projection,
    version: i32,
}

/// Vectors lie in the store like the one feature of a view that is called so, and then like the service.
const VECTORS: &str = "__precomputed__";
const VECTOR: &str = "vector";

impl Lookup {
    /// Resolves everything, or says what Feast would have raised.
    pub fn compile(
        registry: &Registry,
        wanted: Wanted<'_>,
        full_names: bool,
        options: &Options,
    ) -> Result<Self, Raised> {
        let (refs, service, views) = match wanted {
            Wanted::Features(refs) => {
                if refs.is_empty() {
                    return Err(Raised::value("No features specified for retrieval"));
                }
                (refs.to_vec(), None, by_reference(registry, refs, options)?)
            }
            Wanted::Service(name) => {
                let service = service(registry, name)?;
                comparable(&service.projections)?;
                let refs = service.projections.iter().flat_map(|p| {
                    let name = p.name_to_use();
                    p.features.iter().map(move |f| format!("{name}:{}", f.name))
                });
                let refs: Vec<String> = refs.collect();
                (refs, Some(name.to_owned()), by_service(registry, &service.projections, options)?)
            }
        };
        let (stored, computed): (Vec<Used>, Vec<Used>) =
            views.into_iter().partition(|used| used.view.computed().is_none());
        let mut lookup = Self::entities(registry, &stored)?;
        lookup.service = service;
        let parsed: Vec<Reference> = refs.iter().map(|r| Reference::parse(r)).collect::<Result<_, _>>()?;
        collisions(&refs, &parsed, full_names)?;
        lookup.group(registry, &parsed, &stored, &computed, full_names, options)?;
        lookup.names = json::names(lookup.reads.iter().flat_map(|read| read.columns.iter().flatten()));
        let service = lookup.service.as_ref().and_then(|name| registry.services.get(name));
        let is_precomputed = options.reads_precomputed && service.is_some_and(|service| service.is_precomputed);
        if let (true, Some(first), Some(name)) = (is_precomputed, lookup.reads.first(), &lookup.service)
            && lookup.computed.is_empty()
        {
            let fields = hash_fields(registry, &first.view);
            let read = HashRead::new(&format!("{VECTORS}{name}"), [VECTOR], fields, options.cache);
            lookup.vectors = Some(Arc::new(read));
        }
        Ok(lookup)
    }

    fn entities(registry: &Registry, views: &[Used]) -> Result<Self, Raised> {
        let mut join_key_of: HashMap<String, String> =
            registry.entities.iter().map(|e| (e.name.clone(), e.join_key.clone())).collect();
        let mut entity_types = HashMap::new();
        for used in views {
            let map = &used.projection.join_key_map;
            for name in &used.view.entities {
                let entity = registry.entities.iter().find(|e| e.name == *name).ok_or_else(|| {
                    let message = format!("Entity {name} does not exist in project {}", registry.project);
                    Raised::not_found("EntityNotFoundException", message)
                })?;
                let mapped = map.get(&entity.join_key);
                let (name, key) = (mapped.unwrap_or(&entity.name), mapped.unwrap_or(&entity.join_key));
                join_key_of.insert(name.clone(), key.clone());
            }
            for column in &used.view.entity_columns {
                let name = map.get(&column.name).unwrap_or(&column.name);
                entity_types.insert(name.clone(), column.of);
            }
        }
        let join_keys: HashSet<String> = join_key_of.values().cloned().collect();
        let mut expected: Vec<String> = join_keys.iter().filter(|key| *key != DUMMY_KEY).cloned().collect();
        expected.sort();
        Ok(Self {
            reads: Vec::new(),
            computed: Vec::new(),
            service: None,
            vectors: None,
            request_data: BTreeSet::new(),
            entity_types,
            join_key_of,
            join_keys,
            expected,
            entityless: false,
            names: Vec::new(),
        })
    }

    /// Features by view, in the order of their first use.
    fn group(
        &mut self,
        registry: &Registry,
        refs: &[Reference],
        stored: &[Used],
        computed: &[Used],
        full_names: bool,
        options: &Options,
    ) -> Result<(), Raised> {
        // Of two views that go by one name the later counts.
        let find = |views: &[Used], key: &str| views.iter().rposition(|used| used.key == key);
        let mut groups: Vec<(usize, Vec<(String, bool)>)> = Vec::new();
        let mut add = |view: usize, feature: &str, is_asked: bool| {
            let at = groups.iter().position(|(v, _)| *v == view).unwrap_or_else(|| {
                groups.push((view, Vec::new()));
                groups.len() - 1
            });
            let features = &mut groups[at].1;
            match features.iter_mut().find(|(name, _)| name == feature) {
                Some((_, asked)) => *asked |= is_asked,
                None => features.push((feature.to_owned(), is_asked)),
            }
        };
        for reference in refs {
            let key = reference.view_key();
            if let Some(index) = find(stored, &key) {
                let used = &stored[index];
                let is_there = used.projection.features.iter().any(|f| f.name == reference.feature);
                // Stored on-demand views take any name; one that is not theirs is null.
                if !is_there && !matches!(used.view.kind, ViewKind::OnDemand(_)) {
                    return Err(no_feature(&reference.feature, &key));
                }
                add(index, &reference.feature, true);
            } else if let Some(index) = find(computed, &key) {
                let used = &computed[index];
                let field = used.projection.features.iter().find(|f| f.name == reference.feature);
                let field = field.ok_or_else(|| no_feature(&reference.feature, &key))?;
                let on_demand = used.view.computed();
                for input in on_demand.iter().flat_map(|o| &o.inputs) {
                    for feature in &input.features {
                        if let Some(index) = find(stored, &input.view) {
                            add(index, &feature.name, false);
                        }
                    }
                }
                self.request_data.extend(on_demand.iter().flat_map(|o| &o.request).map(|f| f.name.clone()));
                let output = (field.clone(), column(&key, &field.name, full_names));
                match self.computed.iter_mut().find(|computed| Arc::ptr_eq(&computed.view, &used.view)) {
                    Some(known) if known.outputs.contains(&output) => {}
                    Some(known) => known.outputs.push(output),
                    None => self.computed.push(Computed { view: Arc::clone(&used.view), outputs: vec![output] }),
                }
            } else {
                let message = format!("Feature view {key} does not exist");
                return Err(Raised::not_found("FeatureViewNotFoundException", message));
            }
        }
        for (index, features) in groups {
            let used = &stored[index];
            self.entityless |= used.view.entities.iter().any(|entity| entity == DUMMY_ENTITY);
            self.reads.push(read(self, registry, used, features, full_names, options));
        }
        Ok(())
    }
}

fn read(
    lookup: &Lookup,
    registry: &Registry,
    used: &Used,
    features: Vec<(String, bool)>,
    full_names: bool,
    options: &Options,
) -> ViewRead {
    let columns = features.iter().map(|(name, is_asked)| is_asked.then(|| column(&used.key, name, full_names)));
    let columns = columns.collect();
    let features: Vec<String> = features.into_iter().map(|(name, _)| name).collect();
    let hash = HashRead::new(
        &options.name_of(&used.view, used.projection.version.unwrap_or(used.version)),
        features.iter().map(String::as_str),
        hash_fields(registry, &used.view),
        options.cache,
    );
    let keys = used.view.entities.iter().filter_map(|entity| lookup.join_key_of.get(entity).cloned());
    let alias = used.projection.alias.clone().unwrap_or_else(|| used.projection.view.clone());
    ViewRead {
        view: Arc::clone(&used.view),
        columns,
        features,
        hash: Arc::new(hash),
        named: (alias, used.version),
        key: used.key.clone(),
        join_keys: keys.collect(),
        renamed: used.projection.join_key_map.iter().map(|(key, column)| (column.clone(), key.clone())).collect(),
    }
}

/// What the column of a feature is called.
fn column(view_key: &str, feature: &str, full_names: bool) -> String {
    if full_names { format!("{view_key}__{feature}") } else { feature.to_owned() }
}

/// How many fields the hash of an entity has when all views of that entity are written.
pub(crate) fn hash_fields(registry: &Registry, view: &View) -> usize {
    let keys = |view: &View| view.entity_columns.iter().map(|c| c.name.clone()).collect::<BTreeSet<_>>();
    let own = keys(view);
    let same = registry.views.values().filter(|other| other.computed().is_none() && keys(other) == own);
    same.map(|other| other.features.len() + 1).sum()
}

fn no_feature(feature: &str, view: &str) -> Raised {
    Raised::key(&format!("Feature {feature} not found in projection {view}"))
}

/// What Feast says about views before it looks at anything else, and all that it says when it is asked to search.
pub(crate) fn check_views(registry: &Registry, wanted: Wanted<'_>, options: &Options) -> Result<(), Raised> {
    match wanted {
        Wanted::Features(refs) => by_reference(registry, refs, options).map(drop),
        Wanted::Service(name) => by_service(registry, &service(registry, name)?.projections, options).map(drop),
    }
}

fn service<'r>(registry: &'r Registry, name: &str) -> Result<&'r Arc<Service>, Raised> {
    registry.services.get(name).ok_or_else(|| {
        let message = format!("Feature service {name} does not exist in project {}", registry.project);
        Raised::not_found("FeatureServiceNotFoundException", message)
    })
}

/// Each view that the references name, and those that on-demand views compute from.
fn by_reference(registry: &Registry, refs: &[String], options: &Options) -> Result<Vec<Used>, Raised> {
    let parsed: Vec<Reference> = refs.iter().map(|r| Reference::parse(r)).collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    let mut views = Vec::new();
    for reference in &parsed {
        if !seen.insert((&reference.view, &reference.version)) {
            continue;
        }
        let view = find(registry, &reference.view, reference.version.as_ref(), options)?;
        let projection = Projection {
            view: view.name.clone(),
            alias: None,
            features: view.features.clone(),
            join_key_map: std::collections::BTreeMap::new(),
            version: reference.version.as_ref().and_then(Version::number),
        };
        use_view(registry, &mut views, view, Through::Reference, projection)?;
    }
    Ok(views)
}

fn by_service(registry: &Registry, projections: &[Projection], options: &Options) -> Result<Vec<Used>, Raised> {
    let mut views = Vec::new();
    for projection in projections {
        let version = projection.version.map(|v| Version(v.to_string()));
        let view = find(registry, &projection.view, version.as_ref(), options)?;
        apply(projection, &view)?;
        use_view(registry, &mut views, view, Through::Service, projection.clone())?;
    }
    Ok(views)
}

/// A projection may only have features that its view still has, unchanged.
fn apply(projection: &Projection, view: &View) -> Result<(), Raised> {
    match projection.features.iter().find(|feature| !view.features.contains(feature)) {
        Some(feature) => Err(Raised::value(format!(
            "The projection for {} cannot be applied because it contains {} which the FeatureView doesn't have.",
            view.name, feature.name
        ))),
        None => Ok(()),
    }
}

/// How a request came to a view.
#[derive(Clone, Copy, PartialEq)]
enum Through {
    Reference,
    Service,
}

/// Adds a view, and the views it computes from. Views that go by one name are one, with the features of both.
fn use_view(
    registry: &Registry,
    views: &mut Vec<Used>,
    view: Arc<View>,
    through: Through,
    projection: Projection,
) -> Result<(), Raised> {
    // Going through a service loses the version: only a pinned one stays.
    let version = if through == Through::Service { 0 } else { view.version };
    if let ViewKind::OnDemand(on_demand) = &view.kind {
        for input in &on_demand.inputs {
            let source = find_any(registry, &input.view)?;
            apply(input, &source)?;
            merge(views, Used { key: input.name_to_use(), version: 0, view: source, projection: input.clone() });
        }
    }
    merge(views, Used { key: projection.name_to_use(), version, view, projection });
    Ok(())
}

fn merge(views: &mut Vec<Used>, used: Used) {
    let is_stored = |used: &Used| !matches!(used.view.kind, ViewKind::OnDemand(_));
    match views.iter_mut().find(|other| is_stored(other) && is_stored(&used) && other.key == used.key) {
        Some(other) => {
            let new = used.projection.features.into_iter();
            for feature in new {
                if !other.projection.features.iter().any(|f| f.name == feature.name) {
                    other.projection.features.push(feature);
                }
            }
        }
        None => views.push(used),
    }
}

/// The view of this name, of any kind.
pub(crate) fn find_any(registry: &Registry, name: &str) -> Result<Arc<View>, Raised> {
    registry.views.get(name).map(Arc::clone).ok_or_else(|| {
        let message = format!("Feature view {name} does not exist in project {}", registry.project);
        Raised::not_found("FeatureViewNotFoundException", message)
    })
}

/// The view, if it exists and may serve.
fn find(registry: &Registry, name: &str, version: Option<&Version>, options: &Options) -> Result<Arc<View>, Raised> {
    let view = match version {
        None => find_any(registry, name)?,
        Some(version) if !options.versioning => {
            return Err(Raised::value(format!(
                "Version-qualified ref '{name}@v{}' not supported: online versioning is disabled. Set 'enable_online_feature_view_versioning: true' under 'registry' in feature_store.yaml.",
                version.0
            )));
        }
        Some(version) => {
            let found = version.number().and_then(|number| registry.versions.get(&(name.to_owned(), number)));
            found.map(Arc::clone).ok_or_else(|| {
                let message = format!(
                    "Version v{} of feature view {name} does not exist in project {}",
                    version.0, registry.project
                );
                Raised::not_found("FeatureViewVersionNotFound", message)
            })?
        }
    };
    if !view.enabled {
        return Err(Raised::value(format!(
            "Feature view '{name}' is disabled and cannot serve features. Enable it with `feast feature-views enable {name}` or set enabled=True."
        )));
    }
    let serves = match view.state {
        FeatureViewState::StateUnspecified | FeatureViewState::AvailableOnline => true,
        FeatureViewState::Materializing => options.serves_while_materializing,
        FeatureViewState::Created | FeatureViewState::Generated => false,
    };
    if !serves {
        let state = view.state.as_str_name();
        return Err(Raised::value(format!(
            "Feature view '{name}' is in state '{state}' and cannot serve features. Only AVAILABLE_ONLINE feature views can serve."
        )));
    }
    Ok(view)
}

/// Feast compares a service with itself by sorting its projections by name and alias, which Python cannot do when a
/// view is there twice and only once under an alias, or twice under the same.
fn comparable(projections: &[Projection]) -> Result<(), Raised> {
    for (second, b) in projections.iter().enumerate() {
        for a in projections[..second].iter().filter(|a| a.view == b.view) {
            let of = |p: &Projection| if p.alias.is_some() { "str" } else { "NoneType" };
            if a.alias.is_some() != b.alias.is_some() {
                let message = format!("'<' not supported between instances of '{}' and '{}'", of(b), of(a));
                return Err(Raised::python("TypeError", message));
            }
        }
    }
    Ok(())
}
