//! A Feast registry as serving needs it: the views, services and entities of one project, by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use weir_domain::feast::DUMMY_KEY;
use weir_proto::feast::core::{self as wire, FeatureViewState, on_demand_source::Source};
use weir_proto::feast::types::value_type::Enum as ValueType;

/// The name of the entity that views without an entity have.
pub(crate) const DUMMY_ENTITY: &str = "__dummy";

/// Everything of one project.
#[derive(Debug, Default)]
pub struct Registry {
    /// The project.
    pub project: String,
    /// In the order of the registry.
    pub entities: Vec<Entity>,
    /// Views of every kind by name; the first of a name wins, feature views before stream, on-demand and label views.
    pub views: HashMap<String, Arc<View>>,
    /// Snapshots of earlier and current versions.
    pub versions: HashMap<(String, i32), Arc<View>>,
    /// By name.
    pub services: HashMap<String, Arc<Service>>,
}

/// A registry that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not the bytes of a registry.
    #[error("not a Feast registry")]
    Decode(#[from] prost::DecodeError),
    /// There is nothing of the project in it.
    #[error("the registry has no project {project:?}; it has {there}")]
    Project {
        /// The project of feature_store.yaml.
        project: String,
        /// Those that there are.
        there: String,
    },
}

/// An entity.
#[derive(Clone, Debug)]
pub struct Entity {
    /// Its name, which old clients send instead of the join key.
    pub name: String,
    /// The column callers send.
    pub join_key: String,
    /// What it is.
    pub description: String,
    /// Whom to ask.
    pub owner: String,
}

/// A feature or an entity column.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub of: ValueType,
    /// What it means.
    pub description: String,
    /// Everything that Feast compares when it asks whether two fields are the same.
    rest: (BTreeMap<String, String>, bool, String, i32),
}

/// Features of one entity.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// What kind of view.
    pub kind: ViewKind,
    /// Names of its entities.
    pub entities: Vec<String>,
    /// Its join keys with their types.
    pub entity_columns: Vec<Field>,
    /// Its features.
    pub features: Vec<Field>,
    /// How long values are good; zero = for ever.
    pub ttl: Duration,
    /// Whether it may be served.
    pub enabled: bool,
    /// How far it is.
    pub state: FeatureViewState,
    /// Its current version.
    pub version: i32,
    /// What it is.
    pub description: String,
    /// Whom to ask.
    pub owner: String,
    /// Where its rows come from.
    pub source: Option<RowSource>,
    /// The push source that writes into it.
    pub push_source: Option<String>,
}

/// Kinds of views.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewKind {
    /// Values lie in the store.
    Stored,
    /// So do its, and a stream brings them there.
    Stream,
    /// So do its, but it is only written to through its push source.
    Label,
    /// Values are computed by Python on request, which cannot run here.
    OnDemand(OnDemand),
}

/// What an on-demand view computes from.
#[derive(Clone, Debug, PartialEq)]
pub struct OnDemand {
    /// Values are written to the online store and read like any.
    pub is_stored: bool,
    /// Columns that callers send.
    pub request: Vec<Field>,
    /// Features of views.
    pub inputs: Vec<Projection>,
}

/// Names of columns in the files and frames that fill a view.
#[derive(Clone, Debug, Default)]
pub struct RowSource {
    /// Column of the event time.
    pub timestamp_field: String,
    /// Column of the time a row was written at.
    pub created_timestamp_column: Option<String>,
    /// Column → feature, join key or timestamp.
    pub field_mapping: BTreeMap<String, String>,
}

/// A view as a service or an on-demand view uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// The view.
    pub view: String,
    /// The name its features go by.
    pub alias: Option<String>,
    /// Which features.
    pub features: Vec<Field>,
    /// Join key of the view → column of the request.
    pub join_key_map: BTreeMap<String, String>,
    /// The version it is pinned to.
    pub version: Option<i32>,
}

impl Projection {
    /// What references to its features begin with.
    pub fn name_to_use(&self) -> String {
        let base = self.alias.as_ref().unwrap_or(&self.view);
        self.version.map_or_else(|| base.clone(), |version| format!("{base}@v{version}"))
    }
}

/// A feature service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its views.
    pub projections: Vec<Projection>,
    /// What it is.
    pub description: String,
    /// Whom to ask.
    pub owner: String,
    /// What it answers is to be logged.
    pub is_logged: bool,
    /// Feast computes its answers beforehand, a vector an entity, and reads nothing else for it.
    pub is_precomputed: bool,
}

impl Registry {
    /// Reads `registry.db`.
    pub fn decode(bytes: &[u8], project: &str) -> Result<Self, RegistryError> {
        let wire = wire::Registry::decode(bytes)?;
        let mut registry = Self { project: project.to_owned(), ..Self::default() };
        for entity in wire.entities.into_iter().filter_map(|e| e.spec).filter(|e| e.project == project) {
            let (description, owner) = (entity.description, entity.owner);
            registry.entities.push(Entity { name: entity.name, join_key: entity.join_key, description, owner });
        }
        let mut projects: Vec<String> = wire.projects.into_iter().filter_map(|p| p.spec).map(|p| p.name).collect();
        let views = wire.feature_views.into_iter().filter_map(feature_view);
        let views = views.chain(wire.stream_feature_views.into_iter().filter_map(stream_view));
        let views = views.chain(wire.on_demand_feature_views.into_iter().filter_map(on_demand_view));
        let views = views.chain(wire.label_views.into_iter().filter_map(label_view));
        for (of, view) in views {
            if of == project {
                registry.views.entry(view.name.clone()).or_insert_with(|| Arc::new(view));
            }
            projects.push(of);
        }
        for record in wire.feature_view_version_history.into_iter().flat_map(|h| h.records) {
            if record.project_id != project {
                continue;
            }
            let bytes = &record.feature_view_proto[..];
            let view = match record.feature_view_type.as_str() {
                "feature_view" => feature_view(wire::FeatureView::decode(bytes)?),
                "stream_feature_view" => stream_view(wire::StreamFeatureView::decode(bytes)?),
                "on_demand_feature_view" => on_demand_view(wire::OnDemandFeatureView::decode(bytes)?),
                "label_view" => label_view(wire::LabelView::decode(bytes)?),
                _ => None,
            };
            if let Some((_, mut view)) = view {
                view.version = record.version_number;
                let key = (record.feature_view_name, record.version_number);
                registry.versions.entry(key).or_insert_with(|| Arc::new(view));
            }
        }
        for service in wire.feature_services.into_iter().filter_map(|s| s.spec).filter(|s| s.project == project) {
            let service = Service {
                is_logged: service.logging_config.is_some(),
                is_precomputed: service.precompute_online,
                projections: service.features.into_iter().map(projection).collect(),
                description: service.description,
                owner: service.owner,
                name: service.name,
            };
            registry.services.entry(service.name.clone()).or_insert_with(|| Arc::new(service));
        }
        projects.sort();
        projects.dedup();
        if !projects.iter().any(|p| p == project) && !projects.is_empty() {
            return Err(RegistryError::Project { project: project.to_owned(), there: projects.join(", ") });
        }
        Ok(registry)
    }

    /// The views that a push source writes into.
    pub fn pushed_by(&self, source: &str) -> Vec<&Arc<View>> {
        let mut views: Vec<_> = self.views.values().filter(|v| v.push_source.as_deref() == Some(source)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// The join key of the entity of this name.
    pub fn join_key(&self, entity: &str) -> Option<&str> {
        self.entities.iter().find(|e| e.name == entity).map(|e| e.join_key.as_str())
    }
}

impl Field {
    /// The length that a vector to search among must have, 0 for none declared; `None` when it is no such vector.
    pub fn vector(&self) -> Option<u32> {
        let (_, is_index, _, length) = &self.rest;
        is_index.then(|| u32::try_from(*length).unwrap_or(0))
    }
}

impl View {
    /// A view without an entity: all its rows are one.
    pub fn is_entityless(&self) -> bool {
        self.entity_columns.iter().any(|column| column.name == DUMMY_KEY)
            || self.entities.iter().any(|entity| entity == DUMMY_ENTITY)
    }

    /// What it computes from, when its values do not lie in the store.
    pub fn computed(&self) -> Option<&OnDemand> {
        match &self.kind {
            ViewKind::OnDemand(on_demand) if !on_demand.is_stored => Some(on_demand),
            _ => None,
        }
    }
}

fn field(spec: wire::FeatureSpecV2) -> Field {
    Field {
        of: spec.value_type(),
        rest: (spec.tags, spec.vector_index, spec.vector_search_metric, spec.vector_length),
        name: spec.name,
        description: spec.description,
    }
}

fn fields(specs: Vec<wire::FeatureSpecV2>) -> Vec<Field> {
    specs.into_iter().map(field).collect()
}

fn projection(wire: wire::FeatureViewProjection) -> Projection {
    Projection {
        view: wire.feature_view_name,
        alias: Some(wire.feature_view_name_alias).filter(|alias| !alias.is_empty()),
        features: fields(wire.feature_columns),
        join_key_map: wire.join_key_map,
        version: wire.version_tag,
    }
}

fn ttl(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default()
}

fn row_source(batch: Option<wire::DataSource>) -> Option<RowSource> {
    batch.map(|source| RowSource {
        timestamp_field: source.timestamp_field,
        created_timestamp_column: Some(source.created_timestamp_column).filter(|c| !c.is_empty()),
        field_mapping: source.field_mapping,
    })
}

fn push_source(stream: Option<&wire::DataSource>) -> Option<String> {
    let push = stream.filter(|s| s.r#type() == wire::data_source::SourceType::PushSource)?;
    Some(push.name.clone())
}

fn feature_view(wire: wire::FeatureView) -> Option<(String, View)> {
    let (spec, meta) = (wire.spec?, wire.meta.unwrap_or_default());
    let view = View {
        name: spec.name,
        kind: ViewKind::Stored,
        entities: spec.entities,
        entity_columns: fields(spec.entity_columns),
        features: fields(spec.features),
        ttl: ttl(spec.ttl),
        enabled: !spec.disabled,
        state: meta.state(),
        version: meta.current_version_number,
        description: spec.description,
        owner: spec.owner,
        push_source: push_source(spec.stream_source.as_ref()),
        source: row_source(spec.batch_source),
    };
    Some((spec.project, view))
}

fn stream_view(wire: wire::StreamFeatureView) -> Option<(String, View)> {
    let (spec, meta) = (wire.spec?, wire.meta.unwrap_or_default());
    let view = View {
        name: spec.name,
        kind: ViewKind::Stream,
        entities: spec.entities,
        entity_columns: fields(spec.entity_columns),
        features: fields(spec.features),
        ttl: ttl(spec.ttl),
        enabled: !spec.disabled,
        state: meta.state(),
        version: meta.current_version_number,
        description: spec.description,
        owner: spec.owner,
        push_source: push_source(spec.stream_source.as_ref()),
        source: row_source(spec.batch_source),
    };
    Some((spec.project, view))
}

fn label_view(wire: wire::LabelView) -> Option<(String, View)> {
    let spec = wire.spec?;
    let view = View {
        name: spec.name,
        kind: ViewKind::Label,
        entities: spec.entities,
        entity_columns: fields(spec.entity_columns),
        features: fields(spec.features),
        ttl: ttl(spec.ttl),
        enabled: true,
        state: FeatureViewState::StateUnspecified,
        version: 0,
        description: spec.description,
        owner: spec.owner,
        push_source: push_source(spec.source.as_ref()),
        source: row_source(spec.source),
    };
    Some((spec.project, view))
}

fn on_demand_view(wire: wire::OnDemandFeatureView) -> Option<(String, View)> {
    let (spec, meta) = (wire.spec?, wire.meta.unwrap_or_default());
    let (mut request, mut inputs) = (Vec::new(), Vec::new());
    for source in spec.sources.into_values().filter_map(|s| s.source) {
        match source {
            Source::RequestDataSource(source) => {
                request.extend(fields(source.request_data_options.map(|o| o.schema).unwrap_or_default()));
            }
            Source::FeatureViewProjection(wire) => inputs.push(projection(wire)),
            Source::FeatureView(view) => inputs.extend(feature_view(view).map(|(_, view)| Projection {
                view: view.name,
                alias: None,
                features: view.features,
                join_key_map: BTreeMap::new(),
                version: None,
            })),
        }
    }
    let view = View {
        name: spec.name,
        kind: ViewKind::OnDemand(OnDemand { is_stored: spec.write_to_online_store, request, inputs }),
        entities: spec.entities,
        entity_columns: fields(spec.entity_columns),
        features: fields(spec.features),
        ttl: Duration::ZERO,
        enabled: !spec.disabled,
        state: meta.state(),
        version: meta.current_version_number,
        description: spec.description,
        owner: spec.owner,
        push_source: None,
        source: None,
    };
    Some((spec.project, view))
}
