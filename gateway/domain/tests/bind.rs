//! Binding: a request either fits its plan or is refused with every field that does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use common::{column, edited, named, plan, plans, request, texts, with};
use proptest::prelude::*;
use weir_domain::plan::{Bound, Plan};
use weir_domain::{
    Column, FeatureType, ITEMS_MAX, KEY_BYTES_MAX, Kind, Lists, Named, Provenance, Refusal, Request, Value,
};

/// Every violation, one a line.
fn violations(plan: &Plan, request: Request) -> String {
    let refusal = plan.bind(request).unwrap_err();
    refusal.violations().iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("\n")
}

/// A service of request features alone: `n` once, `x` and `xs` per item, none with a default.
fn echo() -> std::sync::Arc<Plan> {
    let files = with(
        r#"
[[service]]
name = "echo"
owner = "o"
description = "d"
budget_ms = 5
features = ["request:n", "request:x", "request:xs"]
request = [
  { name = "n", type = "timestamp", scope = "context", description = "d" },
  { name = "x", type = "f32", scope = "item", description = "d" },
  { name = "xs", type = "list<f64>", scope = "item", description = "d" },
]
"#,
    );
    plans(&files).service("echo").unwrap().base().clone()
}

fn list(rows: &[&[i64]]) -> Column {
    let items = rows.iter().flat_map(|r| r.iter().copied()).collect();
    let ends = rows
        .iter()
        .scan(0, |end, r| {
            *end += r.len() as u32;
            Some(*end)
        })
        .collect();
    Column::List(Box::new(Lists { ends, items: Column::I64(items) }))
}

fn features(features: Vec<Named>) -> Request {
    Request { features, ..Request::default() }
}

#[test]
fn a_request_that_fits_is_bound_in_the_order_of_the_plan() {
    let plan = plan("ranking");
    let bound = plan.bind(request()).unwrap();
    assert_eq!(bound.rows, 3);
    assert_eq!(bound.keys, [texts(&["u1"]), Column::I64(vec![1, 2, 3])]);
    let hour = bound.cells[plan.request[0].slot].as_ref().unwrap();
    assert_eq!(hour.provenance, [Provenance::Missing], "the default is the answer's to fill in");
    assert_eq!(bound.cells.iter().filter(|c| c.is_none()).count(), plan.slots - 1);
}

#[test]
fn what_the_caller_sends_is_said_to_be_the_callers() {
    let plan = plan("ranking");
    let sent = Request { features: vec![named("hour", Column::I64(vec![7]))], ..request() };
    let hour = plan.bind(sent).unwrap().cells[plan.request[0].slot].clone().unwrap();
    assert_eq!((hour.column, hour.provenance), (Column::I64(vec![7]), vec![Provenance::Caller]));
}

#[test]
fn every_field_that_does_not_fit_is_named_at_once() {
    let plan = plan("ranking");
    let wrong = Request {
        context: vec![named("item_id", Column::I64(vec![1]))],
        items: vec![named("item_id", texts(&["a", "b"])), named("colour", texts(&["red"]))],
        features: vec![named("hour", texts(&["noon"])), named("weather", texts(&["fine"]))],
        ..Request::default()
    };
    assert_eq!(
        violations(&plan, wrong),
        "items.colour: ragged: 1 values, but \"item_id\" has 2\n\
         context.user_id: missing: the service \"ranking\" needs this join key\n\
         items.item_id: is string, but the join key is i64\n\
         features.hour: is string, but the feature is i64\n\
         context.item_id: unknown: the service \"ranking\" takes user_id\n\
         items.colour: unknown: the service \"ranking\" takes item_id\n\
         features.weather: unknown: the service \"ranking\" takes hour"
    );
}

#[test]
fn each_violation_says_what_is_wrong() {
    let plan = plan("ranking");
    let context = |column| Request { context: vec![named("user_id", column)], ..request() };
    let items = |column| Request { items: vec![named("item_id", column)], ..request() };
    let hour = |column| Request { features: vec![named("hour", column)], ..request() };
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    for (request, expected) in [
        (context(texts(&["a", "b"])), "context.user_id: 2 values where one is expected"),
        (context(texts(&[])), "context.user_id: 0 values where one is expected"),
        (context(texts(&[""])), "context.user_id[0]: empty join key"),
        (context(texts(&[&long])), "context.user_id[0]: 1025 bytes, more than the 1024 of a join key"),
        (context(Column::F64(vec![1.0])), "context.user_id: is f64, but the join key is string"),
        (items(Column::F64(vec![1.0])), "items.item_id: is f64, but the join key is i64"),
        (
            Request { items: Vec::new(), ..request() },
            "items.item_id: missing: the service \"ranking\" needs this join key",
        ),
        (hour(Column::I64(vec![1, 2])), "features.hour: 2 values where 1 are expected"),
        (hour(list(&[&[1]])), "features.hour: is list<i64>, but the feature is i64"),
        (
            Request { context: vec![named("user_id", texts(&["a"])), named("user_id", texts(&["b"]))], ..request() },
            "context.user_id: is there twice",
        ),
    ] {
        assert_eq!(violations(&plan, request), expected);
    }
    let friends = common::plan("friends");
    let sides = |left: &[&str], right: &[&str]| Request {
        items: vec![named("right", texts(right)), named("left", texts(left))],
        ..Request::default()
    };
    assert_eq!(violations(&friends, sides(&["a"], &["b", "c"])), "items.left: ragged: 1 values, but \"right\" has 2");
    assert_eq!(violations(&friends, sides(&["a", ""], &["b", "c"])), "items.left[1]: empty join key");
    let sent = Request { features: vec![named("x", texts(&["y"]))], ..sides(&["a"], &["b"]) };
    assert_eq!(violations(&friends, sent), "features.x: unknown: the service \"friends\" takes no features");
}

#[test]
fn no_more_violations_are_listed_than_anybody_reads() {
    let many = (0..100).map(|i| named(&format!("f{i}"), texts(&["x"]))).collect();
    let refusal = plan("ranking").bind(Request { features: many, ..request() }).unwrap_err();
    assert_eq!(refusal.violations().len(), 16);
    assert_eq!(refusal.reason(), "INVALID_REQUEST");
}

#[test]
fn no_items_are_no_rows_whatever_type_an_empty_list_came_with() {
    let bound = plan("ranking").bind(Request { items: vec![named("item_id", texts(&[]))], ..request() }).unwrap();
    assert_eq!((bound.rows, bound.keys[1].clone()), (0, Column::I64(Vec::new())));
}

#[test]
fn a_service_without_items_has_one_row() {
    let files = edited(&[("items = [\"left\", \"right\"]", "context = [\"left\", \"right\"]")]);
    let plan = plans(&files).service("friends").unwrap().base().clone();
    let context = vec![named("left", texts(&["a"])), named("right", texts(&["b"]))];
    assert_eq!(plan.bind(Request { context, ..Request::default() }).unwrap().rows, 1);
}

#[test]
fn numbers_are_taken_where_nothing_that_matters_is_lost() {
    let plan = echo();
    let sent = |n, x, xs| features(vec![named("n", n), named("x", x), named("xs", xs)]);
    let bound = plan.bind(sent(Column::I64(vec![5]), Column::I64(vec![1, 2]), list(&[&[1, 2], &[]]))).unwrap();
    let cell = |i: usize| bound.cells[plan.request[i].slot].clone().unwrap().column;
    assert_eq!(cell(0), Column::Timestamp(vec![5]));
    assert_eq!(cell(1), Column::F32(vec![1.0, 2.0]));
    assert_eq!(cell(2).value(0), Value::List(Kind::F64, vec![Value::F64(1.0), Value::F64(2.0)]));
    assert_eq!(cell(2).value(1), Value::List(Kind::F64, Vec::new()));
    let texts = Column::List(Box::new(Lists { ends: vec![1], items: texts(&["a"]) }));
    let refused = violations(&plan, sent(Column::F64(vec![5.0]), Column::F64(vec![0.5]), texts));
    assert_eq!(
        refused,
        "features.n: is f64, but the feature is timestamp\nfeatures.xs: is list<string>, but the feature is list<f64>"
    );
    let empty = Column::List(Box::new(Lists { ends: vec![0, 0], items: Column::Bool(Vec::new()) }));
    assert!(plan.bind(sent(Column::I64(vec![5]), Column::F64(vec![1.0]), empty)).is_ok(), "empty lists have no kind");
}

#[test]
fn one_value_of_an_item_feature_stands_for_every_item_whichever_comes_first() {
    let plan = echo();
    let one = || named("x", Column::F32(vec![0.5]));
    let many = || named("xs", list(&[&[1], &[2], &[3]]));
    let n = || named("n", Column::Timestamp(vec![1]));
    for sent in [vec![n(), one(), many()], vec![many(), one(), n()]] {
        let bound = plan.bind(features(sent)).unwrap();
        assert_eq!(bound.rows, 3);
        let x = bound.cells[plan.request[1].slot].clone().unwrap();
        assert_eq!((x.column, x.provenance), (Column::F32(vec![0.5; 3]), vec![Provenance::Caller; 3]));
    }
    let ragged = violations(&plan, features(vec![n(), named("x", Column::F32(vec![0.5; 2])), many()]));
    assert_eq!(ragged, "features.xs: 3 values where 2 are expected");
    let missing = violations(&plan, features(vec![one(), many()]));
    assert_eq!(missing, "features.n: missing: the feature has no default");
}

#[test]
fn more_items_than_one_request_may_have_are_too_large() {
    let items = |n: usize| Request { items: vec![named("item_id", Column::I64(vec![7; n]))], ..request() };
    assert_eq!(plan("ranking").bind(items(ITEMS_MAX)).unwrap().rows, ITEMS_MAX);
    let refusal = plan("ranking").bind(items(ITEMS_MAX + 1)).unwrap_err();
    assert_eq!(refusal.reason(), "TOO_LARGE");
    assert_eq!(refusal.to_string(), "items.item_id: 10001 items, more than the 10000 of one request");
    let second = vec![named("left", texts(&["a"])), named("right", texts(&vec!["b"; ITEMS_MAX + 1]))];
    let refusal = plan("friends").bind(Request { items: second, ..Request::default() }).unwrap_err();
    assert_eq!(refusal.violations()[0].field, "items.right");
    let n = named("n", Column::Timestamp(vec![1]));
    let many = named("x", Column::F32(vec![0.0; ITEMS_MAX + 1]));
    let refusal = echo().bind(features(vec![named("xs", list(&[&[1]])), n, many])).unwrap_err();
    assert_eq!(refusal.violations()[0].field, "features.x");
}

#[test]
fn one_long_value_may_not_be_spread_over_many_items_without_end() {
    let plan = echo();
    let long: Vec<i64> = vec![1; 100_000];
    let sent = |rows: usize| {
        features(vec![
            named("n", Column::Timestamp(vec![1])),
            named("x", Column::F32(vec![0.0; rows])),
            named("xs", list(&[&long])),
        ])
    };
    assert!(plan.bind(sent(10)).is_ok());
    let Err(Refusal::TooLarge(violation)) = plan.bind(sent(10_000)) else { panic!("bound") };
    assert_eq!(violation.field, "features.xs");
    assert_eq!(violation.description, "800004 bytes on each of 10000 rows, more than 33554432 in all");
}

fn any_column() -> impl Strategy<Value = Column> {
    let len = 0usize..5;
    let blobs = |as_text: bool| {
        prop::collection::vec("[a-zü]{0,4}", 0usize..5).prop_map(move |v| {
            let v =
                v.iter().map(|s| if as_text { Value::String(s.clone()) } else { Value::Bytes(s.clone().into_bytes()) });
            let kind = if as_text { Kind::String } else { Kind::Bytes };
            let mut column = Column::with_capacity(FeatureType::One(kind), 0);
            v.for_each(|v| column.push(&v).unwrap());
            column
        })
    };
    prop_oneof![
        prop::collection::vec(any::<bool>(), len.clone()).prop_map(Column::Bool),
        prop::collection::vec(any::<i64>(), len.clone()).prop_map(Column::I64),
        prop::collection::vec(any::<f64>(), len.clone()).prop_map(Column::F64),
        prop::collection::vec(any::<f32>(), len.clone()).prop_map(Column::F32),
        prop::collection::vec(any::<i64>(), len).prop_map(Column::Timestamp),
        blobs(true),
        blobs(false),
        prop::collection::vec(prop::collection::vec(any::<i64>(), 0..3), 0..5)
            .prop_map(|rows| list(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())),
    ]
}

fn any_columns(names: &'static [&'static str]) -> impl Strategy<Value = Vec<Named>> {
    let one = (prop::sample::select(names), any_column()).prop_map(|(name, column)| named(name, column));
    prop::collection::vec(one, 0..4)
}

/// Every key and cell has one value, or one per row, of the type the plan says.
fn fits(plan: &Plan, bound: &Bound) -> bool {
    let rows = |scope| if scope == weir_domain::catalog::Scope::Context { 1 } else { bound.rows };
    let keys = plan.keys.iter().zip(&bound.keys).all(|(key, column)| {
        column.len() == rows(key.scope) && column.feature_type() == FeatureType::One(key.key.kind)
    });
    let cells = plan.request.iter().all(|r| {
        bound.cells[r.slot].as_ref().is_some_and(|cell| {
            cell.column.len() == rows(r.scope)
                && cell.provenance.len() == cell.column.len()
                && cell.column.feature_type() == r.feature.of
        })
    });
    keys && cells && plan.keys.len() == bound.keys.len() && bound.cells.len() == plan.slots
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn binding_never_panics_and_never_accepts_what_does_not_fit(
        context in any_columns(&["user_id", "left"]),
        items in any_columns(&["item_id", "left", "right"]),
        sent in any_columns(&["hour", "n", "x", "xs"]),
    ) {
        thread_local!(static PLANS: [std::sync::Arc<Plan>; 3] = [plan("ranking"), plan("friends"), echo()]);
        PLANS.with(|plans| {
            for plan in plans {
                let request = Request { context: context.clone(), items: items.clone(), features: sent.clone(), ..Request::default() };
                match plan.bind(request) {
                    Ok(bound) => prop_assert!(fits(plan, &bound), "{bound:?}"),
                    Err(refusal) => prop_assert!(!refusal.violations().is_empty() && refusal.violations().len() <= 16),
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_is_bound_fits_when_the_names_are_right(
        user in any_column(), items in any_column(), hour in any_column(), x in any_column(), xs in any_column(),
    ) {
        thread_local!(static PLANS: [std::sync::Arc<Plan>; 2] = [plan("ranking"), echo()]);
        PLANS.with(|[ranking, echo]| {
            let request = Request {
                context: vec![named("user_id", user)],
                items: vec![named("item_id", items)],
                features: vec![named("hour", hour)],
                ..Request::default()
            };
            if let Ok(bound) = ranking.bind(request) {
                prop_assert!(fits(ranking, &bound), "{bound:?}");
            }
            let n = named("n", column(&[Value::I64(1)]));
            if let Ok(bound) = echo.bind(features(vec![n, named("x", x), named("xs", xs)])) {
                prop_assert!(fits(echo, &bound), "{bound:?}");
            }
            Ok(())
        })?;
    }
}
