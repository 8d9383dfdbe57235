//! Transforms that misbehave, next to ones that do not, in one service: each costs its own values and nothing
//! else. A component that is not what the catalog says keeps the gateway from starting.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails panics, and says what it saw"
)]

mod harness;

use std::time::Duration;

use harness::{Running, Setup, column, eventually, flights};
use weir::app::StartError;
use weir_domain::Provenance;
use weir_domain::catalog::Mistake;
use weir_proto::v1;

use Provenance::{Computed, DefaultLate, DefaultTransform, Late, TransformError};

/// What the guest is told to do, as its source numbers it.
const BEHAVE: i64 = 0;
const SPIN: i64 = 1;
const HOARD: i64 = 2;
const TRAP: i64 = 3;
const RECURSE: i64 = 4;
const OVERSIZE: i64 = 5;
const MALFORM: i64 = 6;
const REFUSE: i64 = 14;
const DAWDLE: i64 = 22;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_guest_costs_its_own_values_and_nothing_else() {
    let gateway = with_hostile(Setup::demo(), 1_000).start().await;
    let cases = [
        (SPIN, "slice"),
        (HOARD, "memory"),
        (TRAP, "trap"),
        (RECURSE, "trap"),
        (OVERSIZE, "output"),
        (MALFORM, "output"),
        (REFUSE, "refused"),
    ];
    let healthy = ask(&gateway, BEHAVE).await;
    assert_eq!(hostile(&healthy), [Computed; 4]);
    for (mode, outcome) in cases {
        let (before, ok) = (calls(&gateway, outcome).await, calls(&gateway, "ok").await);
        let others = async {
            for _ in 0..20 {
                assert_unhurt(&ask(&gateway, BEHAVE).await, &healthy);
            }
        };
        let (reply, ()) = tokio::join!(ask(&gateway, mode), others);
        // A default where the catalog has one, a hole where it has none.
        assert_eq!(
            hostile(&reply),
            [DefaultTransform, DefaultTransform, TransformError, TransformError],
            "mode {mode}"
        );
        assert_unhurt(&reply, &healthy);
        assert_eq!(calls(&gateway, outcome).await, before + 1.0, "mode {mode} counts as {outcome}");
        assert_eq!(calls(&gateway, "ok").await, ok + 20.0);
        let budget = reply.budget.expect("a budget");
        assert!(budget.total_us < budget.granted_us, "mode {mode}: {budget:?}");
        assert_eq!(hostile(&ask(&gateway, BEHAVE).await), [Computed; 4], "after mode {mode}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_endless_loop_ends_with_the_budget_and_leaves_the_other_transforms_their_time() {
    let setup =
        with_hostile(Setup::demo(), 10_000).edit("catalog/services.toml", "budget_ms = 10000", "budget_ms = 400");
    let gateway = setup.start().await;
    let healthy = ask(&gateway, BEHAVE).await;
    let mut over_us = Vec::new();
    // One less than opens the breaker.
    for _ in 0..4 {
        let reply = ask(&gateway, SPIN).await;
        assert_eq!(hostile(&reply)[0], DefaultTransform);
        assert_unhurt(&reply, &healthy);
        let budget = reply.budget.expect("a budget");
        assert_eq!(budget.granted_us, 400_000);
        assert!(budget.transform_us > 50_000, "it did run: {budget:?}");
        over_us.push(i64::from(budget.total_us) - 400_000);
    }
    over_us.sort_unstable();
    println!("over budget: {over_us:?} µs");
    // A busy machine may hold up some, though not for long.
    assert!(over_us[0] <= 50_000 && over_us[3] <= 2_000_000, "{over_us:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_guest_that_keeps_failing_is_refused_at_once_until_it_recovers() {
    const SLICE: Duration = Duration::from_millis(200);
    let gateway = with_hostile(Setup::demo(), SLICE.as_millis() as u64).start().await;
    let healthy = ask(&gateway, BEHAVE).await;
    for _ in 0..5 {
        let reply = ask(&gateway, SPIN).await;
        assert!(u128::from(reply.budget.expect("a budget").transform_us) >= SLICE.as_micros());
    }
    assert_eq!(calls(&gateway, "slice").await, 5.0);
    // It may be probed in between, each time after twice the pause of before.
    eventually("it is left alone", async || {
        let before = calls(&gateway, "breaker_open").await;
        let reply = ask(&gateway, SPIN).await;
        assert_eq!(hostile(&reply)[0], DefaultTransform);
        assert_unhurt(&reply, &healthy);
        let refused = calls(&gateway, "breaker_open").await > before;
        let took = Duration::from_micros(reply.budget.expect("a budget").transform_us.into());
        assert!(refused || took >= SLICE, "{took:?}");
        refused
    })
    .await;
    eventually("it is given another chance", async || hostile(&ask(&gateway, BEHAVE).await) == [Computed; 4]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_transform_that_what_is_left_cannot_pay_for_is_not_started() {
    // Less than what the guest is then known to take, whatever the machine.
    const HURRY_MS: u64 = 5;
    let gateway = with_hostile(Setup::demo(), 10_000).start().await;
    let healthy = ask(&gateway, BEHAVE).await;
    let in_a_hurry = async || {
        let mut request = tonic::Request::new(question(DAWDLE));
        request.metadata_mut().insert("x-request-timeout-ms", HURRY_MS.into());
        // On a busy machine the time may be over before it begins.
        gateway.client.clone().get_features(request).await.ok().map(|reply| reply.into_inner())
    };
    let reply = in_a_hurry().await;
    assert!(reply.is_none_or(|r| hostile(&r)[0] != Computed), "it does take longer");
    for _ in 0..44 {
        let reply = ask(&gateway, DAWDLE).await;
        assert_eq!(hostile(&reply), [Computed; 4]);
    }
    let (started, forbidden) = (calls(&gateway, "slice").await, calls(&gateway, "no_time").await);
    eventually("it is not started", async || {
        in_a_hurry().await.is_some_and(|reply| {
            assert_eq!(hostile(&reply), [DefaultLate, DefaultLate, Late, Late]);
            true
        })
    })
    .await;
    assert_eq!(calls(&gateway, "slice").await, started);
    assert_eq!(calls(&gateway, "no_time").await, forbidden + 1.0);
    // Who has the time is served as ever, and who has not makes it known in the end: something may have changed.
    let reply = ask(&gateway, BEHAVE).await;
    assert_eq!(hostile(&reply), [Computed; 4]);
    assert_unhurt(&reply, &healthy);
    eventually("it is tried again", async || {
        in_a_hurry().await;
        calls(&gateway, "slice").await > started
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_component_that_is_not_what_the_catalog_says_keeps_the_gateway_from_starting() {
    let transforms = "catalog/transforms.toml";
    let crosswind = "component = \"plugins/crosswind.wasm\"\n";
    let wrong_digest = format!("{crosswind}digest = \"sha256:{}\"\n", "0".repeat(64));
    let cases: [(&str, &str, &str, usize); 6] = [
        (crosswind, &wrong_digest, "sha256:0000", 1),
        (crosswind, "component = \"plugins/crosswinds.wasm\"\n", "crosswinds.wasm", 1),
        (crosswind, "component = \"catalog/views.toml\"\n", "not a Wasm component", 1),
        (crosswind, "component = \"plugins/delay_risk_v1.wasm\"\n", "wind_speed_mph", 1),
        ("name = \"headwind_mph\"\ntype = \"f64\"", "name = \"headwind_mph\"\ntype = \"f32\"", "headwind_mph", 1),
        ("plugins/delay_risk_v2.wasm", "plugins/delay_risk_v1.wasm", "wind_gust_mph", 3),
    ];
    for (from, to, says, nth) in cases {
        let setup = Setup::demo().edit(transforms, from, to);
        let mistakes = refused(&setup).await;
        assert!(mistakes.iter().any(|m| m.message.contains(says)), "{says}: {mistakes:#?}");
        for mistake in &mistakes {
            assert_eq!(mistake.at.file.as_ref(), setup.dir().join(transforms).to_str().expect("UTF-8"));
            assert_eq!(mistake.at.line, line_of_table(&setup, transforms, nth), "{mistake}");
        }
    }
}

#[tokio::test]
async fn every_wrong_component_is_named_at_once_and_the_binary_exits_78() {
    let transforms = "catalog/transforms.toml";
    let setup = Setup::demo().edit(transforms, "crosswind.wasm", "nowhere.wasm").edit(
        transforms,
        "delay_risk_v2.wasm",
        "hostile.wasm",
    );
    let mistakes = refused(&setup).await;
    let lines = |nth| line_of_table(&setup, transforms, nth);
    assert!([1, 3].iter().all(|nth| mistakes.iter().any(|m| m.at.line == lines(*nth))), "{mistakes:#?}");
    let started = setup.run("serve", &[]);
    assert_eq!(started.status.code(), Some(78));
    let told = String::from_utf8_lossy(&started.stderr);
    for mistake in &mistakes {
        assert!(told.contains(&mistake.to_string()), "{mistake} is not in {told}");
    }
}

/// A setup whose service for flights has the hostile guest's features too; `mode` says what it does.
fn with_hostile(setup: Setup, time_limit_ms: u64) -> Setup {
    let mut transform = format!(
        r#"
[[transform]]
name = "hostile"
version = 1
owner = "tests@example.com"
description = "Does what it is told."
component = "plugins/hostile.wasm"
time_limit_ms = {time_limit_ms}
memory_limit_mib = 64
inputs = {{ mode = "request:mode" }}
"#
    );
    let outputs = [
        ("value", "f64", "default = -1.0"),
        ("text", "string", "default = \"none\""),
        ("flag", "bool", ""),
        ("vector", "list<f32>", ""),
    ];
    for (name, of, default) in outputs {
        let head = format!("\n[[transform.output]]\nname = \"{name}\"\ntype = \"{of}\"\n");
        transform += &format!("{head}{default}\ndescription = \"Whatever it says.\"\n");
    }
    let hour = "description = \"Scheduled hour of departure, local time, 0 to 23.\"\n";
    let mode = format!(
        "{hour}\n[[service.request]]\nname = \"mode\"\ntype = \"i64\"\nscope = \"context\"\ndefault = 0\n\
         description = \"What the guest does.\"\n"
    );
    let features = "  \"request:sched_hour\",\n";
    let more = OUTPUTS.map(|name| format!("  \"{name}\",\n")).concat();
    setup.append("catalog/transforms.toml", &transform).edit("catalog/services.toml", hour, &mode).edit(
        "catalog/services.toml",
        features,
        &format!("{features}{more}"),
    )
}

const OUTPUTS: [&str; 4] = ["hostile:value", "hostile:text", "hostile:flag", "hostile:vector"];

/// Two flights, and what the guest is to do.
async fn ask(gateway: &Running, mode: i64) -> v1::GetFeaturesResponse {
    gateway.get(question(mode)).await.expect("an answer")
}

fn question(mode: i64) -> v1::GetFeaturesRequest {
    let mut request = flights("", "JFK", &[("N14228", "UA", "LAX"), ("N24211", "UA", "SFO")]);
    let kind = v1::values::Kind::Int64s(v1::Int64s { values: vec![mode] });
    request.features.push(v1::Column { name: "mode".to_owned(), values: Some(v1::Values { kind: Some(kind) }) });
    request
}

/// Where the guest's values come from; both rows' are from the same place.
fn hostile(reply: &v1::GetFeaturesResponse) -> [Provenance; 4] {
    OUTPUTS.map(|name| {
        let bytes = &column(reply, name).provenance;
        assert!(bytes.len() == 2 && bytes[0] == bytes[1], "{name}: {bytes:?}");
        Provenance::from_byte(bytes[0]).expect("a known provenance")
    })
}

/// Every feature but the guest's is what it is without it.
fn assert_unhurt(reply: &v1::GetFeaturesResponse, healthy: &v1::GetFeaturesResponse) {
    for (column, healthy) in reply.columns.iter().zip(&healthy.columns) {
        if !OUTPUTS.contains(&column.name.as_str()) {
            assert_eq!(column, healthy);
        }
    }
    for name in ["crosswind:crosswind_mph", "delay_risk:score"] {
        assert_eq!(column(reply, name).provenance, [Computed as u8; 2]);
    }
}

async fn calls(gateway: &Running, outcome: &str) -> f64 {
    let line = format!(r#"weir_transform_calls_total{{transform="hostile",version="1",outcome="{outcome}"}} "#);
    gateway.metric(&line).await
}

/// The mistakes for which a gateway does not start.
async fn refused(setup: &Setup) -> Vec<Mistake> {
    match setup.try_start().await {
        Err(StartError::Config(mistakes)) => mistakes,
        Err(other) => panic!("another reason: {other}"),
        Ok(_) => panic!("it started"),
    }
}

/// Line of the nth transform's table, from 1.
fn line_of_table(setup: &Setup, file: &str, nth: usize) -> usize {
    let text = std::fs::read_to_string(setup.dir().join(file)).expect("the catalog");
    let tables = text.lines().enumerate().filter(|(_, line)| *line == "[[transform]]");
    tables.map(|(i, _)| i + 1).nth(nth - 1).expect("as many transforms")
}
