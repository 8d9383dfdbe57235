//! What guests compute and how their columns find their way.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use weir_domain::{Cell, Column, FeatureType, Kind, Provenance, Value};
use weir_transform::{Failure, Runner};

fn near(got: Option<f64>, want: f64) -> bool {
    got.is_some_and(|got| (got - want).abs() < 1e-9)
}

#[tokio::test]
async fn crosswind_computes_through_the_host_whatever_the_order_of_the_catalog() {
    let runner = runner(&crosswind());
    let (heading, from) = (f64s(&[Some(40.0); 3]), f64s(&[Some(40.0), Some(130.0), Some(220.0)]));
    let speed = f64s(&[Some(20.0); 3]);
    let out = runner.call(&[&heading, &from, &speed], 3, AMPLE).await.unwrap();
    let (along, across) = (options(&out[0]), options(&out[1]));
    assert!(near(along[0], 20.0) && near(along[1], 0.0) && near(along[2], -20.0), "{along:?}");
    assert!(near(across[0], 0.0) && near(across[1], 20.0) && near(across[2], 0.0), "{across:?}");
    assert_eq!(out[0].provenance, [Provenance::Computed; 3]);
}

#[tokio::test]
async fn both_versions_of_the_delay_risk_compute_side_by_side() {
    let v1_inputs = ["crosswind_mph", "carrier_delay_min", "route_delay_min", "plane_delay_min", "sched_hour"];
    let v2_inputs = [&v1_inputs[..], &["wind_gust_mph", "route_delay_std_min"]].concat();
    let score = [("score", "f64")];
    let v1 = runner(&transform("delay_risk_v1", &v1_inputs, &score));
    let v2 = runner(&transform("delay_risk_v2", &v2_inputs, &score));
    let wind = f64s(&[Some(30.0), Some(0.0)]);
    let delay = f64s(&[Some(20.0), Some(0.0)]);
    let (plane, hour) = (f64s(&[None, Some(0.0)]), i64s(&[Some(18), Some(5)]));
    let inputs = [&wind, &delay, &delay, &plane, &hour, &wind, &delay];
    for (runner, count) in [(v1, 5), (v2, 7)] {
        let scores = options(&runner.call(&inputs[..count], 2, AMPLE).await.unwrap()[0]);
        let (risky, safe) = (scores[0].unwrap(), scores[1].unwrap());
        assert!(0.0 < safe && safe < 0.2 && 0.4 < risky && risky < 1.0, "{scores:?}");
    }
}

#[tokio::test]
async fn a_single_value_is_repeated_on_every_row() {
    let runner = runner(&crosswind());
    let speed = f64s(&[Some(10.0), Some(20.0), None]);
    let (heading, from) = (f64s(&[Some(0.0)]), f64s(&[Some(0.0)]));
    let out = runner.call(&[&heading, &from, &speed], 3, AMPLE).await.unwrap();
    assert_eq!(options(&out[0]), [Some(10.0), Some(20.0), None]);
    let nowhere = f64s(&[None]);
    let out = runner.call(&[&nowhere, &from, &speed], 3, AMPLE).await.unwrap();
    assert_eq!(options(&out[0]), [None; 3]);
}

#[tokio::test]
async fn a_hole_in_is_a_hole_out_and_keeps_nothing_of_what_stood_there() {
    let runner = runner(&crosswind());
    let rows = 19;
    let speeds: Vec<_> = (0..rows).map(|row| (row % 3 != 0).then_some(f64::from(row))).collect();
    let zero = f64s(&[Some(0.0)]);
    let out = runner.call(&[&zero, &zero, &f64s(&speeds)], rows as usize, AMPLE).await.unwrap();
    assert_eq!(options(&out[0]), speeds);
    assert_eq!(out[0].provenance[0], Provenance::Missing);
    assert_eq!(out[0].column.value(0), Value::F64(0.0));
}

#[tokio::test]
async fn every_output_type_is_read_back() {
    let out = runner(&hostile()).call(&[&i64s(&[Some(0)])], 9, AMPLE).await.unwrap();
    assert_eq!(out[0].column, Column::F64(vec![1.0; 9]));
    assert_eq!(out[1].column.value(8), Value::String("ok".into()));
    assert_eq!(out[2].column, Column::Bool(vec![true; 9]));
    assert_eq!(out[3].column.value(8), Value::List(Kind::F32, vec![Value::F32(0.5)]));
    assert!(out.iter().all(|cell| cell.provenance == [Provenance::Computed; 9]));
}

#[tokio::test]
async fn no_rows_are_an_answer_without_rows() {
    let none = Cell::absent(F64, 0, Provenance::Missing);
    let out = runner(&crosswind()).call(&[&none, &none, &none], 0, AMPLE).await.unwrap();
    assert_eq!(out.iter().map(|cell| cell.column.len()).collect::<Vec<_>>(), [0, 0]);
}

#[tokio::test]
async fn the_same_input_gives_the_same_bytes_on_every_instance_and_engine() {
    let bits = async |runner: &Runner, mode| {
        let out = runner.call(&[&i64s(&[Some(mode)])], 3, AMPLE).await.unwrap();
        let Column::F64(values) = &out[0].column else { unreachable!() };
        values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let (one, other) = (runner(&hostile()), runner(&hostile()));
    // 19: NaN.
    for mode in [0, 19] {
        let first = bits(&one, mode).await;
        assert_eq!(bits(&one, mode).await, first);
        assert_eq!(bits(&other, mode).await, first);
    }
}

#[tokio::test]
async fn inputs_that_are_not_what_was_bound_are_refused_before_the_guest_sees_them() {
    let runner = runner(&crosswind());
    let (good, short, other) = (f64s(&[Some(1.0); 3]), f64s(&[Some(1.0); 2]), i64s(&[Some(1); 3]));
    for bad in [vec![&good, &good, &short], vec![&good, &good, &other], vec![&good, &good]] {
        assert_eq!(runner.call(&bad, 3, AMPLE).await.unwrap_err(), Failure::Input);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_call_one_transform_at_once_and_each_gets_its_own_answer() {
    let runner = Arc::new(runner(&crosswind()));
    let calls = (0..200).map(|i| {
        let runner = Arc::clone(&runner);
        tokio::spawn(async move {
            let (zero, speed) = (f64s(&[Some(0.0)]), f64s(&[Some(f64::from(i))]));
            options(&runner.call(&[&zero, &zero, &speed], 5, AMPLE).await.unwrap()[0])
        })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), [Some(i as f64); 5]);
    }
}

#[test]
fn the_catalog_is_checked_against_the_component_name_by_name_and_type_by_type() {
    let plugin = load("crosswind");
    assert_eq!(plugin.check(&crosswind(), &[F64; 3]), Vec::<String>::new());

    let mut wrong = transform(
        "crosswind",
        &["wind_speed_mph", "wind_dir_deg", "gusts"],
        &[("crosswind_mph", "f32"), ("tailwind_mph", "f64")],
    );
    wrong.digest = Some("sha256:00".into());
    wrong.memory_limit_mib = 4096;
    let sentences = plugin.check(&wrong, &[F64, FeatureType::List(Kind::String), F64]).join("\n");
    for part in [
        "the catalog pins sha256:00",
        "the memory limit is 4096 MiB, this gateway gives a transform 64 MiB at most",
        "the component takes `runway_heading_deg` (f64), which the catalog does not give it",
        "the catalog gives `gusts`, which the component does not take",
        "the component computes `headwind_mph` (f64), which the catalog does not list",
        "output `crosswind_mph` is f32 in the catalog and f64 in the component",
        "the catalog lists output `tailwind_mph`, which the component does not compute",
        "input `wind_dir_deg` is list<string> in the catalog, a type that no transform can have",
    ] {
        assert!(sentences.contains(part), "{part}\nnot in\n{sentences}");
    }
    assert!(Runner::new(plugin, &wrong).is_err());
}
