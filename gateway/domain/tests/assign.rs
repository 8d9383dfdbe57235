//! Assignment: which arm a unit is in. Expected buckets were computed apart from this code, by Python's hashlib.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use std::collections::HashMap;

use common::{catalog, edited, files, with};
use proptest::prelude::*;
use weir_domain::Value;
use weir_domain::experiment::{Assignment, Attributes, Condition, Experiments, Op, Range, Reason, assign, bucket};

const UNITS: usize = 100_000;

fn german() -> Attributes {
    Attributes(vec![("country".to_owned(), Value::String("DE".to_owned()))])
}

fn arm_in(assignment: &Assignment, experiment: &str) -> Option<String> {
    let assigned = assignment.arms.iter().find(|a| *a.experiment.doc.name == *experiment)?;
    Some(assigned.arm().name.to_string())
}

/// The experiments of the good catalog with some text replaced.
fn experiments(edits: &[(&str, &str)]) -> Experiments {
    catalog(&edited(edits)).experiments
}

/// A share of the units is what was asked for, within five standard deviations.
#[track_caller]
fn about(count: usize, of: usize, share: f64) {
    let (expected, n) = (share * of as f64, of as f64);
    let bound = 5.0 * (n * share * (1.0 - share)).sqrt();
    assert!((count as f64 - expected).abs() <= bound, "{count} of {of}, not {expected} ± {bound}");
}

#[test]
fn buckets_are_those_of_every_other_implementation() {
    for (salt, unit, expected) in [
        ("layer-scores", "u1", 8821),
        ("late-scores", "u1", 6979),
        ("s", "", 2007),
        ("", "x", 926),
        ("a-b", "c", 1133),
        ("a", "b-c", 1133),
        ("salt", "Zürich", 907),
        ("salt", "Zu\u{308}rich", 110),
        ("Größe", "東京", 6373),
        ("s", "🦀", 8783),
        ("s", "\0", 7577),
        ("exp", "12345678901234567890", 5315),
        ("exp", " 7 ", 9376),
        ("late-scores", &"x".repeat(1000), 8362),
    ] {
        assert_eq!(bucket(salt, unit), expected, "{salt} {unit}");
    }
}

#[test]
fn units_are_where_an_independent_computation_puts_them() {
    let experiments = experiments(&[]);
    for (unit, holdout, scores, model) in [
        ("user-0", false, Some("control"), "small"),
        ("user-2", false, Some("late"), "small"),
        ("user-3", false, None, "small"),
        ("user-6", false, Some("late"), "big"),
        ("user-42", false, None, "big"),
        ("user-47", true, None, "small"),
        ("user-108", false, Some("late"), "small"),
    ] {
        let assignment = assign(&experiments, Some(unit), &german());
        assert_eq!(!assignment.holdouts.is_empty(), holdout, "{unit}");
        assert_eq!(arm_in(&assignment, "late_scores").as_deref(), scores, "{unit}");
        assert_eq!(arm_in(&assignment, "big_model").as_deref(), Some(model), "{unit}");
        assert_eq!(assignment.unit.as_deref(), Some(unit));
    }
}

#[test]
fn without_a_unit_nobody_is_assigned() {
    for unit in [None, Some("")] {
        let assignment = assign(&experiments(&[]), unit, &german());
        assert!(assignment.unit.is_none() && assignment.arms.is_empty() && assignment.holdouts.is_empty());
    }
}

#[test]
fn drafts_and_stopped_experiments_assign_nobody() {
    for status in ["draft", "stopped"] {
        let to = format!("status = \"{status}\"\ncoverage");
        let experiments = experiments(&[("status = \"running\"\ncoverage", &to)]);
        for unit in ["user-0", "user-2", "tester"] {
            assert_eq!(arm_in(&assign(&experiments, Some(unit), &german()), "late_scores"), None);
        }
    }
}

#[test]
fn a_forced_unit_is_in_its_arm_whatever_slot_targeting_and_coverage_say() {
    let experiments = experiments(&[("coverage = 10000", "coverage = 0"), ("tester = \"late\"", "user-3 = \"late\"")]);
    let assignment = assign(&experiments, Some("user-3"), &Attributes::default());
    let assigned = &assignment.arms[0];
    assert_eq!((assigned.arm, assigned.reason, assigned.reason.name()), (1, Reason::Forced, "FORCED"));
    assert_eq!(assigned.bucket, bucket("late-scores", "user-3"));
    assert_eq!(arm_in(&assign(&experiments, Some("user-0"), &german()), "late_scores"), None);
}

#[test]
fn a_holdout_keeps_out_even_the_forced_and_exactly_its_buckets() {
    let experiments = experiments(&[("tester = \"late\"", "user-47 = \"late\"")]);
    let held = assign(&experiments, Some("user-47"), &german());
    assert_eq!(held.holdouts.iter().map(|h| &**h).collect::<Vec<_>>(), ["untouched"]);
    assert_eq!(arm_in(&held, "late_scores"), None);
    assert_eq!(arm_in(&held, "big_model").as_deref(), Some("small"), "the holdout names the other layer only");
    for i in 0..5_000 {
        let unit = format!("user-{i}");
        let assignment = assign(&experiments, Some(&unit), &german());
        assert_eq!(!assignment.holdouts.is_empty(), bucket("holdout", &unit) < 100);
    }
}

#[test]
fn a_holdout_that_names_no_layer_covers_them_all() {
    let experiments = experiments(&[("layers = [\"scores\"]", "")]);
    assert!(assign(&experiments, Some("user-47"), &german()).arms.is_empty());
}

#[test]
fn a_unit_is_in_at_most_one_experiment_of_a_layer_and_slots_nobody_owns_are_free() {
    let second = r#"
[[experiment]]
name = "second"
owner = "o"
description = "d"
layer = "scores"
salt = "second"
slots = [5000, 9000]
status = "running"
forced = { user-0 = "a" }
arm = [{ name = "a", weight = 5000 }, { name = "b", weight = 5000 }]
"#;
    let experiments = catalog(&with(second)).experiments;
    let mut counts = HashMap::<String, usize>::new();
    for i in 0..20_000 {
        let unit = format!("user-{i}");
        let assignment = assign(&experiments, Some(&unit), &german());
        let of_layer: Vec<_> = assignment.arms.iter().filter(|a| a.layer == 0).collect();
        assert!(of_layer.len() <= 1);
        let name = of_layer.first().map_or("none".to_owned(), |a| a.experiment.doc.name.to_string());
        *counts.entry(name).or_default() += 1;
    }
    about(counts["late_scores"], 20_000, 0.5 * 0.99);
    about(counts["second"], 20_000, 0.4 * 0.99);
    let forced = assign(&experiments, Some("user-0"), &german());
    assert_eq!(arm_in(&forced, "second").as_deref(), Some("a"), "forced out of the slot that another experiment owns");
    assert_eq!(arm_in(&forced, "late_scores"), None);
}

#[test]
fn a_ramp_only_adds_units_and_never_moves_one_between_arms() {
    let mut before = vec![None; 10_000];
    for coverage in [0, 1, 3, 500, 3_333, 5_000, 9_999, 10_000] {
        let experiments = experiments(&[("coverage = 10000", &format!("coverage = {coverage}"))]);
        for (i, old) in before.iter_mut().enumerate() {
            let new = arm_in(&assign(&experiments, Some(&format!("user-{i}")), &german()), "late_scores");
            assert!(old.is_none() || *old == new, "user-{i} went from {old:?} to {new:?} at {coverage}");
            *old = new;
        }
        let share = f64::from(coverage) / 10_000.0 * 0.5 * 0.99;
        about(before.iter().flatten().count(), before.len(), share);
    }
}

proptest! {
    #[test]
    fn arms_never_overlap_and_grow_with_coverage(
        cuts in prop::collection::vec(0u32..=10_000, 1..6), low in 0u32..=10_000, high in 0u32..=10_000,
    ) {
        let mut cuts = cuts;
        cuts.extend([0, 10_000]);
        cuts.sort_unstable();
        let base = catalog(&files()).experiments.layers[0].experiments[0].clone();
        let at = |coverage: u32| {
            let mut experiment = (*base).clone();
            experiment.coverage = coverage;
            experiment.arms = cuts.windows(2).map(|w| weir_domain::experiment::Arm { weight: w[1] - w[0], ..base.arms[0].clone() }).collect();
            experiment
        };
        let (low, high) = (at(low.min(high)), at(low.max(high)));
        let ranges: Vec<Range> = (0..high.arms.len()).map(|i| high.range(i)).collect();
        for (i, range) in ranges.iter().enumerate() {
            let smaller = low.range(i);
            prop_assert!(smaller.start == range.start && smaller.end <= range.end && range.end <= 10_000);
            prop_assert!(i == 0 || ranges[i - 1].end <= range.start);
        }
        let full = at(10_000);
        let covered: u32 = (0..full.arms.len()).map(|i| full.range(i).end - full.range(i).start).sum();
        prop_assert_eq!(covered, 10_000);
    }
}

#[test]
fn shares_are_those_of_weights_and_coverage_and_slot_and_arm_are_independent() {
    let experiments = experiments(&[
        ("coverage = 10000", "coverage = 8000"),
        ("slots = [0, 5000]", "slots = [0, 10000]"),
        ("layers = [\"scores\"]", "layers = [\"models\"]"),
    ]);
    let (mut control, mut late, mut big, mut held) = (0, 0, 0, 0);
    // Rows: tenths of the layer's slots; columns: control, late, not covered.
    let mut table = [[0f64; 3]; 10];
    for i in 0..UNITS {
        let unit = format!("{i}");
        let assignment = assign(&experiments, Some(&unit), &german());
        let column = match arm_in(&assignment, "late_scores").as_deref() {
            Some("control") => 0,
            Some(_) => 1,
            None => 2,
        };
        table[bucket("layer-scores", &unit) as usize / 1000][column] += 1.0;
        control += usize::from(column == 0);
        late += usize::from(column == 1);
        held += usize::from(!assignment.holdouts.is_empty());
        big += usize::from(arm_in(&assignment, "big_model").as_deref() == Some("big"));
    }
    about(control, UNITS, 0.4);
    about(late, UNITS, 0.4);
    about(held, UNITS, 0.01);
    about(big, UNITS, 0.1 * 0.99);
    let total = UNITS as f64;
    let sums: Vec<f64> = (0..3).map(|c| table.iter().map(|row| row[c]).sum()).collect();
    let chi_square: f64 = table
        .iter()
        .flat_map(|row| {
            let of_row: f64 = row.iter().sum();
            row.iter().zip(&sums).map(move |(seen, of_column)| {
                let expected = of_row * of_column / total;
                (seen - expected).powi(2) / expected
            })
        })
        .sum();
    // 18 degrees of freedom: more than 42.31 happens once in a thousand.
    assert!(chi_square < 42.31, "{chi_square}");
}

fn holds(op: Op, values: &[Value], attribute: Option<Value>) -> bool {
    let attributes = Attributes(attribute.map(|v| ("a".to_owned(), v)).into_iter().collect());
    Condition { attribute: "a".to_owned(), op, values: values.to_vec() }.holds(&attributes)
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[test]
fn numbers_compare_as_numbers_whatever_their_kind() {
    for (a, b) in [(Value::I64(2), Value::F64(2.0)), (Value::F64(2.0), Value::I64(2)), (Value::I64(2), Value::I64(2))] {
        assert!(holds(Op::Eq, std::slice::from_ref(&b), Some(a.clone())));
        assert!(holds(Op::Le, std::slice::from_ref(&b), Some(a.clone())));
        assert!(!holds(Op::Lt, std::slice::from_ref(&b), Some(a.clone())));
        assert!(!holds(Op::Ne, &[b], Some(a)));
    }
    assert!(holds(Op::Gt, &[Value::F64(1.5)], Some(Value::I64(2))));
    assert!(holds(Op::Ge, &[Value::I64(-3)], Some(Value::F64(-2.5))));
    assert!(holds(Op::In, &[Value::I64(1), Value::F64(2.0)], Some(Value::I64(2))));
}

#[test]
fn texts_compare_as_texts_by_byte() {
    assert!(holds(Op::Lt, &[text("b")], Some(text("a"))));
    assert!(holds(Op::Lt, &[text("a")], Some(text("Z"))), "capitals come first");
    assert!(holds(Op::StartsWith, &[text("Zü")], Some(text("Zürich"))));
    assert!(holds(Op::EndsWith, &[text("京")], Some(text("東京"))));
    assert!(holds(Op::StartsWith, &[text("")], Some(text(""))));
    assert!(!holds(Op::Eq, &[text("DE")], Some(text("de"))));
}

#[test]
fn values_of_different_kinds_are_never_equal_and_never_ordered() {
    let kinds = [Value::I64(1), text("1"), Value::Bool(true)];
    for (i, a) in kinds.iter().enumerate() {
        for (_, b) in kinds.iter().enumerate().filter(|(j, _)| *j != i) {
            for op in [Op::Eq, Op::In, Op::Lt, Op::Le, Op::Gt, Op::Ge, Op::StartsWith, Op::EndsWith] {
                assert!(!holds(op, std::slice::from_ref(b), Some(a.clone())), "{a:?} {op:?} {b:?}");
            }
            assert!(holds(Op::Ne, std::slice::from_ref(b), Some(a.clone())));
            assert!(holds(Op::NotIn, std::slice::from_ref(b), Some(a.clone())));
        }
    }
    let nan = Value::F64(f64::NAN);
    assert!(!holds(Op::Eq, std::slice::from_ref(&nan), Some(nan.clone())));
    assert!(!holds(Op::Le, &[nan], Some(Value::I64(1))));
}

#[test]
fn a_missing_attribute_fulfils_only_what_denies() {
    for (_, op) in Op::ALL {
        let expected = matches!(op, Op::Ne | Op::NotIn | Op::NotExists);
        assert_eq!(holds(op, &[text("x")], None), expected, "{op:?}");
    }
    assert!(holds(Op::Exists, &[], Some(Value::Bool(false))));
    assert!(!holds(Op::NotExists, &[], Some(Value::Bool(false))));
}

#[test]
fn every_condition_must_hold_and_the_last_of_an_attribute_given_twice_counts() {
    let age = "[[experiment.where]]\nattribute = \"age\"\nop = \"ge\"\nvalue = 18\n\n[[experiment.where]]\nattribute = \"country\"";
    let experiments = experiments(&[("[[experiment.where]]\nattribute = \"country\"", age)]);
    let arm = |attributes: &[(&str, Value)]| {
        let attributes = Attributes(attributes.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect());
        arm_in(&assign(&experiments, Some("user-0"), &attributes), "late_scores")
    };
    assert!(arm(&[("age", Value::F64(18.0)), ("country", text("AT"))]).is_some());
    assert!(arm(&[("age", Value::I64(17)), ("country", text("AT"))]).is_none());
    assert!(arm(&[("country", text("AT"))]).is_none());
    assert!(arm(&[("age", Value::I64(17)), ("country", text("AT")), ("age", Value::I64(30))]).is_some());
}
