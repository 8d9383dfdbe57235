//! A record as the body of a frame. Writing copies whole column buffers, or names rows that were told before
//! (`rows.rs`); reading checks everything and gives the same values back.

use weir_domain::plan::OutputSource;
use weir_domain::{Blob, Column, FeatureType, Kind, Lists, Provenance, Record, RequestId};

use crate::rows::Refs;
use crate::schema::Schema;
use crate::seal::{Picked, Pools};
use crate::wire::{Cursor, Malformed, put_slice, put_text};

/// A context key is written once per row in Parquet. One that would swell beyond this is a mistake or an attack.
const SPREAD_BYTES_MAX: usize = 64 << 20;

/// Far beyond any answer; keeps a row count that stands alone from filling the memory when it is sealed.
pub(crate) const ROWS_MAX: usize = 1 << 20;

/// What stands in a frame's body for one request, decoded.
#[derive(Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) schema: u32,
    pub(crate) rows: usize,
    pub(crate) request_id: RequestId,
    pub(crate) served_at_us: i64,
    pub(crate) as_of_us: i64,
    pub(crate) granted_us: u32,
    pub(crate) spent_us: u32,
    pub(crate) unit: Option<String>,
    pub(crate) fallback_model: Option<String>,
    pub(crate) arms: Vec<ServedArm>,
    pub(crate) holdouts: Vec<String>,
    /// By key: one value or one per row.
    pub(crate) keys: Vec<Column>,
    /// By read: event times and ages; none, one or one per row.
    pub(crate) times: Vec<(Vec<i64>, Vec<u32>)>,
    /// By output: one value per row.
    pub(crate) cells: Vec<(Column, Vec<Provenance>)>,
}

/// The unit's arm in one experiment.
#[derive(Debug, PartialEq)]
pub(crate) struct ServedArm {
    pub(crate) experiment: String,
    pub(crate) arm: String,
    pub(crate) bucket: u32,
    pub(crate) forced: bool,
    pub(crate) delivered: bool,
}

/// Why a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Its columns are not those of its plan.
    Misfit,
    /// It would swell beyond all measure in Parquet.
    TooLarge,
}

/// Whether the columns are those of the plan: types, and one value or one per row.
pub(crate) fn check(record: &Record) -> Result<(), Unfit> {
    let (plan, rows) = (&record.answer.plan, record.answer.rows);
    let fits = |n: usize| n == 1 || n == rows;
    let keys_fit = record.keys.len() == plan.keys.len()
        && record
            .keys
            .iter()
            .zip(&plan.keys)
            .all(|(column, key)| fits(column.len()) && column.feature_type() == FeatureType::One(key.key.kind));
    let times_fit = record
        .answer
        .times
        .iter()
        .all(|t| t.event_time_us.len() == t.age_ms.len() && (t.age_ms.is_empty() || fits(t.age_ms.len())));
    let cells_fit = record.answer.cells.len() == plan.outputs.len()
        && record.answer.cells.iter().zip(&plan.outputs).all(|(cell, output)| {
            cell.column.len() == rows && cell.provenance.len() == rows && cell.column.feature_type() == output.of
        });
    if !(keys_fit && times_fit && cells_fit) {
        return Err(Unfit::Misfit);
    }
    let spread: usize = record
        .keys
        .iter()
        .map(|k| match k {
            Column::String(b) | Column::Bytes(b) if b.len() == 1 => b.data.len().saturating_mul(rows),
            _ => 0,
        })
        .sum();
    if spread > SPREAD_BYTES_MAX || rows > ROWS_MAX { Err(Unfit::TooLarge) } else { Ok(()) }
}

/// Stands before one provenance for all values, where otherwise [`EACH`] and one per value stand.
const ALL: u8 = 1;
const EACH: u8 = 0;

/// Writes a frame's body. The caller has checked that the record fits.
pub(crate) fn encode(record: &Record, schema: u32, refs: &Refs, out: &mut Vec<u8>) {
    let answer = &record.answer;
    out.extend_from_slice(&schema.to_le_bytes());
    out.extend_from_slice(&(answer.rows as u32).to_le_bytes());
    out.extend_from_slice(&record.request_id.0.to_le_bytes());
    out.extend_from_slice(&record.served_at_us.to_le_bytes());
    out.extend_from_slice(&record.as_of_us.to_le_bytes());
    out.extend_from_slice(&record.granted_us.to_le_bytes());
    out.extend_from_slice(&record.spent_us.to_le_bytes());
    put_text(out, answer.assignment.unit.as_deref());
    put_text(out, answer.fallback_model.as_deref());
    out.extend_from_slice(&(answer.assignment.arms.len() as u32).to_le_bytes());
    for (i, assigned) in answer.assignment.arms.iter().enumerate() {
        put_text(out, Some(&assigned.experiment.doc.name));
        put_text(out, Some(&assigned.arm().name));
        out.extend_from_slice(&assigned.bucket.to_le_bytes());
        out.push(u8::from(assigned.reason == weir_domain::experiment::Reason::Forced));
        out.push(u8::from(answer.delivered.get(i).copied().unwrap_or(false)));
    }
    out.extend_from_slice(&(answer.assignment.holdouts.len() as u32).to_le_bytes());
    for holdout in &answer.assignment.holdouts {
        put_text(out, Some(holdout));
    }
    for key in &record.keys {
        put_column(out, key);
    }
    for i in 0..answer.plan.reads.len() {
        match answer.times.get(i) {
            // One entry stands for all rows.
            Some(times) if is_constant(&times.event_time_us) && is_constant(&times.age_ms) => {
                out.extend_from_slice(&1u32.to_le_bytes());
                put_slice(out, &times.event_time_us[..1]);
                put_slice(out, &times.age_ms[..1]);
            }
            Some(times) => {
                out.extend_from_slice(&(times.age_ms.len() as u32).to_le_bytes());
                put_slice(out, &times.event_time_us);
                put_slice(out, &times.age_ms);
            }
            None => out.extend_from_slice(&0u32.to_le_bytes()),
        }
        let named = refs.of(i, answer.rows);
        out.extend_from_slice(&named.map_or(0, |(_, offsets)| offsets.len() as u32).to_le_bytes());
        if let Some((first, offsets)) = named {
            out.extend_from_slice(&first.to_le_bytes());
            put_slice(out, offsets);
        }
    }
    for (cell, output) in answer.cells.iter().zip(&answer.plan.outputs) {
        let is_named = matches!(output.source, OutputSource::Read(read) if refs.of(read, answer.rows).is_some());
        if !is_named {
            put_column(out, &cell.column);
        }
        match cell.provenance.first() {
            Some(first) if is_constant(&cell.provenance) => out.extend_from_slice(&[ALL, *first as u8]),
            _ => {
                out.push(EACH);
                out.extend(cell.provenance.iter().map(|p| *p as u8));
            }
        }
    }
}

/// Whether there is a value, and it is the same everywhere. Looks at all of them: without a way out in between that is
/// done many at a time.
fn is_constant<T: Copy + PartialEq>(values: &[T]) -> bool {
    values.first().is_some_and(|first| values.iter().fold(true, |same, v| same & (v == first)))
}

/// Number of values, then the buffers one after another. The type is in the schema.
pub(crate) fn put_column(out: &mut Vec<u8>, column: &Column) {
    out.extend_from_slice(&(column.len() as u32).to_le_bytes());
    match column {
        Column::Bool(v) => out.extend(v.iter().map(|b| u8::from(*b))),
        Column::I64(v) | Column::Timestamp(v) => put_slice(out, v),
        Column::F64(v) => put_slice(out, v),
        Column::F32(v) => put_slice(out, v),
        Column::String(b) | Column::Bytes(b) => {
            put_slice(out, &b.ends);
            out.extend_from_slice(&b.data);
        }
        Column::List(lists) => {
            put_slice(out, &lists.ends);
            put_column(out, &lists.items);
        }
    }
}

/// The schema id in a record's body.
pub(crate) fn schema_id(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|id| u32::from_le_bytes(*id))
}

/// When the request of a record's body was answered.
pub(crate) fn served_at_us(body: &[u8]) -> Option<i64> {
    body.get(24..)?.first_chunk().map(|at| i64::from_le_bytes(*at))
}

/// Reads a frame's body; the rows that it names are in `pools`.
pub(crate) fn decode(body: &[u8], schema: &Schema, pools: &Pools) -> Result<Served, Malformed> {
    let mut from = Cursor(body);
    let id = from.u32("a schema id")?;
    let rows = from.u32("a row count")? as usize;
    if rows > ROWS_MAX {
        return Err(Malformed("a sensible row count"));
    }
    let request_id = RequestId(from.u128("a request id")?);
    let (served_at_us, as_of_us) = (from.i64("a time")?, from.i64("a time")?);
    let (granted_us, spent_us) = (from.u32("a budget")?, from.u32("a budget")?);
    let unit = from.text("a unit")?.map(str::to_owned);
    let fallback_model = from.text("a model")?.map(str::to_owned);
    let arms = (0..from.u32("arms")?).map(|_| arm(&mut from)).collect::<Result<_, _>>()?;
    let holdout = |from: &mut Cursor<'_>| Ok(from.text("a holdout")?.unwrap_or_default().to_owned());
    let holdouts = (0..from.u32("holdouts")?).map(|_| holdout(&mut from)).collect::<Result<_, _>>()?;
    let fits = |n: usize| n == 1 || n == rows;
    let key = |from: &mut Cursor<'_>, of| {
        column(from, of).and_then(|c| if fits(c.len()) { Ok(c) } else { Err(Malformed("a key per row")) })
    };
    let keys = schema.keys.iter().map(|k| key(&mut from, k.of)).collect::<Result<_, _>>()?;
    let mut times = Vec::with_capacity(schema.reads.len());
    let mut named: Vec<Option<Picked<'_>>> = Vec::with_capacity(schema.reads.len());
    for read in 0..schema.reads.len() {
        let count = from.u32("times")? as usize;
        if count != 0 && !fits(count) {
            return Err(Malformed("a time per row"));
        }
        let events = from.numbers(count, i64::from_le_bytes, "event times")?;
        times.push((events, from.numbers(count, u32::from_le_bytes, "ages")?));
        named.push(match from.u32("references")? as usize {
            0 => None,
            count if count == rows => {
                let first = from.i64("a row's number")? as u64;
                let offsets = from.numbers(count, u32::from_le_bytes, "references")?;
                Some(pools.pick(id, read, first, &offsets)?)
            }
            _ => return Err(Malformed("a reference per row")),
        });
    }
    let mut cells = Vec::with_capacity(schema.outputs.len());
    for output in &schema.outputs {
        let values = match output.read.and_then(|read| named.get_mut(read)?.as_mut()) {
            Some(picked) => picked.next().ok_or(Malformed("a value per output"))?,
            None => column(&mut from, output.of)?,
        };
        if values.len() != rows {
            return Err(Malformed("a value per row"));
        }
        let provenance = match from.u8("provenance")? {
            ALL => vec![provenance(from.u8("provenance")?)?; rows],
            EACH => from.take(rows, "provenance")?.iter().map(|b| provenance(*b)).collect::<Result<_, _>>()?,
            _ => return Err(Malformed("a sort of provenance")),
        };
        cells.push((values, provenance));
    }
    if !from.0.is_empty() {
        return Err(Malformed("one record and nothing else"));
    }
    Ok(Served {
        schema: id,
        rows,
        request_id,
        served_at_us,
        as_of_us,
        granted_us,
        spent_us,
        unit,
        fallback_model,
        arms,
        holdouts,
        keys,
        times,
        cells,
    })
}

fn provenance(byte: u8) -> Result<Provenance, Malformed> {
    Provenance::from_byte(byte).ok_or(Malformed("a known provenance"))
}

fn arm(from: &mut Cursor<'_>) -> Result<ServedArm, Malformed> {
    Ok(ServedArm {
        experiment: from.text("an experiment")?.unwrap_or_default().to_owned(),
        arm: from.text("an arm")?.unwrap_or_default().to_owned(),
        bucket: from.u32("a bucket")?,
        forced: from.u8("a reason")? != 0,
        delivered: from.u8("a delivery")? != 0,
    })
}

pub(crate) fn column(from: &mut Cursor<'_>, of: FeatureType) -> Result<Column, Malformed> {
    let count = from.u32("a column")? as usize;
    let kind = match of {
        FeatureType::One(kind) => kind,
        FeatureType::List(kind) => {
            let ends = ends(from, count)?;
            let items = column(from, FeatureType::One(kind))?;
            if items.len() != ends.last().map_or(0, |e| *e as usize) {
                return Err(Malformed("the items of its lists"));
            }
            return Ok(Column::List(Box::new(Lists { ends, items })));
        }
    };
    Ok(match kind {
        Kind::Bool => Column::Bool(from.take(count, "booleans")?.iter().map(|b| *b != 0).collect()),
        Kind::I64 => Column::I64(from.numbers(count, i64::from_le_bytes, "integers")?),
        Kind::Timestamp => Column::Timestamp(from.numbers(count, i64::from_le_bytes, "timestamps")?),
        Kind::F64 => Column::F64(from.numbers(count, f64::from_le_bytes, "floats")?),
        Kind::F32 => Column::F32(from.numbers(count, f32::from_le_bytes, "floats")?),
        Kind::Bytes => Column::Bytes(blob(from, count)?),
        Kind::String => {
            let blob = blob(from, count)?;
            if !blob.iter().all(|text| std::str::from_utf8(text).is_ok()) {
                return Err(Malformed("UTF-8 in its texts"));
            }
            Column::String(blob)
        }
    })
}

fn blob(from: &mut Cursor<'_>, count: usize) -> Result<Blob, Malformed> {
    let ends = ends(from, count)?;
    let data = from.take(ends.last().map_or(0, |e| *e as usize), "texts")?.to_vec();
    Ok(Blob { ends, data })
}

fn ends(from: &mut Cursor<'_>, count: usize) -> Result<Vec<u32>, Malformed> {
    let ends = from.numbers(count, u32::from_le_bytes, "lengths")?;
    if ends.is_sorted() { Ok(ends) } else { Err(Malformed("lengths in order")) }
}
