//! How much one request may ask for: Feast itself has no bounds, and a request of a few megabytes can ask for gigabytes.
//! Ordinary batch clients are far below each of these; whatever is made of a request is made after they were checked.

use std::collections::HashSet;

use jiter::JsonValue;
use weir_domain::{Refusal, Violation};
use weir_proto::feast::types::{Value, value::Val};

use crate::lookup::Lookup;

/// Rows of one request, or of one write. Batch clients send some thousands; ten times what our own API takes.
pub const ROWS_MAX: usize = 100_000;
/// Values of one answer, or of one write: as many rows as there may be, of 20 columns. As JSON, with status and time, an ordinary value has
/// up to 65 bytes, which makes replies of 130 MB.
pub const CELLS_MAX: usize = 2_000_000;
/// Bytes of texts that are repeated: join keys, for every view that names its hashes by them, and in a write the scalars
/// that every row gets. 33 for each value of the largest answer, on average.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

impl Lookup {
    /// Refuses what is too much, before anything is made of it: `rows` of the longest of so many `columns` that were sent.
    pub fn check_size(&self, rows: usize, columns: usize) -> Result<(), Refusal> {
        let read = self.reads.iter().map(|read| read.columns.len()).sum::<usize>();
        let computed = self.computed.iter().map(|computed| computed.outputs.len()).sum::<usize>();
        check("entities", rows, columns + read + computed)
    }

    /// Refuses join keys of too many bytes.
    pub fn check_keys(&self, columns: &[(&str, Vec<Value>)]) -> Result<(), Refusal> {
        let is_key = |name: &str| self.join_keys.contains(name) || self.join_key_of.contains_key(name);
        let keys = columns.iter().filter(|(name, _)| is_key(name)).flat_map(|(_, values)| values);
        let bytes: usize = keys.map(bytes_of).sum();
        let views = self.reads.len();
        if bytes.saturating_mul(views) > TEXT_BYTES_MAX {
            let text = format!("{bytes} bytes of join keys for {views} views, more than {TEXT_BYTES_MAX} in all");
            return Err(too_large("entities", text));
        }
        Ok(())
    }
}

/// Refuses the `df` of a write that is too much, before a frame is made of it.
pub fn check_frame(df: &JsonValue<'_>) -> Result<(), Refusal> {
    const DF: &str = "df";
    let JsonValue::Object(columns) = df else { return Ok(()) };
    let (mut rows, mut labels, mut scalars) = (0, HashSet::new(), 0);
    for (_, column) in columns.iter() {
        match column {
            JsonValue::Array(values) => rows = rows.max(values.len()),
            JsonValue::Object(cells) => labels.extend(cells.iter().map(|(label, _)| &**label)),
            JsonValue::Str(text) => scalars += text.len(),
            JsonValue::BigInt(number) => scalars += (number.bits() / BITS_PER_DIGIT) as usize,
            _ => {}
        }
    }
    let rows = rows.max(labels.len());
    check(DF, rows, columns.len())?;
    if scalars.saturating_mul(rows) > TEXT_BYTES_MAX {
        let text = format!("{scalars} bytes of scalars for {rows} rows, more than {TEXT_BYTES_MAX} in all");
        return Err(too_large(DF, text));
    }
    Ok(())
}

/// No more than a decimal digit has.
const BITS_PER_DIGIT: u64 = 3;

fn check(field: &str, rows: usize, columns: usize) -> Result<(), Refusal> {
    if rows > ROWS_MAX {
        return Err(too_large(field, format!("{rows} rows, more than the {ROWS_MAX} of one request")));
    }
    if rows.saturating_mul(columns) > CELLS_MAX {
        let text = format!("{rows} rows of {columns} columns, more than {CELLS_MAX} values in all");
        return Err(too_large(field, text));
    }
    Ok(())
}

fn too_large(field: &str, text: String) -> Refusal {
    Refusal::TooLarge(Violation::new(field, text))
}

fn bytes_of(value: &Value) -> usize {
    match &value.val {
        Some(Val::StringVal(text)) => text.len(),
        Some(Val::BytesVal(bytes)) => bytes.len(),
        _ => 0,
    }
}
