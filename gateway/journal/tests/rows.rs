//! Rows that are answered again and again are written once, and read back as often as they were answered.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use common::{files, open, parquet, plan, read, record, served, settings, types, value};
use weir_domain::plan::Plan;
use weir_domain::{Cell, Column, FeatureType, Kind, Provenance, Record, Times};
use weir_journal::{Journal, Recorded, Settings, table::read_table};

/// An answer whose rows are the `n`-th of all possible ones, each from the store.
fn answered(plan: &Arc<Plan>, id: u128, rows: &[usize]) -> Record {
    let mut record = record(plan, id, rows.len());
    let cell = |of: FeatureType| {
        let mut column = Column::with_capacity(of, rows.len());
        rows.iter().for_each(|n| column.push(&value(of, *n)).unwrap());
        Cell { column, provenance: vec![Provenance::Store; rows.len()] }
    };
    record.answer.cells = plan.outputs.iter().map(|o| cell(o.of)).collect();
    // Half of the requests know the readings that their rows are of, one reading of each row.
    let readings = rows.iter().map(|n| *n as u64 + Times::FIRST_READING);
    record.answer.times[0].readings = readings.filter(|_| id.is_multiple_of(2)).collect();
    // Which row it is, where no row is named by it.
    record.keys[1] = Column::I64(rows.iter().map(|n| *n as i64).collect());
    record
}

/// The first few of these features.
fn numbers(count: usize) -> Vec<(&'static str, FeatureType)> {
    let names = (0..count).map(|i| &*format!("x{i}").leak());
    names.map(|name| (name, FeatureType::One(Kind::F64))).collect()
}

fn wide(count: usize) -> Arc<Plan> {
    plan("home", "v1", &numbers(count))
}

fn keep(journal: &Journal, record: Record) {
    while journal.record(record.clone()) != Recorded::Kept {
        std::thread::yield_now();
    }
}

/// How many rows there are, after every value of each was found to be that of its row.
fn checked(folder: &Path, features: &[(&str, FeatureType)]) -> usize {
    let mut rows = 0;
    for path in parquet(folder, "served") {
        let wanted: Vec<(String, FeatureType)> = [("item".to_owned(), FeatureType::One(Kind::I64))]
            .into_iter()
            .chain(features.iter().map(|(n, of)| (format!("stats__{n}"), *of)))
            .collect();
        for cells in read_table(&path, &wanted).unwrap().map(Result::unwrap) {
            let Column::I64(items) = &cells[0].column else { panic!("items") };
            for (cell, (name, of)) in cells[1..].iter().zip(features) {
                for (i, n) in items.iter().enumerate() {
                    assert_eq!(cell.column.value(i), value(*of, *n as usize), "{name} of row {n}");
                }
            }
            rows += items.len();
        }
    }
    rows
}

/// Numbers without a pattern; a failing run repeats itself.
fn scatter(n: usize) -> usize {
    ((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

#[test]
fn a_row_is_written_once_however_often_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = wide(50);
    let rows: Vec<usize> = (0..20).collect();
    for id in 0..100 {
        keep(&journal, answered(&plan, id, &rows));
    }
    while journal.counts().queue_bytes > 0 {
        std::thread::yield_now();
    }
    // 100 requests of 20 rows of 50 numbers are 800 kB; 20 rows are 8 kB, and a request is its keys and numbers.
    assert!(journal.counts().written_bytes < 100_000, "{} bytes", journal.counts().written_bytes);
    journal.close().unwrap();
    assert_eq!(checked(dir.path(), &numbers(50)), 2000);
}

#[test]
fn rows_of_every_type_are_named_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    // Small segments and little room for what is told: rows are told again and again, and forgotten in between.
    let small = Settings { segment_bytes: 16 << 10, ..settings(dir.path()) };
    let journal = Journal::open(small).unwrap();
    let plan = plan("home", "v1", &types());
    let mut rows = 0;
    for id in 0..400 {
        let named: Vec<usize> = (0..scatter(id) % 7).map(|i| scatter(id * 7 + i) % 23).collect();
        rows += named.len();
        keep(&journal, answered(&plan, id as u128, &named));
        if id % 50 == 49 {
            journal.seal().unwrap();
        }
    }
    journal.close().unwrap();
    assert!(files(&dir.path().join("journal/_manifest"), ".json").len() >= 8);
    assert_eq!(checked(dir.path(), &types()), rows);
}

#[test]
fn more_rows_than_may_be_told_are_all_readable() {
    let dir = tempfile::tempdir().unwrap();
    let small = Settings { segment_bytes: 32 << 10, ..settings(dir.path()) };
    let journal = Journal::open(small).unwrap();
    let plan = wide(10);
    // Each of a thousand rows twice, some of them at once; 32 KiB have room for about eighty.
    for id in 0..1000usize {
        keep(&journal, answered(&plan, id as u128, &[id, (id + 500) % 1000]));
    }
    journal.close().unwrap();
    assert_eq!(checked(dir.path(), &numbers(10)), 2000);
}

#[test]
fn rows_that_differ_in_a_bit_or_a_column_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = wide(9);
    let mut wanted = BTreeMap::new();
    let mut id = 0;
    for column in 0..9 {
        for bits in (0..64).map(|bit| 1u64 << bit).chain([0, f64::NAN.to_bits(), (-0.0f64).to_bits()]) {
            let mut record = answered(&plan, id, &[3]);
            record.keys[1] = Column::I64(vec![id as i64]);
            record.answer.cells[column].column = Column::F64(vec![f64::from_bits(bits)]);
            record.answer.times[0].readings = vec![id as u64 + Times::FIRST_READING];
            wanted.insert(id as i64, (column, bits));
            keep(&journal, record);
            id += 1;
        }
    }
    journal.close().unwrap();
    let mut seen = 0;
    for batch in parquet(dir.path(), "served").iter().flat_map(|p| read(p)) {
        let items = batch.column_by_name("item").unwrap().as_primitive::<Int64Type>();
        for (row, item) in items.values().iter().enumerate() {
            for column in 0..9 {
                let values = batch.column_by_name(&format!("stats__x{column}")).unwrap().as_primitive::<Float64Type>();
                let (changed, bits) = wanted[item];
                let want = if column == changed { bits } else { 3.25f64.to_bits() };
                assert_eq!(values.value(row).to_bits(), want, "column {column} of {item}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, wanted.len());
}

#[test]
fn a_reading_stands_for_its_values_in_one_plan_and_an_unknown_one_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    // One schema, and still two plans: another default may stand where there is no row.
    let plans = [wide(10), wide(10)];
    let answer = |id: u128, plan: &Arc<Plan>, reading: u64, row: usize| {
        let mut record = answered(plan, id, &[row]);
        record.answer.times[0].readings = vec![reading];
        keep(&journal, record);
    };
    let first = Times::FIRST_READING;
    for round in 0..3u128 {
        let id = round * 10;
        answer(id, &plans[0], first, 1);
        answer(id + 1, &plans[1], first, 2);
        answer(id + 2, &plans[0], Times::NO_ROW, 3);
        answer(id + 3, &plans[1], Times::NO_ROW, 4);
        answer(id + 4, &plans[0], Times::UNNUMBERED, 5 + round as usize);
        // Known again by its reading: its values are not looked at, or they would be told.
        let mut record = answered(&plans[0], id + 5, &[8]);
        record.keys[1] = Column::I64(vec![1]);
        record.answer.times[0].readings = vec![first];
        keep(&journal, record);
    }
    journal.close().unwrap();
    assert_eq!(checked(dir.path(), &numbers(10)), 18);
}

#[test]
fn threads_that_meet_the_same_rows_tell_them_before_they_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let small = Settings { segment_bytes: 64 << 10, ..settings(dir.path()) };
    let journal = Arc::new(Journal::open(small).unwrap());
    let plan = wide(10);
    let threads: Vec<_> = (0..4usize)
        .map(|t| {
            let (journal, plan) = (Arc::clone(&journal), Arc::clone(&plan));
            std::thread::spawn(move || {
                for id in 0..500 {
                    let rows: Vec<usize> = (0..5).map(|i| scatter(id * 5 + i) % (20 + id)).collect();
                    keep(&journal, answered(&plan, (t * 500 + id) as u128, &rows));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    journal.seal().unwrap();
    assert_eq!(journal.counts().corrupt_frames, 0);
    assert_eq!(checked(dir.path(), &numbers(10)), 10_000);
}

#[test]
fn damage_to_a_told_row_costs_the_records_that_name_it_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = wide(10);
    for (id, rows) in [[1, 2], [1, 2], [3, 4], [1, 3], [5, 6], [4, 5]].iter().enumerate() {
        keep(&journal, answered(&plan, id as u128, rows));
    }
    while journal.counts().queue_bytes > 0 {
        std::thread::yield_now();
    }
    let path = files(&dir.path().join("journal/wal"), ".seg").remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let name = path.file_name().unwrap().to_owned();
    // The frames are: schema, rows 1 and 2, record, record, rows 3 and 4, ...
    let frames: Vec<usize> = (40..bytes.len()).filter(|at| bytes[*at..].starts_with(b"WEIR")).collect();
    let kind = |at: usize| bytes[at + 12];
    let told: Vec<usize> = frames.iter().copied().filter(|at| kind(*at) == 4).collect();
    assert_eq!(told.len(), 3);
    let at = told[1] + 100;
    bytes[at] ^= 1;
    let other = tempfile::tempdir().unwrap();
    fs::create_dir_all(other.path().join("journal/wal")).unwrap();
    fs::write(other.path().join("journal/wal").join(name), &bytes).unwrap();
    let journal = open(other.path());
    journal.seal().unwrap();
    // The frame itself, and the records of 3 and 4.
    assert_eq!((journal.counts().corrupt_frames, journal.counts().quarantined), (1 + 3, 1));
    journal.close().unwrap();
    assert_eq!(served(other.path()).len(), 3);
    assert_eq!(checked(other.path(), &numbers(10)), 6);
}
