//! What becomes of a registry as a catalog, where that is not plain: versions, names, types, what is left out.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::time::Duration;

use prost::Message;
use weir_domain::catalog::{Catalog, Freshness, Layout, View, read};
use weir_domain::feast::KeyFormat;
use weir_domain::plan;
use weir_feast::{Imported, Naming, Options, Registry, import};
use weir_proto::feast::core::{
    self, FeatureService, FeatureServiceSpec, FeatureSpecV2, FeatureView, FeatureViewMeta, FeatureViewProjection,
    FeatureViewSpec, FeatureViewVersionHistory, FeatureViewVersionRecord,
};
use weir_proto::feast::types::value_type::Enum as Type;

const PROJECT: &str = "p";

#[test]
fn versions_that_are_stored_apart_are_views_of_their_own_and_services_read_what_feasts_read() {
    let first = view("trips", &[("count", Type::Int64), ("rate", Type::Double)]);
    let second = view("trips", &[("count", Type::String), ("name", Type::String)]);
    let mut registry = registry();
    registry.feature_views.push(version(&second, 2));
    let records = [(0, &first), (1, &first), (2, &second)].map(|(number, view)| FeatureViewVersionRecord {
        feature_view_name: view.name.clone(),
        project_id: PROJECT.to_owned(),
        version_number: number,
        feature_view_type: "feature_view".to_owned(),
        feature_view_proto: version(view, number).encode_to_vec(),
    });
    registry.feature_view_version_history = Some(FeatureViewVersionHistory { records: records.into() });
    let pinned = |tag, view| FeatureViewProjection { version_tag: tag, ..of(view) };
    registry.feature_services.push(service("unpinned", vec![pinned(None, &second)]));
    registry.feature_services.push(service("first", vec![pinned(Some(0), &first)]));
    registry.feature_services.push(service("both", vec![pinned(Some(1), &first), pinned(Some(2), &second)]));

    let (imported, catalog) = imported(&registry, true);
    assert_eq!(imported.left_out, []);
    let views = ["trips", "trips_v1", "trips_v2"];
    assert_eq!(views.map(|name| stored(view_of(&catalog, name))), views);
    // What lies under the bare name was written as version 0: its types are of then.
    let types = |name: &str| {
        let features = view_of(&catalog, name).features.iter();
        features.map(|f| format!("{} {}", f.name, f.of)).collect::<Vec<_>>()
    };
    assert_eq!(types("trips"), ["count i64", "rate f64", "name string"]);
    assert_eq!(types("trips_v2"), ["count string", "name string"]);
    let features = |name: &str| -> Vec<String> {
        let service = catalog.services.iter().find(|s| *s.doc.name == *name).expect("a service");
        service.features.iter().map(ToString::to_string).collect()
    };
    assert_eq!(features("unpinned"), ["trips:count", "trips:name"]);
    assert_eq!(features("first"), ["trips:count", "trips:rate"]);
    assert_eq!(features("both"), ["trips_v1:count", "trips_v1:rate", "trips_v2:count", "trips_v2:name"]);

    // Without versioning there is one view, and no service may name a version.
    let (imported, catalog) = self::imported(&registry, false);
    assert_eq!((catalog.views.len(), catalog.services.len()), (1, 1));
    assert!(imported.left_out.iter().all(|left_out| left_out.why.contains("online versioning is disabled")));
}

#[test]
fn names_that_would_be_one_stay_two_and_are_read_under_feasts_own() {
    let mut registry = registry();
    for name in ["Trips", "trips", "request"] {
        let view = view(name, &[("A b", Type::Int32), ("a_b", Type::Int64), ("a-b", Type::Json)]);
        registry.feature_services.push(service(name, vec![of(&view)]));
        registry.feature_views.push(version(&view, 0));
    }
    let (_, catalog) = imported(&registry, false);
    let mut views: Vec<_> = catalog.views.iter().map(|view| (stored(view), view.doc.name.to_string())).collect();
    views.sort();
    let pair = |feast: &str, own: &str| (feast.to_owned(), own.to_owned());
    assert_eq!(views, [pair("Trips", "trips_2"), pair("request", "request_2"), pair("trips", "trips")]);
    let Layout::Feast(layout) = &view_of(&catalog, "trips").layout else { panic!("packed") };
    let names = view_of(&catalog, "trips").features.iter().zip(&layout.features);
    let names: Vec<_> = names.map(|(own, feast)| (&*own.name, &**feast)).collect();
    assert_eq!(names, [("a_b_2", "A b"), ("a_b", "a_b"), ("a_b_3", "a-b")]);
}

#[test]
fn a_hash_that_has_more_than_the_catalog_knows_is_said_to() {
    let mut registry = registry();
    registry.feature_views.push(version(&view("known", &[("a", Type::Int64), ("m", Type::Map)]), 0));
    registry.feature_views.push(version(&view("unknown", &[("m", Type::Struct), ("n", Type::Struct)]), 0));
    let (_, catalog) = imported(&registry, false);
    let Layout::Feast(layout) = &view_of(&catalog, "known").layout else { panic!("packed") };
    // Each view has a field for its time, too.
    assert_eq!(layout.hash_fields, Some(3 + 3));
}

#[test]
fn the_same_registry_is_the_same_text() {
    let mut registry = registry();
    for i in 0..20 {
        let view = view(&format!("view {i}"), &[("x", Type::Int64)]);
        registry.feature_services.push(service(&format!("service {i}"), vec![of(&view)]));
        registry.feature_views.push(version(&view, 0));
    }
    let (first, again) = (imported(&registry, false), imported(&registry, false));
    assert_eq!((first.0, first.1.version), (again.0, again.1.version));
}

fn imported(registry: &core::Registry, versioning: bool) -> (Imported, Catalog) {
    let registry = Registry::decode(&registry.encode_to_vec(), PROJECT).expect("a registry");
    let cache = Freshness::default();
    let options = Options { versioning, serves_while_materializing: false, reads_precomputed: false, cache };
    let naming = Naming { format: KeyFormat::V3, project: PROJECT.to_owned() };
    let imported = import(&registry, &options, &naming, Duration::from_millis(50));
    let catalog = read(&imported.files).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    plan::compile(&catalog).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    (imported, catalog)
}

fn view_of<'c>(catalog: &'c Catalog, name: &str) -> &'c View {
    catalog.views.iter().find(|view| *view.doc.name == *name).unwrap_or_else(|| panic!("no view {name}"))
}

/// The view's name in the store.
fn stored(view: &View) -> String {
    match &view.layout {
        Layout::Feast(layout) => layout.view.to_string(),
        Layout::Packed => panic!("packed"),
    }
}

fn registry() -> core::Registry {
    let spec = core::EntitySpecV2 {
        name: "driver".to_owned(),
        join_key: "driver_id".to_owned(),
        project: PROJECT.to_owned(),
        ..Default::default()
    };
    core::Registry { entities: vec![core::Entity { spec: Some(spec) }], ..Default::default() }
}

fn fields(of: &[(&str, Type)]) -> Vec<FeatureSpecV2> {
    let field = |(name, of): &(&str, Type)| FeatureSpecV2 {
        name: (*name).into(),
        value_type: *of as i32,
        ..Default::default()
    };
    of.iter().map(field).collect()
}

fn view(name: &str, features: &[(&str, Type)]) -> FeatureViewSpec {
    FeatureViewSpec {
        name: name.to_owned(),
        project: PROJECT.to_owned(),
        entities: vec!["driver".to_owned()],
        entity_columns: fields(&[("driver_id", Type::Int64)]),
        features: fields(features),
        ..Default::default()
    }
}

fn version(spec: &FeatureViewSpec, number: i32) -> FeatureView {
    let meta = FeatureViewMeta { current_version_number: number, ..Default::default() };
    FeatureView { spec: Some(spec.clone()), meta: Some(meta) }
}

fn of(view: &FeatureViewSpec) -> FeatureViewProjection {
    FeatureViewProjection {
        feature_view_name: view.name.clone(),
        feature_columns: view.features.clone(),
        ..Default::default()
    }
}

fn service(name: &str, features: Vec<FeatureViewProjection>) -> FeatureService {
    let (name, project) = (name.to_owned(), PROJECT.to_owned());
    FeatureService { spec: Some(FeatureServiceSpec { name, project, features, ..Default::default() }) }
}
