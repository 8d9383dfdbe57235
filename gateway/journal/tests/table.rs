//! Feature files as other programs write them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array,
    Int32Array, Int64Array, LargeListArray, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    types::{Float32Type, Float64Type, Int32Type, Int64Type},
};
use parquet::arrow::ArrowWriter;
use weir_domain::{Column, FeatureType, Kind, Provenance, Value};
use weir_journal::table::{TableError, read_table};

fn file(dir: &Path, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let path = dir.join("features.parquet");
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

/// One column of two rows: its values, or the error.
fn one(column: ArrayRef, of: FeatureType) -> Result<Vec<Option<Value>>, TableError> {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), vec![("x", column)]);
    let mut out = Vec::new();
    for cells in read_table(&path, &[("x", of)])? {
        let cell = cells?.remove(0);
        assert_eq!(cell.column.feature_type(), of);
        out.extend((0..cell.column.len()).map(|i| match cell.provenance[i] {
            Provenance::Store => Some(cell.column.value(i)),
            _ => None,
        }));
    }
    Ok(out)
}

#[test]
fn every_type_that_converts_without_loss_is_read() {
    let at = Value::Timestamp(86_400_000_000);
    let text = |t: &str| Value::String(t.into());
    let list = |kind, items: Vec<Value>| Value::List(kind, items);
    let f = |x| Value::F32(x);
    let dictionary: DictionaryArray<Int32Type> = [Some("a"), None].into_iter().collect();
    let zoned = TimestampSecondArray::from(vec![Some(86_400), None]).with_timezone("+05:00");
    let cases: Vec<(ArrayRef, Kind, Value)> = vec![
        (Arc::new(Int32Array::from(vec![Some(7), None])), Kind::I64, Value::I64(7)),
        (Arc::new(Float32Array::from(vec![Some(0.5), None])), Kind::F64, Value::F64(0.5)),
        (Arc::new(Int32Array::from(vec![Some(7), None])), Kind::F64, Value::F64(7.0)),
        (Arc::new(LargeStringArray::from(vec![Some("a"), None])), Kind::String, text("a")),
        (Arc::new(StringViewArray::from(vec![Some("a"), None])), Kind::String, text("a")),
        (Arc::new(dictionary), Kind::String, text("a")),
        (Arc::new(StringArray::from(vec![Some("a"), None])), Kind::Bytes, Value::Bytes(b"a".to_vec())),
        (Arc::new(Date32Array::from(vec![Some(1), None])), Kind::Timestamp, at.clone()),
        (Arc::new(zoned), Kind::Timestamp, at.clone()),
        (Arc::new(TimestampMillisecondArray::from(vec![Some(86_400_000), None])), Kind::Timestamp, at.clone()),
        (
            Arc::new(TimestampNanosecondArray::from(vec![Some(86_400_000_000_999), None]).with_timezone("UTC")),
            Kind::Timestamp,
            at,
        ),
        (
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([1, 2]), None].into_iter(), 2).unwrap(),
            ),
            Kind::Bytes,
            Value::Bytes(vec![1, 2]),
        ),
    ];
    for (column, kind, want) in cases {
        let found = column.data_type().clone();
        let read = one(column, FeatureType::One(kind)).unwrap();
        assert_eq!(read, [Some(want), None], "{found} as {kind:?}");
    }
    let items = || vec![Some(vec![Some(1.0), Some(2.0)]), None];
    let lists: Vec<ArrayRef> = vec![
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(items())),
        Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(items())),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(items(), 2)),
    ];
    for lists in lists {
        let found = lists.data_type().clone();
        let read = one(lists, FeatureType::List(Kind::F32)).unwrap();
        assert_eq!(read, [Some(list(Kind::F32, vec![f(1.0), f(2.0)])), None], "{found}");
    }
    let wide: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), Some(vec![])]));
    let read = one(wide, FeatureType::List(Kind::I64)).unwrap();
    assert_eq!(read, [Some(list(Kind::I64, vec![Value::I64(1)])), Some(list(Kind::I64, vec![]))]);
}

#[test]
fn a_type_that_would_lose_something_is_an_error_that_names_both() {
    let lossy: Vec<(ArrayRef, FeatureType, [&str; 2])> = vec![
        (Arc::new(Float64Array::from(vec![0.1])), FeatureType::One(Kind::F32), ["Float64", "f32"]),
        (Arc::new(Int64Array::from(vec![1])), FeatureType::One(Kind::F64), ["Int64", "f64"]),
        (Arc::new(UInt64Array::from(vec![1])), FeatureType::One(Kind::I64), ["UInt64", "i64"]),
        (Arc::new(StringArray::from(vec!["1"])), FeatureType::One(Kind::I64), ["Utf8", "i64"]),
        (Arc::new(Int64Array::from(vec![1])), FeatureType::List(Kind::I64), ["Int64", "list<i64>"]),
        (
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.0)])])),
            FeatureType::List(Kind::F32),
            ["Float64", "list<f32>"],
        ),
    ];
    for (column, of, names) in lossy {
        let error = one(column, of).unwrap_err();
        assert!(matches!(error, TableError::Type { .. }), "{error}");
        let text = error.to_string();
        assert!(
            names.iter().all(|n| text.contains(n)) && text.contains("\"x\"") && text.contains(".parquet"),
            "{text}"
        );
    }
}

#[test]
fn values_out_of_range_and_nulls_in_lists_are_errors_and_not_holes() {
    let far = TimestampSecondArray::from(vec![i64::MAX]);
    let error = one(Arc::new(far), FeatureType::One(Kind::Timestamp)).unwrap_err();
    assert!(matches!(error, TableError::Decode { column: Some(_), .. }), "{error}");
    let holed = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
    let error = one(Arc::new(holed), FeatureType::List(Kind::I64)).unwrap_err();
    assert!(matches!(error, TableError::NullInList { .. }), "{error}");
}

#[test]
fn a_missing_column_names_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let ints = || Arc::new(Int64Array::from(vec![1]));
    let path = file(dir.path(), vec![("user", ints()), ("clicks", ints())]);
    let error = read_table(&path, &[("klicks", FeatureType::One(Kind::I64))]).unwrap_err().to_string();
    assert!(error.contains("\"klicks\"") && error.contains("user, clicks"), "{error}");
}

#[test]
fn columns_come_in_the_order_wanted_in_batches_with_the_row_count_up_front() {
    let dir = tempfile::tempdir().unwrap();
    let n = 20_000;
    let ints = |from: i64| Arc::new(Int64Array::from_iter_values(from..from + n));
    let path = file(dir.path(), vec![("a", ints(0)), ("unwanted", ints(0)), ("b", ints(7))]);
    let of = FeatureType::One(Kind::I64);
    let table = read_table(&path, &[("b", of), ("a", of), ("b", of)]).unwrap();
    assert_eq!(table.rows(), n as u64);
    let (mut rows, mut batches) = (0, 0);
    for cells in table.map(Result::unwrap) {
        let [Column::I64(b), Column::I64(a), Column::I64(again)] =
            [&cells[0].column, &cells[1].column, &cells[2].column]
        else {
            panic!("three integer columns")
        };
        assert!(a.iter().zip(b).all(|(a, b)| a + 7 == *b) && b == again);
        rows += a.len();
        batches += 1;
    }
    assert_eq!(rows, n as usize);
    assert!(batches > 1);
}

#[test]
fn what_is_no_parquet_file_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let none: [(&str, FeatureType); 0] = [];
    assert!(matches!(read_table(&path, &none), Err(TableError::Open { .. })));
    std::fs::write(&path, b"user,clicks\n1,2\n").unwrap();
    assert!(matches!(read_table(&path, &none), Err(TableError::Parquet { .. })));
}
