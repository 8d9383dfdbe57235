//! Parquet files of features, read as domain columns.
//!
//! A column may be stored in any type that converts without loss (an `int32` where `i64` is wanted, any unit and
//! zone of time, any encoding of text); everything else is an error that names file, column and both types.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use weir_domain::{Blob, Cell, Column, FeatureType, Kind, Lists, Provenance};

/// Rows in a batch: some megabytes of a wide table.
const BATCH_ROWS: usize = 8192;

/// Why a feature file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not Parquet, or damaged.
    #[error("cannot read {} as Parquet", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: ParquetError,
    },
    /// A batch of the file cannot be decoded, or a value does not fit the type that is wanted.
    #[error("cannot decode {}{}", path.display(), column.as_ref().map_or(String::new(), |c| format!(", column {c:?}")))]
    Decode {
        /// The file.
        path: PathBuf,
        /// The column, where it is known.
        column: Option<String>,
        /// What Arrow says.
        source: ArrowError,
    },
    /// A column is not there.
    #[error("{} has no column {column:?}; it has {}", path.display(), there.join(", "))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The column that is wanted.
        column: String,
        /// The columns there are.
        there: Vec<String>,
    },
    /// A column has a type that does not convert without loss.
    #[error("column {column:?} of {} is {found}, which does not become {wanted} without loss", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its Arrow type.
        found: Box<DataType>,
        /// The feature's type.
        wanted: FeatureType,
    },
    /// A list holds a null; features know only whole lists that are missing.
    #[error("column {column:?} of {} has a list with a null in it", path.display())]
    NullInList {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
}

/// A feature file: an iterator over batches, each with one cell per wanted column in the order they were wanted.
/// A null has provenance `MISSING`, everything else `STORE`.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    wanted: Vec<Wanted>,
    rows: u64,
    reader: ParquetRecordBatchReader,
}

#[derive(Debug)]
struct Wanted {
    name: String,
    of: FeatureType,
    /// Place among the columns that are read.
    at: usize,
}

/// Opens a Parquet file to read these columns. Names and types are checked before any row is read.
pub fn read_table<N: AsRef<str>>(path: &Path, columns: &[(N, FeatureType)]) -> Result<Table, TableError> {
    let unreadable = |source| TableError::Parquet { path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| TableError::Open { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
    let schema = Arc::clone(builder.schema());
    let mut roots = Vec::new();
    for (name, of) in columns {
        let name = name.as_ref();
        let Some((root, field)) = schema.fields().find(name) else {
            let there = schema.fields().iter().map(|f| f.name().clone()).collect();
            return Err(TableError::Missing { path: path.to_owned(), column: name.to_owned(), there });
        };
        if !converts(field.data_type(), *of) {
            let found = Box::new(field.data_type().clone());
            return Err(TableError::Type { path: path.to_owned(), column: name.to_owned(), found, wanted: *of });
        }
        roots.push(root);
    }
    // The reader gives columns in the file's order, each once.
    let mut read = roots.clone();
    read.sort_unstable();
    read.dedup();
    let wanted = columns.iter().zip(&roots).map(|((name, of), root)| Wanted {
        name: name.as_ref().to_owned(),
        of: *of,
        at: read.partition_point(|r| r < root),
    });
    let wanted = wanted.collect();
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let mask = ProjectionMask::roots(builder.parquet_schema(), read);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(unreadable)?;
    Ok(Table { path: path.to_owned(), wanted, rows, reader })
}

impl Table {
    /// Rows in the file, known before any is read.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn cell(&self, wanted: &Wanted, column: &ArrayRef) -> Result<Cell, TableError> {
        let failed = |source| TableError::Decode { path: self.path.clone(), column: Some(wanted.name.clone()), source };
        // `safe` would turn what does not fit into nulls.
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let column = cast_with_options(column, &target(wanted.of), &options).map_err(failed)?;
        let provenance = (0..column.len())
            .map(|i| if column.is_null(i) { Provenance::Missing } else { Provenance::Store })
            .collect();
        let null_in_list = || TableError::NullInList { path: self.path.clone(), column: wanted.name.clone() };
        Ok(Cell { column: domain(&column, wanted.of).ok_or_else(null_in_list)?, provenance })
    }
}

impl Iterator for Table {
    type Item = Result<Vec<Cell>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.next()? {
            Ok(batch) => batch,
            Err(source) => return Some(Err(TableError::Decode { path: self.path.clone(), column: None, source })),
        };
        Some(self.wanted.iter().map(|w| self.cell(w, batch.column(w.at))).collect())
    }
}

/// Whether every value of the stored type is a value of the feature's type.
fn converts(stored: &DataType, of: FeatureType) -> bool {
    use DataType as D;
    let kind = match (stored, of) {
        (D::Dictionary(_, values), _) => return converts(values, of),
        (D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _), FeatureType::List(kind)) => {
            return converts(item.data_type(), FeatureType::One(kind));
        }
        (_, FeatureType::List(_)) => return false,
        (_, FeatureType::One(kind)) => kind,
    };
    match kind {
        Kind::Bool => matches!(stored, D::Boolean),
        Kind::I64 => matches!(stored, D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32),
        Kind::F64 => matches!(
            stored,
            D::Float16 | D::Float32 | D::Float64 | D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 | D::UInt32
        ),
        Kind::F32 => matches!(stored, D::Float16 | D::Float32 | D::Int8 | D::Int16 | D::UInt8 | D::UInt16),
        Kind::String => matches!(stored, D::Utf8 | D::LargeUtf8 | D::Utf8View),
        Kind::Bytes => matches!(
            stored,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) | D::Utf8 | D::LargeUtf8 | D::Utf8View
        ),
        Kind::Timestamp => matches!(stored, D::Timestamp(..) | D::Date32 | D::Date64),
    }
}

/// The Arrow type that a domain column is made from. Without a zone: the stored instant is taken as it is.
fn target(of: FeatureType) -> DataType {
    let one = match of.kind() {
        Kind::Bool => DataType::Boolean,
        Kind::I64 => DataType::Int64,
        Kind::F64 => DataType::Float64,
        Kind::F32 => DataType::Float32,
        Kind::String => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
    };
    match of {
        FeatureType::One(_) => one,
        FeatureType::List(_) => DataType::List(Arc::new(Field::new("element", one, true))),
    }
}

/// The values; placeholders stand where there is none. `None` when a list holds a null.
fn domain(column: &ArrayRef, of: FeatureType) -> Option<Column> {
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            let numbers = column.as_primitive::<$type>();
            Column::$variant(match numbers.null_count() {
                0 => numbers.values().to_vec(),
                _ => numbers.iter().map(Option::unwrap_or_default).collect(),
            })
        }};
    }
    Some(match of {
        FeatureType::One(Kind::Bool) => {
            let bools: &BooleanArray = column.as_boolean();
            Column::Bool(bools.iter().map(Option::unwrap_or_default).collect())
        }
        FeatureType::One(Kind::I64) => numbers!(I64, Int64Type),
        FeatureType::One(Kind::F64) => numbers!(F64, Float64Type),
        FeatureType::One(Kind::F32) => numbers!(F32, Float32Type),
        FeatureType::One(Kind::Timestamp) => numbers!(Timestamp, TimestampMicrosecondType),
        FeatureType::One(Kind::String) => {
            Column::String(blob(column.as_string::<i32>().iter().map(|v| v.map(str::as_bytes))))
        }
        FeatureType::One(Kind::Bytes) => Column::Bytes(blob(column.as_binary::<i32>().iter())),
        FeatureType::List(kind) => {
            let lists = column.as_list::<i32>();
            let of = FeatureType::One(kind);
            let mut out = Lists { ends: Vec::with_capacity(lists.len()), items: Column::with_capacity(of, 0) };
            // List by list: a null list may still own items in the buffer.
            for list in lists.iter() {
                if let Some(list) = list {
                    if list.null_count() > 0 {
                        return None;
                    }
                    let items = domain(&list, of)?;
                    for i in 0..items.len() {
                        out.items.push_from(&items, i);
                    }
                }
                out.ends.push(out.items.len() as u32);
            }
            Column::List(Box::new(out))
        }
    })
}

fn blob<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> Blob {
    let mut blob = Blob::default();
    values.for_each(|value| blob.push(value.unwrap_or_default()));
    blob
}
