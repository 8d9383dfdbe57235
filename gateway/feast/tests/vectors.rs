//! Our values against vectors that the Python server made.
use jiter::JsonValue;
use prost::Message;
use weir_feast::{Class, Raised, text, values};
use weir_proto::feast::types::{Value, value::Val, value_type::Enum as ValueType};

fn class(r: &Raised) -> &'static str {
    match r.class {
        Class::Python(c) => c,
        Class::Feast(c, _) => c,
        _ => "422",
    }
}
fn hexd(s: &str) -> Vec<u8> {
    (0..s.len() / 2).map(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()).collect()
}
fn norm(mut v: Value) -> Vec<u8> {
    fn go(v: &mut Value) {
        match &mut v.val {
            Some(Val::StringSetVal(l) | Val::UuidSetVal(l) | Val::TimeUuidSetVal(l) | Val::DecimalSetVal(l)) => {
                l.val.sort()
            }
            Some(Val::BytesSetVal(l)) => l.val.sort(),
            Some(Val::DoubleSetVal(l)) if std::env::var("SETS").is_err() => l.val.sort_by(f64::total_cmp),
            Some(Val::FloatSetVal(l)) if std::env::var("SETS").is_err() => l.val.sort_by(f32::total_cmp),
            Some(Val::Int32SetVal(l)) if std::env::var("SETS").is_err() => l.val.sort(),
            Some(Val::Int64SetVal(l) | Val::UnixTimestampSetVal(l)) if std::env::var("SETS").is_err() => l.val.sort(),
            Some(Val::BoolSetVal(l)) if std::env::var("SETS").is_err() => l.val.sort(),
            _ => {}
        }
    }
    go(&mut v);
    v.encode_to_vec()
}
#[test]
#[ignore]
fn coerce_agrees() {
    let path = std::env::var("VECTORS").unwrap();
    let (mut ok, mut bad) = (0, 0);
    let mut seen = std::collections::HashMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut f = line.splitn(3, '\t');
        let (ty, input, want) = (f.next().unwrap(), f.next().unwrap(), f.next().unwrap());
        let of = if ty == "UNKNOWN" { ValueType::Invalid } else { ValueType::from_str_name(ty).unwrap() };
        let json = JsonValue::parse(input.as_bytes(), true).unwrap();
        let JsonValue::Array(items) = &json else { panic!() };
        let got = values(items, of);
        let (agrees, shown) = match (want.split_at(2), &got) {
            (("V:", want), Ok(got)) => {
                let want: Vec<Value> =
                    { want.split_terminator(',').map(|h| Value::decode(&*hexd(h)).unwrap()).collect() };
                let a: Vec<_> = want.into_iter().map(norm).collect();
                let b: Vec<_> = got.iter().cloned().map(norm).collect();
                (a == b, format!("{got:?}"))
            }
            (("T:", want), Ok(got)) => {
                let w: Vec<String> = serde_json::from_str(want).unwrap();
                let g: Vec<String> = got.iter().map(text).collect();
                (w == g, format!("{g:?}"))
            }
            (("E:", want), Err(e)) => {
                let (c, m) = want.split_once('\t').unwrap();
                let m: String = serde_json::from_str(m).unwrap();
                ((c == class(e) && (m == e.message || c == "AssertionError")), format!("{} {}", class(e), e.message))
            }
            (_, got) => (false, format!("{got:?}")),
        };
        if agrees {
            ok += 1
        } else {
            bad += 1;
            let n = seen.entry(ty.to_owned()).or_insert(0);
            *n += 1;
            if *n < 6 {
                println!("{ty} {input}\n   want {want}\n   got  {shown}");
            }
        }
    }
    println!("ok {ok} bad {bad}");
}

#[test]
#[ignore]
fn frame_agrees() {
    use std::collections::BTreeMap;
    use weir_feast::{Frame, Target};
    let path = std::env::var("FRAMES").unwrap();
    let (mut ok, mut bad) = (0, 0);
    let show: usize = std::env::var("SHOW").map_or(60, |s| s.parse().unwrap());
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut f = line.splitn(4, '\t');
        let (kind, view, input, want) = (f.next().unwrap(), f.next().unwrap(), f.next().unwrap(), f.next().unwrap());
        let view: serde_json::Value = serde_json::from_str(view).unwrap();
        let want: serde_json::Value = serde_json::from_str(want).unwrap();
        let fields = |name: &str| -> Vec<(String, ValueType)> {
            view[name]
                .as_array()
                .unwrap()
                .iter()
                .map(|f| (f[0].as_str().unwrap().to_owned(), ValueType::from_str_name(f[1].as_str().unwrap()).unwrap()))
                .collect()
        };
        let (features, keys) = (fields("features"), fields("keys"));
        let mapping: BTreeMap<String, String> = serde_json::from_value(view["mapping"].clone()).unwrap();
        let vectors: Vec<(String, u32)> = view
            .get("vector")
            .and_then(|v| v.as_array())
            .map(|v| vec![(v[0].as_str().unwrap().to_owned(), v[1].as_u64().unwrap_or(0) as u32)])
            .unwrap_or_default();
        let target = Target {
            view: view["name"].as_str().unwrap(),
            features: &features,
            join_keys: &keys,
            timestamp_field: view["ts"].as_str().unwrap(),
            created_timestamp_column: view["created"].as_str(),
            field_mapping: &mapping,
            vectors: &vectors,
        };
        let json = JsonValue::parse(input.as_bytes(), true).unwrap();
        let strings: Vec<(String, String)>;
        let typed: Vec<(String, Value)>;
        let frame = match kind {
            "json" => Frame::from_json(&json),
            "strings" => {
                strings = serde_json::from_str(input).unwrap();
                Frame::from_strings(strings.iter().map(|(a, b)| (&**a, &**b)))
            }
            _ => {
                let raw: Vec<(String, String)> = serde_json::from_str(input).unwrap();
                typed = raw.into_iter().map(|(a, b)| (a, Value::decode(&*hexd(&b)).unwrap())).collect();
                Frame::from_values(typed.iter().map(|(a, b)| (&**a, b)))
            }
        };
        let got = frame.and_then(|frame| frame.rows(&target));
        let val = |h: &serde_json::Value| norm(Value::decode(&*hexd(h.as_str().unwrap())).unwrap());
        let agrees = match (&want["rows"], &got) {
            (serde_json::Value::Array(rows), Ok(got)) => {
                rows.len() == got.len()
                    && rows.iter().zip(got).all(|(w, g)| {
                        let keys = w["k"].as_array().unwrap();
                        let feats = w["f"].as_object().unwrap();
                        keys.len() == g.keys.len()
                            && keys.iter().zip(&g.keys).all(|(a, b)| a[0] == b.0 && val(&a[1]) == norm(b.1.clone()))
                            && feats.len() == g.features.len()
                            && g.features.iter().all(|(i, v)| val(&feats[&features[*i].0]) == norm(v.clone()))
                            && w["t"][0].as_i64() == Some(g.event_time.0)
                            && w["t"][1].as_i64() == Some(i64::from(g.event_time.1))
                    })
            }
            (serde_json::Value::Null, Err(e)) => {
                want["class"] == class(e) && (want["message"] == *e.message || class(e) == "AssertionError")
            }
            _ => false,
        };
        if agrees {
            ok += 1
        } else {
            bad += 1;
            if bad <= show {
                println!(
                    "{kind} {} {input}\n   want {want}\n   got  {}",
                    view,
                    match &got {
                        Ok(r) => format!("{r:?}"),
                        Err(e) => format!("{} {}", class(e), e.message),
                    }
                );
            }
        }
    }
    println!("ok {ok} bad {bad}");
}
