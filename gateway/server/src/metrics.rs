//! Every metric the gateway exports, in one place: what is counted per request here, what the store and the
//! journal count themselves in `scrape`.

mod facts;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use weir_domain::catalog::Priority;
use weir_domain::{Answer, Budget, Provenance, Refusal, Spent};

use self::facts::{Fact, Facts, Kind, facts_of};
use crate::admission::Crowded;
use crate::doors::Counts;
use crate::feast::Real;
use crate::gateway::Gateway;
use crate::pipeline::Meta;

/// Upper bounds in seconds, aimed at budgets: most are a few milliseconds, the interesting misses are near them.
const BUCKETS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// Upper bounds as shares of what was granted: how close answers come, and how far beyond they go.
const SHARES: [f64; 11] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 3.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Value {
    service: String,
    provenance: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    transform: String,
    version: u32,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What is counted while requests are answered.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Counted at the callers' door.
    pub(crate) door: Arc<Counts>,
    requests: Family<Service, Counter>,
    rows: Family<Service, Counter>,
    duration: Histograms<Service>,
    /// As plan, fetch, transform and answer end.
    burnt: [Histogram; 4],
    values: Family<Value, Counter>,
    refusals: Family<Reason, Counter>,
    cancelled: Counter,
    unlogged: Family<Reason, Counter>,
    fallbacks: Family<Service, Counter>,
    transforms: Family<Call, Counter>,
    reloads: Family<Outcome, Counter>,
    /// By the name of a feature service. Names come from catalogs, never from callers.
    services: ArcSwap<HashMap<String, Arc<OfService>>>,
    /// Of the stages plan, fetch and transform.
    answered_stages: [Histogram; 3],
}

/// What is counted for one feature service, resolved once.
#[derive(Debug)]
struct OfService {
    service: String,
    requests: Counter,
    rows: Counter,
    duration: Histogram,
    /// By provenance.
    values: [OnceLock<Counter>; 64],
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("weir");
        let requests = Family::default();
        registry.register("requests", "Answered requests by feature service", requests.clone());
        let rows = Family::default();
        registry.register("rows", "Rows in those answers", rows.clone());
        let duration = Histograms::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "request_duration_seconds",
            "From a request's arrival to its completed answer",
            duration.clone(),
        );
        let stages = Histograms::new_with_constructor(histogram as fn() -> Histogram);
        registry.register("stage_duration_seconds", "Time spent per stage of the pipeline", stages.clone());
        let burning = Family::<Stage, Histogram, _>::new_with_constructor(|| Histogram::new(SHARES));
        let burnt =
            ["plan", "fetch", "transform", "answer"].map(|stage| burning.get_or_create(&Stage { stage }).clone());
        let help = "Share of the granted time that was gone when a stage of the pipeline ended";
        registry.register("budget_spent_ratio", help, burning);
        let values = Family::default();
        registry.register("values", "Served values by where they came from", values.clone());
        let refusals = Family::default();
        registry.register("refusals", "Requests that got no answer, by reason", refusals.clone());
        let cancelled = Counter::default();
        registry.register("cancelled", "Requests whose callers left before the answer", cancelled.clone());
        let unlogged = Family::default();
        registry.register(
            "feast_unlogged",
            "Answers to Feast clients that are not in the journal, by reason",
            unlogged.clone(),
        );
        let fallbacks = Family::default();
        registry.register("fallbacks", "Answers that name the fallback model", fallbacks.clone());
        let transforms = Family::default();
        registry.register("transform_calls", "Calls of transforms by outcome", transforms.clone());
        let reloads = Family::default();
        registry.register("config_reloads", "Attempts to reload the configuration by outcome", reloads.clone());
        let answered_stages = ["plan", "fetch", "transform"].map(|stage| stages.get_or_create_owned(&Stage { stage }));
        let services = ArcSwap::default();
        Self {
            registry,
            door: Arc::default(),
            requests,
            rows,
            duration,
            burnt,
            values,
            refusals,
            cancelled,
            unlogged,
            fallbacks,
            transforms,
            reloads,
            services,
            answered_stages,
        }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, answer: &Answer, meta: &Meta) {
        let of = self.of_service(&answer.plan.service);
        of.requests.inc();
        of.rows.inc_by(answer.rows as u64);
        self.spent(&of, meta.budget, meta.spent);
        if answer.fallback_model.is_some() {
            self.fallbacks.get_or_create(&Service { service: answer.plan.service.to_string() }).inc();
        }
        let mut counts = [0u64; 64];
        for cell in &answer.cells {
            if let Some(provenance) = Provenance::common(&cell.provenance) {
                counts[provenance as usize & 63] += cell.provenance.len() as u64;
            } else {
                cell.provenance.iter().for_each(|provenance| counts[*provenance as usize & 63] += 1);
            }
        }
        for provenance in Provenance::ALL {
            let count = counts[provenance as usize & 63];
            if count > 0 {
                self.served(&of, provenance, count);
            }
        }
    }

    /// The ledger of one answer, whichever doors it leaves through.
    fn spent(&self, of: &OfService, budget: Budget, spent: Spent) {
        of.duration.observe(f64::from(spent.total_us) / 1e6);
        let [plan, fetch, transform] = &self.answered_stages;
        for (stage, us) in [(plan, spent.plan_us), (fetch, spent.fetch_us), (transform, spent.transform_us)] {
            stage.observe(f64::from(us) / 1e6);
        }
        let granted = budget.granted().as_secs_f64() * 1e6;
        let mut gone_us = 0;
        for (burnt, us) in self.burnt.iter().zip([spent.plan_us, spent.fetch_us, spent.transform_us, spent.answer_us]) {
            gone_us += us;
            burnt.observe(f64::from(gone_us) / granted);
        }
    }

    /// The counters of one service, found without making labels of them.
    fn of_service(&self, service: &str) -> Arc<OfService> {
        let known = self.services.load();
        if let Some(of) = known.get(service) {
            return Arc::clone(of);
        }
        let label = Service { service: service.to_owned() };
        let of = Arc::new(OfService {
            service: service.to_owned(),
            requests: self.requests.get_or_create_owned(&label),
            rows: self.rows.get_or_create_owned(&label),
            duration: self.duration.get_or_create_owned(&label),
            values: [const { OnceLock::new() }; 64],
        });
        // Should two do this at the same time, both have the same counters.
        self.services.rcu(|services| {
            let mut services = HashMap::clone(services);
            services.insert(service.to_owned(), Arc::clone(&of));
            services
        });
        of
    }

    fn served(&self, of: &OfService, provenance: Provenance, count: u64) {
        let label = || Value { service: of.service.clone(), provenance: provenance.name() };
        of.values[provenance as usize & 63].get_or_init(|| self.values.get_or_create_owned(&label())).inc_by(count);
    }

    /// An answer through one of Feast's doors.
    pub(crate) fn answered_feast(&self, service: Option<&str>, rows: usize, budget: Budget, spent: Spent, real: &Real) {
        // Lists of features have no name, and no label is made of them.
        let of = self.of_service(service.unwrap_or("features"));
        of.requests.inc();
        of.rows.inc_by(rows as u64);
        self.spent(&of, budget, spent);
        for (provenance, count) in real.counts() {
            self.served(&of, provenance, count.into());
        }
    }

    pub(crate) fn unlogged(&self, reason: &'static str) {
        self.unlogged.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&Reason { reason: refusal.reason() }).inc();
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.inc();
    }

    pub(crate) fn transformed(&self, transform: &str, version: u32, outcome: &'static str) {
        self.transforms.get_or_create(&Call { transform: transform.to_owned(), version, outcome }).inc();
    }

    pub(crate) fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&Outcome { outcome }).inc();
    }
}

/// Everything there is to know right now, as OpenMetrics text.
pub(crate) fn scrape(gateway: &Gateway) -> String {
    let mut facts = Registry::with_prefix("weir");
    facts.register_collector(Box::new(Facts(facts_of(gateway))));
    facts.register_collector(Box::new(Refused::of(gateway)));
    let mut text = String::new();
    let written = encode_registry(&mut text, &gateway.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &facts))
        .and_then(|()| encode_eof(&mut text));
    // Writing into a String does not fail; half a page would be worse than none.
    if written.is_ok() { text } else { String::new() }
}

/// Requests that were not admitted, read at the moment of the scrape.
#[derive(Debug)]
struct Refused(Vec<([(&'static str, &'static str); 2], u64)>);

impl Refused {
    const FACT: Fact = Fact {
        name: "admission_refused",
        help: "Requests that were not admitted, by priority and reason",
        kind: Kind::Counter,
        points: Vec::new(),
    };

    fn of(gateway: &Gateway) -> Self {
        let all = Priority::ALL.into_iter().flat_map(|priority| Crowded::ALL.map(|why| (priority, why)));
        let point = |(priority, why): (Priority, Crowded)| {
            let labels = [("priority", priority.name()), ("reason", why.name())];
            (labels, gateway.admission.refused(priority, why))
        };
        Self(all.map(point).collect())
    }
}

impl prometheus_client::collector::Collector for Refused {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut metric = encoder.encode_descriptor(Self::FACT.name, Self::FACT.help, None, kind)?;
        self.0
            .iter()
            .try_for_each(|(labels, n)| ConstCounter::new(*n).encode(metric.encode_family(&labels.as_slice())?))
    }
}
