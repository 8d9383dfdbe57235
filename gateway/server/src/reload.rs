//! Hot reload: a changed file is read, checked and compiled as a whole, and only then swapped in. A bad
//! configuration never replaces a good one; it is logged line by line and counted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use weir_domain::catalog::{Mistake, Place};
use weir_store::Store;
use weir_transform::Engine;

use crate::config::{CatalogFrom, Config, StoreUrl};
use crate::feast::Feast;
use crate::gateway::Gateway;
use crate::load;
use crate::snapshot::{self, Snapshot};

/// Editors and volume mounts write several files in a row: wait for this much quiet.
const QUIET: Duration = Duration::from_millis(200);

/// Makes snapshots and swaps them in.
pub(crate) struct Reloader {
    config: Config,
    engine: Engine,
    gateway: Arc<Gateway>,
    homes: Arc<[Handle]>,
    /// One reload at a time, so that the last change wins.
    turn: Mutex<()>,
}

impl Reloader {
    pub(crate) fn new(config: Config, engine: Engine, gateway: Arc<Gateway>) -> Self {
        let homes = gateway.cores.handles();
        Self { config, engine, gateway, homes, turn: Mutex::new(()) }
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Whether the catalog is made from a Feast registry.
    pub(crate) fn is_of_feast(&self) -> bool {
        self.config.catalog == CatalogFrom::Feast
    }

    /// Reads everything anew; returns the new catalog's version, or every mistake.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<String, Vec<Mistake>> {
        let _turn = self.turn.lock().await;
        let this = Arc::clone(self);
        let store = Arc::clone(&self.gateway.snapshot().store);
        // Reading files and compiling components blocks; requests go on meanwhile.
        let built = tokio::task::spawn_blocking(move || {
            build(&this.config, &this.engine, Some(store), this.gateway.feast.as_deref(), &this.homes)
        })
        .await;
        let built = built.unwrap_or_else(|_| Err(vec![crashed(&self.config.dir)]));
        match built {
            Ok(snapshot) => {
                let version = snapshot.catalog.version.to_string();
                self.gateway.replace(snapshot);
                self.gateway.metrics.reloaded("ok");
                tracing::info!(catalog_version = version, "the configuration was reloaded");
                Ok(version)
            }
            Err(mistakes) => {
                self.gateway.metrics.reloaded("refused");
                for mistake in &mistakes {
                    tracing::error!(at = %mistake.at, "{}", mistake.message);
                }
                tracing::error!(
                    mistakes = mistakes.len(),
                    "the configuration was not reloaded: the last good one serves on"
                );
                Err(mistakes)
            }
        }
    }

    /// Reloads whenever something below the configuration folder changes, until the receiver's task is dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
            // One pending note is enough: a reload reads everything.
            if event.is_ok_and(|e| matters(&e)) {
                let _ = changed.try_send(());
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.config.dir, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let _watcher = match watching {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "file changes cannot be watched: POST /reload on the admin port still works");
                return;
            }
        };
        while changes.recv().await.is_some() {
            while tokio::time::timeout(QUIET, changes.recv()).await.is_ok_and(|c| c.is_some()) {}
            // Its outcome is logged and counted.
            let _ = self.reload().await;
        }
    }
}

/// Reads everything anew whenever the process is told to by SIGHUP, which would otherwise end it.
pub(crate) async fn on_hangup(reloader: Arc<Reloader>) {
    // Without a handler the default action ends the process; there is nothing to wait for.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        // Its outcome is logged and counted.
        let _ = reloader.reload().await;
    }
}

/// Whether an event can change what is served. Reading does not, and the journal may live in the same folder.
fn matters(event: &notify::Event) -> bool {
    let changes = !matches!(event.kind, EventKind::Access(_) | EventKind::Other);
    // Kubernetes swaps a whole ConfigMap by renaming the symlink `..data`.
    let ours = |path: &Path| path.ends_with("..data") || path.extension().is_some_and(|e| e == "toml" || e == "wasm");
    changes && event.paths.iter().any(|p| ours(p))
}

/// Reads and checks everything and puts a snapshot together. A Redis store outlives snapshots with its cache and
/// connections; an embedded one is loaded anew.
pub(crate) fn build(
    config: &Config,
    engine: &Engine,
    store: Option<Arc<Store>>,
    feast: Option<&Feast>,
    homes: &Arc<[Handle]>,
) -> Result<Snapshot, Vec<Mistake>> {
    let checked = snapshot::check(config, engine, feast)?;
    let store = match (&config.store, store) {
        (StoreUrl::Redis(_) | StoreUrl::Feast, Some(store)) => store,
        _ => Arc::new(load::store(config, &checked.catalog, feast, homes)?),
    };
    Ok(Snapshot::new(checked, store))
}

fn crashed(dir: &Path) -> Mistake {
    let at = Place { file: dir.display().to_string().into(), line: 1 };
    Mistake { at, message: "reading the configuration crashed: this is a bug".to_owned() }
}
