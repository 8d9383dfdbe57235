//! Views whose rows lie in Feast's hashes: how they are written in the catalog, what can be wrong about that, and what
//! their plans read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use common::{catalog, listed, plans};
use weir_domain::catalog::{Catalog, FeastKey, KeyType, Layout, read};
use weir_domain::feast::{DUMMY_KEY, HashRead, KeyFormat, KeyPart, field};

const CATALOG: &str = r#"
[[entity]]
name = "pair"
owner = "rides"
description = "Somebody and a shop."
keys = [
  { name = "customer", type = "string" },
  { name = "shop", type = "i64" },
  { name = "hour", type = "timestamp" },
]

[[entity]]
name = "everything"
owner = "rides"
description = "One row for all."
keys = []

[[view]]
name = "sales"
version = 1
entity = "pair"
owner = "rides"
description = "What somebody bought."
fresh_for_ms = 0
layout = "feast"

[view.feast]
project = "rides"
entity_key_serialization_version = 2
view = "Sales_v2"
key_types = { shop = "int32" }
key_names = { shop = "Shop", hour = "hour_start" }
feature_names = { total = "Total €" }

[[view.feature]]
name = "count"
type = "i64"
description = "How many."

[[view.feature]]
name = "total"
type = "f64"
description = "For how much."

[[view.feature]]
name = "words"
type = "list<string>"
description = "What was said."

[[view]]
name = "returns"
version = 1
entity = "pair"
owner = "rides"
description = "What somebody gave back."
layout = "feast"

[view.feast]
project = "rides"
key_types = { shop = "int64" }
key_names = { shop = "Shop", hour = "hour_start" }

[[view.feature]]
name = "count"
type = "i64"
description = "How many."

[[view]]
name = "weather"
version = 1
entity = "everything"
owner = "rides"
description = "The same for all."
layout = "feast"

[view.feast]
project = "rides"
hash_fields = 40

[[view.feature]]
name = "is_raining"
type = "bool"
description = "Outside."

[[service]]
name = "sales"
owner = "rides"
description = "All of it."
context = ["customer"]
items = ["shop", "hour"]
budget_ms = 20
features = ["sales:words", "weather:is_raining", "sales:count"]
"#;

fn files(text: &str) -> Vec<(String, String)> {
    vec![("feast.toml".to_owned(), text.to_owned())]
}

fn edited(from: &str, to: &str) -> String {
    assert_eq!(CATALOG.matches(from).count(), 1, "{from:?}");
    CATALOG.replace(from, to)
}

fn layout<'c>(catalog: &'c Catalog, view: &str) -> &'c weir_domain::catalog::FeastLayout {
    let view = catalog.views.iter().find(|v| *v.doc.name == *view).expect("a view");
    let Layout::Feast(layout) = &view.layout else { panic!("not in Feast's hashes") };
    layout
}

#[test]
fn what_is_written_is_what_is_meant() {
    let catalog = catalog(&files(CATALOG));
    let sales = layout(&catalog, "sales");
    assert_eq!((&*sales.project, sales.format, &*sales.view), ("rides", KeyFormat::V2, "Sales_v2"));
    let key = |name: &str, of| FeastKey { name: name.into(), of };
    let keys = [key("customer", KeyType::String), key("Shop", KeyType::I32), key("hour_start", KeyType::Timestamp)];
    assert_eq!(sales.keys, keys);
    let names: Vec<&str> = sales.features.iter().map(|name| &**name).collect();
    assert_eq!(names, ["count", "Total €", "words"]);
    let returns = layout(&catalog, "returns");
    assert_eq!((returns.format, &*returns.view, returns.keys[1].of), (KeyFormat::V3, "returns", KeyType::I64));
    assert!(layout(&catalog, "weather").keys.is_empty());
}

#[test]
fn a_plan_reads_the_fields_that_it_needs_by_keys_in_feasts_order() {
    let plans = plans(&files(CATALOG));
    let plan = plans.service("sales").expect("a service").base();
    let read = &plan.reads[0];
    let source = read.hash.as_ref().expect("hashes");
    // In the order of the service, whatever that of the view.
    assert_eq!(read.features.iter().map(|f| f.index).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(source.read.fields, [field("Sales_v2", "words"), field("Sales_v2", "count")]);
    assert_eq!(source.read.time_field, b"_ts:Sales_v2");
    assert_eq!(source.read.cache, read.view.cache);
    // "Shop" stands before "customer": Feast sorts by code points.
    assert_eq!(source.parts, [(1, KeyType::I32), (0, KeyType::String), (2, KeyType::Timestamp)]);
    let mut prefix = source.read.id.to_vec();
    KeyFormat::V2.push_names(&mut prefix, ["Shop", "customer", "hour_start"].into_iter());
    assert_eq!(source.prefix, prefix);
    // Two views write into these hashes, each with a field for its time.
    assert_eq!(source.read.hash_fields, 4 + 2);
    let as_feast_reads_it = HashRead::new("Sales_v2", ["words", "count"], 6, read.view.cache);
    assert_eq!(source.read.id, as_feast_reads_it.id);
}

#[test]
fn a_view_of_everything_is_read_once_under_feasts_dummy() {
    let plans = plans(&files(CATALOG));
    let plan = plans.service("sales").expect("a service").base();
    let read = plan.reads.iter().find(|r| *r.alias == *"weather").expect("a read");
    let source = read.hash.as_ref().expect("hashes");
    assert_eq!(read.scope, weir_domain::catalog::Scope::Context);
    assert!(source.parts.is_empty());
    assert_eq!(source.read.hash_fields, 40);
    let mut prefix = source.read.id.to_vec();
    KeyFormat::V3.push_names(&mut prefix, [DUMMY_KEY].into_iter());
    KeyFormat::push_part(&mut prefix, KeyPart::String(b""));
    assert_eq!(source.prefix, prefix);
}

#[test]
fn every_mistake_is_named_at_its_line() {
    for (from, to, message) in [
        (
            "layout = \"feast\"\n\n[view.feast]\nproject = \"rides\"\nentity",
            "layout = \"redis\" # here\n\n[view.feast]\nproject = \"rides\"\nentity",
            "view \"sales\": layout: \"redis\" is neither \"packed\" nor \"feast\"",
        ),
        (
            "layout = \"feast\"\n\n[view.feast]\nproject = \"rides\"\nhash_fields = 40\n",
            "layout = \"feast\" # here\n",
            "view \"weather\": layout: a table [view.feast] says where Feast keeps the rows",
        ),
        (
            "layout = \"feast\"\n\n[view.feast]\nproject = \"rides\"\nentity",
            "\n[view.feast] # here\nproject = \"rides\"\nentity",
            "view \"sales\": feast: has no meaning without layout = \"feast\"",
        ),
        (
            "[view.feast]\nproject = \"rides\"\nhash_fields",
            "[view.feast] # here\nhash_fields",
            "view \"weather\": feast: missing key \"project\"",
        ),
        (
            "entity_key_serialization_version = 2",
            "entity_key_serialization_version = 1 # here",
            "view \"sales\": feast: entity_key_serialization_version: 1 is not between 2 and 3",
        ),
        (
            "hash_fields = 40",
            "hash_feilds = 40 # here",
            "view \"weather\": feast: unknown key \"hash_feilds\"; there are entity_key_serialization_version, feature_names, hash_fields, key_names, key_types, project, view",
        ),
        (
            "{ shop = \"int32\" }",
            "{ shop = \"string\" } # here",
            "view \"sales\": feast: key_types: shop: \"string\" where the join key is i64: int32 or int64 is expected",
        ),
        (
            "{ shop = \"int32\" }",
            "{ shop = \"float\" } # here",
            "view \"sales\": feast: key_types: shop: \"float\" where the join key is i64: int32 or int64 is expected",
        ),
        (
            "{ shop = \"int32\" }",
            "{ shopp = \"int32\" } # here",
            "view \"sales\": feast: key_types: \"shopp\" is no join key of \"pair\"",
        ),
        (
            "key_names = { shop = \"Shop\", hour = \"hour_start\" }\nfeature",
            "key_names = { shop = \"customer\", our = \"hour_start\" } # here\nfeature",
            "view \"sales\": feast: key_names: \"customer\" is there twice\nfeast.toml:32: view \"sales\": feast: key_names: \"our\" is no join key of \"pair\"",
        ),
        (
            "{ total = \"Total €\" }",
            "{ totl = \"Total €\" } # here",
            "view \"sales\": feast: feature_names: \"totl\" is no feature of the view",
        ),
        (
            "entity = \"everything\"\nowner = \"rides\"\ndescription = \"The same for all.\"\nlayout = \"feast\"\n\n[view.feast]\nproject = \"rides\"\nhash_fields = 40\n",
            "entity = \"everything\" # here\nowner = \"rides\"\ndescription = \"The same for all.\"\n",
            "view \"weather\": entity: \"everything\" has no join key: only views with layout = \"feast\" can do without",
        ),
        (
            "description = \"One row for all.\"\nkeys = []",
            "description = \"One row for all.\"",
            "entity \"everything\": no join key",
        ),
    ] {
        let text = edited(from, to);
        let line = text.lines().position(|line| line.contains("# here")).map_or(10, |line| line + 1);
        let found = read(&files(&text)).map(|_| "no mistake".to_owned()).unwrap_or_else(|mistakes| listed(&mistakes));
        let found = found.lines().filter(|line| !line.contains("no entity is named")).collect::<Vec<_>>().join("\n");
        let expected = if to == "description = \"One row for all.\"" {
            message.to_owned()
        } else {
            format!("feast.toml:{line}: {message}")
        };
        assert!(found.ends_with(&expected), "\n{found}\n{expected}");
    }
}
