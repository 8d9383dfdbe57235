//! How this gateway runs: `weir.toml` as checked, with the command line laid over it. What it serves is the
//! catalog, which is read beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_domain::catalog::{Freshness, Keys, Mistake, Mistakes, Place};
use weir_feast::Semantics;
use weir_journal::{FSYNC_EVERY, QUEUE_BYTES, SEAL_AFTER};
use weir_store::{AddressError, RedisAddress, Replicas};

pub use crate::doors::Limits;
use crate::feast::{self, FeastConfig};

/// Feast's own port, so that clients need only another host.
const LISTEN: &str = "127.0.0.1:6566";
/// Next door, on loopback: metrics and reloads are nobody else's business.
const ADMIN: &str = "127.0.0.1:6567";
/// Prefix of every key in Redis when the configuration names none.
const NAMESPACE: &str = "weir";
/// A million rows of fifty floats fit into half a gibibyte; a quarter is a polite default.
const CACHE_MIB: u64 = 256;
/// Off: it costs whoever writes a third of the server's time per write, and takes rights that readers need not have.
const CLIENT_TRACKING: bool = false;
/// What bounds the memory of requests under way, some 100 KB each. How many a machine can do in time is learned, and on
/// two cores that answer 20,000 a second it is a tenth of this.
const IN_FLIGHT_MAX: u64 = 2_048;
/// Nobody waits for a core for a minute.
const LATENCY_TARGET_MAX: Duration = Duration::from_secs(60);
/// Nobody who is still there takes longer than this to say or to read something.
const DOORS_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Accepted requests get this long to end once the gateway is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Settings after the file and the command line, all checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder with `weir.toml` and `catalog/`; paths in the catalog are relative to it.
    pub dir: PathBuf,
    /// Where the catalog comes from.
    pub catalog: CatalogFrom,
    /// Address for callers.
    pub listen: SocketAddr,
    /// Address for operators.
    pub admin: SocketAddr,
    /// Prefix of every key in the store.
    pub namespace: String,
    /// Where features are read from.
    pub store: StoreUrl,
    /// Whether replicas stand in for masters that are slow or out.
    pub replicas: Replicas,
    /// A fixed "now" for ages and ttl, in microseconds since the Unix epoch; `None` = the clock.
    pub as_of_us: Option<i64>,
    /// Bytes that the process may hold; `None` = what its cgroups allow, if they say.
    pub memory_max: Option<u64>,
    /// Bytes of rows the cache may hold.
    pub cache_bytes: u64,
    /// Whether Redis is asked to tell of writes, so that what was written is no longer served from the cache.
    pub client_tracking: bool,
    /// Most requests answered at the same time.
    pub in_flight_max: usize,
    /// How long answers may take while cores are full before fewer are admitted; `None` = a share of their budgets.
    pub latency_target: Option<Duration>,
    /// Accepted requests get this long once the gateway is told to stop.
    pub drain: Duration,
    /// What strangers may do at the doors.
    pub limits: Limits,
    /// Where answers are written down; `None` = nowhere.
    pub journal: Option<JournalConfig>,
    /// The Feast repository that is served too.
    pub feast: Option<FeastConfig>,
}

/// Where the catalog comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogFrom {
    /// The files in `catalog/`.
    Folder,
    /// The registry of the Feast repository: there is no `catalog/`.
    Feast,
}

/// Settings of the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalConfig {
    /// Folder of segments and Parquet.
    pub dir: PathBuf,
    /// Size of the queue in shared memory.
    pub queue_bytes: u64,
    /// A segment is sealed into Parquet at this age.
    pub seal_after: Duration,
    /// Longest time between a write and its fsync.
    pub fsync_every: Duration,
    /// Whether answers are also written in the schema of Feast's feature log.
    pub feast_log: bool,
}

/// Which store features are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// Where the Feast repository says.
    Feast,
    /// In process, from the Parquet files beside the catalog.
    Embedded,
    /// `redis://…` and its relatives.
    Redis(Box<RedisAddress>),
}

impl StoreUrl {
    /// Reads `embedded` or a Redis URL. What is wrong is said without quoting it: it may have a password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => Ok(Self::Embedded),
            url => url
                .parse()
                .map(|address| Self::Redis(Box::new(address)))
                .map_err(|e: AddressError| format!("not \"embedded\" and {e}")),
        }
    }
}

/// What the command line lays over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--admin`
    pub admin: Option<SocketAddr>,
    /// `--store`
    pub store: Option<StoreUrl>,
    /// `--journal`
    pub journal: Option<PathBuf>,
    /// `--feast`: the repository, and its registry where that lies elsewhere.
    pub feast: Vec<PathBuf>,
    /// `--feast-semantics`
    pub semantics: Option<Semantics>,
}

impl Config {
    /// Reads `DIR/weir.toml` (which may be missing: every key has a default) and applies the overrides.
    pub fn load(dir: &Path, overrides: Overrides) -> Result<Self, Vec<Mistake>> {
        let path = dir.join("weir.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && dir.is_dir() => String::new(),
            Err(error) => return Err(vec![unreadable(&path, &error)]),
        };
        let mistakes = Mistakes::default();
        let config = Keys::parse(&path.display().to_string(), &text, &mistakes).map(|keys| Self::read(dir, keys));
        match config {
            Some(config) if mistakes.is_empty() => Ok(config.with(overrides)),
            _ => Err(mistakes.into_vec()),
        }
    }

    /// What a Feast repository alone is served with: every setting has its default.
    pub fn of_feast(overrides: Overrides) -> Result<Self, Vec<Mistake>> {
        let dir = overrides.feast.first().cloned().unwrap_or_default();
        let mistakes = Mistakes::default();
        match Keys::parse("weir.toml", "", &mistakes).map(|keys| Self::read(&dir, keys)) {
            Some(config) if mistakes.is_empty() => Ok(Self { catalog: CatalogFrom::Feast, ..config }.with(overrides)),
            _ => Err(mistakes.into_vec()),
        }
    }

    fn read(dir: &Path, mut keys: Keys<'_, '_>) -> Self {
        keys.rename("weir.toml".to_owned());
        let listen = address(&mut keys, "listen", LISTEN);
        let admin = address(&mut keys, "admin", ADMIN);
        let namespace = keys.text("namespace").unwrap_or_else(|| NAMESPACE.to_owned());
        if namespace.is_empty() || namespace.contains(':') {
            keys.mistake("namespace", "is empty or has a colon, which ends the namespace in every key");
        }
        let feast = keys.table("feast").map(|keys| read_feast(dir, keys));
        let default = if feast.is_some() { StoreUrl::Feast } else { StoreUrl::Embedded };
        let store = keys.text("store").map_or(Ok(default), |text| StoreUrl::parse(&text));
        let store = store.unwrap_or_else(|error| {
            keys.mistake("store", error);
            StoreUrl::Embedded
        });
        let replicas = if keys.flag("hedge").unwrap_or(true) { Replicas::Read } else { Replicas::Ignored };
        let as_of_us = keys.text("as_of").and_then(|text| match chrono::DateTime::parse_from_rfc3339(&text) {
            Ok(time) => Some(time.timestamp_micros()),
            Err(error) => {
                keys.mistake("as_of", format!("{text:?} is no RFC 3339 time: {error}"));
                None
            }
        });
        let in_flight_max = keys.number("in_flight_max", 1..=1_000_000).unwrap_or(IN_FLIGHT_MAX) as usize;
        let latency_target = keys.millis("latency_target_ms", LATENCY_TARGET_MAX);
        if latency_target.is_some_and(|target| target.is_zero()) {
            keys.mistake("latency_target_ms", "every request waits a little: at least a millisecond");
        }
        let memory_max = keys.number("memory_max_mib", 1..=1 << 30).map(|mib| mib << 20);
        let drain = keys.millis("drain_ms", Duration::from_secs(600)).unwrap_or(DRAIN);
        let mut limits = Limits::default();
        if let Some(connections) = keys.number("connections_max", 1..=1_000_000) {
            limits.connections_max = connections as usize;
        }
        if let Some(age) = keys.number("connection_age_s", 1..=604_800) {
            limits.age = Duration::from_secs(age);
        }
        if let Some(doors) = keys.table("doors") {
            read_doors(doors, &mut limits);
        }
        let (mut cache_bytes, mut client_tracking) = (CACHE_MIB << 20, CLIENT_TRACKING);
        if let Some(mut cache) = keys.table("cache") {
            cache_bytes = cache.number("capacity_mib", 0..=1 << 20).unwrap_or(CACHE_MIB) << 20;
            client_tracking = cache.flag("client_tracking").unwrap_or(client_tracking);
            cache.finish();
        }
        let journal = keys.table("journal").map(|mut journal| {
            let folder = journal.required_text("dir").unwrap_or_default();
            let config = JournalConfig {
                dir: PathBuf::from(folder),
                queue_bytes: journal.number("queue_mib", 1..=4_096).map_or(QUEUE_BYTES, |mib| mib << 20),
                seal_after: journal.number("seal_after_s", 1..=86_400).map_or(SEAL_AFTER, Duration::from_secs),
                fsync_every: journal.millis("fsync_every_ms", Duration::from_secs(60)).unwrap_or(FSYNC_EVERY),
                feast_log: journal.flag("feast_log").unwrap_or(feast.is_some()),
            };
            journal.finish();
            config
        });
        keys.finish();
        Self {
            dir: dir.to_owned(),
            catalog: CatalogFrom::Folder,
            feast,
            listen,
            admin,
            namespace,
            store,
            replicas,
            as_of_us,
            memory_max,
            cache_bytes,
            client_tracking,
            in_flight_max,
            latency_target,
            drain,
            limits,
            journal,
        }
    }

    fn with(mut self, overrides: Overrides) -> Self {
        self.listen = overrides.listen.unwrap_or(self.listen);
        self.admin = overrides.admin.unwrap_or(self.admin);
        let mut paths = overrides.feast.into_iter();
        if let Some(repo) = paths.next() {
            let base = self.feast.take().unwrap_or_else(|| FeastConfig::new(PathBuf::new()));
            self.feast = Some(FeastConfig { repo, registry: paths.next(), ..base });
            if self.store == StoreUrl::Embedded {
                self.store = StoreUrl::Feast;
            }
        }
        // A folder with settings alone: then the registry is the catalog.
        if self.feast.is_some() && !self.dir.join("catalog").is_dir() {
            self.catalog = CatalogFrom::Feast;
        }
        if let (Some(feast), Some(semantics)) = (&mut self.feast, overrides.semantics) {
            feast.semantics = semantics;
        }
        self.store = overrides.store.unwrap_or(self.store);
        if let Some(dir) = overrides.journal {
            self.journal = Some(match self.journal {
                Some(journal) => JournalConfig { dir, ..journal },
                None => JournalConfig {
                    dir,
                    queue_bytes: QUEUE_BYTES,
                    seal_after: SEAL_AFTER,
                    fsync_every: FSYNC_EVERY,
                    // Who serves Feast's clients reads Feast's log.
                    feast_log: self.feast.is_some(),
                },
            });
        }
        self
    }
}

fn read_doors(mut keys: Keys<'_, '_>, limits: &mut Limits) {
    let times = [
        ("header_timeout_ms", &mut limits.header_timeout),
        ("body_timeout_ms", &mut limits.body_timeout),
        ("unread_timeout_ms", &mut limits.unread_max),
    ];
    for (key, time) in times {
        // None at all would turn everybody away.
        if let Some(ms) = keys.number(key, 1..=DOORS_TIMEOUT_MAX.as_millis() as u64) {
            *time = Duration::from_millis(ms);
        }
    }
    if let Some(idle_s) = keys.number("idle_timeout_s", 1..=604_800) {
        limits.idle_timeout = Duration::from_secs(idle_s);
    }
    if let Some(mib) = keys.number("unread_max_mib", 1..=1 << 20) {
        limits.unread_bytes_max = (mib << 20) as usize;
    }
    keys.finish();
}

fn read_feast(dir: &Path, mut keys: Keys<'_, '_>) -> FeastConfig {
    let repo = keys.required_text("repo").unwrap_or_default();
    let registry = keys.text("registry").map(|path| feast::placed(dir, &path));
    let semantics = keys.text("semantics").map_or(Ok(Semantics::default()), |text| feast::semantics(&text));
    let semantics = semantics.unwrap_or_else(|error| {
        keys.mistake("semantics", error);
        Semantics::default()
    });
    let most = Duration::from_secs(86_400);
    let fresh_for = keys.millis("fresh_ms", most).unwrap_or(feast::CACHE.fresh_for);
    let stale_for = keys.millis("stale_ms", most).unwrap_or(feast::CACHE.stale_for).max(fresh_for);
    let negative_for = keys.millis("negative_ms", most).unwrap_or(feast::CACHE.negative_for);
    let budget = keys.millis("budget_ms", Duration::from_secs(60)).unwrap_or(feast::BUDGET);
    keys.finish();
    FeastConfig {
        registry,
        semantics,
        budget,
        cache: Freshness { fresh_for, revalidate_for: Duration::ZERO, stale_for, negative_for },
        repo: dir.join(repo),
    }
}

fn address(keys: &mut Keys<'_, '_>, key: &'static str, default: &str) -> SocketAddr {
    let text = keys.text(key).unwrap_or_else(|| default.to_owned());
    text.parse().unwrap_or_else(|_| {
        keys.mistake(key, format!("{text:?} is no address: IP:PORT is"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

/// A file that should be there and cannot be read, as a mistake of the configuration.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Mistake {
    let at = Place { file: path.display().to_string().into(), line: 1 };
    Mistake { at, message: format!("cannot be read: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Vec<Mistake>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("weir.toml"), text).unwrap();
        Config::load(dir.path(), Overrides::default())
    }

    #[test]
    fn every_limit_at_the_doors_has_a_key_and_a_default() {
        assert_eq!(read("").unwrap().limits, Limits::default());
        let text = "connections_max = 1\nconnection_age_s = 2\n[doors]\nheader_timeout_ms = 3\nbody_timeout_ms = 4\n\
                    idle_timeout_s = 5\nunread_timeout_ms = 6\nunread_max_mib = 7\n";
        let wanted = Limits {
            connections_max: 1,
            age: Duration::from_secs(2),
            header_timeout: Duration::from_millis(3),
            body_timeout: Duration::from_millis(4),
            idle_timeout: Duration::from_secs(5),
            unread_max: Duration::from_millis(6),
            unread_bytes_max: 7 << 20,
            ..Limits::default()
        };
        assert_eq!(read(text).unwrap().limits, wanted);
    }

    #[test]
    fn doors_that_nobody_could_pass_are_mistakes() {
        let keys = ["header_timeout_ms", "body_timeout_ms", "idle_timeout_s", "unread_timeout_ms", "unread_max_mib"];
        let text = keys.iter().fold("[doors]\n".to_owned(), |text, key| text + key + " = 0\n") + "linger = 1\n";
        let mistakes = read(&text).unwrap_err();
        assert_eq!(mistakes.len(), keys.len() + 1, "{mistakes:?}");
        for (line, key) in keys.iter().chain(&["linger"]).enumerate() {
            assert!(mistakes.iter().any(|m| m.message.contains(key) && m.at.line == line + 2), "{mistakes:?}");
        }
    }
}
