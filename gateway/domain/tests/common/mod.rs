//! A small good catalog that every test begins with, and edits to it.
#![allow(dead_code, reason = "every test file takes what it needs")]

use std::sync::Arc;

use weir_domain::catalog::{Catalog, Mistake, read};
use weir_domain::plan::{Plan, PlanSet, compile};
use weir_domain::{Column, FeatureType, Named, Request, Value};

const VIEWS: &str = r#"
[[entity]]
name = "user"
owner = "people"
description = "Somebody with an account."
keys = [{ name = "user_id", type = "string" }]

[[entity]]
name = "pair"
owner = "people"
description = "Somebody and a thing."
keys = [
  { name = "user_id", type = "string" },
  { name = "item_id", type = "i64" },
]

[[view]]
name = "profile"
version = 1
entity = "user"
owner = "people"
description = "Who somebody is."
source = "profile.parquet"
event_time = "at"
ttl_s = 86400
fresh_for_ms = 500
stale_for_ms = 2000
negative_for_ms = 0
tags = ["nightly", "pii free"]

[[view.feature]]
name = "age"
type = "i64"
default = 30
description = "Years."

[[view.feature]]
name = "vector"
type = "list<f32>"
default = [0, 1]
description = "Where somebody is in the space of tastes."

[[view]]
name = "affinity"
version = 1
entity = "pair"
owner = "people"
description = "How much somebody likes a thing."

[[view.feature]]
name = "score"
type = "f64"
default = 0.5
description = "0 to 1."

[[view.feature]]
name = "note"
type = "string"
description = "In words."

[[view]]
name = "affinity"
version = 2
entity = "pair"
owner = "people"
description = "How much somebody likes a thing, of late."

[[view.feature]]
name = "score"
type = "f64"
default = 0.25
description = "0 to 1."

[[view.feature]]
name = "note"
type = "string"
description = "In words."
"#;

const SERVING: &str = r#"
[[transform]]
name = "boost"
version = 1
owner = "ranking"
description = "Affinity by age."
component = "boost.wasm"
digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
inputs = { age = "profile:age", score = "affinity:score", hour = "request:hour" }
time_limit_ms = 3
memory_limit_mib = 8

[[transform.output]]
name = "boosted"
type = "f64"
default = 0.0
description = "0 to 2."

[[service]]
name = "ranking"
owner = "ranking"
description = "What the ranker reads."
context = ["user_id"]
items = ["item_id"]
budget_ms = 20
max_stale_ms = 1000
on_absent = "default"
fallback_model = "popular"
fallback_above_pct = 40
pin = { affinity = 1 }
features = [
  "profile:age",
  "profile:vector",
  "affinity:score",
  "affinity:note",
  "boost:boosted",
  "request:hour",
]

[[service.request]]
name = "hour"
type = "i64"
scope = "context"
default = 12
description = "Local time, 0 to 23."

[[service]]
name = "friends"
owner = "people"
description = "Two people side by side."
items = ["left", "right"]
budget_ms = 20
on_absent = "null"
features = ["first:age", "second:age"]

[[service.read]]
view = "profile"
as = "first"
keys = { user_id = "left" }

[[service.read]]
view = "profile"
as = "second"
keys = { user_id = "right" }
"#;

const EXPERIMENTS: &str = r#"
[[layer]]
name = "scores"
salt = "layer-scores"
description = "What changes the score."

[[layer]]
name = "models"
salt = "layer-models"

[[holdout]]
name = "untouched"
owner = "ranking"
description = "To measure all against nothing."
salt = "holdout"
buckets = [0, 100]
layers = ["scores"]

[[experiment]]
name = "late_scores"
owner = "ranking"
description = "Are late scores better?"
layer = "scores"
salt = "late-scores"
slots = [0, 5000]
status = "running"
coverage = 10000

[[experiment.where]]
attribute = "country"
op = "in"
values = ["DE", "AT"]

[[experiment.arm]]
name = "control"
weight = 5000
pin = { affinity = 1 }

[[experiment.arm]]
name = "late"
weight = 5000
pin = { affinity = 2 }
defaults = { "affinity:score" = 1 }
max_stale_ms = 100
params = { shade = "blue", depth = 3 }

[experiment.forced]
tester = "late"

[[experiment]]
name = "big_model"
owner = "ranking"
description = "Is the big model better?"
layer = "models"
salt = "big-model"
status = "running"
services = ["ranking"]

[[experiment.arm]]
name = "small"
weight = 9000

[[experiment.arm]]
name = "big"
weight = 1000
model = "big"
"#;

/// The good catalog's files.
pub(crate) fn files() -> Vec<(String, String)> {
    [("views.toml", VIEWS), ("serving.toml", SERVING), ("experiments.toml", EXPERIMENTS)]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .to_vec()
}

/// The good catalog's files with some text replaced; each must be there exactly once.
pub(crate) fn edited(edits: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut files = files();
    for (from, to) in edits {
        let found: usize = files.iter().map(|(_, text)| text.matches(from).count()).sum();
        assert_eq!(found, 1, "{from:?} is there {found} times");
        files.iter_mut().for_each(|(_, text)| *text = text.replace(from, to));
    }
    files
}

/// The good catalog's files with more text at the end of the last.
pub(crate) fn with(more: &str) -> Vec<(String, String)> {
    let mut files = files();
    files[2].1.push_str(more);
    files
}

pub(crate) fn catalog(files: &[(String, String)]) -> Catalog {
    read(files).unwrap_or_else(|mistakes| panic!("{}", listed(&mistakes)))
}

pub(crate) fn plans(files: &[(String, String)]) -> PlanSet {
    compile(&catalog(files)).unwrap_or_else(|mistakes| panic!("{}", listed(&mistakes)))
}

/// The plan of a service of the good catalog, without any arm.
pub(crate) fn plan(service: &str) -> Arc<Plan> {
    Arc::clone(plans(&files()).service(service).unwrap().base())
}

/// One mistake a line.
pub(crate) fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A column of these values, which are of one type.
pub(crate) fn column(values: &[Value]) -> Column {
    let of = values.first().map_or(FeatureType::One(weir_domain::Kind::F64), Value::feature_type);
    let mut column = Column::with_capacity(of, values.len());
    values.iter().for_each(|v| column.push(v).unwrap());
    column
}

pub(crate) fn texts(values: &[&str]) -> Column {
    column(&values.iter().map(|v| Value::String((*v).to_owned())).collect::<Vec<_>>())
}

pub(crate) fn named(name: &str, column: Column) -> Named {
    Named { name: name.to_owned(), column }
}

/// A request that fits the service `ranking`, for three items.
pub(crate) fn request() -> Request {
    Request {
        service: "ranking".to_owned(),
        context: vec![named("user_id", texts(&["u1"]))],
        items: vec![named("item_id", Column::I64(vec![1, 2, 3]))],
        ..Request::default()
    }
}

/// Each case of a text of mistakes is reported as it says; see `catalog_mistakes.rs`.
#[track_caller]
pub(crate) fn each_is_reported(cases: &str) {
    for case in cases.trim().split("\n\n") {
        let part = |mark: &'static str| {
            case.lines().filter_map(move |l| l.strip_prefix(mark)).map(|l| l.trim_start().replace("\\n", "\n"))
        };
        let (from, to): (Vec<_>, Vec<_>) = (part("-").collect(), part("+").collect());
        let message = part("=").next().unwrap();
        assert_eq!(from.len() + to.len() + 1, case.lines().count(), "{case}");
        let edits: Vec<_> = from.iter().map(String::as_str).zip(to.iter().map(String::as_str)).collect();
        let files = edited(&edits);
        let marked = files.iter().find_map(|(name, text)| {
            text.lines().position(|line| line.contains("# here")).map(|line| format!("{name}:{}", line + 1))
        });
        let found = read(&files).map(|_| "no mistake".to_owned()).unwrap_or_else(|mistakes| listed(&mistakes));
        assert_eq!(found, format!("{}: {message}", marked.expect("a marked line")), "\n{case}");
    }
}
