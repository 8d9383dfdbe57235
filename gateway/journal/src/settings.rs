//! How a journal is kept. Every limit and interval has a default here, with the reason above it.

use std::path::PathBuf;
use std::time::Duration;

/// Fits, with its header, into the 64 MiB that Docker gives a container's `/dev/shm`; at 1 KiB a request it
/// holds 48,000 requests, several seconds of a disk that does not answer.
pub const QUEUE_BYTES: u64 = 48 << 20;

/// A segment is read into memory to be sealed, and makes Parquet files of some tens of megabytes at most.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// What a power cut may cost. A killed process costs nothing.
pub const FSYNC_EVERY: Duration = Duration::from_millis(500);

/// How long a row may wait before readers of Parquet see it.
pub const SEAL_AFTER: Duration = Duration::from_secs(60);

/// Unsealed segments may fill this much of the disk; then the queue fills, and then rows are dropped, counted.
pub const BACKLOG_BYTES_MAX: u64 = 16 << 30;

/// Where and how a journal is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The journal's folder; it is created when missing. One gateway at a time.
    pub folder: PathBuf,
    /// Folder of the shared-memory queue, on tmpfs. `None`: `/dev/shm`, and where that is missing or too small
    /// the journal's own folder. Rows in it survive the process, so it has to outlive the process too: in a
    /// container that is restarted, mount a memory volume here.
    pub queue_dir: Option<PathBuf>,
    /// Size of the queue between the request path and the disk.
    pub queue_bytes: u64,
    /// A segment that has grown to this size is sealed.
    pub segment_bytes: u64,
    /// Interval of group commit.
    pub fsync_every: Duration,
    /// A segment is sealed at this age, measured from its first row.
    pub seal_after: Duration,
    /// Most bytes of unsealed segments; beyond it nothing is taken from the queue until some are sealed.
    pub backlog_bytes_max: u64,
    /// Whether every answer is also written in the schema of Feast's feature log, in a dataset of its own that
    /// Feast reads in place. Costs about as much sealing again; nothing on the request path.
    pub feast_log: bool,
}

impl Settings {
    /// The defaults, for this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            queue_dir: None,
            queue_bytes: QUEUE_BYTES,
            segment_bytes: SEGMENT_BYTES,
            fsync_every: FSYNC_EVERY,
            seal_after: SEAL_AFTER,
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            feast_log: false,
        }
    }
}
