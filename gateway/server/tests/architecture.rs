//! Guards the shape of the house: which crates may know which, who alone owns a heavy dependency, and how long
//! a file may get before it is two things.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every crate of ours with the crates of ours it may depend on. Siblings never see each other: only the server
/// knows all of them. Tests may use more: the fault proxy of `weir-loadtest`, for one.
const EDGES: [(&str, &[&str]); 8] = [
    ("weir-domain", &[]),
    ("weir-store", &["weir-domain"]),
    ("weir-transform", &["weir-domain"]),
    ("weir-journal", &["weir-domain"]),
    ("weir-feast", &["weir-domain", "weir-proto"]),
    ("weir-proto", &[]),
    ("weir", &["weir-domain", "weir-store", "weir-transform", "weir-journal", "weir-feast", "weir-proto"]),
    ("weir-loadtest", &["weir-domain", "weir-proto"]),
];

/// Dependencies that one crate alone owns (by the beginning of their name).
const OWNED: [(&str, &str); 13] = [
    ("moka", "weir-store"),
    ("fred", "weir-store"),
    ("redis", "weir-store"),
    ("wasmtime", "weir-transform"),
    ("wit-component", "weir-transform"),
    ("arrow", "weir-journal"),
    ("parquet", "weir-journal"),
    ("memmap2", "weir-journal"),
    ("object_store", "weir-journal"),
    ("saphyr", "weir-feast"),
    ("jiter", "weir-feast"),
    ("axum", "weir"),
    ("opentelemetry", "weir"),
];

/// What the pure crate may use: no I/O, no clock, no async, no logging.
const DOMAIN_USES: [&str; 3] = ["md-5", "toml-span", "zmij"];

/// Most lines of a source file, tests inside it included.
const LINES_MAX: usize = 500;

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Normal dependencies by crate of the workspace.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(repo())
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let normal = package["dependencies"].as_array().expect("dependencies").iter().filter(|d| d["kind"].is_null());
        let names = normal.map(|d| d["name"].as_str().expect("a name").to_owned()).collect();
        crates.insert(package["name"].as_str().expect("a name").to_owned(), names);
    }
    crates
}

#[test]
fn crates_know_only_what_they_may() {
    let crates = dependencies();
    let expected: Vec<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert!(crates.keys().all(|c| expected.contains(&c.as_str())), "a crate without a rule: {:?}", crates.keys());
    for (name, allowed) in EDGES {
        let ours = crates[name].iter().filter(|d| expected.contains(&d.as_str()));
        let wrong: Vec<_> = ours.filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{name} must not know {wrong:?}");
    }
}

#[test]
fn heavy_dependencies_have_one_owner() {
    for (name, dependencies) in dependencies() {
        for (heavy, owner) in OWNED {
            let uses = dependencies.iter().any(|d| d == heavy || d.starts_with(&format!("{heavy}-")));
            assert!(!uses || name == owner, "{name} uses {heavy}, which {owner} alone owns");
        }
    }
}

#[test]
fn the_domain_is_pure() {
    for dependency in &dependencies()["weir-domain"] {
        assert!(DOMAIN_USES.contains(&dependency.as_str()), "weir-domain uses {dependency}");
    }
    for (path, text) in sources() {
        if path.starts_with("gateway/domain/src") {
            for impure in ["std::fs", "std::net", "std::env", "std::thread", "Instant::now", "SystemTime", "println!"] {
                assert!(!text.contains(impure), "{} uses {impure}", path.display());
            }
        }
    }
}

#[test]
fn no_file_is_two_things() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines, more than {LINES_MAX}", path.display());
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{} does not open by saying what it is for",
            path.display()
        );
    }
}

/// Every Rust file that is ours, with its path from the repository's root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["gateway", "proto", "loadtest", "plugins"].iter().map(|f| repo().join(f)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.push((path.strip_prefix(repo()).expect("inside").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50, "where are the sources?");
    found
}

#[test]
fn every_metric_is_in_the_manual_and_every_metric_of_the_manual_exists() {
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|w| w.starts_with("weir_") && *w != "weir_").map(str::to_owned).collect()
    };
    let manual = std::fs::read_to_string(repo().join("gateway/README.md")).expect("the manual");
    let table = manual.lines().filter(|l| l.starts_with("| `weir_")).collect::<Vec<_>>().join("\n");
    let read = |file: &str| std::fs::read_to_string(repo().join("gateway/server/src").join(file)).expect("the metrics");
    let code = read("metrics.rs") + &read("metrics/facts.rs");
    let registered = code.split("registry.register(").skip(1);
    let facts = code.split("one(").skip(1).chain(code.split("name: \"").skip(1));
    let quoted = |s: &str| s.trim_start_matches(['\n', ' ', '"']).split('"').next().unwrap_or("").to_owned();
    let in_code: std::collections::BTreeSet<String> = registered
        .chain(facts)
        .map(quoted)
        .filter(|n| n.len() > 2 && n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(|n| format!("weir_{n}"))
        .collect();
    assert_eq!(names(&table), in_code);
}
