//! Rows as Feast keeps them, and the repository that says so: the same data for the gateway's door, for the gateway's own
//! API, and for bare reads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use prost::Message;
use weir_domain::feast::{KeyFormat, KeyPart, field};
use weir_proto::feast::core::{
    DataSource, Entity, EntitySpecV2, FeatureSpecV2, FeatureView, FeatureViewSpec, Project, Registry, data_source,
    project,
};
use weir_proto::feast::types::value_type::Enum as ValueType;

use crate::ask::KEY;
use crate::random::Random;
use crate::rows::{EVENT_TIME_US, Redis, entity};

/// The project, part of every key.
const PROJECT: &str = "bench";
/// The view, part of every field.
const VIEW: &str = "wide";
/// What the entity is called.
const ENTITY: &str = "thing";
/// Tags of `Value.double_val` and of `Timestamp.seconds` on the wire.
const DOUBLE_TAG: u8 = 5 << 3 | 1;
const SECONDS_TAG: u8 = 1 << 3;

/// `weir-loadtest hashes`
#[derive(Args, Debug)]
pub(crate) struct Hashes {
    /// The Redis server to fill.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    to: SocketAddr,
    /// Where to write `feature_store.yaml` and the registry.
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
    /// How many entities.
    #[arg(long, default_value_t = 20_000)]
    keys: u32,
    /// Numbers in a row.
    #[arg(long, default_value_t = 50)]
    features: usize,
}

impl Hashes {
    /// Writes rows and repository.
    pub(crate) fn run(self) -> Result<(), crate::Failed> {
        let mut redis = Redis::connect(self.to)?;
        let (fields, mut random) = (fields(self.features), Random::new(1));
        for number in 0..self.keys {
            let mut command = vec![b"HSET".to_vec(), key(&entity(number))];
            for field in &fields {
                let value = (100.0 * random.fraction()).to_le_bytes();
                command.push(field.clone());
                command.push([[DOUBLE_TAG].as_slice(), &value].concat());
            }
            command.push(time_field());
            command.push(event_time());
            redis.call(&command)?;
        }
        write_repo(&self.repo, self.to, self.features)
    }
}

/// Where the hash of an entity is.
pub(crate) fn key(id: &str) -> Vec<u8> {
    let mut key = Vec::new();
    KeyFormat::V3.push_names(&mut key, [KEY].into_iter());
    KeyFormat::push_part(&mut key, KeyPart::String(id.as_bytes()));
    key.extend_from_slice(PROJECT.as_bytes());
    key
}

/// The fields of the features.
pub(crate) fn fields(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| field(VIEW, &feature(n)).to_vec()).collect()
}

/// The field with the event time.
pub(crate) fn time_field() -> Vec<u8> {
    format!("_ts:{VIEW}").into_bytes()
}

fn feature(number: usize) -> String {
    format!("f{number:02}")
}

fn event_time() -> Vec<u8> {
    let mut out = vec![SECONDS_TAG];
    let mut rest = EVENT_TIME_US / 1_000_000;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

fn write_repo(folder: &Path, redis: SocketAddr, features: usize) -> Result<(), crate::Failed> {
    std::fs::create_dir_all(folder.join("data"))?;
    std::fs::write(folder.join("data/registry.db"), registry(features).encode_to_vec())?;
    let settings = format!(
        "project: {PROJECT}\nprovider: local\nregistry:\n  registry_type: file\n  path: data/registry.db\n\
         online_store:\n  type: redis\n  connection_string: \"{redis}\"\nentity_key_serialization_version: 3\n"
    );
    Ok(std::fs::write(folder.join("feature_store.yaml"), settings)?)
}

fn registry(features: usize) -> Registry {
    let column = |name: String, of: ValueType| FeatureSpecV2 { name, value_type: of as i32, ..Default::default() };
    let entity = EntitySpecV2 {
        name: ENTITY.to_owned(),
        value_type: ValueType::String as i32,
        join_key: KEY.to_owned(),
        project: PROJECT.to_owned(),
        ..Default::default()
    };
    let view = FeatureViewSpec {
        name: VIEW.to_owned(),
        project: PROJECT.to_owned(),
        entities: vec![ENTITY.to_owned()],
        features: (0..features).map(|n| column(feature(n), ValueType::Double)).collect(),
        entity_columns: vec![column(KEY.to_owned(), ValueType::String)],
        // Says that rows may also come from a file, and which of its columns is their time.
        batch_source: Some(DataSource {
            r#type: data_source::SourceType::BatchFile as i32,
            timestamp_field: "event_time".to_owned(),
            ..Default::default()
        }),
        online: true,
        ..Default::default()
    };
    Registry {
        entities: vec![Entity { spec: Some(entity) }],
        feature_views: vec![FeatureView { spec: Some(view), meta: None }],
        projects: vec![Project { spec: Some(project::Spec { name: PROJECT.to_owned() }) }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_feasts() {
        // What Feast 0.67 writes for a string key "id" and the number 1.
        let key = key("e1");
        assert_eq!(key, b"\x01\0\0\0\x02\0\0\0\x02\0\0\0id\x02\0\0\0\x02\0\0\0e1bench");
        // 1,700,000,000 in groups of seven bits, as the first field of a message.
        assert_eq!(event_time(), b"\x08\x80\xe2\xcf\xaa\x06");
    }
}
