//! Sealing: one segment becomes Parquet files and a manifest, and is then deleted. Doing it twice gives the same
//! files under the same names; what cannot be read is counted and the segment kept in `quarantine/`.

mod column;
mod exposures;
mod feast;
mod manifest;
mod pool;
mod publish;
mod served;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use arrow_schema::ArrowError;
use parquet::errors::ParquetError;

use self::exposures::{Exposures, HourOfExposures};
use self::feast::FeastTable;
use self::manifest::FileEntry;
use self::publish::Published;
use self::served::ServedTable;
use crate::frame::FrameKind;
use crate::record;
use crate::schema::Schema;
use crate::segment::{self, Head, SegmentId, sync_folder};
use crate::settings::Settings;

pub(crate) use self::manifest::{FOLDER as MANIFESTS, Manifest};
pub(crate) use self::pool::{Picked, Pools, gather};
pub(crate) use self::publish::{Keep, Summing, publish};

/// Segments and queues with damage are kept here for whoever wants to look.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Rows of Arrow in memory before they are handed to the Parquet writer.
const BATCH_ROWS: usize = 8192;

const HOUR_US: i64 = 3_600_000_000;

/// Why a segment could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    /// A file could not be read or written.
    #[error("cannot read or write the journal's files")]
    Io(#[from] io::Error),
    /// A Parquet file could not be written.
    #[error("cannot write {}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the writer says.
        source: ParquetError,
    },
    /// The columns do not make a table: a bug.
    #[error("columns of the journal do not fit together")]
    Table(#[from] ArrowError),
    /// Given up half-way, to be done again at once and faster.
    #[error("sealing was hurried")]
    Hurried,
    /// The sealing code panicked: a bug.
    #[error("sealing {segment} panicked")]
    Panicked {
        /// The segment.
        segment: String,
    },
}

impl SealFault {
    /// Whether the same segment may well be sealed later: the disk was at fault, not the data.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Io(_) => true,
            Self::Parquet { source, .. } => publish::is_io(source),
            Self::Table(_) | Self::Hurried | Self::Panicked { .. } => false,
        }
    }
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) requests: u64,
    pub(crate) rows: u64,
    pub(crate) corrupt_frames: u64,
    /// Number of the last record, 0 when there was none.
    pub(crate) last_seq: u64,
    /// Whether the segment was moved to quarantine.
    pub(crate) quarantined: bool,
}

/// Seals a segment. Records up to number `floor` are repetitions of what an earlier segment holds. Gives up when it
/// `is_hurried`, which is asked before each record.
pub(crate) fn seal(
    settings: &Settings,
    id: SegmentId,
    floor: u64,
    is_hurried: &dyn Fn() -> bool,
) -> Result<Sealed, SealFault> {
    let journal = settings.folder.as_path();
    let path = id.path(journal);
    if Manifest::exists(journal, id)? {
        // A crash came between the manifest and the deletion.
        fs::remove_file(&path)?;
        return Ok(Sealed::default());
    }
    let bytes = fs::read(&path)?;
    let (head, mut scan) = segment::read(&bytes, id.run);
    let mut contents = Contents::default();
    let mut last_seq = floor;
    for frame in scan.by_ref() {
        match frame.kind {
            FrameKind::Schema | FrameKind::SchemaReset => contents.schema(frame.body),
            FrameKind::Rows => contents.rows(frame.body),
            FrameKind::Record if frame.seq <= last_seq => {}
            FrameKind::Record => {
                last_seq = frame.seq;
                contents.record(frame.body);
            }
        }
    }
    contents.corrupt += scan.corrupt + u64::from(head == Head::Damaged);
    let torn_bytes = scan.torn_bytes;
    let mut out = Writing { journal, id, is_hurried, files: Vec::new(), requests: 0, rows: 0 };
    let mut exposures = Exposures::default();
    for ((service, k, hour), group) in &contents.groups {
        contents.corrupt += out.served(service, *k, *hour, group, &contents.told, &mut exposures)?;
    }
    out.exposures(&exposures)?;
    if settings.feast_log {
        for ((service, k, day), group) in &contents.days() {
            out.feast(service, *k, *day, group, &contents.told)?;
        }
    }
    let Writing { files, requests, rows, .. } = out;
    if requests > 0 {
        let manifest = Manifest {
            version: 1,
            segment: id.to_string(),
            requests,
            rows,
            corrupt_frames: contents.corrupt,
            torn_bytes,
            last_seq,
            files,
        };
        manifest.write(journal, id)?;
    }
    let quarantined = contents.corrupt > 0 || head == Head::Foreign;
    if quarantined {
        quarantine(journal, &path)?;
    } else {
        fs::remove_file(&path)?;
    }
    Ok(Sealed { requests, rows, corrupt_frames: contents.corrupt, last_seq, quarantined })
}

/// Moves a file to `quarantine/`, also from another file system.
pub(crate) fn quarantine(journal: &Path, path: &Path) -> io::Result<()> {
    let folder = journal.join(QUARANTINE);
    fs::create_dir_all(&folder)?;
    let to = folder.join(path.file_name().unwrap_or_default());
    match fs::rename(path, &to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(path, &to)?;
            fs::remove_file(path)?;
        }
        moved => moved?,
    }
    sync_folder(&folder)
}

/// Hours since the epoch.
fn hour(at_us: i64) -> i64 {
    at_us.div_euclid(HOUR_US)
}

/// By id: the schema and its number among those of its service.
type Schemas = HashMap<u32, (usize, Schema)>;

/// The schema that all records of a group have.
fn schema_of<'s>(group: &[&[u8]], schemas: &'s Schemas) -> Option<&'s Schema> {
    group.first().and_then(|body| record::schema_id(body)).and_then(|id| schemas.get(&id)).map(|(_, schema)| schema)
}

/// What a segment tells so that its records can be read.
#[derive(Default)]
struct Told {
    schemas: Schemas,
    pools: Pools,
}

/// The frames of a segment, sorted by the file they belong to.
#[derive(Default)]
struct Contents<'a> {
    told: Told,
    of_service: HashMap<String, usize>,
    /// By service, schema number and hour: the bodies of records.
    groups: BTreeMap<(String, usize, i64), Vec<&'a [u8]>>,
    corrupt: u64,
}

impl<'a> Contents<'a> {
    fn schema(&mut self, body: &[u8]) {
        match Schema::decode(body) {
            Ok((id, _)) if self.told.schemas.contains_key(&id) => {}
            Ok((id, schema)) => {
                let count = self.of_service.entry(schema.service.clone()).or_default();
                self.told.schemas.insert(id, (*count, schema));
                *count += 1;
            }
            Err(_) => self.corrupt += 1,
        }
    }

    fn rows(&mut self, body: &[u8]) {
        let schema = record::schema_id(body).and_then(|id| self.told.schemas.get(&id));
        let told = schema.is_some_and(|(_, schema)| self.told.pools.add(body, schema).is_ok());
        self.corrupt += u64::from(!told);
    }

    fn record(&mut self, body: &'a [u8]) {
        let schema = record::schema_id(body).and_then(|id| self.told.schemas.get(&id));
        match schema.zip(record::served_at_us(body)) {
            Some(((k, schema), at)) => {
                self.groups.entry((schema.service.clone(), *k, hour(at))).or_default().push(body);
            }
            None => self.corrupt += 1,
        }
    }

    /// The same groups by day.
    fn days(&self) -> BTreeMap<(&str, usize, i64), Vec<&'a [u8]>> {
        let mut days: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((service, k, hour), group) in &self.groups {
            days.entry((service.as_str(), *k, hour.div_euclid(24))).or_default().extend(group);
        }
        days
    }
}

/// The files of one segment, as they are written.
struct Writing<'a> {
    journal: &'a Path,
    id: SegmentId,
    is_hurried: &'a dyn Fn() -> bool,
    files: Vec<FileEntry>,
    requests: u64,
    rows: u64,
}

impl Writing<'_> {
    /// Writes one file of `served`; returns how many records of it could not be read.
    fn served(
        &mut self,
        service: &str,
        k: usize,
        hour: i64,
        group: &[&[u8]],
        told: &Told,
        exposures: &mut Exposures,
    ) -> Result<u64, SealFault> {
        let Some(schema) = schema_of(group, &told.schemas) else { return Ok(0) };
        let mut table = ServedTable::new(schema);
        let (mut corrupt, mut requests, mut rows, mut times) = (0, 0, 0, (i64::MAX, i64::MIN));
        let is_hurried = self.is_hurried;
        let mut bodies = group.iter();
        let next = || {
            for body in bodies.by_ref() {
                if is_hurried() {
                    return Err(SealFault::Hurried);
                }
                let Ok(served) = record::decode(body, schema, &told.pools) else {
                    corrupt += 1;
                    continue;
                };
                exposures.append(&served, schema);
                requests += 1;
                rows += served.rows as u64;
                times = (times.0.min(served.served_at_us), times.1.max(served.served_at_us));
                table.append(served);
                if table.rows() >= BATCH_ROWS {
                    break;
                }
            }
            if table.rows() == 0 { Ok(None) } else { Ok(Some(table.finish()?)) }
        };
        let path = format!("served/service={}/{}/{}-{k}.parquet", escaped(service), partition(hour), self.id);
        let arrow = ServedTable::new(schema).schema();
        let published = publish::parquet(self.journal, &path, arrow, next)?;
        self.requests += requests;
        self.rows += rows;
        self.list(path, rows, times, published);
        Ok(corrupt)
    }

    fn exposures(&mut self, exposures: &Exposures) -> Result<(), SealFault> {
        for HourOfExposures { hour, times_us, rows } in exposures.batches()? {
            let path = format!("exposures/{}/{}.parquet", partition(hour), self.id);
            let count = rows.num_rows() as u64;
            let mut rows = Some(rows);
            let published = publish::parquet(self.journal, &path, exposures::schema(), || Ok(rows.take()))?;
            self.list(path, count, times_us, published);
        }
        Ok(())
    }

    /// Writes one file of `feast`. The records are decoded once more, which costs less than their compression and
    /// keeps no more than one batch in memory.
    fn feast(&mut self, service: &str, k: usize, day: i64, group: &[&[u8]], told: &Told) -> Result<(), SealFault> {
        let Some(schema) = schema_of(group, &told.schemas) else { return Ok(()) };
        let mut table = FeastTable::new(schema);
        let arrow = table.schema();
        let (mut rows, mut times) = (0, (i64::MAX, i64::MIN));
        let is_hurried = self.is_hurried;
        // What cannot be read was counted when `served` was written.
        let mut records = group.iter().filter_map(|body| record::decode(body, schema, &told.pools).ok());
        let next = || {
            for served in records.by_ref() {
                if is_hurried() {
                    return Err(SealFault::Hurried);
                }
                rows += served.rows as u64;
                times = (times.0.min(served.served_at_us), times.1.max(served.served_at_us));
                table.append(&served);
                if table.rows() >= BATCH_ROWS {
                    break;
                }
            }
            if table.rows() == 0 { Ok(None) } else { Ok(Some(table.finish()?)) }
        };
        let path = format!("feast/{}/{}/{}-{k}.parquet", escaped(service), date(day), self.id);
        let published = publish::parquet(self.journal, &path, arrow, next)?;
        self.list(path, rows, times, published);
        Ok(())
    }

    fn list(&mut self, path: String, rows: u64, times: (i64, i64), published: Option<Published>) {
        self.files.extend(published.map(|p| FileEntry {
            path,
            rows,
            bytes: p.bytes,
            crc32: format!("{:08x}", p.crc32),
            min_served_at_us: times.0,
            max_served_at_us: times.1,
        }));
    }
}

/// A name as part of a path, as Hive and Spark escape it: readers decode it. Never a hidden folder, or the one above.
fn escaped(name: &str) -> String {
    let plain = |i, b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-') || (b == b'.' && i > 0);
    let one = |(i, b): (usize, &u8)| if plain(i, *b) { char::from(*b).to_string() } else { format!("%{b:02X}") };
    name.as_bytes().iter().enumerate().map(one).collect()
}

/// `dt=YYYY-MM-DD/hour=HH` of an hour since the epoch, UTC.
fn partition(hour: i64) -> String {
    format!("dt={}/hour={:02}", date(hour.div_euclid(24)), hour.rem_euclid(24))
}

/// `YYYY-MM-DD` of a day since the epoch.
fn date(day: i64) -> String {
    // Days to a date of the proleptic Gregorian calendar: Howard Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", civil_from_days.
    let days = day + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_fall_into_the_partitions_of_the_calendar() {
        for (at_s, want) in [
            (0, "dt=1970-01-01/hour=00"),
            (-1, "dt=1969-12-31/hour=23"),
            (951_827_696, "dt=2000-02-29/hour=12"),
            (1_709_251_199, "dt=2024-02-29/hour=23"),
            (1_709_251_200, "dt=2024-03-01/hour=00"),
            (4_102_444_799, "dt=2099-12-31/hour=23"),
        ] {
            assert_eq!(partition(hour(at_s * 1_000_000)), want);
        }
        // The ends of time have a partition too.
        let _ = (partition(hour(i64::MIN)), partition(hour(i64::MAX)));
    }

    #[test]
    fn a_service_of_any_name_has_one_folder() {
        assert_eq!(escaped("home_feed-v2.1"), "home_feed-v2.1");
        assert_eq!(escaped("../a b=é%"), "%2E.%2Fa%20b%3D%C3%A9%25");
    }
}
