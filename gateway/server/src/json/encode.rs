//! An answer as JSON, in room that is made once. What is the same in all answers of a plan is a text that was written
//! with the first; values are written as they lie in their columns; what is small goes through serde.

use std::mem::take;
use std::ops::Range;

use bytes::Bytes;
use serde::ser::{Serialize, Serializer};
use uuid::Uuid;
use weir_domain::plan::{OutputSource, Plan};
use weir_domain::{Answer, Cell, Column, Provenance, Times, push_f32, push_f64};

use super::{Assignments, At};
use crate::pipeline::Meta;

/// Arms and budget, for which there are no texts.
const REST_BYTES: usize = 1_024;
/// A feature's provenance has a name, brackets and a word besides its values.
const FEATURE_BYTES: usize = 32;
/// The most that a number takes with its provenance, commas and quotes, unless the provenance is a long one.
const VALUE_BYTES: usize = 25 + 8;
/// A row's time and age, which each view has.
const ROW_BYTES: usize = 24;

/// Writes an answer.
pub(crate) fn encode(answer: &Answer, meta: &Meta) -> Bytes {
    let texts = answer.plan.texts.get_or_make(|| texts(&answer.plan));
    let texts_bytes = texts.iter().map(|text| text.len()).sum::<usize>();
    let features_bytes = answer.cells.len() * (FEATURE_BYTES + answer.rows * VALUE_BYTES);
    let views_bytes = answer.times.len() * answer.rows * ROW_BYTES;
    let mut written = Vec::with_capacity(REST_BYTES + texts_bytes + features_bytes + views_bytes);
    let out = &mut written;
    // In the order of [`texts`].
    let mut texts = texts.iter();
    let mut text = |out: &mut Vec<u8>| out.extend_from_slice(texts.next().map_or(&[], |text| text));
    text(out);
    let request_id = Uuid::from_u128(meta.request_id.0);
    out.extend_from_slice(request_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    text(out);
    json(out, &answer.rows);
    // The provenance that was written last, and where.
    let mut last: (&[Provenance], Range<usize>) = (&[], 0..0);
    for cell in &answer.cells {
        text(out);
        values(out, cell);
        out.extend_from_slice(br#","provenance":"#);
        let (known, at) = last.clone();
        let start = out.len();
        // Values of one view nearly always came the same way.
        if known == cell.provenance && !at.is_empty() {
            out.extend_from_within(at);
        } else {
            list(out, &cell.provenance, |out, provenance| word(out, provenance.name()));
        }
        last = (&cell.provenance, start..out.len());
    }
    for (read, _) in answer.plan.reads.iter().enumerate() {
        // None were noted when nothing was read.
        let (event_time_us, age_ms) = answer.times.get(read).map_or((&[][..], &[][..]), both);
        text(out);
        list(out, event_time_us, json);
        text(out);
        list(out, age_ms, json);
    }
    text(out);
    json(out, &Assignments(&answer.assignment));
    member(out, "holdouts", &Texts(&answer.assignment.holdouts));
    member(out, "fallback_model", &answer.fallback_model.as_deref());
    text(out);
    budget(out, meta);
    // People call this from a terminal.
    out.extend_from_slice(b"}\n");
    written.into()
}

fn both(times: &Times) -> (&[i64], &[u32]) {
    (&times.event_time_us, &times.age_ms)
}

/// What stands before the request's id, the number of rows, each output's values, each view's times and ages, the arms
/// and the budget.
fn texts(plan: &Plan) -> Vec<Box<[u8]>> {
    let (mut texts, mut text) = (Vec::new(), Vec::new());
    let out = &mut text;
    let mut cut = |out: &mut Vec<u8>| texts.push(take(out).into_boxed_slice());
    out.extend_from_slice(br#"{"request_id":""#);
    cut(out);
    out.push(b'"');
    member(out, "service", &*plan.service);
    member(out, "catalog_version", &*plan.catalog);
    name(out, "rows");
    cut(out);
    name(out, "features");
    out.push(b'[');
    for (index, output) in plan.outputs.iter().enumerate() {
        begin(out, index);
        member(out, "name", &*output.name);
        member(out, "type", &output.of.to_string());
        name(out, "values");
        cut(out);
        if let OutputSource::Read(view) = output.source {
            member(out, "view", &view);
        }
        out.push(b'}');
    }
    out.push(b']');
    name(out, "views");
    out.push(b'[');
    for (index, read) in plan.reads.iter().enumerate() {
        begin(out, index);
        member(out, "name", &*read.alias);
        member(out, "version", &read.view.version);
        name(out, "event_time_us");
        cut(out);
        name(out, "age_ms");
        cut(out);
        out.push(b'}');
    }
    out.push(b']');
    name(out, "assignments");
    cut(out);
    member(out, "model", &plan.model.as_deref());
    name(out, "budget");
    cut(out);
    texts
}

/// Begins an object of a list.
fn begin(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
    out.push(b'{');
}

/// The values, null where there is none.
fn values(out: &mut Vec<u8>, cell: &Cell) {
    match &cell.column {
        Column::F64(v) => present(out, cell, |out, row| push_f64(out, v[row])),
        Column::F32(v) => present(out, cell, |out, row| push_f32(out, v[row])),
        column => present(out, cell, |out, row| json(out, &At(column, row))),
    }
}

fn present(out: &mut Vec<u8>, cell: &Cell, write: impl Fn(&mut Vec<u8>, usize)) {
    list(out, cell.provenance.iter().enumerate(), |out, (row, provenance)| match provenance.is_absent() {
        true => out.extend_from_slice(b"null"),
        false => write(out, row),
    });
}

fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    let mut is_first = true;
    for item in items {
        if !take(&mut is_first) {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// One of our own words: letters that stand for themselves.
fn word(out: &mut Vec<u8>, word: &str) {
    out.push(b'"');
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

/// What a member of an object is called; a comma before it unless it is the first.
fn name(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    word(out, name);
    out.push(b':');
}

fn member(out: &mut Vec<u8>, of: &str, value: &(impl Serialize + ?Sized)) {
    name(out, of);
    json(out, value);
}

fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Serialising into memory what has only string keys cannot fail.
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

struct Texts<'a>(&'a [std::sync::Arc<str>]);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|t| &**t))
    }
}

fn budget(out: &mut Vec<u8>, meta: &Meta) {
    let Meta { budget, spent, .. } = meta;
    let left = budget.left(*spent);
    let mut us = |name: &[u8], us: u64| {
        out.extend_from_slice(name);
        json(out, &us);
    };
    us(br#"{"granted_us":"#, budget.granted().as_micros() as u64);
    us(br#","total_us":"#, spent.total_us.into());
    us(br#","plan_us":"#, spent.plan_us.into());
    us(br#","fetch_us":"#, spent.fetch_us.into());
    us(br#","transform_us":"#, spent.transform_us.into());
    us(br#","answer_us":"#, spent.answer_us.into());
    us(br#","plan_left_us":"#, left.plan_us.into());
    us(br#","fetch_left_us":"#, left.fetch_us.into());
    us(br#","transform_left_us":"#, left.transform_us.into());
    us(br#","answer_left_us":"#, left.answer_us.into());
    out.push(b'}');
}
