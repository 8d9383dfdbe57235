//! What Feast computed beforehand for a service (`precompute_online`): one vector an entity with all its features, which
//! is read instead of the views' own fields. Promises: a vector is taken apart into the rows that those reads would have
//! brought, and one that does not fit, or is missing, fails the request as it does in Feast.

use std::collections::HashMap;

use prost::Message;
use weir_domain::feast::{HashRow, Raw};
use weir_proto::feast::core::PrecomputedFeatureVector;

use crate::answer::Found;
use crate::lookup::{Lookup, ViewRead};
use crate::raised::Raised;

/// One entity's vector, by [`Lookup::reads`].
pub type Vector = Vec<VectorRow>;

/// What a vector has of one view.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorRow {
    /// The bytes of a [`HashRow`], with the time at which the vector was computed.
    pub bytes: Vec<u8>,
    /// Older than the view lets its values be.
    pub is_old: bool,
}

/// Takes apart what was found of [`Lookup::vectors`], by entity; `None` for entities that the store did not tell of.
///
/// # Errors
/// What Feast raises when one is missing, has other features than the service, or none of its own.
pub fn vectors(lookup: &Lookup, found: &[Found<'_>], now_us: i64) -> Result<Vec<Option<Vector>>, Raised> {
    let stored = found.iter().map(|found| stored(*found).ok_or_else(|| unread(lookup)));
    let stored: Vec<Option<&[u8]>> = stored.collect::<Result<_, _>>()?;
    let mut places: Option<Places> = None;
    let parsed = stored.into_iter().map(|bytes| {
        let Some(bytes) = bytes else { return Ok(None) };
        let vector = PrecomputedFeatureVector::decode(bytes).map_err(|_| Raised::python("DecodeError", CORRUPT))?;
        let places = match &mut places {
            Some(places) => places,
            none => none.insert(Places::of(lookup, &vector.feature_names).ok_or_else(|| unread(lookup))?),
        };
        if places.names != vector.feature_names {
            return Err(unread(lookup));
        }
        rows(lookup, &places.by_feature, &vector, now_us).map(Some)
    });
    parsed.collect()
}

const CORRUPT: &str = "Error parsing message with type 'feast.core.PrecomputedFeatureVector': Wire format was corrupt";

fn unread(lookup: &Lookup) -> Raised {
    let service = lookup.service.as_deref().unwrap_or_default();
    Raised::python(
        "RuntimeError",
        format!(
            "FeatureService '{service}' has precompute_online=True but pre-computed vectors could not be read. Run `feast precompute {service}` or materialize to populate vectors."
        ),
    )
}

/// The vector's bytes; nothing inside when the store did not tell, and nothing at all when there is none.
fn stored(found: Found<'_>) -> Option<Option<&[u8]>> {
    match found {
        Found::Row(row) | Found::Old(row) => match Raw::read(row.value(0)?)? {
            Raw::Bytes(bytes) => Some(Some(bytes)),
            _ => None,
        },
        Found::Missing => None,
        Found::Unread => Some(None),
    }
}

/// Where in a vector the service's features are. All vectors of a request must be alike.
struct Places {
    names: Vec<String>,
    /// In the order of the answer's columns.
    by_feature: Vec<usize>,
}

impl Places {
    /// `None` when the vector has not the features of the service, all of them and no others.
    fn of(lookup: &Lookup, names: &[String]) -> Option<Self> {
        let place_of: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        let wanted = lookup.reads.iter().flat_map(|read| read.columns.iter().flatten());
        let by_feature: Vec<usize> = wanted.map(|name| place_of.get(name.as_str()).copied()).collect::<Option<_>>()?;
        (by_feature.len() == place_of.len()).then(|| Self { names: names.to_vec(), by_feature })
    }
}

fn rows(lookup: &Lookup, places: &[usize], vector: &PrecomputedFeatureVector, now_us: i64) -> Result<Vector, Raised> {
    let mut places = places.iter();
    let row = |read: &ViewRead| {
        let values =
            places.by_ref().take(read.features.len()).map(|place| vector.values.get(*place).map(Vec::as_slice));
        let values: Vec<Option<&[u8]>> = values.collect();
        if values.contains(&None) {
            return Err(Raised::python("IndexError", "list index out of range"));
        }
        let bytes = HashRow::pack(Some(&vector.precomputed_at), &values).unwrap_or_default();
        Ok(VectorRow { bytes, is_old: is_old(lookup, read, vector, now_us) })
    };
    lookup.reads.iter().map(row).collect()
}

/// Feast goes by the names of columns: what stands before the first two underscores is the view to it, whose ttl counts,
/// so that a view with such a name has the age of another one, or none.
fn is_old(lookup: &Lookup, read: &ViewRead, vector: &PrecomputedFeatureVector, now_us: i64) -> bool {
    let Some(column) = read.columns.iter().flatten().next() else { return false };
    let Some((name, _)) = column.split_once("__") else { return false };
    let ttl = lookup.reads.iter().rfind(|read| read.key == name).map(|read| read.view.ttl);
    let time = vector.fv_timestamps.iter().rfind(|time| time.feature_view_name == name);
    let (Some(ttl), Some(time)) = (ttl.filter(|ttl| !ttl.is_zero()), time) else { return false };
    let time = time.event_timestamp.unwrap_or_default();
    now_us as f64 / 1e6 - (time.seconds as f64 + f64::from(time.nanos) / 1e9) > ttl.as_secs() as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_domain::catalog::Freshness;
    use weir_domain::feast::push_time;
    use weir_proto::feast::core as wire;
    use weir_proto::feast::types::{Value, value::Val};

    use super::*;
    use crate::lookup::{Options, Wanted};
    use crate::registry::Registry;

    const NOW_US: i64 = 1_000_000_000;

    /// A service with one feature of each of these views, which are good for so long.
    fn lookup(views: &[(&str, u64)], full_names: bool) -> Lookup {
        let field = |name: &str| wire::FeatureSpecV2 { name: name.to_owned(), ..Default::default() };
        let view = |(name, ttl_s): &(&str, u64)| wire::FeatureView {
            spec: Some(wire::FeatureViewSpec {
                name: (*name).to_owned(),
                features: vec![field("f")],
                ttl: prost_types::Duration::try_from(Duration::from_secs(*ttl_s)).ok(),
                ..Default::default()
            }),
            meta: None,
        };
        let projection = |(name, _): &(&str, u64)| wire::FeatureViewProjection {
            feature_view_name: (*name).to_owned(),
            feature_columns: vec![field("f")],
            ..Default::default()
        };
        let service = wire::FeatureServiceSpec {
            name: "s".to_owned(),
            features: views.iter().map(projection).collect(),
            precompute_online: true,
            ..Default::default()
        };
        let registry = wire::Registry {
            feature_views: views.iter().map(view).collect(),
            feature_services: vec![wire::FeatureService { spec: Some(service) }],
            ..Default::default()
        };
        let cache = Freshness::default();
        let options = Options { versioning: false, serves_while_materializing: false, reads_precomputed: true, cache };
        let registry = Registry::decode(&registry.encode_to_vec(), "").unwrap();
        Lookup::compile(&registry, Wanted::Service("s"), full_names, &options).unwrap()
    }

    fn value(number: i64) -> Value {
        Value { val: Some(Val::Int64Val(number)) }
    }

    /// A vector with these features, whose views were written so many seconds ago.
    fn vector(features: &[(&str, i64)], ages_s: &[(&str, i64)]) -> Vec<u8> {
        let time = |(view, age_s): &(&str, i64)| wire::FeatureViewTimestamp {
            feature_view_name: (*view).to_owned(),
            event_timestamp: Some(prost_types::Timestamp { seconds: NOW_US / 1_000_000 - age_s, nanos: 0 }),
        };
        let mut precomputed_at = Vec::new();
        push_time(&mut precomputed_at, 7, 0);
        let vector = PrecomputedFeatureVector {
            feature_names: features.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: features.iter().map(|(_, number)| value(*number).encode_to_vec()).collect(),
            fv_timestamps: ages_s.iter().map(time).collect(),
            precomputed_at,
        };
        let stored = Value { val: Some(Val::BytesVal(vector.encode_to_vec())) };
        HashRow::pack(None, &[Some(&stored.encode_to_vec())]).unwrap()
    }

    fn taken(lookup: &Lookup, rows: &[Vec<u8>]) -> Result<Vec<Option<Vector>>, Raised> {
        let found: Vec<Found<'_>> = rows.iter().map(|row| Found::Row(HashRow::parse(row).unwrap())).collect();
        vectors(lookup, &found, NOW_US)
    }

    #[test]
    fn a_vector_is_read_as_if_each_view_had_been() {
        let lookup = lookup(&[("a", 0), ("b", 10)], true);
        assert!(lookup.vectors.is_some());
        let stored = vector(&[("b__f", 2), ("a__f", 1)], &[("a", 1000), ("b", 11)]);
        let [Some(rows)] = &taken(&lookup, &[stored]).unwrap()[..] else { panic!("no vector") };
        let read = |row: &VectorRow| {
            let hash = HashRow::parse(&row.bytes).unwrap();
            (hash.value(0).map(<[u8]>::to_vec), hash.time(), row.is_old)
        };
        assert_eq!(read(&rows[0]), (Some(value(1).encode_to_vec()), (7, 0), false));
        assert_eq!(read(&rows[1]), (Some(value(2).encode_to_vec()), (7, 0), true));
    }

    #[test]
    fn one_that_is_missing_or_has_other_features_fails_the_request() {
        let lookup = lookup(&[("a", 0)], true);
        let message = "FeatureService 's' has precompute_online=True but pre-computed vectors could not be read.";
        let fails = |found: &[Found<'_>]| vectors(&lookup, found, NOW_US).unwrap_err().message.starts_with(message);
        assert!(fails(&[Found::Missing]));
        let rows = [vector(&[("a__f", 1)], &[]), vector(&[("a__f", 1), ("a__g", 2)], &[]), vector(&[("f", 1)], &[])];
        let found = rows.each_ref().map(|row| Found::Row(HashRow::parse(row).unwrap()));
        assert!(fails(&found[1..2]));
        assert!(fails(&found[2..]));
        assert!(fails(&found[..2]), "vectors must be alike");
        assert_eq!(vectors(&lookup, &[found[0], Found::Unread], NOW_US).unwrap()[1], None);
    }

    #[test]
    fn names_without_the_views_are_never_those_of_a_vector() {
        let lookup = lookup(&[("a", 0)], false);
        assert!(taken(&lookup, &[vector(&[("a__f", 1)], &[])]).is_err());
    }
}
