//! An answer as JSON. Values are written as they lie in their columns, into room that is made once; what is small goes
//! through serde.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use weir_domain::plan::OutputSource;
use weir_domain::{Answer, Cell, Column, Provenance};

use super::{Assignments, At, not_finite};
use crate::pipeline::Meta;

/// Everything but the features.
const REPLY_BYTES: usize = 1_024;
/// A feature without its values: its name, its type and the words around.
const FEATURE_BYTES: usize = 96;
/// The most that a number takes with its provenance, commas and quotes, unless the provenance is a long one.
const VALUE_BYTES: usize = 25 + 8;
/// A row's time and age, which each view has.
const ROW_BYTES: usize = 24;

/// Writes an answer.
pub(crate) fn encode(answer: &Answer, meta: &Meta) -> Bytes {
    let features_bytes = answer.cells.len() * (FEATURE_BYTES + answer.rows * VALUE_BYTES);
    let views_bytes = answer.times.len() * answer.rows * ROW_BYTES;
    let mut written = Vec::with_capacity(REPLY_BYTES + features_bytes + views_bytes);
    let out = &mut written;
    out.push(b'{');
    member(out, "request_id", &meta.request_id.to_string());
    member(out, "service", &*answer.plan.service);
    member(out, "catalog_version", &*answer.plan.catalog);
    member(out, "rows", &answer.rows);
    name(out, "features");
    features(out, answer);
    member(out, "views", &Views(answer));
    member(out, "assignments", &Assignments(&answer.assignment));
    member(out, "holdouts", &Texts(&answer.assignment.holdouts));
    member(out, "fallback_model", &answer.fallback_model.as_deref());
    member(out, "model", &answer.plan.model.as_deref());
    member(out, "budget", &BudgetSpent(meta));
    // People call this from a terminal.
    out.extend_from_slice(b"}\n");
    written.into()
}

fn features(out: &mut Vec<u8>, answer: &Answer) {
    // The provenance that was written last, and where.
    let mut last: (&[Provenance], Range<usize>) = (&[], 0..0);
    list(out, answer.plan.outputs.iter().zip(&answer.cells), |out, (output, cell)| {
        out.push(b'{');
        member(out, "name", &*output.name);
        name(out, "type");
        // Types have no letters that JSON would write otherwise, and writing into memory cannot fail.
        let _ = write!(out, "\"{}\"", output.of);
        name(out, "values");
        values(out, cell);
        name(out, "provenance");
        let (known, at) = last.clone();
        let start = out.len();
        // Values of one view nearly always came the same way.
        if known == cell.provenance && !at.is_empty() {
            out.extend_from_within(at);
        } else {
            list(out, &cell.provenance, |out, provenance| word(out, provenance.name()));
        }
        last = (&cell.provenance, start..out.len());
        if let OutputSource::Read(view) = output.source {
            member(out, "view", &view);
        }
        out.push(b'}');
    });
}

/// The values, null where there is none.
fn values(out: &mut Vec<u8>, cell: &Cell) {
    match &cell.column {
        Column::F64(v) => present(out, cell, |out, row| match v[row] {
            value if value.is_finite() => number(out, value),
            value => word(out, not_finite(value)),
        }),
        Column::F32(v) => present(out, cell, |out, row| match v[row] {
            value if value.is_finite() => number(out, value),
            value => word(out, not_finite(value.into())),
        }),
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
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// A finite float: the shortest text that reads back the same.
fn number(out: &mut Vec<u8>, value: impl zmij::Float) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
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

struct Views<'a>(&'a Answer);

impl Serialize for Views<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct View<'a> {
            name: &'a str,
            version: u32,
            event_time_us: &'a [i64],
            age_ms: &'a [u32],
        }
        serializer.collect_seq(self.0.plan.reads.iter().zip(&self.0.times).map(|(read, times)| View {
            name: &read.alias,
            version: read.view.version,
            event_time_us: &times.event_time_us,
            age_ms: &times.age_ms,
        }))
    }
}

struct Texts<'a>(&'a [std::sync::Arc<str>]);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|t| &**t))
    }
}

struct BudgetSpent<'a>(&'a Meta);

impl Serialize for BudgetSpent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Meta { budget, spent, .. } = self.0;
        let left = budget.left(*spent);
        let mut s = serializer.serialize_struct("Budget", 10)?;
        s.serialize_field("granted_us", &(budget.granted().as_micros() as u64))?;
        s.serialize_field("total_us", &spent.total_us)?;
        s.serialize_field("plan_us", &spent.plan_us)?;
        s.serialize_field("fetch_us", &spent.fetch_us)?;
        s.serialize_field("transform_us", &spent.transform_us)?;
        s.serialize_field("answer_us", &spent.answer_us)?;
        s.serialize_field("plan_left_us", &left.plan_us)?;
        s.serialize_field("fetch_left_us", &left.fetch_us)?;
        s.serialize_field("transform_left_us", &left.transform_us)?;
        s.serialize_field("answer_left_us", &left.answer_us)?;
        s.end()
    }
}
