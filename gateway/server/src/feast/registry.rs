//! Where a repository lies and when its registry is read again: a file beside it, or an object in somebody's store. A
//! registry that cannot be read never replaces one that could.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use weir_domain::catalog::{Mistake, Place};
use weir_feast::{Registry, RegistryError, Repo};
use weir_journal::remote::{Remote, RemoteError, Tag, Trouble, is_remote, jittered};

use super::{Feast, FeastConfig};
use crate::config::unreadable;
use crate::reload::Reloader;
use crate::snapshot::chain;

/// The name of the file with what is not in the registry.
const STORE_FILE: &str = "feature_store.yaml";
/// A file is looked at this often: its age and size say whether it changed, so looking costs nothing. Feast's own
/// server reads it anew every minute. A store is asked as often as `cache_ttl_seconds` says, and never more often than
/// this: a request costs money.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads `feature_store.yaml`.
pub(crate) fn repo(config: &FeastConfig) -> Result<Repo, Vec<Mistake>> {
    let path = store_file(config);
    let text = std::fs::read_to_string(&path).map_err(|error| vec![unreadable(&path, &error)])?;
    let repo = Repo::parse(&path.display().to_string(), &text, |name| std::env::var(name).ok())?;
    if let Some(auth) = &repo.auth {
        tracing::warn!(auth, file = %path.display(), "Feast's permissions are not enforced here: whoever reaches this port may read and write");
    }
    Ok(repo)
}

fn store_file(config: &FeastConfig) -> PathBuf {
    if config.repo.is_dir() { config.repo.join(STORE_FILE) } else { config.repo.clone() }
}

/// A path as somebody wrote it, which may be a URL, relative to a folder.
pub(crate) fn placed(folder: &Path, written: &str) -> PathBuf {
    if is_remote(written) { written.into() } else { folder.join(written) }
}

/// Where a registry is.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Remote(Remote),
}

/// Which state of a registry was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Nothing,
    /// Age and size of a file, if it was there.
    File(Option<(SystemTime, u64)>),
    Object(Tag),
}

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("cannot be read: {0}")]
    File(io::Error),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("reading the registry crashed: this is a bug")]
    Crashed,
}

/// What is told once until it has gone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Remote(Trouble),
    Registry,
    Crashed,
}

impl Unread {
    fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Remote(error) => Kind::Remote(error.trouble()),
            Self::Registry(_) => Kind::Registry,
            Self::Crashed => Kind::Crashed,
        }
    }
}

impl Source {
    /// Relative paths are relative to the repository.
    pub(crate) fn of(config: &FeastConfig, repo: &Repo) -> Result<Self, Vec<Mistake>> {
        let file = store_file(config);
        let path = match &config.registry {
            Some(path) => path.clone(),
            None => {
                let written = repo.registry.strip_prefix("file://").unwrap_or(&repo.registry);
                placed(file.parent().unwrap_or(Path::new("")), written)
            }
        };
        match path.to_str().filter(|text| is_remote(text)) {
            None => Ok(Self::File(path)),
            Some(url) => match Remote::open(url, |name| std::env::var(name).ok()) {
                Ok(remote) => Ok(Self::Remote(remote)),
                Err(error) => Err(vec![Unread::from(error).mistake(&file, &file)]),
            },
        }
    }

    /// The first registry; without one nothing starts.
    pub(crate) async fn first(&self, config: &FeastConfig, repo: &Repo) -> Result<(Registry, Seen), Vec<Mistake>> {
        let mut seen = Seen::Nothing;
        let unread = match self.read(&mut seen, &repo.project).await {
            Ok(Some(registry)) => return Ok((registry, seen)),
            // Whoever has seen nothing is told what there is.
            Ok(None) => Unread::Crashed,
            Err(unread) => unread,
        };
        Err(vec![unread.mistake(&store_file(config), Path::new(&self.to_string()))])
    }

    /// The registry, unless it is the one that was `seen`.
    async fn read(&self, seen: &mut Seen, project: &str) -> Result<Option<Registry>, Unread> {
        let Some(bytes) = self.bytes(seen).await? else { return Ok(None) };
        let project = project.to_owned();
        // A large registry takes a while: not on a worker that answers requests.
        let decoding = tokio::task::spawn_blocking(move || Registry::decode(&bytes, &project));
        Ok(Some(decoding.await.map_err(|_| Unread::Crashed)??))
    }

    async fn bytes(&self, seen: &mut Seen) -> Result<Option<Bytes>, Unread> {
        match self {
            Self::File(path) => {
                let now = Seen::File(stamp(path));
                if *seen == now {
                    return Ok(None);
                }
                // A file that cannot be read is tried again once it has changed.
                *seen = now;
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || std::fs::read(path));
                Ok(Some(reading.await.map_err(|_| Unread::Crashed)?.map_err(Unread::File)?.into()))
            }
            Self::Remote(remote) => {
                let tag = if let Seen::Object(tag) = &*seen { Some(tag) } else { None };
                let Some((bytes, tag)) = remote.read(tag).await? else { return Ok(None) };
                // Whether it is a good one or not: a bad one need not be downloaded again and again.
                *seen = Seen::Object(tag);
                Ok(Some(bytes))
            }
        }
    }

    /// How long to wait between looks; none if the first registry is the only one.
    fn pause(&self, ttl: Duration) -> Option<Duration> {
        match self {
            Self::File(_) => Some(LOOK_EVERY),
            Self::Remote(_) if ttl.is_zero() => None,
            Self::Remote(_) => Some(jittered(ttl).max(LOOK_EVERY)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Remote(remote) => f.write_str(remote.url()),
        }
    }
}

impl Unread {
    /// What is wrong with the registry's content is its own; that it is not to be had is a matter of where it was said
    /// to be.
    fn mistake(&self, store_file: &Path, registry: &Path) -> Mistake {
        let (file, message) = match self {
            Self::Remote(_) => (store_file, format!("the registry {}", chain(self))),
            _ => (registry, chain(self)),
        };
        Mistake { at: Place { file: file.display().to_string().into(), line: 1 }, message }
    }
}

/// Reads the registry again whenever it has changed; returns when that cannot be. Where the native catalog is made from
/// it, that is made anew.
pub(crate) async fn keep(reloader: Arc<Reloader>) {
    let gateway = reloader.gateway();
    let Some(feast) = gateway.feast.clone() else { return };
    let Feast { source, repo, .. } = &*feast;
    let mut seen = feast.seen.clone();
    let mut told = None;
    while let Some(pause) = source.pause(repo.registry_ttl) {
        tokio::time::sleep(pause).await;
        match source.read(&mut seen, &repo.project).await {
            Ok(None) => {
                // Only a store's own troubles are over when it says that nothing has changed.
                if matches!(told, Some(Kind::Remote(_))) {
                    told = None;
                    tracing::info!(%source, "the Feast registry's store answers again");
                }
            }
            Ok(Some(registry)) => {
                told = None;
                feast.replace(registry);
                tracing::info!(%source, "the Feast registry was read again");
                if reloader.is_of_feast() {
                    // Its outcome is logged and counted.
                    let _ = reloader.reload().await;
                } else {
                    gateway.metrics.reloaded("ok");
                }
            }
            Err(unread) => {
                gateway.metrics.reloaded("refused");
                let kind = Some(unread.kind());
                if told != kind {
                    told = kind;
                    tracing::error!(at = %source, "{}; the last good registry serves on", chain(&unread));
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_asked_as_often_as_the_repository_says_and_no_more_than_once_a_second() {
        let remote = Source::Remote(Remote::open("s3://bucket/registry.db", |_| None).unwrap());
        assert_eq!(remote.pause(Duration::ZERO), None);
        assert_eq!(remote.pause(Duration::from_millis(10)), Some(LOOK_EVERY));
        let ttl = Duration::from_secs(600);
        let pauses: Vec<Duration> = (0..100).map(|_| remote.pause(ttl).unwrap()).collect();
        assert!(pauses.iter().all(|pause| (ttl / 2..=ttl).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "gateways must not come all at once");
        // Looking at a file costs nothing.
        assert_eq!(Source::File("registry.db".into()).pause(Duration::ZERO), Some(LOOK_EVERY));
    }

    #[test]
    fn a_registry_is_placed_beside_what_names_it_unless_it_is_somewhere_else() {
        assert_eq!(placed(Path::new("/repo"), "data/registry.db"), Path::new("/repo/data/registry.db"));
        assert_eq!(placed(Path::new("/repo"), "/data/registry.db"), Path::new("/data/registry.db"));
        assert_eq!(placed(Path::new("/repo"), "gs://b/registry.db"), Path::new("gs://b/registry.db"));
    }
}
