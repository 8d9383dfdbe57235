//! The open loop against small servers whose misbehaviour is known to the request, and once against a real gateway.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod servers;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value as Json;

use servers::{Server, Way};

/// 200 requests, evenly, in a second; a request is given up after ten.
const EVEN: &str = "[[phase]]\nname = \"even\"\nseconds = 1\nrps = 200\narrivals = \"constant\"\n";
/// What is due in that time: the first after one gap, none at the very end.
const DUE: u64 = 199;

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir-loadtest")).args(arguments).output().expect("weir-loadtest runs")
}

fn scenario(ask: &str, rest: &str) -> tempfile::NamedTempFile {
    let ask = format!("items = 1\nbodies = 1\nbudget_ms = 1000\ngive_up_ms = 10_000\nlag_p99_ms_max = 1000\n{ask}");
    let text = format!("name = \"T\"\ndescription = \"For a test.\"\n[ask]\n{ask}\n{rest}");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("write the scenario");
    file
}

/// Plays a scenario against an address; returns the exit code and the verdict.
fn play(file: &Path, target: SocketAddr) -> (i32, Json) {
    let output = loadtest(&["run", &file.display().to_string(), "--target", &target.to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (output.status.code().expect("a code"), verdict)
}

fn count(verdict: &Json, of: &str) -> u64 {
    verdict["phases"][0][of].as_u64().unwrap_or_else(|| panic!("no {of} in {verdict}"))
}

#[test]
fn a_stall_is_seen_by_all_who_were_due_in_it() {
    // Of 199 the 1 % that waited longest were due in the stall's first 10 ms.
    let stall_ms = 200.0;
    let server = Server::start(Way::StallsAt(50));
    let (_, verdict) = play(scenario("", EVEN).path(), server.address);
    assert_eq!((count(&verdict, "due"), count(&verdict, "answered")), (DUE, DUE), "{verdict}");
    let open_ms = verdict["phases"][0]["answered_ms"]["p99"].as_f64().expect("a p99");
    assert!(open_ms > 0.8 * stall_ms, "{open_ms}");

    // A fifth was due in the stall and waited for half of it on average. Who asks only when he is answered would have met it
    // once a connection: 8 of 199, and none of them at p90.
    let p90_ms = verdict["phases"][0]["answered_ms"]["p90"].as_f64().expect("a p90");
    assert!(p90_ms > 0.3 * stall_ms, "{p90_ms}");
}

#[test]
fn a_refused_call_is_no_success() {
    for (way, ask) in [(Way::RefusesEverySecond, ""), (Way::JsonRefusesEverySecond, "protocol = \"json\"")] {
        let server = Server::start(way);
        let (_, verdict) = play(scenario(ask, EVEN).path(), server.address);
        let (answered, refused) = (count(&verdict, "answered"), count(&verdict, "refused"));
        assert_eq!(answered + refused, DUE, "{verdict}");
        assert!(answered.abs_diff(refused) <= 1, "{verdict}");
        let in_time = verdict["phases"][0]["in_time_share"].as_f64().expect("a share");
        assert!(in_time <= 0.51, "{in_time}");
    }
}

#[test]
fn a_connection_that_the_server_ends_is_replaced() {
    let server = Server::start(Way::LeavesAfter(10));
    let (_, verdict) = play(scenario("", EVEN).path(), server.address);
    let failed: u64 =
        verdict["phases"][0]["failed"].as_object().expect("counts").values().filter_map(Json::as_u64).sum();
    let answered = count(&verdict, "answered");
    // Eight connections take 80 requests. What is on its way when one ends may be lost with it.
    assert!(answered > 100 && answered + failed == DUE, "{verdict}");
}

#[test]
fn what_is_due_beyond_the_limit_is_dropped_and_counted() {
    let server = Server::start(Way::NeverReplies);
    let ask = "in_flight_max = 10\ntimeout_ms = 2500\n";
    let (_, verdict) = play(scenario(ask, EVEN).path(), server.address);
    let counts = ["due", "dropped", "timed_out", "answered"].map(|of| count(&verdict, of));
    assert_eq!(counts, [DUE, DUE - 10, 10, 0], "{verdict}");
}

#[test]
fn callers_who_leave_are_counted_apart() {
    let server = Server::start(Way::NeverReplies);
    let ask = "cancel_share = 1\ncancel_after_ms = 5\ntimeout_ms = 2500\n";
    let (_, verdict) = play(scenario(ask, EVEN).path(), server.address);
    assert_eq!((count(&verdict, "cancelled"), count(&verdict, "timed_out")), (DUE, 0), "{verdict}");
}

#[test]
fn the_exit_code_says_whether_what_is_expected_holds() {
    let server = Server::start(Way::Answers);
    let expect = |what: &str| format!("{EVEN}[phase.expect]\n{what}\n");
    let (code, verdict) = play(scenario("", &expect("in_time_share = 0\nrefused_p99_ms = 5")).path(), server.address);
    assert_eq!((code, &verdict["verdict"]), (0, &"pass".into()), "{verdict}");
    let (code, verdict) = play(scenario("", &expect("p50_ms = 0")).path(), server.address);
    assert_eq!((code, &verdict["verdict"]), (1, &"fail".into()), "{verdict}");
    let expected = &verdict["phases"][0]["expected"][0];
    assert!(expected["figure"] == "p50_ms" && expected["got"].as_f64() > Some(0.0), "{expected}");
    // Nobody answers a question about the journal of a server without metrics: what is not known does not hold.
    assert_eq!(play(scenario("", &expect("journalled_share = 0")).path(), server.address).0, 1);
}

#[test]
fn a_generator_that_is_late_calls_its_run_invalid() {
    let server = Server::start(Way::Answers);
    let file = scenario("", EVEN);
    let text = std::fs::read_to_string(file.path()).expect("the scenario");
    std::fs::write(file.path(), text.replace("lag_p99_ms_max = 1000", "lag_p99_ms_max = 0.01")).expect("write");
    let (code, verdict) = play(file.path(), server.address);
    assert_eq!((code, &verdict["verdict"]), (1, &"invalid".into()), "{verdict}");
}

#[test]
fn only_our_own_machine_is_loaded() {
    let file = scenario("", EVEN);
    let output = loadtest(&["run", &file.path().display().to_string(), "--target", "192.0.2.1:6566"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("192.0.2.1:6566 is not on loopback"), "{said}");
}

#[test]
fn every_mistake_of_a_scenario_is_named_with_its_line() {
    let file =
        scenario("itmes = 3", "[[phase]]\nname = \"p\"\nseconds = 1\nof_capacity = 1\n[phase.expect]\np98_ms = 1\n");
    let output = loadtest(&["run", &file.path().display().to_string(), "--target", "127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let at = |line: u32, what: &str| {
        let place = format!("{}:{line}: ", file.path().display());
        assert!(said.lines().any(|l| l.contains(&place) && l.contains(what)), "{place}{what}: {said}");
    };
    at(9, "unknown key \"itmes\"");
    at(13, "needs a [capacity] table");
    at(15, "unknown key \"p98_ms\"");
}

#[test]
fn a_scenario_brings_its_own_gateway_and_reads_what_it_counted() {
    let weir = Path::new(env!("CARGO_BIN_EXE_weir-loadtest")).with_file_name("weir");
    assert!(weir.exists(), "cargo build -p weir first: {} is not there", weir.display());
    let serve = "[serve]\nentities = 50\nviews = 2\nfeatures = 3\nstored_features = 4\nuser_features = 2\nbudget_ms = 1000\n\
                 late_share = 0.1\nlate_ms = 1\n";
    let phase =
        "[[phase]]\nname = \"all\"\nseconds = 2\nrps = 50\narrivals = \"constant\"\n[phase.expect]\nuntyped = 0\n";
    for protocol in ["grpc", "json"] {
        let file = scenario(&format!("protocol = \"{protocol}\""), &format!("{serve}{phase}"));
        let output = loadtest(&["run", &file.path().display().to_string()]);
        let verdict: Json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!((count(&verdict, "due"), &verdict["verdict"]), (99, &"pass".into()), "{verdict}");
        let phase = &verdict["phases"][0];
        let values: f64 = phase["provenance"].as_object().expect("values").values().filter_map(Json::as_f64).sum();
        // One item with three features of two views each, and two of the user's.
        assert_eq!(values, 8.0 * phase["gateway_requests"].as_f64().expect("requests"), "{verdict}");
        assert!(count(&verdict, "looked_at") > 0 && verdict["orphans"] == 0.0, "{verdict}");
    }
}
