//! Files that appear whole or not at all: written under a temporary name, synced, renamed, folder synced. The
//! name depends on the segment alone, so sealing again after a crash replaces instead of adding.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::SealFault;
use crate::segment::sync_folder;

/// A row group is kept in memory, compressed, until it is whole; named rows make long files of small segments.
const ROW_GROUP_ROWS: usize = 1 << 17;

/// Size and checksum of a published file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

/// Publishes what `write` writes; nothing when it answers `Keep::No`.
pub(crate) fn publish<E: From<io::Error>>(
    journal: &Path,
    relative: &str,
    write: impl FnOnce(&mut Summing) -> Result<Keep, E>,
) -> Result<Option<Published>, E> {
    let path = journal.join(relative);
    let folder = path.parent().unwrap_or(journal);
    make_folder(journal, folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Readers skip names that begin with a dot.
    let draft = folder.join(format!(".{name}.tmp"));
    let mut file = Summing::create(&draft)?;
    let written = match write(&mut file) {
        Ok(Keep::Yes) => file.finish().map(Some).map_err(E::from),
        Ok(Keep::No) => Ok(None),
        Err(error) => Err(error),
    };
    match written {
        Ok(Some(published)) => {
            fs::rename(&draft, &path)?;
            sync_folder(folder)?;
            Ok(Some(published))
        }
        other => {
            let _ = fs::remove_file(&draft);
            other
        }
    }
}

/// Whether there was anything to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Yes,
    No,
}

/// Publishes a Parquet file of the batches that `next` gives until it gives none.
pub(super) fn parquet(
    journal: &Path,
    relative: &str,
    schema: SchemaRef,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, SealFault>,
) -> Result<Option<Published>, SealFault> {
    let unwritable = |source| SealFault::Parquet { path: journal.join(relative), source };
    publish(journal, relative, |file| {
        let mut rows = 0;
        // The lowest level: it is the serving machine's processor that pays, and higher ones gain little on numbers.
        let zstd = Compression::ZSTD(ZstdLevel::try_new(1).map_err(unwritable)?);
        let mut properties = WriterProperties::builder()
            .set_compression(zstd)
            .set_created_by("weir".to_owned())
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_dictionary_enabled(false);
        // Numbers seldom repeat often enough to pay for looking each of them up.
        for field in schema.fields().iter().filter(|f| is_text(f.data_type())) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), true);
        }
        let properties = properties.build();
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(unwritable)?;
        while let Some(batch) = next()? {
            rows += batch.num_rows();
            writer.write(&batch).map_err(unwritable)?;
        }
        if rows == 0 {
            return Ok(Keep::No);
        }
        writer.close().map_err(unwritable)?;
        Ok(Keep::Yes)
    })
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::Dictionary(..))
}

/// The I/O error inside a Parquet error, if that is what went wrong.
pub(super) fn is_io(error: &ParquetError) -> bool {
    matches!(error, ParquetError::External(inner) if inner.is::<io::Error>())
}

/// A file that sums what is written to it.
pub(crate) struct Summing {
    file: BufWriter<File>,
    sum: crc32fast::Hasher,
    bytes: u64,
}

impl Summing {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), sum: crc32fast::Hasher::new(), bytes: 0 })
    }

    fn finish(self) -> io::Result<Published> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(Published { bytes: self.bytes, crc32: self.sum.finalize() })
    }
}

impl Write for Summing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a folder and its parents below the journal, each synced into its parent.
fn make_folder(journal: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder == journal {
        return Ok(());
    }
    let parent: PathBuf = folder.parent().unwrap_or(journal).to_owned();
    make_folder(journal, &parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(&parent),
    }
}
