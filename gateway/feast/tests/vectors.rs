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
