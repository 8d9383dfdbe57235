//! Every type through the border's format and back, and what happens to those who do not keep to it.

use crate::raw::{Batch, Kind};
use crate::testing::Table;
use crate::{Output, Timestamp, Transform as _};

mod echo {
    crate::transform! {
        inputs: {
            double: f64, single: f32, whole: i64, flag: bool, text: str, raw: [u8], vector: [f32],
            at: crate::Timestamp, more_text: str,
        },
        outputs: {
            at: crate::Timestamp, vector: [f32], raw: [u8], text: str, flag: bool, whole: i64, single: f32,
            double: f64, more_text: str,
        },
        row: |row| Outputs {
            at: row.at,
            vector: row.vector.map(<[f32]>::to_vec),
            raw: row.raw.map(<[u8]>::to_vec),
            text: row.text.map(str::to_owned),
            flag: row.flag,
            whole: row.whole,
            single: row.single,
            double: row.double,
            more_text: row.more_text.map(str::to_owned),
        },
    }
}

mod total {
    crate::transform! {
        inputs: { a: f64, r#type: i64 },
        outputs: { sum: f64 },
        batch: |columns: InputColumns<'_>| {
            if columns.rows() > 2 {
                return Err("too many rows".into());
            }
            let a = columns.a.values().iter();
            let sums: Vec<f64> = a.zip(columns.r#type.values()).map(|(a, b)| a + *b as f64).collect();
            Ok(OutputColumns { sum: sums.into() })
        },
    }
}

mod ragged {
    crate::transform! {
        inputs: { a: f64 },
        outputs: { b: f64 },
        batch: |_| Ok(OutputColumns { b: vec![1.0, 2.0, 3.0].into() }),
    }
}

/// Nine rows, so that validity takes two bytes; holes where `hole` says.
fn table(hole: impl Fn(usize) -> bool) -> Table {
    fn rows<T>(hole: &impl Fn(usize) -> bool, value: impl Fn(usize) -> T) -> Vec<Option<T>> {
        (0..9).map(|row| (!hole(row)).then(|| value(row))).collect()
    }
    Table::new()
        .column::<str>("more_text", rows(&hole, |row| "é".repeat(row)))
        .column::<f64>("double", rows(&hole, |row| row as f64 / 3.0))
        .column::<f32>("single", rows(&hole, |row| row as f32 / 3.0))
        .column::<i64>("whole", rows(&hole, |row| i64::MIN + row as i64))
        .column::<bool>("flag", rows(&hole, |row| row % 2 == 0))
        .column::<str>("text", rows(&hole, |row| format!("row {row} ✓")))
        .column::<[u8]>("raw", rows(&hole, |row| vec![0xFF; row]))
        .column::<[f32]>("vector", rows(&hole, |row| vec![row as f32; row % 4]))
        .column::<Timestamp>("at", rows(&hole, |row| Timestamp(1_386_000_000_000_000 + row as i64)))
}

#[test]
fn values_and_holes_of_every_type_survive_the_border() {
    for hole in [|_| false, |row| row % 3 == 1, |_| true] {
        let answer = table(hole).run::<echo::Transform>().unwrap();
        for (row, text) in answer.column::<str>("text").unwrap().into_iter().enumerate() {
            assert_eq!(text, (!hole(row)).then(|| format!("row {row} ✓")));
        }
        assert_eq!(answer.column::<str>("more_text").unwrap()[2], (!hole(2)).then(|| "éé".to_owned()));
        assert_eq!(answer.column::<f64>("double").unwrap()[8], (!hole(8)).then_some(8.0 / 3.0));
        assert_eq!(answer.column::<f32>("single").unwrap()[8], (!hole(8)).then_some(8.0 / 3.0));
        assert_eq!(answer.column::<i64>("whole").unwrap()[0], (!hole(0)).then_some(i64::MIN));
        assert_eq!(answer.column::<bool>("flag").unwrap()[2], (!hole(2)).then_some(true));
        assert_eq!(answer.column::<[u8]>("raw").unwrap()[3], (!hole(3)).then(|| vec![0xFF; 3]));
        assert_eq!(answer.column::<[f32]>("vector").unwrap()[6], (!hole(6)).then(|| vec![6.0; 2]));
        assert_eq!(
            answer.column::<Timestamp>("at").unwrap()[5],
            (!hole(5)).then_some(Timestamp(1_386_000_000_000_005))
        );
    }
}

#[test]
fn whole_columns_can_be_computed_at_once_and_an_error_is_handed_on() {
    let table = |a: Vec<Option<f64>>| {
        let b = a.iter().map(|_| Some(10)).collect::<Vec<_>>();
        Table::new().column::<f64>("a", a).column::<i64>("type", b).run::<total::Transform>()
    };
    let answer = table(vec![Some(1.0), None]).unwrap();
    assert_eq!(answer.column::<f64>("sum").unwrap(), [Some(11.0), Some(10.0)]);
    assert_eq!(table(vec![None; 3]).unwrap_err().to_string(), "too many rows");
}

#[test]
fn a_column_of_the_wrong_length_is_an_error_that_names_it() {
    let error = Table::new().column::<f64>("a", [None]).run::<ragged::Transform>().unwrap_err();
    assert_eq!(error.to_string(), "column `b` has 3 values for 1 rows");
}

#[test]
fn a_table_that_does_not_fit_the_transform_says_why() {
    let run = |table: Table| table.run::<total::Transform>().unwrap_err().to_string();
    assert_eq!(run(Table::new().column::<f64>("a", [None])), "the table has no column `type`");
    assert_eq!(run(Table::new().column::<f64>("c", [None])), "the transform has no input `c`");
    let other = Table::new().column::<bool>("a", [None]).column::<i64>("type", [None]);
    assert!(run(other).contains("column `a` is of kind"));
    let ragged = Table::new().column::<f64>("a", [None]).column::<i64>("type", [None, None]);
    assert_eq!(run(ragged), "column `type` has 2 values for 1 rows");
    let answer = Table::new().column::<f64>("a", [None]).column::<i64>("type", [None]);
    let answer = answer.run::<total::Transform>().unwrap();
    assert!(answer.column::<i64>("sum").is_err() && answer.column::<f64>("total").is_err());
}

#[test]
fn names_and_kinds_are_described_in_the_order_they_are_written() {
    let schema = total::Transform::schema();
    let inputs: Vec<_> = schema.inputs.iter().map(|f| (f.name.as_str(), f.kind)).collect();
    assert_eq!(inputs, [("a", Kind::F64), ("type", Kind::I64)]);
    assert_eq!(schema.outputs.len(), 1);
}

#[test]
fn a_batch_that_is_not_as_described_is_an_error_and_never_a_panic() {
    let batch = |f64s: Vec<f64>, ends: Vec<u32>, data: &[u8], mask: Vec<u8>| Batch {
        rows: 2,
        f64s,
        s64s: vec![],
        bools: vec![],
        f32s: vec![],
        ends,
        data: data.to_vec(),
        validity: mask,
    };
    let ragged = |batch| ragged::Transform::call(&batch).is_err();
    assert!(ragged(batch(vec![1.0], vec![], b"", vec![3])));
    assert!(ragged(batch(vec![1.0, 2.0], vec![], b"", vec![])));
    let text = |ends, data| {
        let batch = batch(vec![], ends, data, vec![3]);
        crate::expansion::Reader::new(&batch).column::<str>().map(|c| c.iter().flatten().count())
    };
    assert_eq!(text(vec![1, 3], b"abc").unwrap(), 2);
    assert!(text(vec![3, 1], b"abc").is_err());
    assert!(text(vec![1, 4], b"abc").is_err());
    assert!(text(vec![1, 2], &[0xFF, 0xFF]).is_err());
    assert_eq!(text(vec![1, 2], "é".as_bytes()).unwrap(), 0, "half a character is no value");
}

#[test]
fn an_output_counts_its_rows_and_marks_its_holes() {
    let mut column = Output::<str>::new();
    for row in 0..9 {
        column.push((row % 2 == 0).then_some("x"));
    }
    assert_eq!(column.rows(), 9);
    assert_eq!(column.into_parts().1, [0b0101_0101, 1]);
}
