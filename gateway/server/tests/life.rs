//! How the `weir` process lives and dies: signals, exit codes, what it says on its way out, and the demo.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{PATIENCE, Setup, connect, eventually, flights, http_get};
use python::python;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Runs the binary to its end, with nothing of the tester's own environment in its way.
fn weir(args: &[&str]) -> Output {
    let mut weir = Command::new(WEIR);
    weir.args(args).env_remove("WEIR_CONFIG").env_remove("WEIR_STORE").env_remove("RUST_LOG");
    weir.stdin(Stdio::null()).output().expect("run weir")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Rows by request, as the journal has them.
async fn journalled(journal: &Path) -> BTreeMap<String, u64> {
    let script = harness::repo().join("gateway/server/tests/readers.py");
    let counts = python(&[text(&script), "counts", text(journal)]).await;
    let counts = counts.as_object().expect("requests").clone();
    counts.into_iter().map(|(request, found)| (request, found["rows"].as_u64().expect("a count"))).collect()
}

/// A request whose headers the gateway has read and whose body it waits for: accepted, and as slow as one likes.
struct HalfSent {
    stream: TcpStream,
    rest: String,
}

impl HalfSent {
    async fn to(gateway: SocketAddr) -> Self {
        let body = r#"{"service":"route_card","items":{"origin":["JFK"],"dest":["LAX"]}}"#;
        let mut stream = TcpStream::connect(gateway).await.expect("connect");
        let head = format!(
            "POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("send the head");
        let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        let mut said = vec![0; go_on.len()];
        stream.read_exact(&mut said).await.expect("go on");
        assert_eq!(String::from_utf8_lossy(&said), go_on);
        let (start, rest) = body.split_at(20);
        stream.write_all(start.as_bytes()).await.expect("send half the body");
        Self { stream, rest: rest.to_owned() }
    }

    /// Sends the rest; the reply until the gateway closes the connection.
    async fn finish(mut self) -> String {
        self.stream.write_all(self.rest.as_bytes()).await.expect("send the rest");
        let mut reply = String::new();
        self.stream.read_to_string(&mut reply).await.expect("a whole reply");
        reply
    }
}

#[tokio::test]
async fn sigterm_waits_for_accepted_requests_says_so_and_takes_no_new_ones() {
    let setup = Setup::demo().journal();
    let mut gateway = setup.spawn();
    let accepted = HalfSent::to(gateway.listen).await;
    assert_eq!(http_get(gateway.admin, "/readyz").await.0, 200);

    gateway.signal("-TERM");
    eventually("not ready", async || http_get(gateway.admin, "/readyz").await.0 == 503).await;
    assert_eq!(http_get(gateway.admin, "/livez").await.0, 200, "leaving is not being dead");
    eventually("no new connection", async || TcpStream::connect(gateway.listen).await.is_err()).await;

    let reply = accepted.finish().await;
    assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.contains(r#""rows":1"#), "{reply}");
    assert!(gateway.wait().success(), "{:#?}", gateway.log());
    assert_eq!(journalled(&setup.journal_dir()).await.into_values().collect::<Vec<_>>(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_answer_and_no_row() {
    let setup = Setup::demo().journal();
    let mut gateway = setup.spawn();
    let (told, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (told, answered, to) = (Arc::clone(&told), Arc::clone(&answered), gateway.listen);
            tokio::spawn(async move {
                let mut client = connect(to).await;
                let mut seen = BTreeMap::new();
                loop {
                    let unit = format!("unit-{caller}-{}", seen.len());
                    let items = [("N14228", "UA", "LAX"), ("N24211", "UA", "BOS")];
                    match client.get_features(flights(&unit, "JFK", &items)).await {
                        Ok(reply) => {
                            let reply = reply.into_inner();
                            seen.insert(reply.request_id, u64::from(reply.rows));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        // Only a door that is closed may end this: a refusal would come from the gateway itself, and
                        // would have no cause on this side of the wire.
                        Err(status) => {
                            assert!(status.source().is_some() && told.load(Ordering::Relaxed), "{status:?}");
                            return seen;
                        }
                    }
                }
            })
        })
        .collect();
    eventually("some load", async || answered.load(Ordering::Relaxed) >= 200).await;
    told.store(true, Ordering::Relaxed);
    gateway.signal("-TERM");

    let mut seen = BTreeMap::new();
    for caller in callers {
        seen.extend(caller.await.expect("a caller"));
    }
    assert!(gateway.wait().success(), "{:#?}", gateway.log());
    // Nothing answered is missing here, and nothing was answered that its caller did not get.
    assert_eq!(journalled(&setup.journal_dir()).await, seen);
    assert!(!setup.journal_dir().join("QUEUE").exists(), "an orderly end leaves nothing in shared memory");
}

#[test]
fn sigterm_is_heard_from_the_first_moment_on() {
    // Before it serves it has nothing to drain, and later all it serves; either way this is no crash.
    let setup = Setup::demo().journal();
    let mut gateway = setup.spawn();
    gateway.signal("-TERM");
    assert_eq!(gateway.wait().code(), Some(0), "{:#?}", gateway.log());
    assert!(!setup.journal_dir().join("QUEUE").exists(), "an orderly end leaves nothing in shared memory");
}

#[tokio::test]
async fn a_second_sigterm_leaves_at_once() {
    let setup = Setup::demo().edit("weir.toml", "namespace", "drain_ms = 600000\nnamespace");
    let mut gateway = setup.spawn();
    let _accepted = HalfSent::to(gateway.listen).await;
    gateway.signal("-TERM");
    eventually("it waits", async || http_get(gateway.admin, "/readyz").await.0 == 503).await;
    gateway.signal("-TERM");
    assert_eq!(gateway.wait().code(), Some(1), "{:#?}", gateway.log());
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    let setup = Setup::demo();
    let dir = text(setup.dir());
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage: weir"),
        (&["sevre"], "sevre"),
        (&["serve"], "--config"),
        (&["serve", "--config", dir, "--port", "1"], "--port"),
        (&["serve", "--config", dir, "--listen", "localhost"], "--listen"),
        (&["serve", "--config", dir, "--store", "mysql://ann:hunter2@x"], "redis-cluster://"),
        (&["serve", "--config", dir, "--store", "redis-cluster://:hunter2@a:1,b:x"], "host 2"),
        (&["load", "--config", dir], "--store redis://"),
        (&["assign", "--config", dir, "u", "-a", "carrier"], "NAME=VALUE"),
    ];
    for (args, says) in cases {
        let ended = weir(args);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", err(&ended));
        assert!(err(&ended).contains(says) && out(&ended).is_empty(), "{args:?}: {}", err(&ended));
        assert!(!err(&ended).contains("hunter2"), "a password is not repeated: {}", err(&ended));
    }
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["serve", "--help"])
        .env("WEIR_STORE", "redis://:hunter2@localhost")
        .output()
        .expect("run weir");
    assert!(out(&help).contains("WEIR_STORE") && !out(&help).contains("hunter2"), "{}", out(&help));
}

/// A configuration with one mistake in each of its files, and where they are.
fn all_wrong() -> (Setup, [(String, &'static str); 5]) {
    let setup = Setup::demo()
        .edit("weir.toml", "namespace = \"flights\"", "namespace = \"fli:ghts\"")
        .edit("catalog/entities.toml", "owner = \"operations@example.com\"", "owner = 7")
        .edit("catalog/views.toml", "description = \"Seats as registered.\"", "descripton = \"Seats as registered.\"")
        .edit("catalog/services.toml", "max_stale_ms = 3600000\non_absent = \"null\"", "on_absent = \"nothing\"")
        .edit("catalog/experiments.toml", "name = \"gusts\"\nweight = 5000", "name = \"gusts\"\nweight = 4000");
    let line = |file: &str, mark: &str| {
        let text = std::fs::read_to_string(setup.dir().join(file)).expect("read");
        let at = text.lines().position(|l| l.contains(mark)).unwrap_or_else(|| panic!("{file} has no {mark}")) + 1;
        format!("{}:{at}", text_of(&setup, file))
    };
    let places = [
        (line("weir.toml", "fli:ghts"), "namespace"),
        (line("catalog/entities.toml", "owner = 7"), "owner"),
        (line("catalog/views.toml", "descripton"), "descripton"),
        (line("catalog/services.toml", "nothing"), "on_absent"),
        (line("catalog/experiments.toml", "[[experiment]]"), "10000"),
    ];
    (setup, places)
}

fn text_of(setup: &Setup, file: &str) -> String {
    text(&setup.dir().join(file)).to_owned()
}

#[test]
fn a_bad_configuration_ends_with_78_and_every_mistake_of_every_file_at_once() {
    let (setup, places) = all_wrong();
    for command in ["serve", "check", "demo", "load"] {
        let ended = setup.run(command, &[]);
        assert_eq!(ended.status.code(), Some(78), "{command}: {}", err(&ended));
        assert!(out(&ended).is_empty());
        for (place, says) in &places {
            let found = err(&ended).lines().any(|l| l.starts_with(&format!("{place}: ")) && l.contains(says));
            assert!(found, "{command}: {place} … {says} is not in\n{}", err(&ended));
        }
    }
}

#[test]
fn check_lists_mistakes_as_json_and_counts_what_is_right() {
    let (setup, places) = all_wrong();
    let wrong = setup.run("check", &["--json"]);
    assert_eq!(wrong.status.code(), Some(78));
    let said: Json = serde_json::from_slice(&wrong.stdout).expect("one JSON object");
    assert_eq!(said["ok"], false);
    let mistakes = said["mistakes"].as_array().expect("mistakes");
    for (place, says) in &places {
        let found = mistakes.iter().any(|m| {
            let at = format!("{}:{}", m["file"].as_str().expect("a file"), m["line"]);
            at == *place && m["message"].as_str().expect("a message").contains(says)
        });
        assert!(found, "{place} … {says} is not in {said}");
    }

    let right = Setup::demo().run("check", &["--json"]);
    assert!(right.status.success(), "{}", err(&right));
    let said: Json = serde_json::from_slice(&right.stdout).expect("one JSON object");
    assert_eq!(said["ok"], true);
    for (what, count) in [("views", 5), ("transforms", 3), ("services", 2), ("experiments", 1)] {
        assert_eq!(said[what], count, "{what}: {said}");
    }
}

#[test]
fn a_configuration_that_is_not_there_is_said_to_be_missing() {
    let nowhere = Setup::demo().dir().join("nowhere");
    let ended = weir(&["serve", "--config", text(&nowhere)]);
    assert_eq!(ended.status.code(), Some(78));
    assert!(err(&ended).contains(text(&nowhere)) && err(&ended).contains("No such file"), "{}", err(&ended));
    let empty = tempfile::tempdir().expect("a folder");
    let ended = weir(&["check", "--config", text(empty.path())]);
    assert_eq!(ended.status.code(), Some(78));
    assert!(err(&ended).contains(text(&empty.path().join("catalog"))), "{}", err(&ended));
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let setup = Setup::demo().journal();
    for (option, door) in [("--listen", "callers"), ("--admin", "operators")] {
        let ended = setup.run("serve", &[option, &address, "--journal", text(&setup.journal_dir())]);
        assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
        let said = err(&ended).lines().any(|l| [&address, door, "in use"].iter().all(|part| l.contains(part)));
        assert!(said, "{}", err(&ended));
    }
    assert!(!setup.journal_dir().join("QUEUE").exists(), "a gateway that never started left a queue");
}

const FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

#[tokio::test]
async fn the_demo_replays_flights_and_leaves_them_in_its_journal() {
    let setup = Setup::demo();
    let journal = setup.journal_dir();
    let args = [&["--once", "--json", "--flights", "200", "--journal", text(&journal)], &FREE_PORTS[..]].concat();
    let ended = setup.run("demo", &args);
    assert!(ended.status.success(), "{}", err(&ended));
    let mut objects = serde_json::Deserializer::from_slice(&ended.stdout).into_iter::<Json>();
    let said = objects.next().expect("an object").expect("JSON");
    assert!(objects.next().is_none(), "more than one object: {}", out(&ended));

    assert_eq!((&said["requests"], &said["errors"], &said["rows"]), (&json!(200), &json!(0), &json!(200)), "{said}");
    let latency = |q: &str| said["latency_us"][q].as_u64().unwrap_or_else(|| panic!("no {q}: {said}"));
    assert!(0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("p99_9"), "{said}");
    let provenance = said["provenance"].as_object().expect("provenance");
    let share: f64 = provenance.values().map(|p| p["share"].as_f64().expect("a share")).sum();
    assert!(provenance.contains_key("STORE") && (share - 1.0).abs() < 1e-9, "{said}");
    let arms = said["arms"].as_object().expect("arms");
    assert_eq!(arms.values().map(|n| n.as_u64().expect("a count")).sum::<u64>(), 200, "{said}");
    assert!(arms.contains_key("delay_risk_v2=control") && arms.contains_key("delay_risk_v2=gusts"), "{said}");
    assert_eq!(said["journal"]["dir"], text(&journal));
    assert_eq!((&said["journal"]["rows"], &said["journal"]["dropped"]), (&json!(200), &json!(0)), "{said}");

    let served = journalled(&journal).await;
    assert_eq!((served.len(), served.values().sum::<u64>()), (200, 200));
    assert!(!journal.join("QUEUE").exists(), "an orderly end leaves nothing in shared memory");
}

/// A demo that serves after its replay; ended in order when dropped, for its shared memory's sake.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
            let _ = self.0.wait();
        }
    }
}

#[test]
fn the_calls_that_the_demo_prints_work_when_pasted() {
    let python = harness::repo().join("target/py/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup-python`", python.display());
    let setup = Setup::demo();
    let printed = setup.dir().join("printed");
    let mut demo = Command::new(WEIR);
    demo.args(["demo", "--config", text(setup.dir()), "--flights", "50", "--journal", text(&setup.journal_dir())]);
    demo.args(FREE_PORTS).current_dir(harness::repo()).env_remove("RUST_LOG").stdin(Stdio::null());
    demo.stdout(File::create(&printed).expect("a file")).stderr(Stdio::piped());
    let mut demo = Demo(demo.spawn().expect("start weir demo"));
    let mut log = BufReader::new(demo.0.stderr.take().expect("stderr")).lines().map_while(Result::ok);
    assert!(log.any(|line| line.starts_with("serving until Ctrl-C")), "it ended early");
    let _drained = std::thread::spawn(move || log.for_each(drop));

    let printed = std::fs::read_to_string(printed).expect("what it printed");
    let (_, calls) = printed.split_once("Try:\n").unwrap_or_else(|| panic!("nothing to try in {printed}"));
    let calls: Vec<_> = calls.split("\n\n").map(str::trim_end).filter(|c| !c.is_empty()).collect();
    let [curl, grpc, reader] = calls[..] else { panic!("not three calls: {calls:#?}") };
    let reply: Json = serde_json::from_str(&pasted(curl)).expect("JSON");
    assert_eq!((&reply["rows"], &reply["service"]), (&json!(2), &json!("arrival_delay")), "{reply}");
    let reply = pasted(grpc);
    assert!(reply.contains("request_id") && reply.contains("delay_risk:score"), "{reply}");
    let table = pasted(reader);
    assert!(table.contains("mean_risk") && table.contains("STORE"), "{table}");
}

/// What bash prints when this is pasted into it at the root of the repository.
fn pasted(command: &str) -> String {
    let mut bash = Command::new("bash");
    bash.args(["-e", "-o", "pipefail", "-s"]).current_dir(harness::repo());
    let mut bash = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run bash");
    bash.stdin.take().expect("stdin").write_all(format!("{command}\n").as_bytes()).expect("paste");
    let ended = bash.wait_with_output().expect("bash ends");
    assert!(ended.status.success(), "{command}\n{}", err(&ended));
    out(&ended).to_owned()
}

#[tokio::test]
async fn the_demo_ends_when_it_is_told_to() {
    let setup = Setup::demo();
    let mut demo = Command::new(WEIR);
    demo.args(["demo", "--json", "--config", text(setup.dir()), "--journal", text(&setup.journal_dir())]);
    demo.args(FREE_PORTS).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut demo = Demo(demo.spawn().expect("start weir demo"));
    let mut log = BufReader::new(demo.0.stderr.take().expect("stderr")).lines().map_while(Result::ok);
    // In the middle of its replay, or after it: both are an orderly end.
    assert!(log.any(|line| line.contains("serving")), "it ended early");
    let _drained = std::thread::spawn(move || log.for_each(drop));
    let sent = Command::new("kill").args(["-INT", &demo.0.id().to_string()]).status().expect("run kill");
    assert!(sent.success());
    let began = Instant::now();
    let status = loop {
        match demo.0.try_wait().expect("wait") {
            Some(status) => break status,
            None => assert!(began.elapsed() < PATIENCE, "it does not end"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn assign_says_where_a_unit_is() {
    let setup = Setup::demo();
    let assign = |args: &[&str]| -> Json {
        let ended = setup.run("assign", args);
        assert!(ended.status.success(), "{}", err(&ended));
        serde_json::from_slice(&ended.stdout).expect("one JSON object")
    };
    let said = assign(&["N14228", "-a", "carrier=UA", "-a", "age=12"]);
    assert_eq!((&said["unit"], &said["holdouts"]), (&json!("N14228"), &json!([])));
    assert_eq!(said["assignments"][0]["experiment"], "delay_risk_v2");
    assert_eq!(said, assign(&["N14228", "--service", "arrival_delay"]));
    // Targeting keeps this carrier out; this service is none of the experiment's business.
    for other in [&["N14228", "-a", "carrier=HA"][..], &["N14228", "--service", "route_card"]] {
        assert_eq!(assign(other)["assignments"], json!([]), "{other:?}");
    }
    let unknown = setup.run("assign", &["N14228", "--service", "nope"]);
    assert!(unknown.status.code() == Some(2) && err(&unknown).contains("nope"), "{}", err(&unknown));
}

#[test]
fn completions_are_bash_that_knows_every_command() {
    let printed = weir(&["completions", "bash"]);
    assert!(printed.status.success());
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("run bash");
    bash.stdin.take().expect("stdin").write_all(&printed.stdout).expect("write");
    assert!(bash.wait().expect("bash").success(), "no bash: {}", out(&printed));
    for command in ["serve", "demo", "check", "load", "assign", "plugin", "completions", "--admin"] {
        assert!(out(&printed).contains(command), "{command}");
    }
}

#[test]
fn plugin_show_says_what_a_component_takes_and_gives() {
    let component = harness::components().join("crosswind.wasm");
    let shown = weir(&["plugin", "show", text(&component)]);
    assert!(shown.status.success(), "{}", err(&shown));
    let said: Json = serde_json::from_slice(&shown.stdout).expect("one JSON object");
    assert!(said["digest"].as_str().is_some_and(|d| d.starts_with("sha256:") && d.len() == 71), "{said}");
    let names = |of: &str| said[of].as_array().expect(of).iter().map(|c| c["name"].clone()).collect::<Json>();
    assert_eq!(names("inputs"), json!(["wind_speed_mph", "wind_dir_deg", "runway_heading_deg"]));
    assert_eq!(names("outputs"), json!(["crosswind_mph", "headwind_mph"]));

    let broken = weir(&["plugin", "show", text(&harness::repo().join("Cargo.toml"))]);
    assert!(broken.status.code() == Some(1) && err(&broken).contains("Cargo.toml"), "{}", err(&broken));
}
