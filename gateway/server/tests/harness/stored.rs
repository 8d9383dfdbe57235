//! A Redis that `weir load` has filled, what to ask a gateway over it, and what its replies say.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of it")]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use weir_domain::{Kind, Provenance, Value};
use weir_proto::v1;
use weir_proto::v1::values::Kind as Wire;

use crate::harness::redis::RedisServer;
use crate::harness::{Setup, column, texts};

/// A Redis with everything the setup has, and the setup on it.
pub fn filled(setup: Setup) -> (RedisServer, Setup) {
    let server = RedisServer::start();
    load(&setup, &server);
    let setup = setup.store(&server.url());
    (server, setup)
}

/// Fills a Redis the way operators do.
pub fn load(setup: &Setup, server: &RedisServer) {
    let loaded = setup.run("load", &["--store", &server.url()]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

/// Every request asks the store and has a cached row to fall back on.
pub fn never_fresh(setup: Setup) -> Setup {
    setup.edit("catalog/views.toml", "fresh_for_ms = 60000", "fresh_for_ms = 0")
}

/// The demo, with no service in a hurry.
pub fn unhurried() -> Setup {
    Setup::demo().edit("catalog/services.toml", "budget_ms = 50", "budget_ms = 10000")
}

/// A server that can be killed and started again: its port is below those that the kernel gives to outgoing
/// connections and to port 0, so nobody takes it meanwhile.
pub fn on_a_port_of_its_own() -> RedisServer {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    let server = (0..100).find_map(|_| {
        let port = 11_000 + (first + TRIED.fetch_add(1, Ordering::Relaxed) % 100);
        drop(TcpListener::bind(("127.0.0.1", port)).ok()?);
        RedisServer::start_at(port, &[])
    });
    server.expect("one of a hundred ports is free")
}

/// A request for routes from one origin.
pub fn route(origin: &str, dests: &[&str]) -> v1::GetFeaturesRequest {
    routes(&dests.iter().map(|dest| (origin, *dest)).collect::<Vec<_>>())
}

/// A request for routes, each an origin and a destination.
pub fn routes(pairs: &[(&str, &str)]) -> v1::GetFeaturesRequest {
    let of = |name: &str, get: fn(&(&str, &str)) -> String| texts(name, &pairs.iter().map(get).collect::<Vec<_>>());
    v1::GetFeaturesRequest {
        service: "route_card".to_owned(),
        items: vec![of("origin", |p| p.0.to_owned()), of("dest", |p| p.1.to_owned())],
        ..Default::default()
    }
}

/// Where each value of a column comes from.
pub fn told(column: &v1::FeatureColumn) -> Vec<Provenance> {
    column.provenance.iter().map(|b| Provenance::from_byte(*b).expect("a known provenance")).collect()
}

/// Where each value of a reply comes from.
pub fn provenances(reply: &v1::GetFeaturesResponse) -> impl Iterator<Item = Provenance> {
    reply.columns.iter().flat_map(told)
}

/// The values of a column as they were sent.
pub fn wire(column: &v1::FeatureColumn) -> &Wire {
    column.values.as_ref().and_then(|v| v.kind.as_ref()).expect("values")
}

/// One of them.
pub fn value(values: &Wire, i: usize) -> Value {
    match values {
        Wire::Bools(v) => Value::Bool(v.values[i]),
        Wire::Int64s(v) => Value::I64(v.values[i]),
        Wire::Doubles(v) => Value::F64(v.values[i]),
        Wire::Floats(v) => Value::F32(v.values[i]),
        Wire::Strings(v) => Value::String(v.values[i].clone()),
        Wire::Blobs(v) => Value::Bytes(v.values[i].clone()),
        Wire::Timestamps(v) => Value::Timestamp(v.values[i]),
        Wire::Lists(v) => {
            let start = if i == 0 { 0 } else { v.ends[i - 1] };
            let items = v.items.as_ref().and_then(|items| items.kind.as_ref()).expect("items");
            // Vectors of f32 are the only lists in the demo.
            Value::List(Kind::F32, (start..v.ends[i]).map(|j| value(items, j as usize)).collect())
        }
    }
}

/// The values of all columns.
pub fn values(reply: &v1::GetFeaturesResponse) -> Vec<&v1::Values> {
    reply.columns.iter().filter_map(|c| c.values.as_ref()).collect()
}

/// The first value of a column.
pub fn one(reply: &v1::GetFeaturesResponse, name: &str) -> (Provenance, Value) {
    let column = column(reply, name);
    (told(column)[0], value(wire(column), 0))
}
