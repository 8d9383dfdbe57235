//! The life of a request: one line a stage. Decoding before it and encoding after it depend on the door the
//! request came through; everything between is the same for all.
//!
//! Up to and including `plan` a request may be refused. After that nothing refuses: stages degrade, and every
//! value says what it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{Instrument, debug_span};
use uuid::Uuid;
use weir_domain::experiment::{Assignment, assign};
use weir_domain::plan::{Bound, Plan};
use weir_domain::{Answer, Budget, Gathered, Record, Refusal, Request, RequestId, Spent, answer};
use weir_store::Limits;

use crate::admission::{Mode, degrade};
use crate::gateway::Gateway;
use crate::snapshot::Snapshot;
use crate::transform;

/// When a request arrived and how long its caller waits.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When its headers were seen.
    pub at: Instant,
    /// The caller's own deadline, if it gave one.
    pub timeout: Option<Duration>,
    /// How much is done for it.
    pub mode: Mode,
}

impl Arrival {
    /// When the store has to have answered, given what it may take. A degraded request has no time for it at all.
    pub(crate) fn store_until(&self, within: Duration) -> Instant {
        match self.mode {
            Mode::Full => self.at + within,
            Mode::Degraded => self.at,
        }
    }
}

/// What every encoding says besides the answer itself.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Identifies the answer everywhere.
    pub request_id: RequestId,
    /// The time granted.
    pub budget: Budget,
    /// The time spent, up to encoding.
    pub spent: Spent,
}

/// Answers one request. `encode` turns the answer into the door's bytes; the same answer is then recorded. Dropped,
/// because the caller has left, it stops where it is: nothing goes on but a read that was sent, which fills the cache.
pub async fn run(
    gateway: &Gateway,
    request: Request,
    arrival: Arrival,
    encode: impl FnOnce(&Answer, &Meta) -> Bytes,
) -> Result<Bytes, Refusal> {
    let caller = Caller::of(gateway);
    let answered = stages(gateway, request, arrival, encode).await;
    caller.answered();
    answered
}

async fn stages(
    gateway: &Gateway,
    request: Request,
    arrival: Arrival,
    encode: impl FnOnce(&Answer, &Meta) -> Bytes,
) -> Result<Bytes, Refusal> {
    let snapshot = gateway.snapshot();
    let mut watch = Watch::since(arrival.at);

    let (budget, assignment, plan) = plan(&snapshot, &request, arrival)?;
    let mut bound = plan.bind(request)?;
    watch.lap(|s| &mut s.plan_us);
    if watch.elapsed() >= budget.granted() {
        return Err(Refusal::DeadlineExceeded);
    }

    // From here on every caller gets an answer.
    let mut gathered = Gathered { cells: std::mem::take(&mut bound.cells), times: Vec::new() };
    let due = arrival.store_until(budget.store_until(watch.elapsed(), plan.needs.after_waiting()));
    let was_cut = fetch(gateway, &snapshot, &plan, &bound, due, &mut gathered).await;
    watch.lap(|s| &mut s.fetch_us);
    match arrival.mode {
        Mode::Full => {
            if was_cut {
                plan.needs.after_store.took(watch.last - due);
            }
            let until = arrival.at + budget.transforms_until(plan.needs.finish.get());
            transform::run(gateway, &snapshot, &plan, bound.rows, until, &mut gathered).await;
        }
        Mode::Degraded => degrade::shed(&plan, bound.rows, &mut gathered),
    }
    watch.lap(|s| &mut s.transform_us);
    let (plan, computed_at) = (&plan, watch.last);
    let answer = answer(Arc::clone(plan), bound.rows, assignment, gathered);
    watch.lap(|s| &mut s.answer_us);

    let meta = Meta { request_id: RequestId(Uuid::now_v7().as_u128()), budget, spent: watch.total() };
    let bytes = encode(&answer, &meta);
    record(gateway, arrival.mode, meta, bound.keys, answer);
    plan.needs.finish.took(computed_at.elapsed());
    Ok(bytes)
}

/// Stages 1 to 3: budget, arms, plan. All of it is pure.
fn plan(snapshot: &Snapshot, request: &Request, arrival: Arrival) -> Result<(Budget, Assignment, Arc<Plan>), Refusal> {
    let service = snapshot.plans.service(&request.service);
    let service = service.ok_or_else(|| Refusal::UnknownService { service: shortened(&request.service) })?;
    let budget = Budget::grant(arrival.timeout, service.base().budget)?;
    let mut assignment = assign(&snapshot.catalog.experiments, request.unit.as_deref(), &request.attributes);
    let plan = service.choose(&mut assignment);
    Ok((budget, assignment, plan))
}

async fn fetch(
    gateway: &Gateway,
    snapshot: &Snapshot,
    plan: &Plan,
    bound: &Bound,
    deadline: Instant,
    into: &mut Gathered,
) -> bool {
    let max_stale = match (bound.max_stale, plan.max_stale) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let limits = Limits { deadline, now_us: gateway.clock.now_us(), max_stale };
    snapshot.store.fetch(plan, bound, limits, into).instrument(debug_span!("fetch", reads = plan.reads.len())).await
}

fn record(gateway: &Gateway, mode: Mode, meta: Meta, keys: Vec<weir_domain::Column>, answer: Answer) {
    if mode == Mode::Full {
        gateway.admission.answered(meta.budget.granted(), Duration::from_micros(meta.spent.total_us.into()));
    }
    gateway.metrics.answered(&answer, &meta);
    if let Some(journal) = &gateway.journal {
        // What it does not keep, it counts.
        let _ = journal.record(Record {
            request_id: meta.request_id,
            served_at_us: gateway.clock.wall_us(),
            as_of_us: gateway.clock.now_us(),
            keys,
            spent_us: meta.spent.total_us,
            granted_us: meta.budget.granted().as_micros() as u32,
            answer,
        });
    }
}

/// A name that nobody can use to fill the log.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Whoever waits for the answer; counted if he leaves before it.
pub(crate) struct Caller<'a> {
    gateway: &'a Gateway,
    is_answered: bool,
}

impl<'a> Caller<'a> {
    pub(crate) fn of(gateway: &'a Gateway) -> Self {
        Self { gateway, is_answered: false }
    }

    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.gateway.metrics.cancelled();
        }
    }
}

/// Laps of one request.
pub(crate) struct Watch {
    start: Instant,
    pub(crate) last: Instant,
    spent: Spent,
}

impl Watch {
    pub(crate) fn since(start: Instant) -> Self {
        Self { start, last: start, spent: Spent::default() }
    }

    pub(crate) fn lap(&mut self, stage: impl FnOnce(&mut Spent) -> &mut u32) {
        let now = Instant::now();
        *stage(&mut self.spent) = (now - self.last).as_micros() as u32;
        self.last = now;
    }

    /// Up to the last lap.
    pub(crate) fn elapsed(&self) -> Duration {
        self.last - self.start
    }

    pub(crate) fn total(mut self) -> Spent {
        self.spent.total_us = self.elapsed().as_micros() as u32;
        self.spent
    }
}
