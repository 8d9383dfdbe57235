//! Reading the catalog: what is right reads, and everything that is wrong is said at its place, once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use std::time::Duration;

use common::{catalog, edited, files, listed};
use proptest::prelude::*;
use weir_domain::catalog::{OnAbsent, Sample, read};
use weir_domain::experiment::{Range, bucket};
use weir_domain::plan::compile;
use weir_domain::{FeatureType, Kind, Value};

#[test]
fn a_good_catalog_reads() {
    let catalog = catalog(&files());
    let names: Vec<_> = catalog.views.iter().map(|v| format!("{}@{}", v.doc.name, v.version)).collect();
    assert_eq!(names, ["profile@1", "affinity@1", "affinity@2"]);
    let profile = &catalog.views[0];
    assert_eq!(profile.doc.at.to_string(), "views.toml:17");
    assert_eq!(profile.entity.keys[0].kind, Kind::String);
    assert_eq!(profile.ttl, Some(Duration::from_secs(86_400)));
    assert_eq!(profile.cache.fresh_for, Duration::from_millis(500));
    assert_eq!(profile.cache.negative_for, Duration::ZERO);
    assert_eq!(profile.features[1].of, FeatureType::List(Kind::F32));
    assert_eq!(profile.features[1].default, Some(Value::List(Kind::F32, vec![Value::F32(0.0), Value::F32(1.0)])));
    let affinity = &catalog.views[1];
    assert_eq!((affinity.ttl, affinity.event_time.as_str()), (None, "event_time"));
    assert_eq!(affinity.features[1].default, None);
    let boost = &catalog.transforms[0];
    assert_eq!((boost.inputs.len(), boost.memory_limit_mib, boost.time_limit), (3, 8, Duration::from_millis(3)));
    let friends = &catalog.services[1];
    assert_eq!((friends.on_absent, friends.fallback.is_none(), friends.max_stale), (OnAbsent::Null, true, None));
    let scores = &catalog.experiments.layers[0];
    assert_eq!(scores.experiments[0].slots, Range { start: 0, end: 5000 });
    assert_eq!(scores.experiments[0].forced, [("tester".to_owned(), 1)]);
    assert_eq!(catalog.experiments.layers[1].experiments[0].slots, Range { start: 0, end: 10_000 });
    assert_eq!(catalog.experiments.holdouts[0].layers, [0]);
}

#[test]
fn samples_hold_each_other_and_weigh_what_they_leave_out() {
    let units: Vec<String> = (0..20_000).map(|n| format!("u{n}")).collect();
    let (mut last, mut weighed) = (0, Vec::new());
    for share in [0.0001, 0.01, 0.1, 0.5, 1.0] {
        let sample = Sample::of(share).unwrap();
        let kept: Vec<bool> = units.iter().map(|u| sample.has(u)).collect();
        let count = kept.iter().filter(|k| **k).count();
        let larger = Sample::of((share * 2.0).min(1.0)).unwrap();
        assert!(units.iter().zip(&kept).all(|(u, kept)| !kept || larger.has(u)), "{share}");
        assert!(count >= last);
        (last, weighed) = (count, [weighed, vec![count as f64 * sample.weight()]].concat());
    }
    assert_eq!(last, units.len());
    // Of two thousand units and more the share is right to some percent.
    assert!(weighed[2..].iter().all(|w| (w / 20_000.0 - 1.0).abs() < 0.1), "{weighed:?}");
    assert_eq!(Sample::of(0.1).unwrap().has("u1"), bucket("journal", "u1") < 1000, "anybody can tell who is in it");
    assert_eq!([0.0, -1.0, 0.00001, 1.1, f64::NAN].map(Sample::of), [None; 5]);
    let sampled = catalog(&edited(&[("fallback_above_pct = 40", "fallback_above_pct = 40\nsample = 0.25")]));
    assert_eq!((sampled.services[0].sample.weight(), sampled.services[1].sample), (4.0, Sample::ALL));
}

#[test]
fn rows_are_revalidated_while_they_may_still_be_served() {
    assert_eq!(catalog(&files()).views[0].cache.revalidate_for, Duration::ZERO);
    let with = |ms: u64| {
        let more = format!("stale_for_ms = 2000\nstale_while_revalidate_ms = {ms}");
        edited(&[("stale_for_ms = 2000", &*more)])
    };
    assert_eq!(catalog(&with(1_500)).views[0].cache.revalidate_for, Duration::from_millis(1_500));
    let told = listed(&read(&with(1_501)).unwrap_err());
    assert!(told.contains("stale_while_revalidate_ms: with fresh_for_ms is beyond stale_for_ms"), "{told}");
}

#[test]
fn no_files_are_an_empty_catalog() {
    let catalog = catalog(&[]);
    assert!(catalog.views.is_empty() && catalog.services.is_empty());
    assert!(compile(&catalog).is_ok());
}

#[test]
fn a_catalog_with_windows_line_ends_reads_the_same() {
    let crlf: Vec<_> = files().into_iter().map(|(name, text)| (name, text.replace('\n', "\r\n"))).collect();
    assert_eq!(catalog(&crlf).views, catalog(&files()).views);
}

#[test]
fn a_list_where_tables_belong_is_named() {
    let mut files = files();
    files.push(("more.toml".to_owned(), "view = [\n  3,\n]\n".to_owned()));
    assert_eq!(listed(&read(&files).unwrap_err()), "more.toml:2: view: a table is expected here, not a whole number");
}

#[test]
fn targeting_that_could_never_hold_is_a_mistake() {
    let list = "a list of booleans, numbers or texts is expected";
    let cases: &[(&str, &str, &str)] = &[
        ("in", "values = []", "values: a list of values is expected"),
        ("not_in", "value = 3", "values: a list of values is expected"),
        ("in", "values = [[1], [2]]", &format!("values: {list}")),
        ("in", "values = [{}]", &format!("values: {list}")),
        ("eq", "values = [1]", "value: one value is expected"),
        ("eq", "value = [1]", "value: a boolean, a number or a text is expected"),
        ("ne", "", "value: one value is expected"),
        ("lt", "value = true", "value: a number or a text is expected"),
        ("starts_with", "value = 3", "value: text is expected"),
        ("exists", "value = 3", "value: this operator takes no value"),
    ];
    for (op, value, message) in cases {
        let files = edited(&[("op = \"in\"\nvalues = [\"DE\", \"AT\"]", &format!("op = \"{op}\"\n{value}"))]);
        let found = listed(&read(&files).unwrap_err());
        let (_, rest) = found.split_once(": ").unwrap();
        assert!(rest.starts_with(&format!("experiment \"late_scores\": where: {message}")), "{op} {value}: {found}");
    }
}

#[test]
fn what_refers_to_a_thing_with_a_mistake_is_not_blamed_for_it() {
    for (from, to) in [
        ("description = \"Somebody with an account.\"", "description = \"\""),
        ("description = \"Who somebody is.\"", "description = \"\""),
        ("description = \"What the ranker reads.\"", "description = \"\""),
        ("salt = \"layer-models\"", "salt = 3"),
        ("salt = \"layer-scores\"", "salt = 3"),
    ] {
        let mistakes = read(&edited(&[(from, to)])).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{}", listed(&mistakes));
    }
}

#[test]
fn mistakes_in_several_files_are_all_said_at_once_in_the_order_of_the_places() {
    let files = edited(&[
        ("ttl_s = 86400", "ttl_s = true"),
        ("budget_ms = 20\nmax", "budget_ms = 0\nmax"),
        ("time_limit_ms = 3", "time_limit_ms = 0"),
        ("coverage = 10000", "coverage = \"all\""),
    ]);
    let found = listed(&read(&files).unwrap_err());
    let places: Vec<_> = found.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(places, ["experiments.toml", "serving.toml", "serving.toml", "views.toml"], "{found}");
}

#[test]
fn a_syntax_error_in_one_file_does_not_hide_the_mistakes_of_another() {
    let files =
        edited(&[("ttl_s = 86400", "ttl_s = true"), ("[[layer]]\nname = \"models\"", "[[layer]\nname = \"models\"")]);
    let found = listed(&read(&files).unwrap_err());
    assert!(found.contains("experiments.toml:7: not TOML: expected "), "{found}");
    assert!(found.contains("view \"profile\": ttl_s: a whole number is expected"), "{found}");
}

#[test]
fn a_syntax_error_is_said_in_words() {
    for (text, message) in [
        ("[[view]]\nname = \"a\"\nname = \"b\"\n", "bad.toml:3: not TOML: duplicate key: `name`"),
        ("\n\nname = \"a", "bad.toml:3: not TOML: unterminated string"),
        ("\nname = a\n", "bad.toml:2: not TOML: invalid TOML value, did you mean to use a quoted string?"),
    ] {
        let found = listed(&read(&[("bad.toml".to_owned(), text.to_owned())]).unwrap_err());
        assert_eq!(found, message);
    }
}

#[test]
fn the_fingerprint_of_a_view_changes_with_whatever_changes_its_rows() {
    let fingerprint = |edits: &[(&str, &str)]| catalog(&edited(edits)).views[0].fingerprint;
    let before = fingerprint(&[]);
    let age = "[[view.feature]]\nname = \"age\"\ntype = \"i64\"\ndefault = 30\ndescription = \"Years.\"\n";
    let vector = "[[view.feature]]\nname = \"vector\"\ntype = \"list<f32>\"\ndefault = [0, 1]\ndescription = \"Where somebody is in the space of tastes.\"\n";
    let swapped = format!("{vector}\n{age}");
    let changes: &[&[(&str, &str)]] = &[
        &[
            ("[[view]]\nname = \"profile\"", "[[view]]\nname = \"profiles\""),
            ("view = \"profile\"\nas = \"first\"", "view = \"profiles\"\nas = \"first\""),
            ("view = \"profile\"\nas = \"second\"", "view = \"profiles\"\nas = \"second\""),
        ],
        &[("version = 1\nentity = \"user\"", "version = 2\nentity = \"user\"")],
        &[("name = \"age\"", "name = \"years\"")],
        &[("name = \"age\"\ntype = \"i64\"", "name = \"age\"\ntype = \"f64\"")],
        &[("type = \"list<f32>\"", "type = \"list<f64>\"")],
        &[(age, "")],
        &[(&format!("{age}\n{vector}"), &swapped)],
    ];
    let mut seen = vec![before];
    for change in changes {
        let after = fingerprint(change);
        assert!(!seen.contains(&after), "{change:?}");
        seen.push(after);
    }
    for same in [("default = 30", "default = 31"), ("ttl_s = 86400", "ttl_s = 1"), ("Years.", "In years.")] {
        assert_eq!(fingerprint(&[same]), before, "{same:?}");
    }
}

#[test]
fn the_version_of_a_catalog_changes_with_any_change_of_its_text() {
    let before = catalog(&files()).version;
    assert_eq!(catalog(&files()).version, before);
    let mut commented = files();
    commented[1].1.push_str("# a remark\n");
    let mut moved = files();
    let line = "# a remark\n";
    moved[0].1.push_str(line);
    let mut moved_on = files();
    moved_on[1].1.insert_str(0, line);
    let mut renamed = files();
    renamed[0].0 = "things.toml".to_owned();
    let versions: Vec<_> = [commented, moved, moved_on, renamed].iter().map(|f| catalog(f).version).collect();
    for (i, version) in versions.iter().enumerate() {
        assert_ne!(*version, before);
        assert!(!versions[..i].contains(version));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        let _ = read(&[("x.toml".to_owned(), text)]);
    }

    #[test]
    fn a_mutated_catalog_never_panics_and_every_mistake_lies_in_a_file(
        cuts in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), 0usize..12, token()), 1..4),
    ) {
        let mut files = files();
        for (file, at, len, token) in cuts {
            let mut chars: Vec<char> = files[file].1.chars().collect();
            let at = at.index(chars.len());
            let end = (at + len).min(chars.len());
            chars.splice(at..end, token.chars());
            files[file].1 = chars.into_iter().collect();
        }
        match read(&files).and_then(|catalog| compile(&catalog).map(drop)) {
            Ok(()) => {}
            Err(mistakes) => {
                prop_assert!(!mistakes.is_empty());
                for mistake in mistakes {
                    let (_, text) = files.iter().find(|(name, _)| **name == *mistake.at.file).unwrap();
                    prop_assert!(mistake.at.line >= 1 && mistake.at.line <= text.split('\n').count(), "{}", mistake);
                    prop_assert!(!mistake.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_catalog_with_a_line_left_out_reads_or_says_why(file in 0usize..3, line in any::<prop::sample::Index>()) {
        let mut files = files();
        let mut lines: Vec<String> = files[file].1.lines().map(str::to_owned).collect();
        lines.remove(line.index(lines.len()));
        files[file].1 = lines.join("\n");
        let _ = read(&files).and_then(|catalog| compile(&catalog));
    }
}

fn token() -> impl Strategy<Value = String> {
    let tokens = [
        "",
        "\"",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        "\n",
        ",",
        "#",
        "0",
        "-1",
        "99999999999999999999",
        "1e400",
        "nan",
        "true",
        "\"profile:age\"",
        "request",
        "ü",
        "'''",
        "\u{0}",
        "\r",
        "[[experiment]]\n",
        "[view]\n",
        "1979-05-27",
        "profile = 3\n",
    ];
    prop_oneof![prop::sample::select(tokens.to_vec()).prop_map(str::to_owned), "\\PC{0,6}"]
}
