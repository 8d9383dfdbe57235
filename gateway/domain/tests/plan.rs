//! Compiling: names become slots, versions are picked, arms become plans, and what does not fit is a mistake.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use std::time::Duration;

use common::{catalog, edited, files, listed, plan, plans, with};
use weir_domain::catalog::{Catalog, Scope};
use weir_domain::experiment::{Assigned, Assignment, Reason};
use weir_domain::plan::{OutputSource, Plan, compile};
use weir_domain::{FeatureType, Kind, Value};

/// The mistakes of compiling a catalog that reads.
fn mistakes(files: &[(String, String)]) -> String {
    listed(&compile(&catalog(files)).map(drop).expect_err("a mistake"))
}

/// A catalog of transforms by name and inputs, a view `v` of the key `id`, and one service of these features.
fn transforms(steps: &[(String, Vec<String>)], features: &[&str]) -> Catalog {
    let mut text = String::from(
        r#"
[[entity]]
name = "e"
owner = "o"
description = "d"
keys = [{ name = "id", type = "i64" }]
[[view]]
name = "v"
version = 1
entity = "e"
owner = "o"
description = "d"
feature = [{ name = "x", type = "f64", description = "d" }]
"#,
    );
    for (name, inputs) in steps {
        let inputs: Vec<_> = inputs.iter().enumerate().map(|(i, input)| format!("p{i} = {input:?}")).collect();
        text += &format!(
            r#"
[[transform]]
name = "{name}"
version = 1
owner = "o"
description = "d"
component = "c.wasm"
inputs = {{ {} }}
output = [{{ name = "a", type = "f64", description = "d" }}, {{ name = "b", type = "f64", description = "d" }}]
"#,
            inputs.join(", ")
        );
    }
    text += &format!(
        "[[service]]\nname = \"s\"\nowner = \"o\"\ndescription = \"d\"\nitems = [\"id\"]\nbudget_ms = 9\nfeatures = {features:?}\n"
    );
    catalog(&[("c.toml".to_owned(), text)])
}

fn step(name: impl ToString, inputs: &[&str]) -> (String, Vec<String>) {
    (name.to_string(), inputs.iter().map(|i| (*i).to_owned()).collect())
}

fn chain(len: usize) -> Vec<(String, Vec<String>)> {
    let input = |i: usize| if i == 0 { "v:x".to_owned() } else { format!("t{}:a", i - 1) };
    (0..len).map(|i| (format!("t{i}"), vec![input(i)])).collect()
}

fn keys(plan: &Plan) -> Vec<(&str, Kind, Scope)> {
    plan.keys.iter().map(|k| (&*k.key.name, k.key.kind, k.scope)).collect()
}

#[test]
fn a_service_becomes_slots_reads_and_steps() {
    let plan = plan("ranking");
    assert_eq!(keys(&plan), [("user_id", Kind::String, Scope::Context), ("item_id", Kind::I64, Scope::Item)]);
    let reads: Vec<_> = plan.reads.iter().map(|r| (&*r.alias, r.keys.clone(), r.scope, r.features.len())).collect();
    assert_eq!(reads, [("profile", vec![0], Scope::Context, 2), ("affinity", vec![0, 1], Scope::Item, 2)]);
    assert_eq!((plan.steps.len(), plan.steps[0].scope), (1, Scope::Item));
    let names: Vec<_> = plan.outputs.iter().map(|o| &*o.name).collect();
    assert_eq!(
        names,
        ["profile:age", "profile:vector", "affinity:score", "affinity:note", "boost:boosted", "request:hour"]
    );
    // The request's slot, four of views, one of the transform: each filled once.
    assert_eq!(plan.slots, 6);
    let mut filled: Vec<usize> = plan.request.iter().map(|r| r.slot).collect();
    filled.extend(plan.reads.iter().flat_map(|r| r.features.iter().map(|f| f.slot)));
    filled.extend(plan.steps.iter().flat_map(|s| s.outputs.clone()));
    filled.sort_unstable();
    assert_eq!(filled, (0..plan.slots).collect::<Vec<_>>());
    assert_eq!(plan.outputs[4].source, OutputSource::Step(0));
    assert_eq!(plan.outputs[5].source, OutputSource::Request(0));
    assert_eq!(plan.outputs[2].default, Some(Value::F64(0.5)));
    assert_eq!(plan.outputs[3].default, None);
    assert_eq!((plan.budget, plan.max_stale), (Duration::from_millis(20), Some(Duration::from_secs(1))));
}

#[test]
fn a_transform_takes_the_slots_of_its_inputs_in_the_order_it_names_them() {
    let plan = plan("ranking");
    let slot = |name: &str| plan.outputs.iter().find(|o| &*o.name == name).unwrap().slot;
    let inputs: Vec<_> = plan.steps[0].transform.inputs.iter().map(|(_, feature)| slot(&feature.to_string())).collect();
    assert_eq!(plan.steps[0].inputs, inputs);
}

#[test]
fn the_same_view_is_read_twice_under_two_names() {
    let plan = plan("friends");
    assert_eq!(keys(&plan), [("left", Kind::String, Scope::Item), ("right", Kind::String, Scope::Item)]);
    let reads: Vec<_> = plan.reads.iter().map(|r| (&*r.alias, &*r.view.doc.name, r.keys.clone())).collect();
    assert_eq!(reads, [("first", "profile", vec![0]), ("second", "profile", vec![1])]);
    assert_ne!(plan.outputs[0].slot, plan.outputs[1].slot);
    assert!(plan.outputs.iter().all(|o| o.default.is_none()), "nulls are asked for");
}

#[test]
fn a_view_read_under_another_name_and_under_its_own_is_two_reads() {
    let files = edited(&[
        ("items = [\"left\", \"right\"]", "items = [\"left\", \"user_id\"]"),
        ("[\"first:age\", \"second:age\"]", "[\"first:age\", \"profile:age\"]"),
        ("keys = { user_id = \"right\" }", ""),
    ]);
    let plans = plans(&files);
    let plan = plans.service("friends").unwrap().base();
    let reads: Vec<_> = plan.reads.iter().map(|r| (&*r.alias, r.keys.clone())).collect();
    assert_eq!(reads, [("first", vec![0]), ("profile", vec![1])]);
}

#[test]
fn a_service_may_have_context_only_or_no_keys_at_all() {
    let files = with(
        r#"
[[service]]
name = "card"
owner = "o"
description = "d"
context = ["user_id"]
budget_ms = 5
features = ["profile:age"]
[[service]]
name = "echo"
owner = "o"
description = "d"
budget_ms = 5
features = ["request:x"]
request = [{ name = "x", type = "f32", scope = "item", description = "d" }]
"#,
    );
    let plans = plans(&files);
    assert_eq!(plans.service("card").unwrap().base().reads[0].scope, Scope::Context);
    let echo = plans.service("echo").unwrap().base();
    assert_eq!((echo.keys.len(), echo.outputs[0].of), (0, FeatureType::One(Kind::F32)));
    assert!(plans.service("nothing").is_none());
    let names: Vec<_> = plans.services().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["card", "echo", "friends", "ranking"]);
}

#[test]
fn names_that_do_not_resolve_are_mistakes() {
    for (from, to, message) in [
        (
            "\"profile:age\",\n",
            "\"profil:age\",\n",
            "serving.toml:19: profil:age: no view, transform or alias is named \"profil\"",
        ),
        (
            "\"profile:age\",\n",
            "\"profile:aeg\",\n",
            "serving.toml:19: profile:aeg: view profile@1 has no such feature; it has age, vector",
        ),
        (
            "\"boost:boosted\"",
            "\"boost:boots\"",
            "serving.toml:19: boost:boots: transform boost@1 has no such output; it has boosted",
        ),
        (
            "\"request:hour\",\n",
            "\"request:our\",\n",
            "serving.toml:19: request:our: the service \"ranking\" has no request feature \"our\"",
        ),
        (
            "age = \"profile:age\"",
            "age = \"profile:old\"",
            "serving.toml:2: profile:old: view profile@1 has no such feature; it has age, vector",
        ),
        (
            "items = [\"left\", \"right\"]",
            "items = [\"left\"]",
            "serving.toml:47: second:age: view \"profile\" is read by \"right\", which the service \"friends\" has neither in context nor in items",
        ),
        (
            "items = [\"left\", \"right\"]",
            "items = [\"left\", \"right\", \"middle\"]",
            "serving.toml:47: service \"friends\": no view is read by the join key \"middle\"",
        ),
        (
            "pin = { affinity = 1 }\nfeatures",
            "features",
            "serving.toml:19: \"affinity\" has versions 1, 2: pin one in service \"ranking\"",
        ),
        (
            "pin = { affinity = 1 }\nfeatures",
            "pin = { affinity = 3 }\nfeatures",
            "serving.toml:19: \"affinity\" is pinned to version 3, but there is only 1, 2",
        ),
        (
            "pin = { affinity = 1 }\nfeatures",
            "pin = { affinity = 1, afinity = 2 }\nfeatures",
            "serving.toml:19: \"afinity\" is pinned, but no view or transform is named so",
        ),
        (
            "pin = { affinity = 2 }",
            "pin = { affinity = 9 }",
            "experiments.toml:19: \"affinity\" is pinned to version 9, but there is only 1, 2",
        ),
        (
            "pin = { affinity = 2 }",
            "pin = { affinity = 2, boots = 1 }",
            "experiments.toml:19: \"boots\" is pinned, but no view or transform is named so",
        ),
        (
            "\"affinity:score\" = 1",
            "\"affinity:scores\" = 1",
            "experiments.toml:19: default of affinity:scores: no service answers this feature",
        ),
        (
            "\"affinity:score\" = 1",
            "\"affinity:score\" = \"1\"",
            "experiments.toml:19: default of affinity:score: string where f64 is expected",
        ),
    ] {
        assert_eq!(mistakes(&edited(&[(from, to)])), message);
    }
}

#[test]
fn a_draft_is_checked_and_one_that_is_over_may_name_what_is_gone() {
    let pin = ("pin = { affinity = 2 }", "pin = { affinity = 9 }");
    let status = |to| ("status = \"running\"\ncoverage", to);
    let draft = edited(&[pin, status("status = \"draft\"\ncoverage")]);
    assert_eq!(mistakes(&draft), "experiments.toml:19: \"affinity\" is pinned to version 9, but there is only 1, 2");
    let stopped = plans(&edited(&[pin, status("status = \"stopped\"\ncoverage")]));
    assert_eq!(stopped.service("ranking").unwrap().all().len(), 3, "none, small, big");
}

#[test]
fn mistakes_of_several_services_are_said_at_once_and_once() {
    let found = mistakes(&edited(&[
        ("\"profile:age\",\n", "\"nobody:age\",\n"),
        ("\"affinity:note\",", "\"affinity:not\","),
        ("\"second:age\"]", "\"third:age\"]"),
    ]));
    assert_eq!(found.lines().count(), 3, "{found}");
}

#[test]
fn a_join_key_is_of_the_kind_of_what_the_service_reads() {
    // Another entity, further up in the catalog, gives the same name to a key of another kind.
    let (text, mut good) = ("name = \"item_id\", type = \"i64\"", files());
    let other = r#"
[[entity]]
name = "item"
owner = "o"
description = "d"
keys = [{ name = "item_id", type = "string" }]
[[view]]
name = "stock"
version = 1
entity = "item"
owner = "o"
description = "d"
feature = [{ name = "left", type = "i64", description = "d" }]
"#;
    assert!(good[0].1.contains(text));
    good[0].1.insert_str(0, other);
    let plans = plans(&good);
    assert_eq!(plans.service("ranking").unwrap().base().keys[1].key.kind, Kind::I64);
    good[1].1 = good[1].1.replace("\"affinity:note\",", "\"affinity:note\", \"stock:left\",");
    let found = mistakes(&good);
    assert_eq!(found, "serving.toml:19: stock:left: join key \"item_id\" is string here but i64 in \"affinity\"");
}

#[test]
fn whatever_a_transform_needs_is_computed_before_it_and_once() {
    let steps = [
        step("top", &["left:a", "right:a", "right:b"]),
        step("left", &["base:a"]),
        step("right", &["base:b", "left:b"]),
        step("base", &["v:x"]),
    ];
    let plans = compile(&transforms(&steps, &["top:a", "base:a", "top:b"])).unwrap();
    let plan = plans.service("s").unwrap().base();
    let order: Vec<_> = plan.steps.iter().map(|s| &*s.transform.doc.name).collect();
    assert_eq!(order, ["base", "left", "right", "top"]);
    let mut known: Vec<usize> = plan.reads.iter().flat_map(|r| r.features.iter().map(|f| f.slot)).collect();
    for step in &plan.steps {
        assert!(step.inputs.iter().all(|slot| known.contains(slot)));
        known.extend(&step.outputs);
    }
    assert_eq!(plan.reads.len(), 1);
}

#[test]
fn transforms_in_a_circle_are_a_mistake() {
    let circle = [step("a", &["b:a"]), step("b", &["c:a"]), step("c", &["a:a"])];
    let found = listed(&compile(&transforms(&circle, &["a:a"])).unwrap_err());
    assert!(found.contains("transforms in a circle: a needs b needs c needs a"), "{found}");
    let itself = [step("a", &["a:b"])];
    let found = listed(&compile(&transforms(&itself, &["a:a"])).unwrap_err());
    assert!(found.contains("transforms in a circle: a needs a"), "{found}");
}

#[test]
fn a_chain_of_transforms_has_a_limit_whichever_is_asked_for_first() {
    assert!(compile(&transforms(&chain(16), &["t15:a"])).is_ok());
    let found = listed(&compile(&transforms(&chain(17), &["t16:a"])).unwrap_err());
    assert!(found.contains("transforms too deep: "), "{found}");
    let found = listed(&compile(&transforms(&chain(17), &["t0:a", "t8:a", "t16:a"])).unwrap_err());
    assert!(found.contains("transforms too deep: \"t16\" would be the 17th in a row, of 16"), "{found}");
}

#[test]
fn a_mistake_below_many_ways_is_found_once_and_soon() {
    // Each needs the next one eight times over: 8^15 ways to the mistake at the end.
    let mut steps: Vec<_> = (0..15)
        .map(|i| {
            let next = [format!("t{}:a", i + 1), format!("t{}:b", i + 1)];
            (format!("t{i}"), next.iter().cycle().take(8).cloned().collect())
        })
        .collect();
    steps.push(step("t15", &["v:gone"]));
    let found = listed(&compile(&transforms(&steps, &["t0:a"])).unwrap_err());
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn there_is_one_plan_a_combination_and_choose_finds_it() {
    let files = files();
    let (catalog, plans) = (catalog(&files), plans(&files));
    assert_eq!(plans.service("friends").unwrap().all().len(), 1);
    assert_eq!(plans.service("ranking").unwrap().all().len(), 9);
    // The plans hold the arms of the catalog they were compiled from.
    let plans = compile(&catalog).unwrap();
    let ranking = plans.service("ranking").unwrap();
    let assigned = |layer: usize, arm: usize| Assigned {
        experiment: std::sync::Arc::clone(&catalog.experiments.layers[layer].experiments[0]),
        layer,
        arm,
        bucket: 0,
        reason: Reason::Split,
    };
    for scores in [None, Some(0), Some(1)] {
        for model in [None, Some(0), Some(1)] {
            let arms: Vec<_> =
                scores.map(|a| assigned(0, a)).into_iter().chain(model.map(|a| assigned(1, a))).collect();
            let count = arms.len();
            let mut assignment = Assignment { arms, ..Assignment::default() };
            let plan = ranking.choose(&mut assignment);
            assert_eq!(assignment.arms.len(), count);
            let late = scores == Some(1);
            let affinity = plan.reads.iter().find(|r| &*r.alias == "affinity").unwrap();
            assert_eq!(affinity.view.version, if late { 2 } else { 1 });
            assert_eq!(plan.outputs[2].default, Some(Value::F64(if late { 1.0 } else { 0.5 })));
            assert_eq!(plan.max_stale, Some(Duration::from_millis(if late { 100 } else { 1000 })));
            assert_eq!(plan.model.as_deref(), (model == Some(1)).then_some("big"));
        }
    }
    // A service that no arm changes exposes nobody.
    let mut assignment = Assignment { arms: vec![assigned(0, 1), assigned(1, 1)], ..Assignment::default() };
    let plan = plans.service("friends").unwrap().choose(&mut assignment);
    assert!(assignment.arms.is_empty());
    assert_eq!(*plan, **plans.service("friends").unwrap().base());
}

#[test]
fn an_experiment_without_pins_concerns_every_service() {
    let plans = plans(&edited(&[("services = [\"ranking\"]", "")]));
    assert_eq!(plans.service("friends").unwrap().all().len(), 3);
}

#[test]
fn a_running_experiment_that_changes_no_service_is_a_mistake() {
    let other = r#"
[[view]]
name = "unread"
version = 1
entity = "user"
owner = "o"
description = "d"
feature = [{ name = "x", type = "f64", description = "d" }]
[[layer]]
name = "third"
salt = "third"
[[experiment]]
name = "idle"
owner = "o"
description = "d"
layer = "third"
salt = "idle"
status = "running"
arm = [{ name = "a", weight = 5000 }, { name = "b", weight = 5000, pin = { unread = 1 } }]
"#;
    assert!(
        mistakes(&with(other)).contains("experiment \"idle\" changes no service: nothing its arms pin is used by one")
    );
    assert!(compile(&catalog(&with(&other.replace("running", "draft")))).is_ok());
}

#[test]
fn more_combinations_than_a_service_may_have_are_a_mistake() {
    let layers = |count: usize| {
        let one = |i: usize| {
            format!(
                "[[layer]]\nname = \"l{i}\"\nsalt = \"l{i}\"\n[[experiment]]\nname = \"e{i}\"\nowner = \"o\"\ndescription = \"d\"\nlayer = \"l{i}\"\nsalt = \"e{i}\"\nstatus = \"running\"\nservices = [\"friends\"]\narm = [{{ name = \"a\", weight = 5000 }}, {{ name = \"b\", weight = 5000 }}, {{ name = \"c\", weight = 0 }}]\n"
            )
        };
        with(&(0..count).map(one).collect::<String>())
    };
    assert_eq!(plans(&layers(5)).service("friends").unwrap().all().len(), 1024);
    assert!(mistakes(&layers(6)).contains("service \"friends\": 4096 combinations of arms, more than 1024"));
}

#[test]
fn experiments_of_two_layers_may_not_set_the_same_thing() {
    let text = |pin: &str| {
        format!(
            r#"
[[entity]]
name = "e"
owner = "o"
description = "d"
keys = [{{ name = "id", type = "i64" }}]
{views}
[[service]]
name = "s"
owner = "o"
description = "d"
items = ["id"]
features = ["a:x", "b:x"]
budget_ms = 10
pin = {{ a = 1, b = 1 }}
[[layer]]
name = "one"
salt = "one"
[[layer]]
name = "two"
salt = "two"
{experiments}
"#,
            views = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
                .map(|(name, version)| format!(
                    "[[view]]\nname = \"{name}\"\nversion = {version}\nentity = \"e\"\nowner = \"o\"\ndescription = \"d\"\n[[view.feature]]\nname = \"x\"\ntype = \"f64\"\ndescription = \"d\"\n"
                ))
                .concat(),
            experiments = [("first", "one", "a"), ("second", "two", pin)]
                .map(|(name, layer, pin)| format!(
                    "[[experiment]]\nname = \"{name}\"\nlayer = \"{layer}\"\nsalt = \"{name}\"\nstatus = \"running\"\nowner = \"o\"\ndescription = \"d\"\narm = [{{ name = \"c\", weight = 5000 }}, {{ name = \"t\", weight = 5000, pin = {{ {pin} = 2 }} }}]\n"
                ))
                .concat(),
        )
    };
    let compiled = |pin: &str| {
        let catalog = weir_domain::catalog::read(&[("c.toml".to_owned(), text(pin))]).expect("a good catalog");
        weir_domain::plan::compile(&catalog).map(|plans| plans.service("s").expect("the service").all().len())
    };
    assert_eq!(compiled("b"), Ok(9));
    let mistakes = compiled("a").expect_err("both pin a");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].message.contains("\"second\" sets the version of \"a\""), "{mistakes:?}");
}
