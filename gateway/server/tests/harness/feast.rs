//! A Feast repository in a folder of its own, over a real Redis: its registry as Feast writes it, its hashes as Feast
//! fills them.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prost::Message;
use serde_json::Value as Json;
use tempfile::TempDir;
use weir::app::App;
use weir::config::{Config, Overrides};
use weir_domain::feast::{DUMMY_KEY, KeyFormat, KeyPart, TIME_FIELD, field, push_time};
use weir_proto::feast::core::{
    self, DataSource, FeatureService, FeatureServiceSpec, FeatureSpecV2, FeatureViewProjection, FeatureViewSpec,
    OnDemandFeatureViewSpec, OnDemandSource, on_demand_source::Source,
};
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as Type};

use crate::harness::redis::RedisServer;
use crate::harness::{PATIENCE, Process, post};

pub const PROJECT: &str = "rides";
pub const ONLINE: &str = "/get-online-features";

/// A repository that is being written.
pub struct Repo {
    dir: TempDir,
    pub server: RedisServer,
    pub registry: core::Registry,
    pub versioning: bool,
    pub key_format: KeyFormat,
    /// More lines of `online_store`.
    pub online: &'static str,
}

impl Repo {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let registry = core::Registry { registry_schema_version: "1".to_owned(), ..core::Registry::default() };
        let (server, key_format) = (RedisServer::start(), KeyFormat::V3);
        Self { dir, server, registry, versioning: false, key_format, online: "" }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes both files; a registry is replaced as a whole, as Feast does it.
    pub fn write(&self) -> PathBuf {
        let (port, dir) = (self.server.port(), self.dir.path());
        let (versioning, more) = (self.versioning, self.online);
        let keys = if self.key_format == KeyFormat::V2 { 2 } else { 3 };
        let yaml = format!(
            "project: {PROJECT}\nregistry:\n  path: registry.db\n  enable_online_feature_view_versioning: {versioning}\n\
             online_store:\n  type: redis\n  connection_string: 127.0.0.1:{port}\n{more}\
             entity_key_serialization_version: {keys}\n"
        );
        std::fs::write(dir.join("feature_store.yaml"), yaml).expect("write feature_store.yaml");
        std::fs::write(dir.join("new"), self.registry.encode_to_vec()).expect("write the registry");
        std::fs::rename(dir.join("new"), dir.join("registry.db")).expect("replace the registry");
        dir.to_owned()
    }

    /// An entity whose join key has its name and `_id`.
    pub fn entity(mut self, name: &str) -> Self {
        let spec = core::EntitySpecV2 {
            name: name.to_owned(),
            join_key: format!("{name}_id"),
            project: PROJECT.to_owned(),
            ..Default::default()
        };
        self.registry.entities.push(core::Entity { spec: Some(spec) });
        self
    }

    pub fn view(mut self, spec: FeatureViewSpec) -> Self {
        self.registry.feature_views.push(core::FeatureView { spec: Some(spec), meta: None });
        self
    }

    pub fn service(mut self, name: &str, features: Vec<FeatureViewProjection>) -> Self {
        let (name, project) = (name.to_owned(), PROJECT.to_owned());
        let spec = FeatureServiceSpec { name, project, features, ..Default::default() };
        self.registry.feature_services.push(FeatureService { spec: Some(spec) });
        self
    }

    pub fn on_demand(
        mut self,
        name: &str,
        inputs: Vec<FeatureViewProjection>,
        request: &[(&str, Type)],
        outputs: &[(&str, Type)],
    ) -> Self {
        let mut sources: std::collections::BTreeMap<String, OnDemandSource> = inputs
            .into_iter()
            .map(|input| {
                let name = input.feature_view_name.clone();
                (name, OnDemandSource { source: Some(Source::FeatureViewProjection(input)) })
            })
            .collect();
        if !request.is_empty() {
            let options = core::data_source::RequestDataOptions { schema: fields(request) };
            let source = DataSource { request_data_options: Some(options), ..Default::default() };
            sources.insert("request".to_owned(), OnDemandSource { source: Some(Source::RequestDataSource(source)) });
        }
        let spec = OnDemandFeatureViewSpec {
            name: name.to_owned(),
            project: PROJECT.to_owned(),
            features: fields(outputs),
            sources,
            mode: "pandas".to_owned(),
            ..Default::default()
        };
        self.registry.on_demand_feature_views.push(core::OnDemandFeatureView { spec: Some(spec), meta: None });
        self
    }

    /// Writes a row: the entity's join keys, the event time in seconds, and each feature's value.
    pub fn row(&self, view: &str, keys: &[(&str, Val)], seconds: i64, features: &[(&str, Option<Val>)]) {
        let mut time = Vec::new();
        push_time(&mut time, seconds, 0);
        let name = hash_name_as(self.key_format, keys);
        let mut command = vec![b"HSET".to_vec(), name, format!("{TIME_FIELD}{view}").into_bytes(), time];
        for (feature, val) in features {
            command.push(field(view, feature).to_vec());
            command.push(Value { val: val.clone() }.encode_to_vec());
        }
        let reply = self.server.command(&command);
        assert!(reply.parse::<u64>().is_ok(), "{reply}");
    }

    /// `weir serve --feast REPO`, in this process.
    pub async fn serve(&self) -> App {
        self.serve_with(on_free_ports()).await
    }

    pub async fn serve_with(&self, overrides: Overrides) -> App {
        let overrides = Overrides { feast: vec![self.write()], ..overrides };
        let mut config = Config::of_feast(overrides).expect("good settings");
        // On a busy machine nothing is late that no test means to be.
        config.feast.as_mut().expect("a repository").budget = PATIENCE;
        App::start(config).await.unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    /// `weir serve` with a `weir.toml` of these lines, in a process of its own.
    pub fn spawn(&self, settings: &str) -> Process {
        let toml = format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nlatency_target_ms = 60000\n{settings}\n\
             [feast]\nrepo = \".\"\nbudget_ms = {}\n",
            PATIENCE.as_millis()
        );
        std::fs::write(self.write().join("weir.toml"), toml).expect("write weir.toml");
        let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.args(["serve", "--log", "json", "--config"]).arg(self.dir()).env_remove("RUST_LOG").stdin(Stdio::null());
        Process::start(weir)
    }
}

pub fn on_free_ports() -> Overrides {
    let free = Some(([127, 0, 0, 1], 0).into());
    Overrides { listen: free, admin: free, ..Overrides::default() }
}

/// The name of an entity's hash; without keys that of views without an entity.
pub fn hash_name(keys: &[(&str, Val)]) -> Vec<u8> {
    hash_name_as(KeyFormat::V3, keys)
}

fn hash_name_as(format: KeyFormat, keys: &[(&str, Val)]) -> Vec<u8> {
    let mut keys = keys.to_vec();
    if keys.is_empty() {
        keys.push((DUMMY_KEY, Val::StringVal(String::new())));
    }
    keys.sort_by_key(|(name, _)| *name);
    let mut name = Vec::new();
    format.push_names(&mut name, keys.iter().map(|(name, _)| *name));
    for (_, val) in &keys {
        let part = match val {
            Val::StringVal(v) => KeyPart::String(v.as_bytes()),
            Val::Int64Val(v) => KeyPart::I64(*v),
            Val::Int32Val(v) => KeyPart::I32(*v),
            Val::BytesVal(v) => KeyPart::Bytes(v),
            Val::UnixTimestampVal(v) => KeyPart::Timestamp(*v),
            other => panic!("no key: {other:?}"),
        };
        KeyFormat::push_part(&mut name, part);
    }
    name.extend_from_slice(PROJECT.as_bytes());
    name
}

pub fn fields(of: &[(&str, Type)]) -> Vec<FeatureSpecV2> {
    let field = |(name, of): &(&str, Type)| FeatureSpecV2 {
        name: (*name).into(),
        value_type: *of as i32,
        ..Default::default()
    };
    of.iter().map(field).collect()
}

/// A view of these entities, whose join keys have these types.
pub fn view(name: &str, keys: &[(&str, Type)], features: &[(&str, Type)]) -> FeatureViewSpec {
    let entity = |(key, _): &(&str, Type)| key.strip_suffix("_id").unwrap_or(key).to_owned();
    FeatureViewSpec {
        name: name.to_owned(),
        project: PROJECT.to_owned(),
        entities: keys.iter().map(entity).collect(),
        entity_columns: fields(keys),
        features: fields(features),
        online: true,
        ..Default::default()
    }
}

/// Some features of a view, for a service or an on-demand view.
pub fn of(view: &FeatureViewSpec, features: &[&str]) -> FeatureViewProjection {
    let asked = view.features.iter().filter(|field| features.is_empty() || features.contains(&field.name.as_str()));
    FeatureViewProjection {
        feature_view_name: view.name.clone(),
        feature_columns: asked.cloned().collect(),
        ..Default::default()
    }
}

pub fn text(v: &str) -> Val {
    Val::StringVal(v.to_owned())
}

/// The answer to a good request for features.
pub async fn ask(app: &App, body: Json) -> Json {
    let (status, reply) = post(app.listen(), ONLINE, &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    reply
}

pub fn names(reply: &Json) -> Vec<&str> {
    reply["metadata"]["feature_names"].as_array().expect("names").iter().flat_map(Json::as_str).collect()
}

/// Values, statuses and event times of a column.
pub fn column<'r>(reply: &'r Json, name: &str) -> &'r Json {
    let at = names(reply).iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name} in {reply}"));
    &reply["results"][at]
}
