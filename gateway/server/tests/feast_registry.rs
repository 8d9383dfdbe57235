//! A Feast registry in an object store: read at the start and whenever it has changed, through a store's outages and
//! with a bad registry in it. The store is a real one, and the gateway a process of its own, which has an environment.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod harness;
#[path = "harness/python.rs"]
mod python;
#[path = "harness/feast.rs"]
mod repo;
#[path = "harness/s3.rs"]
mod s3;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::redis::free_port;
use harness::{Process, eventually, http_get, post};
use prost::Message;
use repo::{PROJECT, Repo, view};
use s3::S3;
use weir_proto::feast::types::{value::Val, value_type::Enum as Type};

const BUCKET: &str = "feast";
const KEY: &str = "prod/registry.db";
const URL: &str = "s3://feast/prod/registry.db";
const SECRET: &str = "s3cr3t/of+ours=";

/// Drivers with these features; all of them are in Redis already.
fn drivers(features: &[(&str, Type)]) -> Repo {
    let repo = Repo::new().entity("driver").view(view("driver", &[("driver_id", Type::Int64)], features));
    let values = [("trips", Some(Val::Int64Val(7))), ("rating", Some(Val::DoubleVal(4.5)))];
    repo.row("driver", &[("driver_id", Val::Int64Val(1))], 1_700_000_000, &values);
    repo
}

const TRIPS: (&str, Type) = ("trips", Type::Int64);
const RATING: (&str, Type) = ("rating", Type::Double);

/// A registry with these features.
fn registry(features: &[(&str, Type)]) -> Vec<u8> {
    drivers(features).registry.encode_to_vec()
}

/// `feature_store.yaml` of a repository whose registry is at the URL.
fn write(repo: &Repo, registry: &str) {
    let port = repo.server.port();
    let yaml = format!(
        "project: {PROJECT}\nregistry:\n  path: {registry}\n  cache_ttl_seconds: 1\n  s3_additional_kwargs:\n    \
         ServerSideEncryption: AES256\nonline_store:\n  type: redis\n  connection_string: 127.0.0.1:{port}\n\
         entity_key_serialization_version: 3\n"
    );
    std::fs::write(repo.dir().join("feature_store.yaml"), yaml).expect("write feature_store.yaml");
}

fn weir(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
    weir.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    weir.env("AWS_ACCESS_KEY_ID", "gateway").env("AWS_SECRET_ACCESS_KEY", SECRET).envs(env.iter().copied());
    weir
}

fn serve(feast: &[&Path], env: &[(&str, &str)]) -> Command {
    let mut serve = weir(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"], env);
    serve.arg("--feast").args(feast);
    serve
}

/// A command that must succeed.
fn run(args: &[&str], env: &[(&str, &str)]) {
    let Output { status, stderr, .. } = weir(args, env).output().expect("run weir");
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
}

/// What `weir serve` says when it does not start.
fn refused(feast: &[&Path], env: &[(&str, &str)]) -> String {
    let Output { status, stderr, .. } = serve(feast, env).output().expect("run weir");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains(URL) && !said.contains(SECRET), "{said}");
    said
}

/// A driver's feature, if the gateway knows it.
async fn feature(weir: &Process, name: &str) -> Option<serde_json::Value> {
    let body = format!(r#"{{"features":["driver:{name}"],"entities":{{"driver_id":[1]}}}}"#);
    let (status, answer) = post(weir.listen, "/get-online-features", &body).await;
    (status == 200).then(|| answer["results"][1]["values"][0].clone())
}

async fn reloads(weir: &Process, outcome: &str) -> u64 {
    let page = http_get(weir.admin, "/metrics").await.1;
    let name = format!("weir_config_reloads_total{{outcome=\"{outcome}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse().expect("a count"))
}

fn said(weir: &Process, text: &str) -> usize {
    weir.log().iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_registry_in_a_store_is_followed_through_whatever_happens_to_it() {
    let mut store = S3::start();
    let repo = drivers(&[TRIPS]);
    write(&repo, URL);
    store.put(BUCKET, KEY, &repo.registry.encode_to_vec()).await;
    let env = [("FEAST_S3_ENDPOINT_URL", store.endpoint())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let weir = Process::start(serve(&[repo.dir()], &env));
    assert_eq!(feature(&weir, "trips").await, Some(7.into()));
    assert_eq!(feature(&weir, "rating").await, None);

    store.put(BUCKET, KEY, &registry(&[TRIPS, RATING])).await;
    eventually("the new registry", async || feature(&weir, "rating").await == Some(4.5.into())).await;
    assert_eq!(reloads(&weir, "refused").await, 0);

    // One that cannot be read is refused once, and not downloaded again.
    store.put(BUCKET, KEY, b"no registry").await;
    eventually("it is told", async || said(&weir, "not a Feast registry") == 1).await;
    assert!(reloads(&weir, "refused").await >= 1);

    // Without a store the last good one serves on. Every look is counted, and the first one told.
    store.stop();
    let before = reloads(&weir, "refused").await;
    eventually("looks in vain", async || reloads(&weir, "refused").await >= before + 2).await;
    assert_eq!(feature(&weir, "rating").await, Some(4.5.into()));
    eventually("told", async || said(&weir, "cannot be reached") == 1).await;

    store.start_again();
    eventually("an empty store", async || said(&weir, "does not exist") == 1).await;
    store.put(BUCKET, KEY, &registry(&[RATING])).await;
    eventually("the registry is back", async || feature(&weir, "trips").await.is_none()).await;
    assert_eq!(feature(&weir, "rating").await, Some(4.5.into()));
    assert!(weir.log().iter().all(|line| !line.contains(SECRET)));

    // What is over and comes again is told again.
    assert_eq!((said(&weir, "not a Feast registry"), said(&weir, "cannot be reached")), (1, 1));
    store.stop();
    eventually("told again", async || said(&weir, "cannot be reached") == 2).await;
}

#[tokio::test]
async fn without_its_registry_nothing_starts() {
    let repo = drivers(&[TRIPS]);
    write(&repo, URL);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let said = refused(&[repo.dir()], &[("FEAST_S3_ENDPOINT_URL", &nowhere)]);
    assert!(said.contains("feature_store.yaml:1: the registry s3://"), "{said}");
    assert!(said.contains("cannot be reached: no connection to") && said.contains("refused"), "{said}");

    let store = S3::start();
    let said = refused(&[repo.dir()], &[("FEAST_S3_ENDPOINT_URL", &store.endpoint())]);
    assert!(said.contains("does not exist: ") && said.contains("NoSuchBucket"), "{said}");
    store.put(BUCKET, KEY, b"no registry").await;
    let said = refused(&[repo.dir()], &[("FEAST_S3_ENDPOINT_URL", &store.endpoint())]);
    assert!(said.contains(&format!("{URL}:1: not a Feast registry")), "{said}");
}

#[tokio::test]
async fn a_store_with_tls_is_read_if_its_certificate_is_trusted() {
    let store = S3::start_tls();
    let repo = drivers(&[TRIPS]);
    write(&repo, "registry.db");
    store.put(BUCKET, KEY, &repo.registry.encode_to_vec()).await;
    let (endpoint, ca) = (store.endpoint(), store.ca());
    // The registry of the command line stands above the one of the file.
    let file = repo.dir().join("feature_store.yaml");
    let feast = [file.as_path(), Path::new(URL)];
    let said = refused(&feast, &[("AWS_ENDPOINT_URL_S3", &endpoint)]);
    assert!(said.contains("cannot be reached") && said.contains("invalid peer certificate"), "{said}");
    let env = [("AWS_ENDPOINT_URL_S3", endpoint.as_str()), ("AWS_CA_BUNDLE", ca.as_str())];
    let weir = Process::start(serve(&feast, &env));
    assert_eq!(feature(&weir, "trips").await, Some(7.into()));

    // A catalog that is made from it says where it lies, and is checked with it.
    let out = tempfile::tempdir().expect("a temporary folder");
    let dir = out.path().display().to_string();
    let file = file.display().to_string();
    run(&["import", "feast", &file, URL, "--out", &dir], &env);
    let settings = std::fs::read_to_string(out.path().join("weir.toml")).expect("weir.toml");
    assert!(settings.contains(&format!("registry = \"{URL}\"")), "{settings}");
    run(&["check", "--config", &dir], &env);
}
