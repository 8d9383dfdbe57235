//! Runs a transform on the host, in `cargo test`, through the same flat batch that crosses the border.
//!
//! ```
//! # weir_plugin::transform! {
//! #     inputs: { mph: f64 }, outputs: { knots: f64 },
//! #     row: |row| Outputs { knots: row.mph.map(|mph| mph / 1.150_779) },
//! # }
//! # fn main() -> Result<(), weir_plugin::Error> {
//! use weir_plugin::testing::Table;
//!
//! let answer = Table::new().column::<f64>("mph", [Some(0.0), None]).run::<Transform>()?;
//! assert_eq!(answer.column::<f64>("knots")?, [Some(0.0), None]);
//! # Ok(())
//! # }
//! ```

use crate::expansion::{Reader, Writer};
use crate::raw::{Batch, Field, Kind};
use crate::{Error, Output, Transform, Value};

/// Input columns by name, in any order.
#[derive(Default)]
pub struct Table {
    columns: Vec<(String, Box<dyn Cells>)>,
}

impl Table {
    /// A table without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column; `None` is a hole.
    pub fn column<K>(mut self, name: &str, values: impl IntoIterator<Item = Option<K::Out>>) -> Self
    where
        K: Value + ?Sized + 'static,
    {
        self.columns.push((name.to_owned(), Box::new(values.into_iter().collect::<Output<K>>())));
        self
    }

    /// Runs the transform. Columns that are missing, superfluous, ragged or of another type are an error.
    pub fn run<T: Transform>(&self) -> Result<Answer, Error> {
        let schema = T::schema();
        let rows = self.columns.first().map_or(0, |(_, cells)| cells.rows());
        if let Some((name, _)) = self.columns.iter().find(|(n, _)| !schema.inputs.iter().any(|f| f.name == *n)) {
            return Err(Error::new(format!("the transform has no input `{name}`")));
        }
        let mut writer = Writer::new(rows)?;
        for field in &schema.inputs {
            let (name, cells) = self
                .columns
                .iter()
                .find(|(name, _)| *name == field.name)
                .ok_or_else(|| Error::new(format!("the table has no column `{}`", field.name)))?;
            same_kind(field, cells.kind())?;
            cells.write(name, &mut writer)?;
        }
        let batch = T::call(&writer.finish())?;
        Ok(Answer { fields: schema.outputs, batch })
    }
}

/// What a transform computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    fields: Vec<Field>,
    batch: Batch,
}

impl Answer {
    /// One output column; `None` is a hole.
    pub fn column<K: Value + ?Sized>(&self, name: &str) -> Result<Vec<Option<K::Out>>, Error> {
        let mut reader = Reader::new(&self.batch);
        for field in &self.fields {
            if field.name == name {
                same_kind(field, K::KIND)?;
                return Ok(reader.column::<K>()?.iter().map(|value| value.map(K::own)).collect());
            }
            reader.skip(field.kind)?;
        }
        Err(Error::new(format!("the transform has no output `{name}`")))
    }
}

fn same_kind(field: &Field, kind: Kind) -> Result<(), Error> {
    if field.kind == kind {
        return Ok(());
    }
    Err(Error::new(format!("column `{}` is of kind {:?}, not {kind:?}", field.name, field.kind)))
}

/// A column whose type is known only to itself.
trait Cells {
    fn rows(&self) -> usize;
    fn kind(&self) -> Kind;
    fn write(&self, name: &str, into: &mut Writer) -> Result<(), Error>;
}

impl<K: Value + ?Sized> Cells for Output<K> {
    fn rows(&self) -> usize {
        Output::rows(self)
    }

    fn kind(&self) -> Kind {
        K::KIND
    }

    fn write(&self, name: &str, into: &mut Writer) -> Result<(), Error> {
        into.column(name, self.clone())
    }
}
