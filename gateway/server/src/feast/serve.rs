//! A request for online features through Feast's doors: the same stages as in `pipeline.rs`, over rows of Feast's own
//! hashes whose values are handed on as they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{Instrument, debug_span};
use uuid::Uuid;
use weir_domain::feast::HashRow;
use weir_domain::{Budget, Provenance, Refusal, RequestId};
use weir_feast::{Answer, Column, ComputedColumn, Found, HashNames, Lookup, Raised, Rows, Semantics, ViewRead};
use weir_proto::feast::types::Value;
use weir_store::{HashAsk, HashFound, Hashes, Limits};

use super::record::record;
use super::{Feast, vectors};
use crate::admission::{Mode, degrade};
use crate::gateway::Gateway;
use crate::pipeline::{Arrival, Caller, Meta, Watch};
use crate::snapshot::Snapshot;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// What Feast would have raised.
    Raised(Raised),
    /// What only we refuse: too much load, too little time.
    Refused(Refusal),
}

impl From<Raised> for Unanswered {
    fn from(raised: Raised) -> Self {
        Self::Raised(raised)
    }
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What is asked for, with its columns typed.
pub(crate) struct Ask<'a> {
    pub(crate) features: &'a [&'a str],
    pub(crate) service: Option<&'a str>,
    pub(crate) full_names: bool,
    pub(crate) with_versions: bool,
    /// How many columns were sent, and rows in the longest of them.
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Everything that an answer was written from.
pub(crate) struct Served<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) lookup: &'a Lookup,
    pub(crate) rows: &'a Rows,
    pub(crate) hashes: &'a Hashes,
    pub(crate) computed: Option<&'a weir_domain::Answer>,
    pub(crate) semantics: Semantics,
    pub(crate) now_us: i64,
}

/// How much of an answer is what the store holds now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Real {
    counts: [u32; 64],
}

impl Real {
    /// `CACHE=3,STALE=2` for whatever was not read from the store for this answer; empty when everything was.
    pub(crate) fn exceptions(&self) -> String {
        let counted = |p: &Provenance| self.counts[*p as usize & 63];
        let unusual = |p: &Provenance| !matches!(p, Provenance::Store | Provenance::Missing) && counted(p) > 0;
        let told = Provenance::ALL.into_iter().filter(unusual).map(|p| format!("{}={}", p.name(), counted(&p)));
        told.collect::<Vec<_>>().join(",")
    }

    fn of(hashes: &Hashes, lookup: &Lookup) -> Self {
        let mut real = Self { counts: [0; 64] };
        for (read, rows) in lookup.reads.iter().zip(&hashes.rows) {
            for &entity in rows {
                let provenance = match hashes.found[entity as usize] {
                    HashFound::Row { provenance, .. } | HashFound::Hole(provenance) => provenance,
                };
                real.counts[provenance as usize & 63] += read.features.len() as u32;
            }
        }
        real
    }

    fn add<'p>(&mut self, provenance: impl Iterator<Item = &'p Provenance>) {
        provenance.for_each(|p| self.counts[*p as usize & 63] += 1);
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (Provenance, u32)> {
        let counts = self.counts;
        Provenance::ALL.into_iter().map(move |p| (p, counts[p as usize & 63])).filter(|(_, count)| *count > 0)
    }
}

/// Answers one request. `columns` gives the entities' values, each of the type that the lookup has for its name.
pub(crate) async fn online<'c>(
    gateway: &Gateway,
    feast: &Feast,
    arrival: Arrival,
    ask: &Ask<'_>,
    columns: impl FnOnce(&Lookup) -> Result<Vec<(&'c str, Vec<Value>)>, Raised>,
    encode: fn(&Answer<'_>) -> Vec<u8>,
) -> Result<(Bytes, Real), Unanswered> {
    let caller = Caller::of(gateway);
    let answered = stages(gateway, feast, arrival, ask, columns, encode).await;
    caller.answered();
    answered
}

async fn stages<'c>(
    gateway: &Gateway,
    feast: &Feast,
    arrival: Arrival,
    ask: &Ask<'_>,
    columns: impl FnOnce(&Lookup) -> Result<Vec<(&'c str, Vec<Value>)>, Raised>,
    encode: fn(&Answer<'_>) -> Vec<u8>,
) -> Result<(Bytes, Real), Unanswered> {
    let mut watch = Watch::since(arrival.at);
    let current = feast.current();
    let lookup = current.lookup(ask.features, ask.service, ask.full_names)?;
    lookup.check_size(ask.rows, ask.columns)?;
    let columns = columns(&lookup)?;
    lookup.check_keys(&columns)?;
    let mut rows = lookup.bind(columns, &current.naming)?;
    let snapshot = gateway.snapshot();
    let computation = lookup.computation(&snapshot.catalog, feast.config.budget)?;
    let mut bound = computation.as_ref().map(|computation| computation.bind(&rows)).transpose()?;
    let budget = Budget::grant(arrival.timeout, feast.config.budget)?;
    let needs = &lookup.needs;
    watch.lap(|s| &mut s.plan_us);
    let after_waiting = needs.after_waiting() + computation.as_ref().map_or(Duration::ZERO, |c| c.need());
    let deadline = arrival.store_until(budget.store_until(watch.elapsed(), after_waiting));
    let limits = Limits { deadline, now_us: gateway.clock.now_us(), max_stale: None };

    let asks = asks(&lookup, &mut rows);
    let fetch = snapshot.store.fetch_hashes(&asks, limits).instrument(debug_span!("fetch", reads = asks.len()));
    let (mut hashes, gathered) = match (&computation, &mut bound) {
        (Some(computation), Some(bound)) => {
            let (hashes, (gathered, was_cut)) = tokio::join!(fetch, computation.fetch(&snapshot, bound, limits));
            (Hashes { was_cut: hashes.was_cut || was_cut, ..hashes }, Some((computation, gathered)))
        }
        _ => (fetch.await, None),
    };
    watch.lap(|s| &mut s.fetch_us);
    match arrival.mode {
        Mode::Full if hashes.was_cut => needs.after_store.took(watch.last - deadline),
        Mode::Full => {}
        Mode::Degraded => degrade::shed_hashes(&mut hashes),
    }
    let computed = match gathered {
        Some((computation, gathered)) => {
            let until = arrival.at + budget.transforms_until(needs.finish.get());
            let answer = computation.run(gateway, &snapshot, rows.count, until, arrival.mode, gathered).await;
            watch.lap(|s| &mut s.transform_us);
            Some((computation.columns(&answer, feast.config.semantics), answer))
        }
        None => None,
    };
    let computed_at = watch.last;
    let (hashes, old) = match &lookup.vectors {
        Some(_) => vectors::taken_apart(&lookup, hashes, limits.now_us)?,
        None => (hashes, Vec::new()),
    };
    let columns = computed.as_ref().map_or(&[][..], |(columns, _)| columns);
    let read = Read { hashes: &hashes, old: &old, computed: columns };
    let bytes = answered(feast, ask, &lookup, &rows, &read, limits.now_us, encode)?;
    let mut real = Real::of(&hashes, &lookup);
    real.add(computed.iter().flat_map(|(_, answer)| &answer.cells).flat_map(|cell| &cell.provenance));
    watch.lap(|s| &mut s.answer_us);
    let spent = watch.total();
    if arrival.mode == Mode::Full {
        gateway.admission.answered(budget.granted(), Duration::from_micros(spent.total_us.into()));
    }
    gateway.metrics.answered_feast(lookup.service.as_deref(), rows.count, budget, spent, &real);
    if gateway.journal.is_some() {
        let computed = computed.as_ref().map(|(_, answer)| answer);
        let semantics = feast.config.semantics;
        let (lookup, rows, hashes, now_us) = (&*lookup, &rows, &hashes, limits.now_us);
        let served = Served { snapshot: &snapshot, lookup, rows, hashes, computed, semantics, now_us };
        record(gateway, &served, Meta { request_id: RequestId(Uuid::now_v7().as_u128()), budget, spent });
    }
    needs.finish.took(computed_at.elapsed());
    Ok((bytes, real))
}

/// The names of the hashes go to the store: nothing else wants them.
fn asks(lookup: &Lookup, rows: &mut Rows) -> Vec<HashAsk> {
    let names = std::mem::take(&mut rows.hashes);
    if let Some(vectors) = &lookup.vectors {
        let ask = |names: HashNames| HashAsk { read: Arc::clone(vectors), keys: names.bytes, ends: names.ends };
        return names.into_iter().map(ask).collect();
    }
    let names = names.into_iter().zip(&lookup.reads);
    let ask = |(names, read): (HashNames, &ViewRead)| {
        // What only on-demand views compute from, they read themselves.
        let is_asked = read.columns.iter().any(Option::is_some);
        let names = if is_asked { names } else { HashNames::default() };
        HashAsk { read: read.hash.clone(), keys: names.bytes, ends: names.ends }
    };
    names.map(ask).collect()
}

/// What was read and computed for one answer.
struct Read<'a> {
    hashes: &'a Hashes,
    /// By entity of the hashes, where they are from vectors: older than the view lets it be.
    old: &'a [bool],
    computed: &'a [ComputedColumn],
}

fn answered(
    feast: &Feast,
    ask: &Ask<'_>,
    lookup: &Lookup,
    rows: &Rows,
    read: &Read<'_>,
    now_us: i64,
    encode: fn(&Answer<'_>) -> Vec<u8>,
) -> Result<Bytes, Raised> {
    let Read { hashes, old, computed } = read;
    let mut found: Vec<Found<'_>> = hashes.found.iter().map(found).collect();
    for (found, _) in found.iter_mut().zip(*old).filter(|(_, is_old)| **is_old) {
        if let Found::Row(row) = *found {
            *found = Found::Old(row);
        }
    }
    let columns: Vec<Column<'_>> = hashes.rows.iter().map(|rows| Column { rows, found: &found }).collect();
    let answer = Answer {
        lookup,
        rows,
        columns: &columns,
        computed,
        // Vectors do not say of which versions they are.
        with_versions: ask.with_versions && lookup.vectors.is_none(),
        semantics: feast.config.semantics,
        now: now_us / 1_000_000,
    };
    answer.check()?;
    Ok(encode(&answer).into())
}

pub(super) fn found(found: &HashFound) -> Found<'_> {
    match found {
        HashFound::Row { row, .. } => HashRow::parse(row).map_or(Found::Unread, Found::Row),
        HashFound::Hole(Provenance::Missing) => Found::Missing,
        HashFound::Hole(_) => Found::Unread,
    }
}
