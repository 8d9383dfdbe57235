//! Fault 10: what is stored is not what was loaded: other bytes, another schema, another type, numbers that are none.
//! That value is INVALID and counted; no other value changes, and nothing panics.

use weir_domain::{Provenance, Value};
use weir_proto::v1;

use crate::harness::redis::RedisServer;
use crate::harness::{Running, column, flights, post};
use crate::stored::{filled, load, route, told, unhurried, value, wire};

use Provenance::{Computed, DefaultInvalid, DefaultMissing, Expired, Invalid, Missing, Store};

#[tokio::test]
async fn a_corrupt_row_or_one_of_another_schema_is_invalid_for_its_entity_alone() {
    let (server, setup) = filled(unhurried());
    let key = |dest: &str| format!("flights:route@1:s3:JFK:s3:{dest}");
    server.command(&[b"SET", key("LAX").as_bytes(), b"\xff\x00 no row at all"]);
    server.command(&["COPY", "flights:destination@1:s3:SFO", &key("SFO"), "REPLACE"]);
    server.command(&["SET", &key("BOS"), ""]);
    server.command(&[b"SETRANGE", key("SEA").as_bytes(), b"0", b"\xa5\x5a\xa5\x5a"]);
    let gateway = setup.start().await;
    let reply = gateway.get(route("JFK", &["LAX", "ORD", "SFO", "BOS", "MIA", "SEA"])).await.expect("an answer");
    for column in &reply.columns {
        let of = if column.name.starts_with("route:") { Invalid } else { Store };
        assert_eq!(told(column), [of, Store, of, of, Store, of], "{}", column.name);
    }
    assert_eq!(gateway.metric("weir_store_invalid_rows_total ").await, 4.0);
    let flight = flights("", "JFK", &[("N14228", "UA", "LAX"), ("N14228", "UA", "ORD")]);
    let flight = gateway.get(flight).await.expect("an answer");
    assert_eq!(told(column(&flight, "route:distance_mi"))[0], DefaultInvalid);
    assert_eq!(value(wire(column(&flight, "route:distance_mi")), 0), Value::I64(748));
    assert!(told(column(&flight, "route:distance_mi"))[1].is_real());
    assert_eq!(told(column(&flight, "delay_risk:score")), [Computed; 2]);
    // Rubbish is not kept: the next request sees the row that mends it.
    load(&gateway.setup, &server);
    let mended = gateway.get(route("JFK", &["LAX", "SFO", "BOS", "SEA"])).await.expect("an answer");
    assert_eq!(told(column(&mended, "route:distance_mi")), [Store; 4]);
    gateway.stop().await;
}

/// What is done to the row of one entity.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Bits of its fingerprint, its number of features or its flags.
    Header,
    /// Cut off somewhere within its fixed part.
    Short,
    /// Bytes from anywhere.
    Random,
    /// Bits anywhere.
    Flipped,
    /// Cut off or continued, anywhere.
    Length,
}

const DESTS: [&str; 8] = ["LAX", "SFO", "BOS", "ORD", "MIA", "ATL", "SEA", "DEN"];
/// Of the packed row: fingerprint, number of features, flags.
const SCHEMA_BYTES: usize = 8;
const ROUNDS: u64 = 150;

#[tokio::test]
async fn whatever_is_stored_for_one_entity_no_other_value_changes() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let truth = row_by_row(&gateway).await;
    let mut luck = Luck(1);
    for round in 0..ROUNDS {
        let victim = luck.below(DESTS.len());
        let view = ["route@1:s3:JFK", "destination@1"][luck.below(2)];
        let key = format!("flights:{view}:s3:{}", DESTS[victim]);
        let whole = dump(&server, &key);
        let damage = [Damage::Header, Damage::Short, Damage::Random, Damage::Flipped, Damage::Length][luck.below(5)];
        server.command(&[b"SET", key.as_bytes(), &luck.damaged(damage, &whole)]);
        let invalid_rows = gateway.metric("weir_store_invalid_rows_total ").await;
        let now = row_by_row(&gateway).await;
        let of_view = |name: &str| name.starts_with(view.split('@').next().expect("a name"));
        let mut is_all_invalid = true;
        for (row, (is, was)) in now.iter().zip(&truth).enumerate() {
            for ((name, is), (_, was)) in is.iter().zip(was) {
                let context = || format!("round {round}, {damage:?} of {key}: {name} is {is:?}, was {was:?}");
                if row != victim || !of_view(name) {
                    assert_eq!(is, was, "{}", context());
                    continue;
                }
                is_all_invalid &= is.0 == Invalid;
                // A number that was changed within a row is a number; a null bit makes it missing.
                assert!([Store, Invalid, Missing, Expired].contains(&is.0), "{}", context());
            }
        }
        let counted = gateway.metric("weir_store_invalid_rows_total ").await - invalid_rows;
        match damage {
            Damage::Header | Damage::Short | Damage::Random => {
                assert!(is_all_invalid, "round {round}: {damage:?} of {key} was taken for a row");
                assert_eq!(counted, 1.0, "round {round}");
            }
            Damage::Flipped | Damage::Length => assert!(is_all_invalid || counted == 0.0),
        }
        server.command(&[b"SET", key.as_bytes(), &whole]);
        assert_eq!(row_by_row(&gateway).await, truth, "it is mended");
    }
    assert!(gateway.metric(r#"weir_values_total{service="route_card",provenance="INVALID"} "#).await > 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_text_that_is_none_and_a_value_that_is_elsewhere_are_invalid_alone() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let truth = row_by_row(&gateway).await;
    let name = truth[0].iter().find(|(name, _)| name == "destination:name").expect("a name").1.1.clone();
    let Value::String(name) = name else { panic!("{name:?}") };
    let key = "flights:destination@1:s3:LAX";
    let row = dump(&server, key);
    let at = row.windows(name.len()).position(|w| w == name.as_bytes()).expect("the name is in the row");
    server.command(&[b"SETRANGE", key.as_bytes(), at.to_string().as_bytes(), b"\xff"]);
    let now = row_by_row(&gateway).await;
    for ((feature, is), (_, was)) in now[0].iter().zip(&truth[0]) {
        let expected = if feature == "destination:name" { Invalid } else { was.0 };
        assert_eq!(is.0, expected, "{feature}");
        assert!(is.0 == Invalid || is.1 == was.1, "{feature}");
    }
    assert_eq!(now[1..], truth[1..]);
    // The row is one of its view, so no row is counted, but a value is.
    assert_eq!(gateway.metric("weir_store_invalid_rows_total ").await, 0.0);
    assert_eq!(gateway.metric(r#"weir_values_total{service="route_card",provenance="INVALID"} "#).await, 1.0);
    gateway.stop().await;
}

#[tokio::test]
async fn numbers_that_are_none_are_told_as_they_are_and_spoil_nothing() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let truth = row_by_row(&gateway).await;
    let mean = "route:arr_delay_mean_30d_min";
    let Value::F64(known) = truth[0].iter().find(|(name, _)| name == mean).expect("a mean").1.1 else { panic!() };
    let key = "flights:route@1:s3:JFK:s3:LAX";
    let row = dump(&server, key);
    let at = row.windows(8).position(|w| w == known.to_le_bytes()).expect("the mean is in the row").to_string();
    for (number, json) in [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (f64::NEG_INFINITY, "-Infinity")] {
        server.command(&[b"SETRANGE", key.as_bytes(), at.as_bytes(), &number.to_le_bytes()]);
        let now = row_by_row(&gateway).await;
        assert_eq!(now[1..], truth[1..]);
        for ((feature, is), (_, was)) in now[0].iter().zip(&truth[0]) {
            match &is.1 {
                Value::F64(got) if feature == mean => assert_eq!((is.0, got.to_bits()), (Store, number.to_bits())),
                _ => assert_eq!(is, was, "{feature}"),
            }
        }
        let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]},"max_staleness_ms":0}"#;
        let (status, reply) = post(gateway.listen(), "/v1/features", body).await;
        let told = reply["features"].as_array().expect("features").iter().find(|f| f["name"] == mean);
        assert_eq!((status, &told.expect("the mean")["values"][0]), (200, &serde_json::json!(json)));
        // What is computed from it is computed, or has its default and says so.
        let flight = v1::GetFeaturesRequest {
            max_staleness: Some(Default::default()),
            ..flights("", "JFK", &[("N14228", "UA", "LAX")])
        };
        let flight = gateway.get(flight).await.expect("an answer");
        let score = told_of(&flight, "delay_risk:score");
        assert!([Computed, Provenance::DefaultTransform].contains(&score), "{score:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_key_of_another_type_is_missing_alone() {
    let (server, setup) = filled(unhurried());
    let gateway = setup.start().await;
    let truth = row_by_row(&gateway).await;
    for make in ["LPUSH", "SADD", "PFADD"] {
        server.command(&["DEL", "flights:route@1:s3:JFK:s3:LAX"]);
        server.command(&[make, "flights:route@1:s3:JFK:s3:LAX", "x"]);
        let now = row_by_row(&gateway).await;
        // PFADD makes a string, which is no row.
        let why = if make == "PFADD" { Invalid } else { Missing };
        for ((name, is), (_, was)) in now[0].iter().zip(&truth[0]) {
            assert_eq!(is.0, if name.starts_with("route:") { why } else { was.0 }, "{make}: {name}");
        }
        assert_eq!(now[1..], truth[1..], "{make}");
        let flight = v1::GetFeaturesRequest {
            max_staleness: Some(Default::default()),
            ..flights("", "JFK", &[("N14228", "UA", "LAX")])
        };
        let default = if make == "PFADD" { DefaultInvalid } else { DefaultMissing };
        assert_eq!(told_of(&gateway.get(flight).await.expect("an answer"), "route:distance_mi"), default);
    }
    gateway.stop().await;
}

/// Each route as it is stored right now: every feature's name, where its value comes from, and the value.
async fn row_by_row(gateway: &Running) -> Vec<Vec<(String, (Provenance, Value))>> {
    let request = v1::GetFeaturesRequest { max_staleness: Some(Default::default()), ..route("JFK", &DESTS) };
    let reply = gateway.get(request).await.expect("an answer");
    let of = |row: usize| {
        let value = |c: &v1::FeatureColumn| (c.name.clone(), (told(c)[row], value(wire(c), row)));
        reply.columns.iter().map(value).collect()
    };
    (0..DESTS.len()).map(of).collect()
}

fn told_of(reply: &v1::GetFeaturesResponse, name: &str) -> Provenance {
    told(column(reply, name))[0]
}

/// The bytes under a key: commands here give text, so they are asked for as numbers.
fn dump(server: &RedisServer, key: &str) -> Vec<u8> {
    let script = "local t = {} for i, b in ipairs({string.byte(redis.call('GET', KEYS[1]), 1, -1)}) do t[i] = b end \
                  return table.concat(t, ' ')";
    let numbers = server.command(&["EVAL", script, "1", key]);
    numbers.split(' ').map(|byte| byte.parse().expect("a byte")).collect()
}

/// The same numbers in every run.
struct Luck(u64);

impl Luck {
    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let bit = 1 << self.below(8);
        let at = self.below(bytes.len());
        bytes[at] ^= bit;
    }

    fn damaged(&mut self, damage: Damage, row: &[u8]) -> Vec<u8> {
        let mut bytes = row.to_vec();
        match damage {
            Damage::Header => self.flip(&mut bytes[..SCHEMA_BYTES]),
            // Four features and more make at least this much.
            Damage::Short => bytes.truncate(self.below(16 + 1 + 4 * 8)),
            Damage::Random => bytes = (0..self.below(300)).map(|_| self.byte()).collect(),
            Damage::Flipped => (0..=self.below(5)).for_each(|_| self.flip(&mut bytes)),
            Damage::Length => {
                let length = self.below(2 * bytes.len());
                bytes.resize_with(length, || self.byte());
            }
        }
        bytes
    }
}
