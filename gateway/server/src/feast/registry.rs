//! Where a repository lies and when its registry is read again. A registry that cannot be read never replaces one
//! that could.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weir_domain::catalog::{Mistake, Place};
use weir_feast::{Registry, Repo};

use super::FeastConfig;
use crate::config::unreadable;
use crate::reload::Reloader;
use crate::snapshot::chain;

/// The name of the file with what is not in the registry.
const STORE_FILE: &str = "feature_store.yaml";
/// A file is looked at this often: its age and size say whether it changed, so looking costs nothing. Feast's own
/// server reads it anew every minute.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads `feature_store.yaml`.
pub(crate) fn repo(config: &FeastConfig) -> Result<Repo, Vec<Mistake>> {
    let path = store_file(config);
    let text = std::fs::read_to_string(&path).map_err(|error| vec![unreadable(&path, &error)])?;
    Repo::parse(&path.display().to_string(), &text, |name| std::env::var(name).ok())
}

fn store_file(config: &FeastConfig) -> PathBuf {
    if config.repo.is_dir() { config.repo.join(STORE_FILE) } else { config.repo.clone() }
}

/// Where the registry is: relative paths are relative to the repository.
pub(crate) fn registry_file(config: &FeastConfig, repo: &Repo) -> PathBuf {
    if let Some(path) = &config.registry {
        return path.clone();
    }
    let folder = store_file(config).parent().map(Path::to_owned).unwrap_or_default();
    folder.join(repo.registry.strip_prefix("file://").unwrap_or(&repo.registry))
}

/// Reads the registry.
pub(crate) fn read(config: &FeastConfig, repo: &Repo) -> Result<Registry, Vec<Mistake>> {
    let path = registry_file(config, repo);
    let bytes = std::fs::read(&path).map_err(|error| vec![unreadable(&path, &error)])?;
    Registry::decode(&bytes, &repo.project).map_err(|error| {
        let at = Place { file: path.display().to_string().into(), line: 1 };
        vec![Mistake { at, message: chain(&error) }]
    })
}

/// Reads the registry again whenever its file has changed; with a registry it never returns. Where the native catalog is
/// made from it, that is made anew.
pub(crate) async fn keep(reloader: Arc<Reloader>) {
    let gateway = reloader.gateway();
    let Some(feast) = gateway.feast.clone() else { return };
    let path = registry_file(&feast.config, &feast.repo);
    let mut seen = stamp(&path);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = stamp(&path);
        if now == seen {
            continue;
        }
        seen = now;
        let this = Arc::clone(&feast);
        // Reading and decoding a large registry takes a while: not on a worker that answers requests.
        let read = tokio::task::spawn_blocking(move || read(&this.config, &this.repo)).await;
        match read {
            Ok(Ok(registry)) => {
                feast.replace(registry);
                tracing::info!("the Feast registry was read again");
                if reloader.is_of_feast() {
                    // Its outcome is logged and counted.
                    let _ = reloader.reload().await;
                } else {
                    gateway.metrics.reloaded("ok");
                }
            }
            Ok(Err(mistakes)) => {
                gateway.metrics.reloaded("refused");
                for mistake in mistakes {
                    tracing::error!(at = %mistake.at, "{}; the last good registry serves on", mistake.message);
                }
            }
            Err(error) => tracing::error!(%error, "reading the Feast registry crashed"),
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
