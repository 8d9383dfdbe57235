//! The composition root: config → parts → doors → drain. Everything that runs is started here, so that it can
//! be waited for here.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weir_domain::catalog::Mistake;
use weir_journal::{Journal, Settings};
use weir_transform::Engine;

use crate::admin::{self, Admin};
use crate::admission::Admission;
use crate::config::{Config, JournalConfig};
use crate::cores::{Cores, Threads};
use crate::doors::{self, Door};
use crate::feast::{self, Feast};
use crate::gateway::{Clock, Gateway};
use crate::memory;
use crate::reload::{self, Reloader};
use crate::snapshot::chain;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; every mistake is listed.
    #[error("the configuration has {} mistake(s)", .0.len())]
    Config(Vec<Mistake>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what})")]
    Listen {
        /// Which door.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The journal's folder cannot be used.
    #[error("cannot open the journal")]
    Journal(#[from] weir_journal::OpenError),
    /// The system gives no threads.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
    /// Wasm cannot run here.
    #[error("cannot start the Wasm engine")]
    Engine(#[from] weir_transform::EngineError),
}

/// A gateway that runs.
pub struct App {
    gateway: Arc<Gateway>,
    config: Config,
    listen: SocketAddr,
    admin: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: watch::Sender<Stage>,
    public_door: JoinHandle<()>,
    admin_door: JoinHandle<()>,
    watcher: JoinHandle<()>,
    hangups: JoinHandle<()>,
    registry: JoinHandle<()>,
    memory: Option<JoinHandle<()>>,
    threads: Threads,
}

/// How far the shutdown is: the operators' door closes last.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Stage {
    Serving,
    Draining,
    Drained,
}

impl App {
    /// Checks the configuration, opens everything and starts to serve.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (cores, threads) = Cores::start().map_err(StartError::Threads)?;
        let engine = Engine::new(weir_transform::Settings::default())?;
        let (snapshot, feast) = {
            let (config, engine) = (config.clone(), engine.clone());
            let feast = Feast::configured(&config).await.map_err(StartError::Config)?.map(Arc::new);
            // Compiling components and reading files takes a while and blocks.
            let homes = cores.handles();
            let build = move || Ok((reload::build(&config, &engine, None, feast.as_deref(), &homes)?, feast));
            let built = tokio::task::spawn_blocking(build).await;
            built.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(StartError::Config)?
        };
        let public = bind("callers", config.listen).await?;
        let operators = bind("operators", config.admin).await?;
        let journal = config.journal.as_ref().map(open_journal).transpose()?;
        let clock = config.as_of_us.map_or(Clock::System, |as_of_us| Clock::Fixed { as_of_us });
        let now = tokio::time::Instant::now();
        let admission = Admission::new(config.in_flight_max, config.latency_target, cores.count(), now);
        let memory_max = config.memory_max.or_else(memory::cgroup_max);
        let gateway = Arc::new(Gateway::new(snapshot, admission, clock, journal, feast, cores, memory_max));

        let (stop, _) = watch::channel(Stage::Serving);
        let until = |stage: Stage| {
            let mut stopped = stop.subscribe();
            async move {
                // An error means that the sender is gone, and the app with it.
                let _ = stopped.wait_for(|s| *s >= stage).await;
            }
        };
        let ready = Arc::new(AtomicBool::new(true));
        let (listen, admin) = (local(&public, config.listen), local(&operators, config.admin));
        let reloader = Arc::new(Reloader::new(config.clone(), engine, Arc::clone(&gateway)));
        let limits = Arc::new(config.limits.clone());
        let public_routes = doors::public(&gateway, Arc::clone(&limits)).await;
        let admin_routes = admin::routes(Admin { reloader: Arc::clone(&reloader), ready: Arc::clone(&ready) });
        let public_door = tokio::spawn(doors::serve(public, public_routes, until(Stage::Draining), config.drain));
        let admin_routes = Door::to(admin_routes, Arc::clone(&gateway.metrics), limits, Cores::here());
        let admin_door = tokio::spawn(doors::serve(operators, admin_routes, until(Stage::Drained), config.drain));
        let registry = tokio::spawn(feast::keep(Arc::clone(&reloader)));
        let hangups = tokio::spawn(reload::on_hangup(Arc::clone(&reloader)));
        let watcher = tokio::spawn(reloader.watch());
        let memory = memory_max.map(|max| tokio::spawn(memory::keep(Arc::clone(&gateway), max)));
        tracing::info!(%listen, %admin, catalog_version = &*gateway.snapshot().catalog.version, "serving");
        Ok(Self {
            gateway,
            config,
            listen,
            admin,
            ready,
            stop,
            public_door,
            admin_door,
            watcher,
            hangups,
            registry,
            memory,
            threads,
        })
    }

    /// Where callers are served: the port that was chosen if 0 was asked for.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where operators are served.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What requests share.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The settings it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Serves until `stop`, then leaves in order: not ready, no new connections, requests under way end, the
    /// journal is sealed.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        stop.await;
        self.stop().await;
    }

    /// Leaves in order. No accepted request and no row is lost.
    pub async fn stop(self) {
        let Self { gateway, ready, stop, public_door, admin_door, watcher, hangups, registry, memory, threads, .. } =
            self;
        ready.store(false, Ordering::Relaxed);
        watcher.abort();
        hangups.abort();
        registry.abort();
        memory.inspect(JoinHandle::abort);
        stop.send_replace(Stage::Draining);
        finished(public_door.await);
        gateway.snapshot().store.drain().await;
        // Sealing writes Parquet and syncs: not on a worker that still answers the operators.
        let sealing = Arc::clone(&gateway);
        finished(tokio::task::spawn_blocking(move || seal(&sealing)).await);
        stop.send_replace(Stage::Drained);
        finished(admin_door.await);
        // The last owner closes the journal. Were a cut connection still one, its rows are sealed all the same and
        // the next start clears up behind it.
        finished(tokio::task::spawn_blocking(move || drop((gateway, threads))).await);
        tracing::info!("stopped");
    }
}

fn seal(gateway: &Gateway) {
    if let Some(Err(error)) = gateway.journal.as_ref().map(Journal::seal) {
        tracing::error!(error = chain(&error), "the journal could not be sealed: the next start does it");
    }
}

fn finished(task: Result<(), tokio::task::JoinError>) {
    if let Err(error) = task {
        tracing::error!(%error, "a task of the gateway crashed");
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { what, address, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn open_journal(config: &JournalConfig) -> Result<Journal, weir_journal::OpenError> {
    let mut settings = Settings::new(&config.dir);
    settings.queue_bytes = config.queue_bytes;
    settings.seal_after = config.seal_after;
    settings.fsync_every = config.fsync_every;
    settings.feast_log = config.feast_log;
    Journal::open(settings)
}
