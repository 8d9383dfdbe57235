//! What is known without asking the store.

use tokio::time::Instant;
use weir_domain::plan::Plan;
use weir_domain::{Gathered, Provenance};

use super::{Ask, Limits, Shared};
use crate::cache::{Look, millis};
use crate::decode::{self, Found, Line};
use crate::row::Row;
use crate::wanted::Wanted;

impl Shared {
    /// Fills the slots and times if all that is wanted is in the cache and fresh: nothing is waited for.
    pub(super) fn fill_at_hand(&self, plan: &Plan, wanted: &Wanted, limits: Limits, into: &mut Gathered) -> bool {
        let Some(mut at_hand) = self.cache.at_hand(limits.max_stale, Instant::now()) else { return false };
        let brought = at_hand.bring(wanted);
        let mut uncopied = Vec::new();
        let mut lines = Vec::with_capacity(wanted.len() + 1);
        for entity in 0..wanted.len() {
            // Those of the cache itself come when nothing is added to them any more.
            lines.push(at_hand.find(wanted, entity, &brought).unwrap_or_else(|| Line::hole(Provenance::Late)));
            if lines[entity].provenance == Provenance::Late {
                let Some(entry) = at_hand.ask(wanted, entity) else { return false };
                uncopied.push((entity, entry));
            }
        }
        for (entity, entry) in &uncopied {
            let Some(line) = at_hand.line_of(wanted, *entity, entry) else { return false };
            lines[*entity] = line;
        }
        let negatives = lines.iter().filter(|line| line.row.is_empty()).count();
        self.counters.cache_hits.add(lines.len() - negatives);
        self.counters.cache_negatives.add(negatives);
        if wanted.has_nobody {
            lines.push(Line::hole(Provenance::Missing));
        }
        decode::fill(plan, wanted, &lines, limits.now_us, into);
        for (entity, entry) in &uncopied {
            at_hand.copy(wanted, *entity, entry);
        }
        true
    }

    /// Asks the cache for everything that is wanted: what is found, what the store is to be asked for, and what it is to
    /// be asked for in the background.
    pub(super) fn look(&self, wanted: &Wanted, limits: Limits, now: Instant) -> (Vec<Found>, Vec<Ask>, Vec<Ask>) {
        let mut found = Vec::with_capacity(wanted.len());
        let (mut asks, mut aging) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut negatives = 0;
        let mut copies = self.copies(wanted, limits, now).into_iter();
        for entity in 0..wanted.len() {
            if let Some(copy) = copies.next().flatten() {
                negatives += usize::from(matches!(copy, Found::Hole(_)));
                found.push(copy);
                continue;
            }
            found.push(match self.cache.look(wanted.key(entity), wanted.shape(entity), limits.max_stale, now) {
                Look::Fresh(row, age) => Found::Row { row, provenance: Provenance::Cache, age_ms: millis(age) },
                Look::Negative => {
                    negatives += 1;
                    Found::Hole(Provenance::Missing)
                }
                Look::Aging(row, entry) => {
                    let age_ms = millis(now.saturating_duration_since(entry.read_at()));
                    aging.push(Ask { entity, old: Some(Box::new((row.clone(), entry))) });
                    Found::Row { row, provenance: Provenance::Stale, age_ms }
                }
                Look::Old(row, entry) => {
                    asks.push(Ask { entity, old: Some(Box::new((row, entry))) });
                    Found::Hole(Provenance::Late)
                }
                Look::Nothing => {
                    asks.push(Ask { entity, old: None });
                    Found::Hole(Provenance::Late)
                }
            });
        }
        self.counters.cache_hits.add(wanted.len() - asks.len() - aging.len() - negatives);
        self.counters.cache_stale.add(aging.len());
        self.counters.cache_negatives.add(negatives);
        self.counters.cache_misses.add(asks.len());
        (found, asks, aging)
    }

    /// Of everything that is wanted, what copies say that are at hand. Nothing at all if there is no room for copies.
    fn copies(&self, wanted: &Wanted, limits: Limits, now: Instant) -> Vec<Option<Found>> {
        let Some(at_hand) = self.cache.at_hand(limits.max_stale, now) else { return vec![] };
        let brought = at_hand.bring(wanted);
        let copy = |entity| {
            let Line { row, provenance, event_time_us, age_ms, .. } = at_hand.find(wanted, entity, &brought)?;
            Some(match brought.bytes.slice_ref(row) {
                row if row.is_empty() => Found::Hole(provenance),
                row => Found::Row { row: Row::unchecked(row, event_time_us), provenance, age_ms },
            })
        };
        (0..wanted.len()).map(copy).collect()
    }
}
