//! Everything that can be wrong in a catalog's experiments, written as in `catalog_mistakes.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use common::each_is_reported;

#[test]
fn mistakes_in_layers_and_holdouts_are_named() {
    each_is_reported(
        r#"
- salt = "layer-models"
+ salt = "layer-scores" # here
= layer "models": salt: is the salt of layer "scores" too: the two would be the same draw

- salt = "layer-models"
+ salt = "a\u000Ab" # here
= layer "models": salt: a salt is one line

- salt = "layer-models"
+ salt = "" # here
= layer "models": salt: is empty

- salt = "holdout"
+ salt = "layer-scores" # here
= holdout "untouched": salt: is the salt of layer "scores" too: the two would be the same draw

- salt = "holdout"
+ salt = "big-model" # here
= holdout "untouched": salt: is the salt of experiment "big_model" too: the two would be the same draw

- buckets = [0, 100]
+ buckets = [0, 10001] # here
= holdout "untouched": buckets: [0, 10001] is no half-open range within 0..10000

- buckets = [0, 100]
+ buckets = [-1, 100] # here
= holdout "untouched": buckets: [-1, 100] is no half-open range within 0..10000

- buckets = [0, 100]
+ buckets = [0, 1, 2] # here
= holdout "untouched": buckets: two whole numbers [start, end] are expected

- buckets = [0, 100]
+ buckets = [0, "x"] # here
= holdout "untouched": buckets: two whole numbers [start, end] are expected

- layers = ["scores"]
+ layers = ["shores"] # here
= holdout "untouched": layers: no layer is named "shores"

- [[layer]]\nname = "models"
+ [[layer]] # here\nname = "scores"
- layer = "models"
+ layer = "scores"\nslots = [6000, 7000]
= layer scores: is already defined at experiments.toml:2

- [[holdout]]
+ [[holdout]] # here
- buckets = [0, 100]\n
+ 
= holdout "untouched": missing key "buckets"
"#,
    );
}

#[test]
fn mistakes_in_experiments_are_named() {
    each_is_reported(
        r#"
- layer = "models"
+ layer = "modes" # here
= experiment "big_model": layer: no layer is named "modes"

- salt = "big-model"
+ salt = "layer-models" # here
= experiment "big_model": salt: is the salt of layer "models" too: the two would be the same draw

- salt = "big-model"
+ salt = "late-scores" # here
= experiment "big_model": salt: is the salt of experiment "late_scores" too: the two would be the same draw

- layer = "models"
+ layer = "scores"\nslots = [4999, 6000] # here
= experiment "big_model": slots: overlap those of experiment "late_scores" in the same layer

- slots = [0, 5000]
+ slots = [5000, 0] # here
= experiment "late_scores": slots: [5000, 0] is no half-open range within 0..10000

- status = "running"\ncoverage
+ status = "live" # here\ncoverage
= experiment "late_scores": status: "live" is not "draft", "running" or "stopped"

- coverage = 10000
+ coverage = 10001 # here
= experiment "late_scores": coverage: 10001 is not between 0 and 10000

- services = ["ranking"]
+ services = ["rating"] # here
= experiment "big_model": services: no service is named "rating"

- name = "late"
+ name = "l8 r" # here
= experiment "late_scores": arm: name: "l8 r" is no name: lower-case letters, digits and _ (64 at most), a letter first

- late"\nweight = 5000
+ late"\nweight = 10001 # here
= experiment "late_scores": arm: weight: 10001 is not between 0 and 10000

- pin = { affinity = 2 }
+ pin = { affinity = -2 } # here
= experiment "late_scores": arm: pin: affinity: a version number is expected

- defaults = { "affinity:score" = 1 }
+ defaults = { score = 1 } # here
= experiment "late_scores": arm: defaults: "score" is no source:feature

- defaults = { "affinity:score" = 1 }
+ defaults = { "affinity:score" = {} } # here
= experiment "late_scores": arm: defaults: affinity:score is no value

- max_stale_ms = 100\n
+ max_stale_ms = 86400001 # here\n
= experiment "late_scores": arm: max_stale_ms: 86400001 is not between 0 and 86400000

- op = "in"
+ op = "among" # here
= experiment "late_scores": where: op: "among" is none of eq, ne, in, not_in, lt, le, gt, ge, starts_with, ends_with, exists, not_exists

- [[experiment]]\nname = "late_scores"
+ [[experiment]] # here\nname = "late_scores"
- late"\nweight = 5000
+ late"\nweight = 4999
= experiment "late_scores": the arms' weights sum up to 9999, not to 10000

- [[experiment]]\nname = "late_scores"
+ [[experiment]] # here\nname = "late_scores"
- name = "late"
+ name = "control"
- tester = "late"
+ tester = "control"
= experiment "late_scores": two arms are named "control"

- [[experiment]]\nname = "big_model"
+ [[experiment]] # here\nname = "big_model"
- [[experiment.arm]]\nname = "big"\nweight = 1000\nmodel = "big"\n
+ 
- weight = 9000
+ weight = 10000
= experiment "big_model": an experiment compares at least two arms

- [[experiment]]\nname = "big_model"
+ [[experiment]] # here\nname = "late_scores"
= experiment late_scores: is already defined at experiments.toml:19

- [experiment.forced]
+ [experiment.forced] # here
- tester = "late"
+ tester = "later"
= experiment "late_scores": forced: tester: no arm is named "later"
"#,
    );
}
