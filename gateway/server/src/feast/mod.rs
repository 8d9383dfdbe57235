//! Standing in for a Feast feature server: its registry, read again in the background, and its doors. What Feast's
//! words mean is `weir-feast`'s business; here they meet the store, the budget, the metrics and the journal.

mod computed;
mod grpc;
mod http;
mod load;
mod native;
mod record;
mod registry;
mod serve;
mod vectors;
mod write;

use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use weir_domain::Needs;
use weir_domain::catalog::{Catalog, Freshness, Mistake};
use weir_feast::{Lookup, Naming, Online, Options, Raised, Registry, Repo, Semantics, Topology, Wanted};
use weir_store::{HashWriteSettings, HashWriter, RedisAddress, RedisLayout, RedisLogin, RedisTls, TlsCheck};

use crate::config::Config;
use computed::Computation;
pub(crate) use grpc::FeastGrpc;
pub(crate) use http::{ONLINE, OTHERS, Served, online, routes};
pub(crate) use load::{Loaded, load};
pub(crate) use registry::{keep, placed};
pub(crate) use serve::Real;

/// Features in all resolved lists of references that are kept: some 100 MB of them. Clients send the same few lists over
/// and over; one that does not must not fill the memory.
const KNOWN_FEATURES_MAX: usize = 400_000;
/// What a list weighs besides its features, in features.
const KNOWN_LIST_WEIGHT: usize = 50;

/// What is served in Feast's place, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct FeastConfig {
    /// The repository: its folder, or `feature_store.yaml` itself.
    pub repo: PathBuf,
    /// `registry.db` or its URL, where it is not where the repository says.
    pub registry: Option<PathBuf>,
    /// What statuses say.
    pub semantics: Semantics,
    /// Most time an answer may take.
    pub budget: Duration,
    /// How long rows may be kept.
    pub cache: Freshness,
}

impl FeastConfig {
    /// A repository with every default.
    pub fn new(repo: PathBuf) -> Self {
        Self { repo, registry: None, semantics: Semantics::default(), budget: BUDGET, cache: CACHE }
    }
}

/// Reads `python` or `strict`.
pub fn semantics(text: &str) -> Result<Semantics, String> {
    match text {
        "python" => Ok(Semantics::Python),
        "strict" => Ok(Semantics::Strict),
        other => Err(format!("{other:?}: \"python\" or \"strict\" is expected")),
    }
}

/// Answers without a deadline of the caller's own have this long. Feast has no deadline at all; a healthy Redis answers
/// in a few milliseconds, and a model that waits longer than this has other troubles.
pub(crate) const BUDGET: Duration = Duration::from_millis(200);
/// Feast reads every value from Redis when it is asked for it, and so do we: what was just written is served. Rows are
/// kept all the same, for when Redis does not answer.
pub(crate) const CACHE: Freshness = Freshness {
    fresh_for: Duration::ZERO,
    revalidate_for: Duration::ZERO,
    stale_for: Duration::from_secs(60),
    negative_for: Duration::ZERO,
};

/// A Feast repository that is served.
pub struct Feast {
    pub(crate) config: FeastConfig,
    pub(crate) repo: Repo,
    writer: HashWriter,
    current: ArcSwap<Current>,
    source: registry::Source,
    /// What of it was read first.
    seen: registry::Seen,
}

/// A registry as it was read last, with what requests have asked of it so far.
pub(crate) struct Current {
    pub(crate) registry: Registry,
    pub(crate) options: Options,
    pub(crate) naming: Naming,
    lookups: RwLock<Lookups>,
    /// What the native catalog does not have of it was told.
    told: Once,
}

/// What was asked for before, and how much that is.
#[derive(Default)]
struct Lookups {
    known: HashMap<Vec<u8>, Arc<Known>>,
    weight: usize,
}

/// References that were asked for before.
pub(crate) struct Known {
    lookup: Lookup,
    /// What the stages behind the store need, transforms aside.
    pub(crate) needs: Needs,
    /// How their on-demand views are computed, once that was asked for under the present catalog.
    computation: ArcSwapOption<Computation>,
}

impl Deref for Known {
    type Target = Lookup;

    fn deref(&self) -> &Lookup {
        &self.lookup
    }
}

impl Known {
    /// How the on-demand views among them are computed, if there are any.
    pub(crate) fn computation(&self, catalog: &Catalog, budget: Duration) -> Result<Option<Arc<Computation>>, Raised> {
        if self.lookup.computed.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.computation.load_full().filter(|known| known.is_of(catalog)) {
            return Ok(Some(known));
        }
        let compiled = Arc::new(Computation::compile(catalog, &self.lookup, budget)?);
        self.computation.store(Some(Arc::clone(&compiled)));
        Ok(Some(compiled))
    }
}

impl Feast {
    /// Opens the repository that is to be served, if there is one.
    pub(crate) async fn configured(config: &Config) -> Result<Option<Self>, Vec<Mistake>> {
        match config.feast.clone() {
            Some(config) => Self::open(config).await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens a repository; an unreadable one is a mistake of the configuration.
    pub async fn open(config: FeastConfig) -> Result<Self, Vec<Mistake>> {
        let repo = registry::repo(&config)?;
        let source = registry::Source::of(&config, &repo)?;
        let (registry, seen) = source.first(&config, &repo).await?;
        let current = ArcSwap::from_pointee(Current::new(&config, &repo, registry));
        let settings = HashWriteSettings { key_ttl: repo.online.key_ttl, blind: repo.online.skip_dedup };
        let writer = HashWriter::new(store_address(&repo.online), settings);
        Ok(Self { config, repo, writer, current, source, seen })
    }

    /// Where the features lie.
    pub(crate) fn store_address(&self) -> RedisAddress {
        store_address(&self.repo.online)
    }

    /// Most time an answer may take.
    pub(crate) fn budget(&self) -> Duration {
        self.config.budget
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    pub(crate) fn replace(&self, registry: Registry) {
        self.current.store(Arc::new(Current::new(&self.config, &self.repo, registry)));
    }
}

fn store_address(online: &Online) -> RedisAddress {
    let layout = match &online.topology {
        Topology::Single => RedisLayout::Single,
        Topology::Cluster => RedisLayout::Cluster,
        // Feast's password and TLS are for the servers; to the sentinels it talks plainly and as nobody.
        Topology::Sentinel(master) => {
            RedisLayout::Sentinel { master: master.clone(), login: RedisLogin::default(), tls: None }
        }
    };
    let tls = online.tls.as_ref().map(|tls| RedisTls {
        ca_file: tls.ca_file.as_ref().map(PathBuf::from),
        client_files: tls.cert_file.as_ref().zip(tls.key_file.as_ref()).map(|(cert, key)| (cert.into(), key.into())),
        check: if tls.insecure { TlsCheck::Nothing } else { TlsCheck::Full },
    });
    let login = RedisLogin { username: online.username.clone(), password: online.password.clone() };
    RedisAddress {
        layout,
        nodes: online.nodes.clone(),
        replicas: vec![],
        db: online.db.try_into().unwrap_or(0),
        login,
        tls,
    }
}

impl Current {
    fn new(config: &FeastConfig, repo: &Repo, registry: Registry) -> Self {
        let options = Options {
            versioning: repo.versioning,
            serves_while_materializing: repo.serves_while_materializing,
            // Feast's Go and Java servers know nothing of it.
            reads_precomputed: config.semantics == Semantics::Python,
            cache: config.cache,
        };
        let naming = Naming { format: repo.key_format, project: repo.project.clone() };
        Self { registry, options, naming, lookups: RwLock::default(), told: Once::new() }
    }

    /// References, resolved; what was asked before is found again.
    pub(crate) fn lookup(&self, features: &[&str], service: Option<&str>, full: bool) -> Result<Arc<Known>, Raised> {
        let names = service.as_ref().map_or(features, std::slice::from_ref);
        let mut key = Vec::with_capacity(1 + names.iter().map(|name| 4 + name.len()).sum::<usize>());
        key.push(u8::from(full) << 1 | u8::from(service.is_some()));
        for name in names {
            key.extend_from_slice(&(name.len() as u32).to_le_bytes());
            key.extend_from_slice(name.as_bytes());
        }
        let known = self.lookups.read().unwrap_or_else(PoisonError::into_inner).known.get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let features: Vec<String> = features.iter().map(|&name| name.to_owned()).collect();
        let wanted = service.map_or(Wanted::Features(&features), Wanted::Service);
        let lookup = Lookup::compile(&self.registry, wanted, full, &self.options)?;
        let lookup = Arc::new(Known { lookup, needs: Needs::of(0), computation: ArcSwapOption::empty() });
        let mut lookups = self.lookups.write().unwrap_or_else(PoisonError::into_inner);
        let weight = KNOWN_LIST_WEIGHT + lookup.reads.iter().map(|read| read.features.len()).sum::<usize>();
        if lookups.weight + weight > KNOWN_FEATURES_MAX {
            *lookups = Lookups::default();
        }
        if lookups.known.insert(key, Arc::clone(&lookup)).is_none() {
            lookups.weight += weight;
        }
        Ok(lookup)
    }
}
