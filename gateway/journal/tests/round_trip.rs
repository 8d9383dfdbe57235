//! What is recorded is what is read back from Parquet, value for value.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use common::{SERVED_AT_US, expose, files, open, parquet, plan, read, record, served, settings, types, value};
use weir_domain::{FeatureType, Kind, RequestId};
use weir_journal::{Counted, DropReason, Journal, Recorded, Settings, table::read_table};

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = arrow_cast::cast(batch.column_by_name(column).unwrap(), &arrow_schema::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect()
}

#[test]
fn every_type_survives_from_record_to_parquet() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &types());
    assert_eq!(journal.record(record(&plan, 1, 4)), Recorded::Kept);
    assert_eq!(journal.record(record(&plan, 2, 4)), Recorded::Kept);
    journal.seal().unwrap();

    let paths = parquet(dir.path(), "served");
    assert_eq!(paths.len(), 1);
    assert!(paths[0].to_string_lossy().contains("/served/service=home/dt=2024-02-29/hour=12/"), "{paths:?}");
    let wanted: Vec<(String, FeatureType)> = types().iter().map(|(n, of)| (format!("stats__{n}"), *of)).collect();
    let table = read_table(&paths[0], &wanted).unwrap();
    assert_eq!(table.rows(), 8);
    let mut rows = 0;
    for cells in table.map(Result::unwrap) {
        for (cell, (name, of)) in cells.iter().zip(&wanted) {
            for i in 0..cell.column.len() {
                let row = (rows + i) % 4;
                assert_eq!(cell.provenance[i].is_absent(), row == 0, "{name} row {i}");
                if row != 0 {
                    assert_eq!(cell.column.value(i), value(*of, row), "{name} row {i}");
                }
            }
        }
        rows += cells[0].column.len();
    }
    assert_eq!(rows, 8);

    let batch = read(&paths[0]).remove(0);
    let ids = [1, 1, 1, 1, 2, 2, 2, 2].map(|id| Some(RequestId(id).to_string()));
    assert_eq!(texts(&batch, "request_id"), ids);
    assert_eq!(batch.column_by_name("row").unwrap().as_primitive::<Int32Type>().values()[..], [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(texts(&batch, "user")[4], Some("user-2".into()));
    assert_eq!(batch.column_by_name("item").unwrap().as_primitive::<Int64Type>().value(6), 2);
    assert_eq!(
        texts(&batch, "stats__lf__provenance")[..3],
        ["MISSING", "DEFAULT_LATE", "STORE"].map(|p| Some(p.into()))
    );
    let times = batch.column_by_name("stats__event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.iter().take(2).collect::<Vec<_>>(), [None, Some(SERVED_AT_US - 1000)]);
    let ages = batch.column_by_name("stats__age_ms").unwrap().as_primitive::<Int64Type>();
    assert_eq!(ages.iter().take(2).collect::<Vec<_>>(), [None, Some(1)]);
    let as_of = batch.column_by_name("as_of").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(as_of.value(0), SERVED_AT_US - 5);
    assert!(batch.column_by_name("service").is_none(), "partition columns are in the path alone");
}

#[test]
fn services_catalogs_and_hours_have_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let f = [("x", FeatureType::One(Kind::F64))];
    for (n, (service, catalog, hours)) in
        [("a", "v1", 0), ("a", "v2", 0), ("b", "v2", 0), ("b", "v2", 1)].into_iter().enumerate()
    {
        let mut record = record(&plan(service, catalog, &f), n as u128, 2);
        record.served_at_us += hours * 3_600_000_000;
        assert_eq!(journal.record(record), Recorded::Kept);
    }
    journal.close().unwrap();
    let paths = parquet(dir.path(), "served");
    let short: Vec<String> = paths
        .iter()
        .map(|p| p.strip_prefix(dir.path()).unwrap().to_string_lossy().replace("journal/served/", ""))
        .map(|p| format!("{}{}", &p[..p.rfind('/').unwrap()], &p[p.rfind('-').unwrap()..]))
        .collect();
    assert_eq!(
        short,
        [
            "service=a/dt=2024-02-29/hour=12-0.parquet",
            "service=a/dt=2024-02-29/hour=12-1.parquet",
            "service=b/dt=2024-02-29/hour=12-0.parquet",
            "service=b/dt=2024-02-29/hour=13-0.parquet",
        ]
    );
    assert_eq!(served(dir.path()).len(), 4);
}

#[test]
fn exposures_are_kept_once_per_unit_and_arm_with_their_first_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    for (id, unit, arm, later_us, delivered) in
        [(1, "u1", "a", 50, false), (2, "u1", "a", 0, false), (3, "u1", "a", 70, true), (4, "u2", "b", 9, false)]
    {
        let mut record = record(&plan, id, 3);
        record.served_at_us += later_us;
        expose(&mut record, unit, "ranking", arm, delivered);
        assert_eq!(journal.record(record), Recorded::Kept);
    }
    journal.close().unwrap();
    let paths = parquet(dir.path(), "exposures");
    assert_eq!(paths.len(), 1);
    let batch = read(&paths[0]).remove(0);
    assert_eq!(texts(&batch, "unit"), [Some("u1".into()), Some("u2".into())]);
    assert_eq!(texts(&batch, "arm"), [Some("a".into()), Some("b".into())]);
    assert_eq!(texts(&batch, "request_id")[0], Some(RequestId(2).to_string()));
    assert_eq!(texts(&batch, "reason")[0], Some("SPLIT".into()));
    let counts = batch.column_by_name("exposures").unwrap().as_primitive::<Int64Type>();
    assert_eq!(counts.values()[..], [3, 1]);
    let delivered = batch.column_by_name("delivered").unwrap().as_boolean();
    assert_eq!((delivered.value(0), delivered.value(1)), (true, false));
    let arms = read(&parquet(dir.path(), "served")[0]).remove(0);
    let arms = arms.column_by_name("arms").unwrap().as_list::<i32>().value(0);
    assert_eq!(arms.as_struct().column_by_name("experiment").unwrap().as_string::<i32>().value(0), "ranking");
}

#[test]
fn a_full_queue_drops_and_counts_to_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings { queue_bytes: 16 << 10, ..settings(dir.path()) }).unwrap();
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    let (mut kept, mut dropped) = (Counted::default(), Counted::default());
    for id in 0..50_000 {
        let rows = id as usize % 7;
        let count = match journal.record(record(&plan, id, rows)) {
            Recorded::Kept => &mut kept,
            Recorded::Dropped(DropReason::QueueFull) => &mut dropped,
            other => panic!("{other:?}"),
        };
        *count = Counted { requests: count.requests + 1, rows: count.rows + rows as u64 };
    }
    let too_large = record(&plan, 60_000, 2000);
    assert_eq!(journal.record(too_large), Recorded::Dropped(DropReason::TooLarge));
    journal.seal().unwrap();
    let counts = journal.counts();
    assert!(dropped.requests > 0, "the queue never filled");
    assert_eq!((counts.kept, counts.sealed), (kept, kept));
    assert_eq!(counts.dropped_for(DropReason::QueueFull), dropped);
    assert_eq!(counts.dropped_for(DropReason::TooLarge), Counted { requests: 1, rows: 2000 });
    assert_eq!(served(dir.path()).values().sum::<usize>() as u64, kept.rows);
}

#[test]
fn a_record_that_does_not_fit_its_plan_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    let mut bad = record(&plan, 1, 3);
    bad.answer.cells[0].provenance.pop();
    assert_eq!(journal.record(bad), Recorded::Dropped(DropReason::Misfit));
    let mut bad = record(&plan, 1, 3);
    bad.keys.pop();
    assert_eq!(journal.record(bad), Recorded::Dropped(DropReason::Misfit));
    assert_eq!(journal.counts().dropped_total(), Counted { requests: 2, rows: 6 });
}

#[test]
fn more_plans_than_are_remembered_are_all_readable() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for id in 0..600 {
        let plan = plan("home", &format!("v{id}"), &[("x", FeatureType::One(Kind::F64))]);
        while journal.record(record(&plan, id, 1)) != Recorded::Kept {}
    }
    journal.close().unwrap();
    assert_eq!(served(dir.path()).len(), 600);
}

#[test]
fn many_threads_record_at_once_and_nothing_is_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(dir.path()));
    let threads: Vec<_> = (0..4u128)
        .map(|t| {
            let journal = Arc::clone(&journal);
            std::thread::spawn(move || {
                let plan = plan(&format!("s{t}"), "v1", &types());
                let kept = |id: &u128| journal.record(record(&plan, *id, 3)) == Recorded::Kept;
                (t * 1000..t * 1000 + 300).filter(kept).count()
            })
        })
        .collect();
    let kept: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    journal.seal().unwrap();
    let served = served(dir.path());
    assert_eq!(served.len(), kept);
    assert!(served.values().all(|rows| *rows == 3));
}

#[test]
fn rows_are_sealed_by_age_although_no_row_comes() {
    let dir = tempfile::tempdir().unwrap();
    let tick = std::time::Duration::from_millis(5);
    let journal = Journal::open(Settings { seal_after: tick, fsync_every: tick, ..settings(dir.path()) }).unwrap();
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    assert_eq!(journal.record(record(&plan, 1, 2)), Recorded::Kept);
    while journal.counts().sealed.rows != 2 {
        std::thread::yield_now();
    }
    assert_eq!(served(dir.path()).len(), 1);
}

#[test]
fn segments_rotate_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings { segment_bytes: 4096, ..settings(dir.path()) }).unwrap();
    let plan = plan("home", "v1", &types());
    for id in 0..100 {
        while journal.record(record(&plan, id, 3)) != Recorded::Kept {}
        if id % 25 == 24 {
            // Written before more comes, so that there are several segments.
            while journal.counts().queue_bytes > 0 {
                std::thread::yield_now();
            }
        }
    }
    journal.close().unwrap();
    assert!(files(&dir.path().join("journal/_manifest"), ".json").len() >= 3);
    assert_eq!(served(dir.path()).len(), 100);
}

#[test]
fn two_journals_in_one_process_do_not_meet() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Both queues in the same folder.
    let shared = tempfile::tempdir().unwrap();
    let with = |dir: &std::path::Path| Settings { queue_dir: Some(shared.path().into()), ..settings(dir) };
    let journals = [Journal::open(with(one.path())).unwrap(), Journal::open(with(two.path())).unwrap()];
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    for (i, journal) in journals.iter().enumerate() {
        assert_eq!(journal.record(record(&plan, i as u128, 1)), Recorded::Kept);
    }
    drop(journals);
    assert_eq!(served(one.path()).into_keys().collect::<Vec<_>>(), [RequestId(0).to_string()]);
    assert_eq!(served(two.path()).into_keys().collect::<Vec<_>>(), [RequestId(1).to_string()]);
    assert_eq!(fs::read_dir(shared.path()).unwrap().count(), 0, "queues are removed at an orderly end");
}

#[test]
fn an_orderly_end_leaves_nothing_but_parquet_and_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &[("x", FeatureType::One(Kind::F64))]);
    assert_eq!(journal.record(record(&plan, 1, 1)), Recorded::Kept);
    drop(journal);
    let left: Vec<_> =
        files(dir.path(), "").iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(left.iter().filter(|n| n.ends_with(".json")).count(), 1);
    assert_eq!(left.iter().filter(|n| n.ends_with(".parquet")).count(), 1);
    assert_eq!(left.len(), 3, "{left:?}: besides them only LOCK");
}

#[test]
fn a_second_gateway_on_the_same_folder_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = Journal::open(settings(dir.path())).unwrap_err().to_string();
    assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
}

#[test]
fn manifests_tell_rows_sizes_and_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let plan = plan("home", "v1", &types());
    let mut record = record(&plan, 1, 5);
    expose(&mut record, "u", "ranking", "a", true);
    assert_eq!(journal.record(record), Recorded::Kept);
    journal.close().unwrap();
    let manifests = files(&dir.path().join("journal/_manifest"), ".json");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&manifests[0]).unwrap()).unwrap();
    assert_eq!((&manifest["requests"], &manifest["rows"]), (&1.into(), &5.into()));
    let listed = manifest["files"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    for file in listed {
        let bytes = fs::read(dir.path().join("journal").join(file["path"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len());
        assert_eq!(file["crc32"], format!("{:08x}", crc32fast::hash(&bytes)));
        assert_eq!(file["min_served_at_us"], SERVED_AT_US);
    }
}
