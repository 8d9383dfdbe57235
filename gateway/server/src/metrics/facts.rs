//! Numbers that are not counted per request but read where they are, at the moment of the scrape.

use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use weir_domain::catalog::Priority;
use weir_journal::DropReason;
use weir_store::{BreakerState, Trouble, Withheld};

use crate::gateway::Gateway;
use crate::memory;

#[derive(Debug)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) points: Vec<(Option<(&'static str, &'static str)>, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Numbers read at the moment of the scrape.
#[derive(Debug)]
pub(super) struct Facts(pub(super) Vec<Fact>);

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for fact in &self.0 {
            let kind = match fact.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(fact.name, fact.help, None, kind)?;
            let encode = |m: MetricEncoder<'_>, value: u64| match fact.kind {
                Kind::Counter => ConstCounter::new(value).encode(m),
                Kind::Gauge => ConstGauge::new(value).encode(m),
            };
            match fact.points.as_slice() {
                // No family: one without labels is written `name{}`.
                [(None, value)] => encode(metric, *value)?,
                points => {
                    for (label, value) in points {
                        encode(metric.encode_family(&label.as_slice())?, *value)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// All of them.
pub(super) fn facts_of(gateway: &Gateway) -> Vec<Fact> {
    let one = |name, help, kind, value| Fact { name, help, kind, points: vec![(None, value)] };
    let snapshot = gateway.snapshot();
    let store = snapshot.store.counters();
    let admission = &gateway.admission;
    let in_flight = admission.in_flight() as u64;
    let by_priority = |count: &dyn Fn(Priority) -> u64| -> Vec<_> {
        Priority::ALL.into_iter().map(|p| (Some(("priority", p.name())), count(p))).collect()
    };
    let breaker = match store.breaker() {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    let lookups = [
        ("hit", store.cache_hits.get()),
        ("negative", store.cache_negatives.get()),
        ("miss", store.cache_misses.get()),
        ("stale", store.cache_stale.get()),
    ];
    let door = &gateway.metrics.door;
    let endings = door.endings().map(|(reason, count)| (Some(("reason", reason)), count)).collect();
    let [open, unread] = [&door.open, &door.unread_bytes].map(|v| v.load(Ordering::Relaxed) as u64);
    let [refused, accept_errors] = [&door.refused, &door.accept_errors].map(|v| v.load(Ordering::Relaxed));
    let troubles = Trouble::ALL.map(|kind| (Some(("kind", kind.name())), store.troubles(kind)));
    let mut facts = vec![
        one("in_flight", "Requests being answered", Kind::Gauge, in_flight),
        one("connections", "Connections of callers that are open", Kind::Gauge, open),
        one("connections_refused", "Connections closed at once because too many were open", Kind::Counter, refused),
        Fact {
            name: "connections_ended",
            help: "Connections that ended, by why",
            kind: Kind::Counter,
            points: endings,
        },
        one("accept_errors", "Connections that the system did not hand over", Kind::Counter, accept_errors),
        one("unread_bytes", "Bytes of replies that callers have not taken yet", Kind::Gauge, unread),
        Fact {
            name: "admission_in_flight",
            help: "Requests being answered, by priority",
            kind: Kind::Gauge,
            points: by_priority(&|p| admission.in_flight_of(p) as u64),
        },
        Fact {
            name: "admission_degraded",
            help: "Requests admitted without reads and transforms",
            kind: Kind::Counter,
            points: by_priority(&|p| admission.degraded(p)),
        },
        one("admission_limit", "Requests that may be in flight, as learned", Kind::Gauge, admission.limit() as u64),
        one("admission_callers", "Callers with requests in flight", Kind::Gauge, admission.callers() as u64),
        one(
            "admission_spent_us",
            "Microseconds that answers in full take by now",
            Kind::Gauge,
            admission.spent().as_micros() as u64,
        ),
        one("memory_used_bytes", "Bytes that only this process holds", Kind::Gauge, memory::used().unwrap_or(0)),
        one("memory_max_bytes", "Bytes that it may hold; 0: nobody says", Kind::Gauge, gateway.memory_max.unwrap_or(0)),
        one(
            "memory_pressure",
            "0 none, 1 the cache shrinks, 2 requests are degraded, 3 they are refused",
            Kind::Gauge,
            admission.memory_pressure() as u64,
        ),
        one("cache_bytes", "Bytes of rows, keys and book-keeping", Kind::Gauge, snapshot.store.cache_bytes()),
        one(
            "cache_entries",
            "Rows in the cache, and entities known to have none",
            Kind::Gauge,
            snapshot.store.cache_entries(),
        ),
        one("cache_shrunk", "Rows given up because memory was short", Kind::Counter, store.cache_shrunk.get()),
        Fact {
            name: "cache_lookups",
            help: "Entities looked up in the cache by result",
            kind: Kind::Counter,
            points: lookups.map(|(result, count)| (Some(("result", result)), count)).into(),
        },
        one(
            "cache_forgotten",
            "Rows forgotten because Redis said they were written",
            Kind::Counter,
            store.cache_forgotten.get(),
        ),
        one(
            "cache_flushes",
            "Times that all rows stopped being fresh: writes may not have been told",
            Kind::Counter,
            store.cache_flushes.get(),
        ),
        one("store_invalidations", "Keys that Redis said were written", Kind::Counter, store.invalidations.get()),
        Fact {
            name: "store_tracking",
            help: "Redis servers that tell of writes, and those that should and do not",
            kind: Kind::Gauge,
            points: vec![
                (Some(("state", "up")), store.tracking_up() as u64),
                (Some(("state", "down")), store.tracking_down() as u64),
            ],
        },
        one("store_batches", "Batches sent to the store", Kind::Counter, store.store_batches.get()),
        one("store_attempts", "Batches as they were sent, second times too", Kind::Counter, store.store_attempts.get()),
        one("store_keys", "Entities asked from the store", Kind::Counter, store.store_keys.get()),
        one(
            "store_flights_joined",
            "Entities whose read was already under way",
            Kind::Counter,
            store.flights_joined.get(),
        ),
        Fact {
            name: "store_revalidations",
            help: "Entities served past their freshness, by whether they are read again in the background",
            kind: Kind::Counter,
            points: vec![
                (Some(("outcome", "started")), store.revalidations.get()),
                (Some(("outcome", "withheld")), store.revalidations_withheld.get()),
            ],
        },
        one("store_late_fills", "Rows that came too late and were cached", Kind::Counter, store.late_fills.get()),
        one("store_invalid_rows", "Rows that are not rows of their view", Kind::Counter, store.invalid_rows.get()),
        one("store_reads_in_flight", "Reads under way", Kind::Gauge, snapshot.store.reads_in_flight() as u64),
        one("store_connections", "Connections that were set up", Kind::Counter, store.connections.get()),
        one("store_breaker", "0 closed, 1 probing, 2 open; of several nodes the worst", Kind::Gauge, breaker),
        one("store_nodes", "Redis servers that are read from", Kind::Gauge, store.node_count() as u64),
        one(
            "store_nodes_out",
            "Nodes that are not asked because they do not answer",
            Kind::Gauge,
            store.nodes_out() as u64,
        ),
        one(
            "store_breakers_held",
            "Silent reads that opened no breaker because too many were open",
            Kind::Counter,
            store.breakers_held.get(),
        ),
        one("store_replicas", "Replicas that stand in for them", Kind::Gauge, store.replicas.count() as u64),
        one("store_replicas_out", "Replicas that do not answer", Kind::Gauge, store.replicas.out() as u64),
        one("store_hedges_sent", "Batches sent to a replica as well", Kind::Counter, store.hedges_sent.get()),
        one("store_hedges_won", "Hedges that brought what was served", Kind::Counter, store.hedges_won.get()),
        Fact {
            name: "store_hedges_withheld",
            help: "Slow batches that were not sent to a replica as well",
            kind: Kind::Counter,
            points: Withheld::ALL.map(|why| (Some(("reason", why.name())), store.hedges_withheld(why))).into(),
        },
        one("store_fallbacks", "Batches read from a replica alone", Kind::Counter, store.fallbacks.get()),
        one("store_redirects", "Entities asked again from another node", Kind::Counter, store.redirects.get()),
        one("store_topologies", "Times that slots or the master had moved", Kind::Counter, store.topologies.get()),
        Fact {
            name: "store_troubles",
            help: "Failed batches and connection attempts",
            kind: Kind::Counter,
            points: troubles.into(),
        },
    ];
    if let Some(journal) = &gateway.journal {
        let counts = journal.counts();
        let rows = |reason: DropReason| (Some(("outcome", reason.name())), counts.dropped_for(reason).rows);
        let mut points = vec![
            (Some(("outcome", "kept")), counts.kept.rows),
            (Some(("outcome", "sampled_out")), counts.sampled_out.rows),
        ];
        points.extend(DropReason::ALL.map(rows));
        facts.extend([
            Fact {
                name: "journal_rows",
                help: "Served rows kept by the journal, or why they were not",
                kind: Kind::Counter,
                points,
            },
            one("journal_sealed_rows", "Rows sealed into Parquet", Kind::Counter, counts.sealed.rows),
            one("journal_queue_bytes", "Bytes in the queue", Kind::Gauge, counts.queue_bytes),
            one("journal_backlog_bytes", "Bytes in unsealed segments", Kind::Gauge, counts.backlog_bytes),
            one("journal_sync_errors", "Group commits that failed", Kind::Counter, counts.sync_errors),
            one("journal_write_errors", "Writes to a segment that failed", Kind::Counter, counts.write_errors),
            one("journal_seal_errors", "Failed attempts to seal", Kind::Counter, counts.seal_errors),
            one("journal_corrupt_frames", "Unreadable stretches found", Kind::Counter, counts.corrupt_frames),
        ]);
    }
    facts
}
