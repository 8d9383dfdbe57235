//! Hot reload: a good edit is served without a restart and without a failed request; a bad one changes nothing
//! and is told to the operator.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use harness::{Running, Setup, column, connect, eventually, flights, http_get, post};
use serde_json::Value as Json;
use weir_proto::v1;
use weir_proto::v1::values::Kind;

/// A default of the demo that every request for an unknown carrier shows, and how it stands in the catalog.
const FEATURE: &str = "carrier:arr_delay_mean_7d_min";
const DEFAULT: &str = "default = 1.3";
const VIEWS: &str = "catalog/views.toml";

fn unknown_carrier() -> v1::GetFeaturesRequest {
    flights("", "JFK", &[("N0NE", "ZZ", "LAX")])
}

fn double(reply: &v1::GetFeaturesResponse, name: &str) -> f64 {
    match column(reply, name).values.as_ref().and_then(|v| v.kind.as_ref()) {
        Some(Kind::Doubles(doubles)) => doubles.values[0],
        other => panic!("{name} is no double: {other:?}"),
    }
}

async fn ask(gateway: &Running) -> v1::GetFeaturesResponse {
    gateway.get(unknown_carrier()).await.expect("an answer")
}

async fn reloads(gateway: &Running, outcome: &str) -> f64 {
    gateway.metric(&format!("weir_config_reloads_total{{outcome=\"{outcome}\"}} ")).await
}

/// Waits until the watcher has noticed by itself, and the default is served.
async fn serves(gateway: &Running, default: f64) {
    eventually("the new default", async || double(&ask(gateway).await, FEATURE) == default).await;
}

async fn reload(gateway: &Running) -> (u16, Json) {
    post(gateway.admin(), "/reload", "").await
}

#[tokio::test]
async fn an_edit_is_served_without_a_restart() {
    let gateway = Setup::demo().start().await;
    let before = ask(&gateway).await;
    assert_eq!(double(&before, FEATURE), 1.3);
    gateway.setup.change(VIEWS, DEFAULT, "default = 2.6");
    serves(&gateway, 2.6).await;
    let after = ask(&gateway).await;
    assert_ne!(after.catalog_version, before.catalog_version);
    // The version is of the content: the old text is the old version again.
    gateway.setup.change(VIEWS, "default = 2.6", DEFAULT);
    serves(&gateway, 1.3).await;
    assert_eq!(ask(&gateway).await.catalog_version, before.catalog_version);
    assert_eq!(reloads(&gateway, "refused").await, 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_edit_never_replaces_the_good_one_and_every_mistake_is_listed() {
    let gateway = Setup::demo().start().await;
    let before = ask(&gateway).await.catalog_version;
    let edits = [
        // An unknown key, a dangling reference and arms that do not sum up, each in a file of its own.
        (VIEWS, "description = \"Seats as registered.\"", "descripton = \"Seats as registered.\"", "descripton"),
        ("catalog/services.toml", "  \"destination:name\",", "  \"destination:nmae\",", "nmae"),
        ("catalog/experiments.toml", "name = \"gusts\"\nweight = 5000", "name = \"gusts\"\nweight = 4000", "10000"),
    ];
    for (file, good, bad, says) in edits {
        let refused = reloads(&gateway, "refused").await;
        gateway.setup.change(file, good, bad);
        eventually("the watcher refuses it", async || reloads(&gateway, "refused").await > refused).await;
        let (status, said) = reload(&gateway).await;
        assert_eq!(status, 422, "{said}");
        let mistakes: Vec<_> = said["mistakes"].as_array().expect("mistakes").iter().filter_map(Json::as_str).collect();
        let place = format!("{}:", gateway.setup.dir().join(file).display());
        let line = |m: &str| m.strip_prefix(&place).and_then(|m| m.split(':').next()?.parse::<usize>().ok());
        assert!(mistakes.iter().any(|m| line(m).is_some() && m.contains(says)), "{says}: {mistakes:#?}");
        let reply = ask(&gateway).await;
        assert_eq!((reply.catalog_version.as_str(), double(&reply, FEATURE)), (before.as_str(), 1.3), "{says}");
        gateway.setup.change(file, bad, good);
        assert_eq!(reload(&gateway).await.0, 200, "mended");
    }

    // Two files at once.
    for (file, good, bad, _) in [edits[0], edits[2]] {
        gateway.setup.change(file, good, bad);
    }
    let (status, said) = reload(&gateway).await;
    assert_eq!(status, 422);
    for file in ["views.toml:", "experiments.toml:"] {
        assert!(said.to_string().contains(file), "{said}");
    }
    assert_eq!(ask(&gateway).await.catalog_version, before);
    gateway.stop().await;
}

#[tokio::test]
async fn a_catalog_that_has_lost_its_services_or_cannot_be_read_is_refused() {
    let gateway = Setup::demo().start().await;
    let before = ask(&gateway).await.catalog_version;
    let services = gateway.setup.dir().join("catalog/services.toml");
    let text = fs::read_to_string(&services).expect("a catalog");
    fs::write(&services, "").expect("written");
    let (status, said) = reload(&gateway).await;
    assert_eq!(status, 422, "{said}");
    assert_eq!(ask(&gateway).await.catalog_version, before);
    fs::write(&services, text).expect("written");
    let pipe = gateway.setup.dir().join("catalog/pipe.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let (status, said) = reload(&gateway).await;
    assert!(status == 422 && said.to_string().contains("pipe.toml:1: is no regular file"), "{said}");
    fs::remove_file(pipe).expect("removed");
    assert_eq!(reload(&gateway).await.0, 200, "mended");
    gateway.stop().await;
}

#[tokio::test]
async fn a_hangup_reloads() {
    let setup = Setup::demo();
    let gateway = setup.spawn();
    let reloads = async || http_get(gateway.admin, "/metrics").await.1.contains("outcome=\"ok\"} 1");
    assert!(!reloads().await);
    gateway.signal("-HUP");
    eventually("a reload", reloads).await;
}

#[tokio::test]
async fn a_component_of_another_digest_is_refused() {
    let gateway = Setup::demo().start().await;
    let before = ask(&gateway).await.catalog_version;
    let wanted = format!("digest = \"sha256:{}\"\ncomponent = \"plugins/crosswind.wasm\"", "0".repeat(64));
    gateway.setup.change("catalog/transforms.toml", "component = \"plugins/crosswind.wasm\"", &wanted);
    let (status, said) = reload(&gateway).await;
    assert_eq!(status, 422);
    assert!(said.to_string().contains("transforms.toml:") && said.to_string().contains("sha256:0000"), "{said}");
    assert_eq!(ask(&gateway).await.catalog_version, before);
    gateway.stop().await;
}

#[tokio::test]
async fn a_half_written_file_waits_for_its_other_half() {
    let gateway = Setup::demo().start().await;
    let path = gateway.setup.dir().join(VIEWS);
    let whole = fs::read_to_string(&path).expect("read").replace(DEFAULT, "default = 2.6");
    // In the middle of a text, where nothing would let it pass for a whole file.
    let half = whole.find("Mean departure delay").expect("a description") + 5;
    fs::write(&path, &whole[..half]).expect("write half");
    eventually("half a file is refused", async || reloads(&gateway, "refused").await >= 1.0).await;
    assert_eq!(double(&ask(&gateway).await, FEATURE), 1.3);
    fs::write(&path, whole).expect("write all");
    serves(&gateway, 2.6).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_config_map_is_swapped_as_kubernetes_does() {
    // catalog/NAME.toml → ..data/NAME.toml, ..data → ..first: an update makes a folder and renames one link.
    let setup = Setup::demo();
    let catalog = setup.dir().join("catalog");
    let [first, second] = ["..first", "..second"].map(|version| catalog.join(version));
    for version in [&first, &second] {
        fs::create_dir(version).expect("a folder");
    }
    let names = ["entities", "experiments", "services", "transforms", "views"].map(|name| format!("{name}.toml"));
    for name in &names {
        let text = fs::read_to_string(catalog.join(name)).expect("read");
        fs::rename(catalog.join(name), first.join(name)).expect("move");
        fs::write(second.join(name), text.replace(DEFAULT, "default = 2.6")).expect("write");
        symlink(format!("..data/{name}"), catalog.join(name)).expect("link");
    }
    symlink("..first", catalog.join("..data")).expect("link");
    let gateway = setup.start().await;
    assert_eq!(double(&ask(&gateway).await, FEATURE), 1.3);
    for (version, default) in [("..second", 2.6), ("..first", 1.3), ("..second", 2.6)] {
        symlink(version, catalog.join("..data_tmp")).expect("link");
        fs::rename(catalog.join("..data_tmp"), catalog.join("..data")).expect("swap");
        serves(&gateway, default).await;
    }
    assert_eq!(reloads(&gateway, "refused").await, 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_during_reloads_never_fail_and_never_see_half_of_one() {
    let gateway = Setup::demo().start().await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, answered, to) = (Arc::clone(&stop), Arc::clone(&answered), gateway.listen());
            tokio::spawn(async move {
                let mut client = connect(to).await;
                let mut versions = std::collections::BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.get_features(unknown_carrier()).await.expect("an answer").into_inner();
                    // Two edits in two files that always change together, read by the store's side and the guest's.
                    let pair = (double(&reply, FEATURE).to_string(), double(&reply, "delay_risk:score").to_string());
                    let known = versions.entry(reply.catalog_version).or_insert_with(|| pair.clone());
                    assert_eq!(*known, pair, "one version, two answers");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                versions.len()
            })
        })
        .collect();
    let services = "catalog/services.toml";
    for round in 0..10 {
        let seen = answered.load(Ordering::Relaxed);
        eventually("traffic", async || answered.load(Ordering::Relaxed) >= seen + 20).await;
        let (old, new) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let default = |version| format!("default = {version}.3");
        let pin = |version| format!("pin = {{ delay_risk = {version} }}");
        gateway.setup.change(VIEWS, &default(old), &default(new));
        gateway.setup.change(services, &pin(old), &pin(new));
        let (status, said) = reload(&gateway).await;
        assert_eq!(status, 200, "{said}");
        assert_eq!(ask(&gateway).await.catalog_version, said["catalog_version"]);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let versions = caller.await.expect("a caller");
        assert!(versions >= 2, "{versions} version(s) seen in 10 reloads");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn editing_a_pin_swaps_the_version_of_a_transform() {
    let gateway = Setup::demo().start().await;
    let score = async |unit: &str| {
        let reply = gateway.get(flights(unit, "JFK", &[("N14228", "UA", "LAX")])).await.expect("an answer");
        let arm = reply.assignments.first().map(|a| a.arm.clone()).unwrap_or_default();
        (arm, double(&reply, "delay_risk:score"))
    };
    // What the second version says is known from those whom the experiment gives it to.
    let mut second = None;
    for i in 0..100 {
        let (arm, score) = score(&format!("unit-{i}")).await;
        second = second.or((arm == "gusts").then_some(score));
    }
    let second = second.expect("a unit in the arm with the second version");
    let (_, first) = score("").await;
    assert_ne!(first, second);
    gateway.setup.change("catalog/services.toml", "pin = { delay_risk = 1 }", "pin = { delay_risk = 2 }");
    eventually("the second version", async || score("").await.1 == second).await;
    gateway.setup.change("catalog/services.toml", "pin = { delay_risk = 2 }", "pin = { delay_risk = 1 }");
    eventually("the first again", async || score("").await.1 == first).await;
    gateway.stop().await;
}
