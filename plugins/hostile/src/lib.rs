//! A guest that does everything a guest must not: the first row of its input `mode` chooses the misdeed.
//! For the gateway's tests; it answers the contract by hand because the SDK would not let it misbehave.

// Off Wasm nothing exports it.
#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use weir_plugin::raw::{Batch, Field, Guest, Kind, Schema};

struct Hostile;

#[cfg(target_arch = "wasm32")]
weir_plugin::raw::export_guest!(Hostile with_types_in weir_plugin::raw);

/// What the instance remembers although it should not.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Larger than any reply the gateway takes.
const OVERSIZED_BYTES: usize = 24 << 20;

/// More than a warm instance may keep.
const GREEDY_BYTES: usize = 12 << 20;

impl Guest for Hostile {
    fn describe() -> Schema {
        let field = |name: &str, kind| Field { name: name.to_owned(), kind };
        Schema {
            inputs: vec![field("mode", Kind::I64)],
            outputs: vec![
                field("value", Kind::F64),
                field("text", Kind::String),
                field("flag", Kind::Bool),
                field("vector", Kind::ListF32),
            ],
        }
    }

    fn transform(input: Batch) -> Result<Batch, String> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let mode = input.s64s.first().copied().unwrap_or_default();
        let mut out = honest(input.rows as usize);
        match mode {
            1 => spin(),
            2 => bomb(),
            3 => std::process::abort(),
            4 => out.f64s.fill(f64::from(recurse(1))),
            5 => out.f64s = vec![0.0; OVERSIZED_BYTES / 8],
            6 => drop(out.f64s.pop()),
            7 => out.f64s.push(0.0),
            8 => out.data.fill(0xFF),
            9 => out.ends.reverse(),
            10 => out.ends.iter_mut().for_each(|end| *end += 1_000_000),
            11 => out.bools.fill(2),
            12 => out.rows += 1,
            13 => drop(out.validity.pop()),
            14 => return Err("not today".to_owned()),
            15 => out.f64s.fill(f64::from(calls)),
            16 => return Err("x".repeat(OVERSIZED_BYTES)),
            17 => drop(black_box(vec![1u8; GREEDY_BYTES])),
            18 => split_a_character(&mut out),
            19 => out.f64s.fill(f64::NAN),
            20 => out.data.push(b'!'),
            21 => out.f32s.clear(),
            22 => dawdle(),
            _ => {}
        }
        Ok(out)
    }
}

/// A correct answer: 1.0, "ok", true and [0.5] in every row.
fn honest(rows: usize) -> Batch {
    let text = (1..=rows).map(|row| row as u32 * 2);
    let vectors = (1..=rows).map(|row| row as u32);
    Batch {
        rows: rows as u32,
        f64s: vec![1.0; rows],
        s64s: Vec::new(),
        bools: vec![1; rows],
        f32s: vec![0.5; rows],
        ends: text.chain(vectors).collect(),
        data: b"ok".repeat(rows),
        validity: vec![0xFF; 4 * rows.div_ceil(8)],
    }
}

fn spin() {
    loop {
        black_box(CALLS.load(Ordering::Relaxed));
    }
}

/// Some fifty milliseconds of work: far more than two on any machine, and more than a busy one keeps a ticker waiting.
fn dawdle() {
    for _ in 0..120_000_000 {
        black_box(CALLS.load(Ordering::Relaxed));
    }
}

fn bomb() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1u8; 1 << 20]));
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u32) -> u32 {
    let frame = black_box([depth; 256]);
    recurse(depth + 1) + frame.iter().sum::<u32>()
}

/// The first row ends in the middle of its second character.
fn split_a_character(out: &mut Batch) {
    let rows = out.rows as usize;
    out.data = "é".repeat(rows).into_bytes();
    if let Some(first) = out.ends.first_mut() {
        *first = 1;
    }
}
