//! The answer: defaults, rows, what was delivered and when to fall back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use std::sync::Arc;

use common::{catalog, edited, files, plan};
use weir_domain::experiment::{Assigned, Assignment, Reason};
use weir_domain::plan::{OutputSource, Plan, compile};
use weir_domain::{Answer, Cell, Column, Gathered, Provenance, Value, answer};

use Provenance::*;

/// A cell of floats with these provenances.
fn floats(values: &[f64], provenance: &[Provenance]) -> Cell {
    Cell { column: Column::F64(values.to_vec()), provenance: provenance.to_vec() }
}

/// What the stages gathered for the service `ranking`, by the name of the output.
fn gathered(plan: &Plan, cells: &[(&str, Cell)]) -> Gathered {
    let mut all = vec![None; plan.slots];
    for (name, cell) in cells {
        all[output(plan, name)] = Some(cell.clone());
    }
    Gathered { cells: all, times: Vec::new() }
}

fn output(plan: &Plan, name: &str) -> usize {
    plan.outputs.iter().find(|o| &*o.name == name).unwrap().slot
}

fn cell<'a>(answer: &'a Answer, name: &str) -> &'a Cell {
    &answer.cells[answer.plan.outputs.iter().position(|o| &*o.name == name).unwrap()]
}

fn answered(plan: &Arc<Plan>, rows: usize, cells: &[(&str, Cell)]) -> Answer {
    answer(Arc::clone(plan), rows, Assignment::default(), gathered(plan, cells))
}

#[test]
fn a_default_stands_in_for_each_hole_and_says_what_was_wrong() {
    let plan = plan("ranking");
    for (why, defaulted) in [
        (Missing, DefaultMissing),
        (Late, DefaultLate),
        (Invalid, DefaultInvalid),
        (TransformError, DefaultTransform),
        (Expired, DefaultExpired),
        (Unavailable, DefaultUnavailable),
    ] {
        let answer = answered(&plan, 3, &[("affinity:score", floats(&[0.9, 0.0, 0.8], &[Store, why, Stale]))]);
        let score = cell(&answer, "affinity:score");
        assert_eq!(*score, floats(&[0.9, 0.5, 0.8], &[Store, defaulted, Stale]));
    }
}

#[test]
fn a_hole_without_a_default_stays_one() {
    let plan = plan("ranking");
    let note = Cell::absent(plan.outputs[3].of, 2, Unavailable);
    let answer = answered(&plan, 2, &[("affinity:note", note.clone())]);
    assert_eq!(*cell(&answer, "affinity:note"), note);
}

#[test]
fn what_is_real_passes_untouched() {
    let plan = plan("ranking");
    let real = floats(&[0.1, 0.2, 0.3, 0.4], &[Store, Cache, Stale, Store]);
    let answer = answered(&plan, 4, &[("affinity:score", real.clone())]);
    assert_eq!(*cell(&answer, "affinity:score"), real);
}

#[test]
fn context_values_stand_on_every_row() {
    let plan = plan("ranking");
    let mut vector = Column::with_capacity(plan.outputs[1].of, 1);
    vector.push(&Value::List(weir_domain::Kind::F32, vec![Value::F32(3.0)])).unwrap();
    let cells = [
        ("profile:age", Cell { column: Column::I64(vec![41]), provenance: vec![Cache] }),
        ("profile:vector", Cell { column: vector, provenance: vec![Store] }),
        ("request:hour", Cell { column: Column::I64(vec![0]), provenance: vec![Missing] }),
    ];
    for rows in [0, 1, 3] {
        let answer = answered(&plan, rows, &cells);
        assert_eq!(
            *cell(&answer, "profile:age"),
            Cell { column: Column::I64(vec![41; rows]), provenance: vec![Cache; rows] }
        );
        let hour = Cell { column: Column::I64(vec![12; rows]), provenance: vec![DefaultMissing; rows] };
        assert_eq!(*cell(&answer, "request:hour"), hour);
        assert!(answer.cells.iter().all(|c| c.column.len() == rows && c.provenance.len() == rows));
    }
}

#[test]
fn a_stage_that_never_ran_is_late() {
    let plan = plan("ranking");
    let answer = answered(&plan, 2, &[]);
    assert_eq!(*cell(&answer, "boost:boosted"), floats(&[0.0, 0.0], &[DefaultLate, DefaultLate]));
    assert_eq!(cell(&answer, "affinity:note").provenance, [Late, Late]);
}

#[test]
fn two_outputs_may_share_a_slot_and_both_are_whole() {
    let mut shared = Arc::into_inner(plan("ranking")).unwrap();
    let slot = shared.outputs[2].slot;
    let twin = weir_domain::plan::Output {
        name: "again:score".into(),
        of: shared.outputs[2].of,
        slot,
        source: OutputSource::Read(1),
        default: None,
    };
    shared.outputs.push(twin);
    let plan = Arc::new(shared);
    let answer = answered(&plan, 2, &[("affinity:score", floats(&[0.9, 0.0], &[Store, Missing]))]);
    assert_eq!(*cell(&answer, "affinity:score"), floats(&[0.9, 0.5], &[Store, DefaultMissing]));
    assert_eq!(*cell(&answer, "again:score"), floats(&[0.9, 0.0], &[Store, Missing]), "each has a default of its own");
}

/// The answer of `ranking` under the arm `late`, which pins the view `affinity`.
fn delivered(files: &[(String, String)], cells: &[(&str, Cell)]) -> bool {
    let catalog = catalog(files);
    let experiment = Arc::clone(&catalog.experiments.layers[0].experiments[0]);
    let arms = vec![Assigned { experiment, layer: 0, arm: 1, bucket: 0, reason: Reason::Split }];
    let mut assignment = Assignment { arms, ..Assignment::default() };
    let plan = compile(&catalog).unwrap().service("ranking").unwrap().choose(&mut assignment);
    let mut all = vec![None; plan.slots];
    for (name, cell) in cells {
        let (source, feature) = name.split_once(':').unwrap();
        let read = plan.reads.iter().find(|r| &*r.alias == source);
        let slot = read.map(|r| r.features.iter().find(|f| &*r.view.features[f.index].name == feature).unwrap().slot);
        all[slot.unwrap_or_else(|| output(&plan, name))] = Some(cell.clone());
    }
    let answer = answer(plan, 1, assignment, Gathered { cells: all, times: Vec::new() });
    assert_eq!(answer.delivered.len(), 1);
    answer.delivered[0]
}

#[test]
fn an_arm_is_delivered_when_something_it_pins_came_out_real() {
    let real = || floats(&[0.9], &[Cache]);
    let hole = || floats(&[0.0], &[Unavailable]);
    assert!(delivered(&files(), &[("affinity:score", real())]));
    assert!(!delivered(&files(), &[("affinity:score", hole())]));
    assert!(!delivered(&files(), &[]));
    // A transform computes something from a hole too, but the arm had no part in it.
    assert!(!delivered(&files(), &[("affinity:score", hole()), ("boost:boosted", floats(&[1.0], &[Computed]))]));
}

#[test]
fn an_arm_is_delivered_through_a_transform_that_reads_what_it_pins() {
    // The pinned view is not shown: it is only there for the transform.
    let hidden = edited(&[
        ("  \"affinity:score\",\n", ""),
        ("  \"affinity:note\",\n", ""),
        ("defaults = { \"affinity:score\" = 1 }\n", ""),
    ]);
    let score = |p| ("affinity:score", floats(&[0.9], &[p]));
    let boosted = |p| ("boost:boosted", floats(&[1.0], &[p]));
    assert!(delivered(&hidden, &[score(Store), boosted(Computed)]));
    assert!(!delivered(&hidden, &[score(Unavailable), boosted(Computed)]));
    assert!(!delivered(&hidden, &[score(Store), boosted(TransformError)]));
    assert!(!delivered(&hidden, &[]));
}

#[test]
fn an_arm_that_pins_nothing_is_always_delivered() {
    assert!(delivered(&edited(&[("pin = { affinity = 2 }", "")]), &[]));
}

#[test]
fn the_fallback_is_named_above_its_share_of_unreal_values_and_not_at_it() {
    let plan = plan("ranking");
    // Two rows of six outputs are twelve values; more than 40 % unreal are five.
    let two = |column: Column, unreal: usize| {
        let provenance = (0..2).map(|i| if i < unreal { Late } else { Store }).collect();
        Cell { column, provenance }
    };
    let named = |unreal: [usize; 6]| {
        let columns = plan.outputs.iter().map(|o| {
            let mut column = Column::with_capacity(o.of, 2);
            (0..2).for_each(|_| column.push_placeholder());
            column
        });
        let cells: Vec<_> =
            plan.outputs.iter().zip(columns).zip(unreal).map(|((o, c), u)| (&*o.name, two(c, u))).collect();
        answered(&plan, 2, &cells).fallback_model
    };
    assert_eq!(named([0; 6]), None);
    assert_eq!(named([2, 2, 0, 0, 0, 0]), None, "4 of 12 are a third");
    assert_eq!(named([2, 2, 1, 0, 0, 0]).as_deref(), Some("popular"), "5 of 12, defaults among them");
    assert_eq!(named([2; 6]).as_deref(), Some("popular"));
    assert_eq!(answered(&plan, 0, &[]).fallback_model, None, "no rows are not degraded");
}

#[test]
fn the_share_of_the_fallback_is_exact() {
    for (pct, expected) in [(0, false), (49, true), (50, false), (100, false)] {
        let files = edited(&[
            ("fallback_above_pct = 40", &format!("fallback_above_pct = {pct}")),
            (
                "  \"profile:vector\",\n  \"affinity:score\",\n  \"affinity:note\",\n  \"boost:boosted\",\n  \"request:hour\",\n",
                "",
            ),
            ("defaults = { \"affinity:score\" = 1 }\n", ""),
            ("status = \"running\"\ncoverage", "status = \"stopped\"\ncoverage"),
        ]);
        let plan = Arc::clone(compile(&catalog(&files)).unwrap().service("ranking").unwrap().base());
        let half = pct >= 49;
        let provenance = if half { vec![Store, Missing] } else { vec![Store, Store] };
        let age = Cell { column: Column::I64(vec![1, 2]), provenance };
        let answer = answered(&plan, 2, &[("profile:age", age)]);
        assert_eq!(answer.fallback_model.is_some(), expected, "{pct}");
    }
}
