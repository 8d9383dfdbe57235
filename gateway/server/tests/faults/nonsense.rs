//! Fault 19: requests that make no sense, in every way that bytes allow. Each gets an error that names what is wrong with
//! it, and asking for the same thing twice gets the same thing twice, in order.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tonic::Code;
use tonic_types::StatusExt;
use weir_proto::v1;

use crate::harness::{Running, flights, floats, post, texts};
use crate::stored::{provenances, routes, unhurried};
use crate::wire::{Caller, GET_FEATURES, GRPC, Reply, field, framed, read};

#[tokio::test]
async fn every_bad_request_gets_a_clear_error_and_the_next_one_an_answer() {
    let gateway = unhurried().start().await;
    let good = || flights("u", "JFK", &[("N14228", "UA", "LAX"), ("N24211", "UA", "SFO")]);
    let with = |change: fn(&mut v1::GetFeaturesRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    use tonic::Code::{InvalidArgument, NotFound, OutOfRange};
    let cases = [
        (with(|r| r.service = "nope".to_owned()), NotFound, "nope"),
        (with(|r| r.context.clear()), InvalidArgument, "context.origin"),
        (with(|r| r.context = vec![texts("origin", &["JFK", "LGA"])]), InvalidArgument, "context.origin"),
        (with(|r| drop(r.items.remove(0))), InvalidArgument, "items.tailnum"),
        (with(|r| r.items[1] = texts("carrier", &["UA"])), InvalidArgument, "items.carrier"),
        (with(|r| r.items[1] = floats("carrier", &[1.0, 2.0])), InvalidArgument, "items.carrier"),
        (with(|r| r.items.push(texts("tail", &["x", "y"]))), InvalidArgument, "items.tail"),
        (with(|r| r.items[0] = texts("tailnum", &["N14228", ""])), InvalidArgument, "items.tailnum[1]"),
        (
            with(|r| r.items[0] = texts("tailnum", &["x".repeat(2_000), "y".into()])),
            InvalidArgument,
            "items.tailnum[0]",
        ),
        (with(|r| r.items.push(r.items[0].clone())), InvalidArgument, "items.tailnum"),
        (with(|r| r.items[0].values = None), InvalidArgument, "items.tailnum"),
        (with(|r| r.features.clear()), InvalidArgument, "features.runway_heading_deg"),
        (with(|r| r.features[0] = texts("runway_heading_deg", &["N"])), InvalidArgument, "features.runway_heading_deg"),
        (with(|r| r.items[0] = texts("tailnum", &["x".repeat(10 << 20)])), OutOfRange, "too large"),
        (
            with(|r| {
                for (i, name) in ["tailnum", "carrier", "dest"].into_iter().enumerate() {
                    r.items[i] = texts(name, &vec!["x"; 100_000]);
                }
            }),
            InvalidArgument,
            "100000 items",
        ),
    ];
    for (request, code, says) in cases {
        let status = gateway.get(request).await.expect_err(says);
        assert_eq!(status.code(), code, "{says}: {status:?}");
        assert!(status.message().contains(says), "{says}: {status:?}");
    }
    assert_eq!(gateway.get(good()).await.expect("an answer").rows, 2);
    gateway.stop().await;
}

#[tokio::test]
async fn bad_json_gets_a_clear_error_too() {
    let gateway = unhurried().start().await;
    let million =
        format!(r#"{{"service":"route_card","items":{{"origin":[{}"x"],"dest":["y"]}}}}"#, r#""x","#.repeat(999_999));
    let many =
        format!(r#"{{"service":"route_card","items":{{"origin":[{}"x"],"dest":["y"]}}}}"#, r#""x","#.repeat(99_999));
    let huge = format!(r#"{{"service":"{}"}}"#, "x".repeat(10 << 20));
    let deep = "[".repeat(100_000);
    let cases = [
        ("", 400, "body"),
        ("{", 400, "body"),
        (r#"{"service":"route_card","itms":{}}"#, 400, "itms"),
        (r#" ["route_card",{},{},{},null,null,{}]"#, 400, "an object is expected"),
        (r#"{"service":"nope"}"#, 404, "nope"),
        (r#"{"service":"route_card","items":{"origin":["JFK",1],"dest":["LAX","BOS"]}}"#, 400, "items.origin[1]"),
        (r#"{"service":"route_card","items":{"origin":[null],"dest":["LAX"]}}"#, 400, "items.origin[0]"),
        (r#"{"service":"route_card","items":{"origin":[{"a":1}],"dest":["LAX"]}}"#, 400, "items.origin[0]"),
        (r#"{"service":"route_card","items":{"origin":["JFK","LGA"],"dest":["LAX"]}}"#, 400, "ragged"),
        (&million, 413, "1000000 items"),
        (&huge, 413, "bytes of one request"),
        (&many, 413, "100000 items"),
        (&deep, 400, "body"),
    ];
    for (body, status, says) in cases {
        let (got, reply) = post(gateway.listen(), "/v1/features", body).await;
        assert_eq!(got, status, "{says}: {reply}");
        assert!(reply.to_string().contains(says), "{says}: {reply}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_an_error_and_not_a_guess() {
    let gateway = unhurried().start().await;
    let caller = Caller::to(gateway.listen()).await;
    let not_utf8 = [b'J', 0xff, b'K'];
    let strings = |text: &[u8]| field(2, field(5, field(1, text)));
    let column = |name: &[u8], text: &[u8]| [field(1, name), strings(text)].concat();
    let good =
        [field(1, "route_card"), field(3, column(b"origin", b"JFK")), field(3, column(b"dest", b"LAX"))].concat();
    let string_value = |text: &[u8]| field(2, field(4, text));
    // What is not UTF-8, wherever a text is expected: also where nobody looks at it.
    let texts = [
        field(1, not_utf8),
        field(2, column(&not_utf8, b"x")),
        field(3, column(b"origin", &not_utf8)),
        field(4, column(b"x", &not_utf8)),
        field(6, not_utf8),
        field(7, [field(1, not_utf8), string_value(b"x")].concat()),
        field(7, [field(1, "carrier"), string_value(&not_utf8)].concat()),
        // Half of a character, a character too long, half of a pair.
        field(6, [0xe2, 0x82]),
        field(6, [0xc0, 0x80]),
        field(6, [0xed, 0xa0, 0x80]),
    ];
    // What has no end, or not the type that its field has.
    let broken = [
        vec![0x0a, 0x05, b'x'],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x0a],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        // Field 0, a wire type that does not exist, a number that is too large.
        vec![0x02, 0x00],
        vec![0x0e],
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        // The service as a number, the end of a group that never began, a group without an end.
        vec![0x08, 0x01],
        vec![0x0c],
        vec![0x7b],
        // A column as a text, doubles of seven bytes.
        field(4, "x"),
        field(4, [field(1, "x"), field(2, field(3, field(1, [0; 7])))].concat()),
    ];
    let mut refused = 0.0;
    for bytes in texts.iter().chain(&broken) {
        for message in [[&good[..], bytes].concat(), bytes.clone()] {
            // In one piece, which is read in place, and in two, which tonic puts together.
            let whole = caller.call(&[], &message).await.grpc();
            let in_two = in_two(&caller, &message).await.grpc();
            for status in [&whole, &in_two] {
                assert_eq!(status.code(), Code::InvalidArgument, "{bytes:x?}: {status:?}");
                assert!(!status.message().is_empty(), "{bytes:x?}");
                let details = status.get_error_details();
                assert_eq!(details.error_info().expect("a reason").reason, "INVALID_REQUEST", "{bytes:x?}");
                let violations = &details.bad_request().expect("a field").field_violations;
                assert!(violations.iter().all(|v| !v.field.is_empty() && !v.description.is_empty()), "{violations:?}");
                assert_eq!(violations.len(), 1, "{bytes:x?}");
                refused += 1.0;
            }
            assert_eq!(whole.details(), in_two.details(), "{bytes:x?}");
        }
    }
    let field_of = async |message: &[u8]| {
        let details = caller.call(&[], message).await.grpc().get_error_details();
        details.bad_request().expect("a field").field_violations[0].field.clone()
    };
    assert_eq!(field_of(&texts[0]).await, "service");
    assert_eq!(field_of(&texts[1]).await, "context.name");
    assert_eq!(field_of(&broken[6]).await, "message");
    assert_eq!(gateway.metric(r#"weir_refusals_total{reason="INVALID_REQUEST"} "#).await, refused + 3.0);
    for body in [&b"\"\xff\""[..], b"{\"service\":\"\xff\"}", b"\xfe\xff\0{", b"{\"service\":\"\\ud800\"}", b"\0"] {
        let reply = caller.post("/v1/features", &[("content-type", "application/json")], body.to_vec()).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.text().contains("INVALID_REQUEST"), "{reply:?}");
    }
    assert_eq!(caller.call(&[], &good).await.message::<v1::GetFeaturesResponse>().rows, 1);
    gateway.stop().await;
}

/// A call whose message comes in two frames.
async fn in_two(caller: &Caller, message: &[u8]) -> Reply {
    let (response, mut stream) = caller.open(GET_FEATURES, GRPC).await;
    let framed = Bytes::from(framed(message));
    stream.send_data(framed.slice(..3), false).expect("send");
    stream.send_data(framed.slice(3..), true).expect("send");
    read(response).await.expect("a response")
}

#[tokio::test]
async fn the_wire_has_many_ways_to_say_one_thing() {
    let gateway = unhurried().start().await;
    let caller = Caller::to(gateway.listen()).await;
    let asked = flights("unit-1", "JFK", &[("N14228", "UA", "LAX"), ("N24211", "UA", "SFO")]);
    let columns = async |message: &[u8]| {
        let reply: v1::GetFeaturesResponse = caller.call(&[], message).await.message();
        (reply.rows, reply.columns, reply.assignments)
    };
    let strings = |texts: &[&str]| field(5, texts.iter().flat_map(|t| field(1, t)).collect::<Vec<_>>());
    let column = |name: &str, values: Vec<u8>| [field(1, name), field(2, values)].concat();
    let service = field(1, "arrival_delay");
    let origin = field(2, column("origin", strings(&["JFK"])));
    let tails = field(3, column("tailnum", strings(&["N14228", "N24211"])));
    let carriers = field(3, column("carrier", strings(&["UA", "UA"])));
    let dests = field(3, column("dest", strings(&["LAX", "SFO"])));
    let heading = 310_f64.to_le_bytes();
    let heading_packed = field(4, column("runway_heading_deg", field(3, field(1, heading))));
    let unit = field(6, "unit-1");
    let plain = [&service[..], &origin, &tails, &carriers, &dests, &heading_packed, &unit].concat();
    let truth = columns(&prost::Message::encode_to_vec(&asked)).await;
    assert_eq!(truth.0, 2);
    assert_eq!(columns(&plain).await, truth);

    let unpacked = field(4, column("runway_heading_deg", field(3, [&[0x09], &heading[..]].concat())));
    // Field 99: a varint, eight bytes, a text, four bytes, a group with a field in it.
    let unknown = [
        &[0x98, 0x06, 0x96, 0x01, 0x99, 0x06][..],
        &[7; 8],
        &[0x9a, 0x06, 0x03, 0xff, 0xfe, 0xfd],
        &[0x9d, 0x06, 1, 2, 3, 4],
        &[0x9b, 0x06, 0x08, 0x01, 0x9c, 0x06],
    ]
    .concat();
    // One column in two pieces: the later text wins, and the values follow each other.
    let halves = [field(1, "wrong"), field(2, strings(&["LAX"])), field(2, strings(&["SFO"])), field(1, "dest")];
    let halves = field(3, halves.concat());
    // Two kinds of values: the later kind wins.
    let kinds = field(
        3,
        [field(1, "dest"), field(2, [field(3, field(1, heading)), strings(&["LAX", "SFO"])].concat())].concat(),
    );
    let others = [
        [&unit[..], &heading_packed, &tails, &carriers, &dests, &origin, &service].concat(),
        [&service[..], &origin, &tails, &carriers, &dests, &unpacked, &unit].concat(),
        [&unknown[..], &service, &unknown, &origin, &tails, &carriers, &dests, &heading_packed, &unit, &unknown]
            .concat(),
        [&field(1, "nope")[..], &field(6, "somebody"), &plain].concat(),
        [&service[..], &origin, &tails, &carriers, &halves, &heading_packed, &unit].concat(),
        [&service[..], &origin, &tails, &carriers, &kinds, &heading_packed, &unit].concat(),
        // An attribute without a value says nothing; of two of a name the later counts.
        [&plain[..], &field(7, field(1, "carrier")), &field(7, [])].concat(),
    ];
    for (i, other) in others.iter().enumerate() {
        assert_eq!(columns(other).await, truth, "the other way {i}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_error_is_short_however_long_what_it_is_about() {
    let gateway = unhurried().start().await;
    let long = "é".repeat(500_000);
    let good = || flights("u", "JFK", &[("N14228", "UA", "LAX")]);
    let column = |name: &str| texts(name, &["x"]);
    let requests = [
        v1::GetFeaturesRequest { service: long.clone(), ..good() },
        v1::GetFeaturesRequest { items: vec![column(&long)], ..good() },
        v1::GetFeaturesRequest { context: vec![column(&long), column(&long)], ..good() },
        v1::GetFeaturesRequest {
            features: (0..1_000).map(|i| column(&format!("{}{i}", "é".repeat(999)))).collect(),
            ..good()
        },
    ];
    let caller = Caller::to(gateway.listen()).await;
    for request in requests {
        let reply = caller.call(&[], &prost::Message::encode_to_vec(&request)).await;
        let bytes: usize = reply.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes <= 8 << 10, "{bytes} bytes of headers: {:?}", reply.grpc());
        assert!([Code::InvalidArgument, Code::NotFound].contains(&reply.grpc().code()), "{reply:?}");
    }
    let bodies = [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"service":"{long}"}}"#),
        format!(r#"{{"service":"route_card","context":{{"{long}":[{{}}]}}}}"#),
    ];
    for body in bodies {
        for path in ["/v1/features", "/v1/assign"] {
            let (status, reply) = post(gateway.listen(), path, &body).await;
            assert!([400, 404].contains(&status) && reply.to_string().len() < 8 << 10, "{status}: {reply}");
        }
    }
    gateway.stop().await;
}

/// Entities of a route, known and unknown, plain and strange.
const PAIRS: [(&str, &str); 8] = [
    ("JFK", "LAX"),
    ("LGA", "ORD"),
    ("EWR", "SFO"),
    ("JFK", "XXX"),
    ("J\0K", "LAX"),
    ("JFK:LAX", "s3"),
    ("☃", "Zürich"),
    ("\u{202e}", "' OR 1=1 --\r\n"),
];

#[test]
fn duplicates_are_answered_in_order() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gateway = runtime.block_on(unhurried().start());
    let ask = |pairs: &[(&str, &str)]| runtime.block_on(gateway.get(routes(pairs))).expect("an answer");
    let alone = PAIRS.map(|pair| ask(&[pair]));
    let told: std::collections::BTreeSet<_> = alone.iter().flat_map(provenances).map(|p| p.name()).collect();
    assert!(told.contains("STORE") && told.len() > 1, "known and unknown: {told:?}");
    let picks = prop::collection::vec(0..PAIRS.len(), 1..60);
    runner().run(&picks, |picks| {
        let pairs: Vec<_> = picks.iter().map(|i| PAIRS[*i]).collect();
        let reply = ask(&pairs);
        prop_assert_eq!(reply.rows as usize, picks.len());
        for (c, column) in reply.columns.iter().enumerate() {
            for (row, pick) in picks.iter().enumerate() {
                let truth = &alone[*pick].columns[c];
                prop_assert_eq!(column.provenance[row], truth.provenance[0], "{} of row {}", &column.name, row);
                let (is, was) = (crate::stored::wire(column), crate::stored::wire(truth));
                let (is, was) = (crate::stored::value(is, row), crate::stored::value(was, 0));
                prop_assert_eq!(is, was, "{} of row {}", &column.name, row);
            }
        }
        // The same over HTTP: JSON in, JSON out.
        let body = serde_json::json!({ "service": "route_card", "items": {
            "origin": pairs.iter().map(|p| p.0).collect::<Vec<_>>(), "dest": pairs.iter().map(|p| p.1).collect::<Vec<_>>() } });
        let (status, json) = runtime.block_on(post(gateway.listen(), "/v1/features", &body.to_string()));
        prop_assert_eq!(status, 200);
        let first = &json["features"][0]["provenance"];
        let names: Vec<_> = crate::stored::told(&reply.columns[0]).iter().map(|p| p.name()).collect();
        prop_assert_eq!(first, &serde_json::json!(names));
        Ok(())
    }).expect("the same answer for the same entity");
    runtime.block_on(gateway.stop());
}

/// One thing that is wrong with a request for routes.
#[derive(Clone, Debug)]
enum Wrong {
    Ragged(usize, usize),
    Empty(usize, usize),
    TooLong(usize, usize),
    Unknown(String),
    Twice(usize),
    Gone(usize),
    Typed(usize),
    Nothing(usize),
    Many(usize),
}

impl Wrong {
    fn any() -> impl Strategy<Value = Self> {
        let column = 0..2_usize;
        prop_oneof![
            (column.clone(), 1..5_usize).prop_map(|(c, n)| Self::Ragged(c, n)),
            (column.clone(), 0..5_usize).prop_map(|(c, i)| Self::Empty(c, i)),
            (column.clone(), 0..5_usize).prop_map(|(c, i)| Self::TooLong(c, i)),
            "\\PC{1,20}|[\0-\x20]{1,5}".prop_map(Self::Unknown),
            column.clone().prop_map(Self::Twice),
            column.clone().prop_map(Self::Gone),
            column.clone().prop_map(Self::Typed),
            column.clone().prop_map(Self::Nothing),
            (10_001..12_000_usize).prop_map(Self::Many),
        ]
    }

    /// Makes a request of five routes wrong, and says which field is to blame.
    fn done_to(&self, request: &mut v1::GetFeaturesRequest) -> String {
        let name = |c: usize| ["origin", "dest"][c];
        let values = |c: usize, change: &dyn Fn(&mut Vec<String>)| {
            let mut values = vec!["JFK".to_owned(); 5];
            change(&mut values);
            texts(name(c), &values)
        };
        match self {
            Self::Ragged(c, n) => {
                request.items[*c] = values(*c, &|v| v.truncate(5 - n));
                // The first column says how many there are.
                "items.dest".to_owned()
            }
            Self::Empty(c, i) => {
                request.items[*c] = values(*c, &|v| v[*i].clear());
                format!("items.{}[{i}]", name(*c))
            }
            Self::TooLong(c, i) => {
                request.items[*c] = values(*c, &|v| v[*i] = "x".repeat(1_025));
                format!("items.{}[{i}]", name(*c))
            }
            Self::Unknown(other) => {
                request.items.push(texts(other, &["x"; 5]));
                format!("items.{other}")
            }
            Self::Twice(c) => {
                request.items.push(request.items[*c].clone());
                format!("items.{}", name(*c))
            }
            Self::Gone(c) => {
                request.items.remove(*c);
                format!("items.{}", name(*c))
            }
            Self::Typed(c) => {
                request.items[*c] = floats(name(*c), &[1.0; 5]);
                format!("items.{}", name(*c))
            }
            Self::Nothing(c) => {
                request.items[*c].values = None;
                format!("items.{}", name(*c))
            }
            Self::Many(n) => {
                for c in 0..2 {
                    request.items[c] = texts(name(c), &vec!["x"; *n]);
                }
                "items.origin".to_owned()
            }
        }
    }
}

#[test]
fn whatever_is_wrong_with_a_request_its_field_is_named() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gateway: Running = runtime.block_on(unhurried().start());
    let mut refused = 0.0;
    let cases = std::cell::Cell::new(0.0);
    runner()
        .run(&Wrong::any(), |wrong| {
            let mut request = routes(&[("JFK", "LAX"); 5]);
            let field = wrong.done_to(&mut request);
            let status = runtime.block_on(gateway.get(request)).expect_err("it is wrong");
            cases.set(cases.get() + 1.0);
            prop_assert_eq!(status.code(), Code::InvalidArgument, "{:?}", status);
            let details = status.get_error_details();
            let violations = details.bad_request().map(|b| &*b.field_violations).unwrap_or_default();
            prop_assert!(violations.iter().any(|v| v.field == field), "{} is not in {:?}", field, violations);
            prop_assert!(violations.iter().all(|v| !v.description.is_empty()));
            prop_assert!(details.error_info().is_some_and(|i| ["INVALID_REQUEST", "TOO_LARGE"].contains(&&*i.reason)));
            // Whoever asks next is answered.
            prop_assert_eq!(runtime.block_on(gateway.get(routes(&[("JFK", "LAX")]))).map(|r| r.rows).ok(), Some(1));
            Ok(())
        })
        .expect("every wrong request is refused with its field");
    for reason in ["INVALID_REQUEST", "TOO_LARGE"] {
        let name = format!("weir_refusals_total{{reason=\"{reason}\"}} ");
        refused += runtime.block_on(gateway.metric(&name));
    }
    assert_eq!(refused, cases.get());
    runtime.block_on(gateway.stop());
}

/// Nothing is written down between runs: what fails, fails in the log.
fn runner() -> TestRunner {
    TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() })
}
