//! Everything that can be wrong in a catalog without its experiments, each with the one mistake that is reported for it.
//!
//! A case is written as an edit of the good catalog: what is there (`-`), what stands there instead (`+`), and the
//! mistake (`=`) that is expected on the line marked `# here`, and no other. `\n` is a line end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use common::each_is_reported;

#[test]
fn mistakes_of_form_are_named() {
    each_is_reported(
        r#"
- ttl_s = 86400
+ ttl_s = "long" # here
= view "profile": ttl_s: a whole number is expected, not text

- ttl_s = 86400
+ ttl_s = 1.5 # here
= view "profile": ttl_s: a whole number is expected, not a float

- ttl_s = 86400
+ ttl_s = -1 # here
= view "profile": ttl_s: -1 is not between 0 and 3153600000

- event_time = "at"
+ event_time = true # here
= view "profile": event_time: text is expected, not a boolean

- tags = ["nightly", "pii free"]
+ tags = "nightly" # here
= view "profile": tags: a list is expected, not text

- tags = ["nightly", "pii free"]
+ tags = ["nightly", 3] # here
= view "profile": tags: a list of texts is expected, not one with a whole number

- source = "profile.parquet"
+ sauce = 1 # here
= view "profile": unknown key "sauce"; there are description, entity, event_time, feast, feature, fresh_for_ms, layout, name, negative_for_ms, owner, source, stale_for_ms, stale_while_revalidate_ms, tags, ttl_s, version

- [[layer]]\nname = "models"
+ [[leyer]] # here\nname = "models2"\n[[layer]]\nname = "models"
= file: unknown key "leyer"; there are caller, entity, experiment, holdout, layer, service, transform, view

- description = "Somebody with an account."
+ description = " " # here
= entity "user": description: is empty

- [[service]]\nname = "ranking"\nowner = "ranking"
+ [[service]] # here\nname = "ranking"
= service "ranking": missing key "owner"

- name = "friends"\nowner
+ name = "Friends" # here\nowner
= service: name: "Friends" is no name: lower-case letters, digits and _ (64 at most), a letter first

- budget_ms = 20\nmax
+ budget_ms = 0 # here\nmax
= service "ranking": budget_ms: an answer needs at least a millisecond

- [[service]]\nname = "friends"\nowner = "people"\ndescription = "Two people side by side."\nitems = ["left", "right"]\nbudget_ms = 20
+ [[service]] # here\nname = "friends"\nowner = "people"\ndescription = "Two people side by side."\nitems = ["left", "right"]
= service "friends": missing key "budget_ms"

- pin = { affinity = 1 }\nfeatures
+ pin = [1] # here\nfeatures
= service "ranking": pin: a table is expected, not a list

- pin = { affinity = 1 }\nfeatures
+ pin = { affinity = "one" } # here\nfeatures
= service "ranking": pin: affinity: a version number is expected

- context = ["user_id"]
+ context = ["user_id", "user_id"] # here
= service "ranking": context: "user_id" is there twice

- context = ["user_id"]
+ context = ["user_id", "User"] # here
= service "ranking": context: "User" is no name
"#,
    );
}

#[test]
fn mistakes_in_entities_are_named() {
    each_is_reported(
        r#"
- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id", type = "f64" }] # here
= entity "user": keys: type: a join key is string, i64, bytes or timestamp

- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id", type = "text" }] # here
= entity "user": keys: type: "text" is no type: bool, i64, f64, f32, string, bytes, timestamp or list<…> of one is

- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id", type = "list<i64>" }] # here
= entity "user": keys: type: a join key is string, i64, bytes or timestamp

- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id" }] # here
= entity "user": keys: missing key "type"

- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id", type = "string", of = 1 }] # here
= entity "user": keys: unknown key "of"; there are name, type

- keys = [{ name = "user_id", type = "string" }]
+ keys = [{ name = "user_id", type = "string" }, { name = "user_id", type = "i64" }] # here
= entity "user": keys "user_id": is there twice

- [[entity]]\nname = "user"
+ [[entity]] # here\nname = "user"
- keys = [{ name = "user_id", type = "string" }]
+ 
= entity "user": no join key

- [[entity]]\nname = "pair"
+ [[entity]] # here\nname = "user"\nowner = "x"\ndescription = "x"\nkeys = [{ name = "a", type = "i64" }]\n\n[[entity]]\nname = "pair"
= entity user: is already defined at views.toml:2
"#,
    );
}

#[test]
fn mistakes_in_views_are_named() {
    each_is_reported(
        r#"
- version = 1\nentity = "user"
+ version = 0 # here\nentity = "user"
= view "profile": version: 0 is not between 1 and 4294967295

- entity = "user"
+ entity = "usr" # here
= view "profile": entity: no entity is named "usr"

- stale_for_ms = 2000
+ stale_for_ms = 400 # here
= view "profile": stale_for_ms: is less than fresh_for_ms: a row cannot be too old while it is fresh

- default = 30
+ default = "thirty" # here
= view "profile": feature "age": default: string where i64 is expected

- default = 30
+ default = 30.0 # here
= view "profile": feature "age": default: f64 where i64 is expected

- default = 30
+ default = { of = 1 } # here
= view "profile": feature "age": default: is no value: a boolean, a number, a text or a list of one kind of these is

- default = [0, 1]
+ default = [0, "x"] # here
= view "profile": feature "vector": default: is no value: a boolean, a number, a text or a list of one kind of these is

- default = [0, 1]
+ default = [[0], [1]] # here
= view "profile": feature "vector": default: is no value: a boolean, a number, a text or a list of one kind of these is

- default = [0, 1]
+ default = [1e300] # here
= view "profile": feature "vector": default: list<f64> where list<f32> is expected

- type = "list<f32>"
+ type = "list<list<f32>>" # here
= view "profile": feature "vector": type: "list<list<f32>>" is no type: bool, i64, f64, f32, string, bytes, timestamp or list<…> of one is

- [[view.feature]]\nname = "vector"
+ [[view.feature]] # here\nname = "age"
= view "profile": feature "age": is there twice

- description = "Years."
+ description = "Years."\nunit = "a" # here
= view "profile": feature "age": unknown key "unit"; there are default, description, name, type

- [[view.feature]]\nname = "age"
+ [[view.feature]] # here\nname = "age"
- description = "Years."
+ 
= view "profile": feature "age": missing key "description"

- [[view]]\nname = "affinity"\nversion = 2
+ [[view]] # here\nname = "affinity"\nversion = 1
= view affinity@1: is already defined at views.toml:43

- \n[[transform]]\n
+ \n[[view]] # here\nname = "bare"\nversion = 1\nentity = "user"\nowner = "x"\ndescription = "x"\n\n[[transform]]\n
= view "bare": 0 features; a view has 1 to 65535

- \n[[transform]]\n
+ \n[[view]] # here\nname = "request"\nversion = 1\nentity = "user"\nowner = "x"\ndescription = "x"\nfeature = [{ name = "x", type = "i64", description = "x" }]\n\n[[transform]]\n
= view "request": this is what features of the request are named by
"#,
    );
}

#[test]
fn mistakes_in_transforms_are_named() {
    each_is_reported(
        r#"
- digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
+ digest = "sha256:0123" # here
= transform "boost": digest: sha256: followed by 64 lower-case hex digits is expected

- hour = "request:hour" }
+ hour = "hour" } # here
= transform "boost": inputs: hour: "hour" is no source:feature

- hour = "request:hour" }
+ hour = 12 } # here
= transform "boost": inputs: hour: text is expected, not a whole number

- time_limit_ms = 3
+ time_limit_ms = 0 # here
= transform "boost": time_limit_ms: a call needs at least a millisecond

- memory_limit_mib = 8
+ memory_limit_mib = 65 # here
= transform "boost": memory_limit_mib: 65 is not between 1 and 64

- component = "boost.wasm"
+ component = "" # here
= transform "boost": component: is empty

- [[transform]]\nname = "boost"
+ [[transform]] # here\nname = "profile"
= transform "profile": a view has this name

- [[transform]]\nname = "boost"
+ [[transform]] # here\nname = "request"
= transform "request": this is what features of the request are named by

- [[transform]]\n
+ [[transform]] # here\n
- [[transform.output]]\nname = "boosted"\ntype = "f64"\ndefault = 0.0\ndescription = "0 to 2."
+ 
= transform "boost": no output
"#,
    );
}

#[test]
fn mistakes_in_services_are_named() {
    each_is_reported(
        r#"
- items = ["item_id"]
+ items = ["item_id", "user_id"] # here
= service "ranking": items: "user_id" is in context too

- features = ["first:age", "second:age"]
+ features = [] # here
= service "friends": features: a service without features answers nothing

- features = ["first:age", "second:age"]
+ features = [4] # here
= service "friends": features: a list of texts is expected, not one with a whole number

- features = ["first:age", "second:age"]
+ features = ["first", "second:age"] # here
= service "friends": features: "first" is no source:feature

- features = ["first:age", "second:age"]
+ features = ["first:age", "first:age"] # here
= service "friends": features: "first:age" is there twice

- on_absent = "null"
+ on_absent = "nil" # here
= service "friends": on_absent: "nil" is neither "default" nor "null"

- on_absent = "null"
+ fallback_above_pct = 5 # here
= service "friends": fallback_above_pct: there is no fallback_model

- fallback_above_pct = 40
+ sample = 1.5 # here
= service "ranking": sample: 1.5 is not between 0.0001 and 1

- fallback_above_pct = 40
+ sample = 0 # here
= service "ranking": sample: 0 is not between 0.0001 and 1

- fallback_above_pct = 40
+ fallback_above_pct = 101 # here
= service "ranking": fallback_above_pct: 101 is not between 0 and 100

- scope = "context"
+ scope = "row" # here
= service "ranking": request: scope: "row" is neither "context" nor "item"

- description = "Local time, 0 to 23."
+ description = "Local time, 0 to 23."\n\n[[service.request]] # here\nname = "hour"\ntype = "i64"\nscope = "item"\ndescription = "x"
= service "ranking": request "hour": is there twice

- as = "first"
+ as = "affinity" # here
= service "friends": read: as: "affinity" is the name of a view or of a transform

- as = "first"
+ as = "boost" # here
= service "friends": read: as: "boost" is the name of a view or of a transform

- as = "first"
+ as = "request" # here
= service "friends": read: as: "request" is what features of the request are named by

- as = "first"
+ as = "a b" # here
= service "friends": read: as: "a b" is no name: lower-case letters, digits and _ (64 at most), a letter first

- [[service.read]]\nview = "profile"\nas = "second"
+ [[service.read]] # here\nview = "profile"\nas = "first"
= service "friends": read as "first": is there twice

- view = "profile"\nas = "first"
+ view = "prophet" # here\nas = "first"
= service "friends": read: view: no view is named "prophet"

- keys = { user_id = "left" }
+ keys = { uid = "left" } # here
= service "friends": read: keys: "uid" is no join key of the view

- [[service]]\nname = "friends"
+ [[service]] # here\nname = "ranking"
= service ranking: is already defined at serving.toml:19
"#,
    );
}
