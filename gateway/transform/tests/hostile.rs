//! A guest can only fail to answer: one misdeed a test, and the next call is served as if nothing had been.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use weir_transform::{Engine, Failure, LoadError, Runner, Settings};

/// Long enough to be cut short, short enough to wait for.
const SHORT: Duration = Duration::from_millis(50);

/// So little that the call is never moved off the request's thread.
const INLINE: Duration = Duration::from_millis(2);

async fn call(runner: &Runner, mode: i64, slice: Duration) -> Result<f64, Failure> {
    let out = runner.call(&[&i64s(&[Some(mode)])], 9, slice).await?;
    Ok(options(&out[0])[0].unwrap())
}

/// The misdeed gives this failure, and the next call on the same runner its answer.
async fn fails_alone(mode: i64, slice: Duration, failure: Failure) {
    let runner = runner(&hostile());
    assert_eq!(call(&runner, mode, slice).await, Err(failure), "mode {mode}");
    assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0), "after mode {mode}");
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_slice_inline_and_aside() {
    fails_alone(1, INLINE, Failure::Slice).await;
    fails_alone(1, SHORT, Failure::Slice).await;
}

#[tokio::test]
async fn one_that_is_slow_and_not_stuck_is_moved_aside_and_answers() {
    let runner = runner(&hostile());
    assert_eq!(call(&runner, 22, INLINE).await, Err(Failure::Slice));
    for _ in 0..3 {
        assert_eq!(call(&runner, 22, AMPLE).await, Ok(1.0));
    }
    assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0));
}

#[tokio::test]
async fn the_transforms_own_limit_ends_it_though_the_request_has_time() {
    let mut transform = hostile();
    transform.time_limit = SHORT;
    let runner = runner(&transform);
    assert_eq!(call(&runner, 1, AMPLE).await, Err(Failure::Slice));
}

#[tokio::test]
async fn a_memory_bomb_meets_its_limit() {
    fails_alone(2, AMPLE, Failure::Memory).await;
}

#[tokio::test]
async fn a_trap_ends_one_call() {
    fails_alone(3, AMPLE, Failure::Trap).await;
}

#[tokio::test]
async fn endless_recursion_meets_the_end_of_its_stack() {
    fails_alone(4, AMPLE, Failure::Trap).await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_taken_over() {
    let mut transform = hostile();
    transform.memory_limit_mib = 64;
    let runner = runner(&transform);
    for mode in [5, 16] {
        assert_eq!(call(&runner, mode, AMPLE).await, Err(Failure::Output), "mode {mode}");
        assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0));
    }
}

#[tokio::test]
async fn a_malformed_answer_is_never_used() {
    for mode in [6, 7, 8, 9, 10, 11, 12, 13, 18, 20, 21] {
        fails_alone(mode, AMPLE, Failure::Output).await;
    }
}

#[tokio::test]
async fn a_refusal_keeps_the_instance_and_the_breaker_closed() {
    let runner = patient_runner(&hostile());
    for _ in 0..20 {
        assert_eq!(call(&runner, 14, AMPLE).await, Err(Failure::Refused));
    }
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(21.0), "the same instance all along");
}

#[tokio::test]
async fn a_trap_takes_the_instance_and_its_memory_with_it() {
    let runner = patient_runner(&hostile());
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(1.0));
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(2.0));
    assert_eq!(call(&runner, 3, AMPLE).await, Err(Failure::Trap));
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(1.0));
}

#[tokio::test]
async fn what_leaks_between_calls_ends_with_the_instance() {
    let settings = Settings { calls_per_instance: 3, ..patient() };
    let plugin = Engine::new(settings).unwrap().load(&component("hostile")).unwrap();
    let runner = Runner::new(plugin, &hostile()).unwrap();
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(call(&runner, 15, AMPLE).await.unwrap());
    }
    assert_eq!(counts, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
}

#[tokio::test]
async fn an_instance_that_has_grown_large_is_not_kept() {
    let runner = patient_runner(&hostile());
    assert_eq!(call(&runner, 17, AMPLE).await, Ok(1.0));
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(1.0), "a new instance");
}

#[tokio::test]
async fn a_guest_whose_caller_has_left_is_stopped() {
    // One thread for slow guests: who runs on for nobody keeps everybody else from it.
    let settings = Settings { aside_max: 1, ..patient() };
    let plugin = Engine::new(settings).unwrap().load(&component("hostile")).unwrap();
    let runner = Runner::new(plugin, &hostile()).unwrap();
    // Before it has begun, most likely, and after.
    for waited in [Duration::ZERO, Duration::from_millis(100)] {
        assert!(tokio::time::timeout(waited, call(&runner, 1, AMPLE)).await.is_err());
        assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0));
    }
}

#[tokio::test]
async fn one_that_keeps_failing_is_left_alone_and_probed_later() {
    let runner = runner(&hostile());
    tokio::time::pause();
    for _ in 0..5 {
        assert_eq!(call(&runner, 3, AMPLE).await, Err(Failure::Trap));
    }
    assert_eq!(call(&runner, 0, AMPLE).await, Err(Failure::BreakerOpen));
    tokio::time::advance(Duration::from_millis(250)).await;
    assert_eq!(call(&runner, 3, AMPLE).await, Err(Failure::Trap), "the probe");
    assert_eq!(call(&runner, 0, AMPLE).await, Err(Failure::BreakerOpen));
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0));
    assert_eq!(call(&runner, 0, AMPLE).await, Ok(1.0));
}

#[tokio::test]
async fn without_time_the_guest_is_not_started() {
    let runner = patient_runner(&hostile());
    assert_eq!(call(&runner, 0, Duration::ZERO).await, Err(Failure::NoTime));
    assert_eq!(call(&runner, 15, AMPLE).await, Ok(1.0), "the first call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_one_spins() {
    let engine = engine();
    let bad = Runner::new(engine.load(&component("hostile")).unwrap(), &hostile()).unwrap();
    let good = Runner::new(engine.load(&component("crosswind")).unwrap(), &crosswind()).unwrap();
    let spinning = tokio::spawn(async move { call(&bad, 1, Duration::from_millis(300)).await });
    let zero = f64s(&[Some(0.0)]);
    for _ in 0..100 {
        good.call(&[&zero, &zero, &zero], 1, AMPLE).await.unwrap();
    }
    assert_eq!(spinning.await.unwrap(), Err(Failure::Slice));
}

#[tokio::test]
async fn when_all_instances_are_busy_a_call_says_so() {
    let settings = Settings { instances_max: 1, ..patient() };
    let engine = Engine::new(settings).unwrap();
    let held = Runner::new(engine.load(&component("hostile")).unwrap(), &hostile()).unwrap();
    // Keeps the only instance warm for itself.
    assert_eq!(call(&held, 0, AMPLE).await, Ok(1.0));
    let other = Runner::new(engine.load(&component("hostile")).unwrap(), &hostile()).unwrap();
    assert_eq!(call(&other, 0, AMPLE).await, Err(Failure::Busy));
    drop(held);
    assert_eq!(call(&other, 0, AMPLE).await, Ok(1.0));
}

#[tokio::test]
async fn two_engines_live_in_one_process_and_end_on_their_own() {
    let (one, other) = (engine(), engine());
    let bytes = component("hostile");
    let mut transform = hostile();
    transform.time_limit = SHORT;
    let first = Runner::new(one.load(&bytes).unwrap(), &transform).unwrap();
    let second = Runner::new(other.load(&bytes).unwrap(), &transform).unwrap();
    assert_eq!(call(&first, 1, AMPLE).await, Err(Failure::Slice));
    drop((one, first));
    assert_eq!(call(&second, 1, AMPLE).await, Err(Failure::Slice), "its own clock still ticks");
}

#[test]
fn the_same_bytes_are_the_same_plugin_for_as_long_as_somebody_holds_it() {
    let engine = engine();
    let bytes = component("crosswind");
    let first = engine.load(&bytes).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &engine.load(&bytes).unwrap()));
    assert_eq!(first.digest(), weir_transform::digest(&bytes));
    assert!(!std::sync::Arc::ptr_eq(&first, &engine.load(&component("delay_risk_v1")).unwrap()));
}

#[test]
fn what_is_not_a_transform_is_refused_and_told_why() {
    let engine = Engine::new(Settings { component_max_bytes: 100_000, ..Settings::default() }).unwrap();
    let header = b"\0asm\x0d\0\x01\0";
    // A type () -> (), and an import `x` of it.
    let imports: &[u8] = b"\x07\x05\x01\x40\x00\x01\x00\x0a\x06\x01\x00\x01x\x01\x00";
    let refused = |bytes: &[u8]| engine.load(bytes).err().unwrap();
    assert!(matches!(refused(b"not wasm at all"), LoadError::NotWasm));
    assert!(matches!(refused(b""), LoadError::NotWasm));
    assert!(matches!(refused(b"\0asm\x01\0\0\0"), LoadError::Module));
    assert!(matches!(refused(header), LoadError::World(_)), "a component without exports");
    assert!(matches!(refused(&[header, imports].concat()), LoadError::Imports(name) if name == "x"));
    assert!(matches!(refused(&[&header[..], &[0xFF; 64]].concat()), LoadError::Compile(_)));
    assert!(matches!(refused(&vec![0; 100_001]), LoadError::TooBig { max: 100_000, .. }));
    let truncated = component("crosswind");
    assert!(matches!(refused(&truncated[..truncated.len() / 2]), LoadError::Compile(_)));
}

#[test]
fn a_compilation_that_takes_too_long_is_given_up() {
    let engine = Engine::new(Settings { compile_limit: Duration::ZERO, ..Settings::default() }).unwrap();
    assert!(matches!(engine.load(&component("crosswind")), Err(LoadError::Slow { .. })));
}

#[test]
fn packing_refuses_what_is_no_core_module_of_a_transform() {
    use weir_transform::{PackError, pack};
    assert!(matches!(pack(&component("crosswind")), Err(PackError::Component)));
    assert!(matches!(pack(b"garbage"), Err(PackError::Module(_))));
    assert!(matches!(pack(b"\0asm\x01\0\0\0"), Err(PackError::Export("describe"))), "an empty module");
}
