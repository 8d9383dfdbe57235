//! A gateway over several servers, asked for the cards of routes: where each route's row came from, and that whatever
//! is real in it is that route's own. What the faults of nodes and their replicas share.
#![allow(unreachable_pub, reason = "as in the other files that tests share")]

use std::net::SocketAddr;

use tonic::transport::Channel;
use weir_domain::{Provenance, Value};
use weir_proto::v1::GetFeaturesResponse;
use weir_proto::v1::feature_service_client::FeatureServiceClient;

use crate::harness::redis::Cluster;
use crate::harness::{Process, Setup, column, connect, eventually, http_get};
use crate::stored::{never_fresh, routes, told, value, wire};

/// Routes of which some are on each master of a cluster.
pub const ROUTES: [(&str, &str); 12] = [
    ("JFK", "LAX"),
    ("JFK", "SFO"),
    ("JFK", "BOS"),
    ("JFK", "MIA"),
    ("JFK", "ATL"),
    ("JFK", "DEN"),
    ("JFK", "MCO"),
    ("LGA", "CLT"),
    ("LGA", "DTW"),
    ("LGA", "ORD"),
    ("EWR", "PHX"),
    ("EWR", "LAS"),
];
const COLUMNS: [&str; 3] = ["route:distance_mi", "route:arr_delay_mean_30d_min", "route:flights_30d"];

/// A gateway and what it said while all was well.
pub struct Cards {
    client: FeatureServiceClient<Channel>,
    admin: SocketAddr,
    truth: GetFeaturesResponse,
    _gateway: Process,
}

/// What has to be loaded before a gateway is started: every request asks the store, and callers wait this long.
pub fn loaded(url: &str, budget_ms: u32) -> Setup {
    let budget = format!("budget_ms = {budget_ms}");
    let setup = never_fresh(Setup::hasty()).edit("catalog/services.toml", "budget_ms = 50", &budget);
    let loaded = setup.run("load", &["--store", url]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    setup.store(url)
}

impl Cards {
    /// Over this setup, once everything is read from the store.
    pub async fn over(setup: &Setup) -> Self {
        let gateway = setup.spawn();
        let client = connect(gateway.listen).await;
        let mut cards = Self { client, admin: gateway.admin, truth: GetFeaturesResponse::default(), _gateway: gateway };
        let healthy = async || {
            let reply = cards.client.clone().get_features(routes(&ROUTES)).await.ok()?.into_inner();
            let all = COLUMNS.iter().flat_map(|name| told(column(&reply, name)));
            all.into_iter().all(|p| p == Provenance::Store).then_some(reply)
        };
        for _ in 0..1_000 {
            if let Some(truth) = healthy().await {
                cards.truth = truth;
                return cards;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("never: everything is read");
    }

    /// Where the row of each route came from, in one reply. What is real is true.
    pub async fn ask(&self) -> [Provenance; ROUTES.len()] {
        let reply = self.client.clone().get_features(routes(&ROUTES)).await.expect("a reply").into_inner();
        for name in COLUMNS {
            let (is, was) = (column(&reply, name), column(&self.truth, name));
            for (i, from) in told(is).into_iter().enumerate() {
                let of = |column| -> Value { value(wire(column), i) };
                let is_real = matches!(from, Provenance::Store | Provenance::Cache | Provenance::Stale);
                assert!(!is_real || of(is) == of(was), "{name} of {:?} is {:?}, not {:?}", ROUTES[i], of(is), of(was));
            }
        }
        told(column(&reply, COLUMNS[0])).try_into().expect("a row per route")
    }

    /// A metric's value; 0 where nothing was counted yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = http_get(self.admin, "/metrics").await.1;
        let value = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |v| v.trim().parse().expect("a number"))
    }

    /// Asks until the store's replicas are known and have been asked for, and the nodes' times are known.
    pub async fn warm(&self, replicas: usize) {
        eventually("the replicas are known", async || {
            self.ask().await;
            self.metric("weir_store_replicas").await == replicas as f64
        })
        .await;
        for _ in 0..200 {
            self.ask().await;
        }
    }

    /// Of the store's attempts, second ones included, how many there were for each batch.
    pub async fn attempts_per_batch(&self) -> f64 {
        self.metric("weir_store_attempts_total").await / self.metric("weir_store_batches_total").await
    }
}

/// Under which key the demo's store has a route.
pub fn key((origin, dest): (&str, &str)) -> Vec<u8> {
    format!("flights:route@1:s3:{origin}:s3:{dest}").into_bytes()
}

/// By route: whether this master had it to begin with.
pub fn of(cluster: &Cluster, master: usize) -> [bool; ROUTES.len()] {
    let own = ROUTES.map(|route| cluster.owner(&key(route)) == master);
    assert!(own.contains(&true) && own.contains(&false), "each master has some");
    own
}
