//! A service may keep a sample of its units: what is left out is counted, what is kept says for how many it stands.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use common::{expose, open, parquet, plan, read, record};
use weir_domain::catalog::Sample;
use weir_domain::plan::Plan;
use weir_domain::{FeatureType, Kind, RequestId};
use weir_journal::{Counted, Recorded};

fn sampled(service: &str, share: f64) -> Arc<Plan> {
    let plan = plan(service, "v1", &[("x", FeatureType::One(Kind::F64))]);
    let mut plan = Arc::into_inner(plan).unwrap();
    plan.sample = Sample::of(share).unwrap();
    Arc::new(plan)
}

fn weights(folder: &std::path::Path, dataset: &str) -> Vec<f64> {
    let batches = parquet(folder, dataset).into_iter().flat_map(|path| read(&path));
    let of = |batch: arrow_array::RecordBatch| {
        batch.column_by_name("weight").unwrap().as_primitive::<Float64Type>().values().to_vec()
    };
    batches.flat_map(of).collect()
}

#[test]
fn units_are_kept_whole_or_not_at_all_and_every_row_is_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, plan) = (open(dir.path()), sampled("home", 0.25));
    let (mut kept, mut out) = (BTreeSet::new(), BTreeSet::new());
    let (mut rows, mut requests) = (0, 0);
    for id in 0..400u128 {
        let unit = format!("u{}", id % 80);
        let mut record = record(&plan, id, 3);
        record.answer.assignment.unit = Some(unit.as_str().into());
        (rows, requests) = (rows + 3, requests + 1);
        match journal.record(record) {
            Recorded::Kept => kept.insert(unit),
            Recorded::SampledOut => out.insert(unit),
            dropped @ Recorded::Dropped(_) => panic!("{dropped:?}"),
        };
    }
    journal.seal().unwrap();
    assert!(kept.is_disjoint(&out) && kept.len() + out.len() == 80 && kept.len() > 5, "{} kept", kept.len());
    let counts = journal.counts();
    let all = Counted {
        requests: counts.kept.requests + counts.sampled_out.requests,
        rows: counts.kept.rows + counts.sampled_out.rows,
    };
    assert_eq!((all, counts.dropped_total()), (Counted { requests, rows }, Counted::default()));
    assert_eq!((counts.sealed, counts.kept.requests), (counts.kept, 5 * kept.len() as u64));
    let written = weights(dir.path(), "served");
    assert!(written.len() as u64 == counts.kept.rows && written.iter().all(|w| *w == 4.0));
}

#[test]
fn requests_that_name_no_unit_are_sampled_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, plan) = (open(dir.path()), sampled("home", 0.5));
    for id in 0..200 {
        let want = if Sample::of(0.5).unwrap().has(&RequestId(id).to_string()) {
            Recorded::Kept
        } else {
            Recorded::SampledOut
        };
        assert_eq!(journal.record(record(&plan, id, 1)), want);
    }
    assert!(journal.counts().kept.requests > 50 && journal.counts().sampled_out.requests > 50);
}

#[test]
fn an_exposure_weighs_what_the_largest_sample_it_was_seen_in_says() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let unit = (0..).map(|n| format!("u{n}")).find(|u| Sample::of(0.1).unwrap().has(u)).unwrap();
    for (id, share) in [0.1, 0.5, 0.2].into_iter().enumerate() {
        let mut record = record(&sampled(&format!("s{id}"), share), id as u128, 1);
        expose(&mut record, &unit, "ranking", "a", true);
        assert_eq!(journal.record(record), Recorded::Kept);
    }
    journal.close().unwrap();
    assert_eq!(weights(dir.path(), "exposures"), [2.0]);
    assert_eq!(weights(dir.path(), "served").len(), 3);
}
