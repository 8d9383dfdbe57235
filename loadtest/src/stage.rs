//! The processes of a scenario: a Redis with its rows, the gateway under test, and the fault proxy between them. They are
//! children of this process on free ports of loopback, and end with it.
//!
//! Where there are two cores, the gateway has one to itself and the load, Redis and the proxy share the other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::priority::Priority;
use crate::proxy::{Fault, Proxy, Share};
use crate::rows;
use crate::scenario::Serve;

/// Which of the cores.
const GATEWAY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
/// A gateway compiles its transforms before it listens; a busy machine takes its time.
const START: Duration = Duration::from_secs(60);
/// A gateway that is told to stop seals its journal first.
const STOP: Duration = Duration::from_secs(20);

/// A running scenario. Fields are dropped in this order.
pub(crate) struct Stage {
    pub(crate) gateway: Process,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) redis: Process,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) redis_at: SocketAddr,
    /// Of the thread that set the stage, which is the one that loads it.
    pub(crate) priority: Priority,
    dir: TempDir,
}

impl Stage {
    /// Starts Redis, fills it, and starts `weir` (the path of the binary) with the scenario's catalog.
    pub(crate) fn set(serve: &Serve, weir: &Path, cores: &Cores, seed: u64) -> Result<Self, crate::Failed> {
        cores.enter(LOAD_CORE)?;
        let is_session_first = Priority::of_this_session();
        let dir = tempfile::Builder::new().prefix("weir-scenario-").tempdir()?;
        let redis_at = free_address()?;
        let port = redis_at.port().to_string();
        let mut redis = Command::new("redis-server");
        redis
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(dir.path());
        let redis = Process::start(redis, redis_at)?;
        rows::load(serve, redis_at)?;
        let proxy = serve.late.map(|_| Proxy::start_with_seed(redis_at, seed)).transpose()?;
        let store = proxy.as_ref().map_or(redis_at, Proxy::address);

        let config = dir.path().join("config");
        write_config(serve, &config)?;
        let (listen, admin) = (free_address()?, free_address()?);
        let mut gateway = Command::new(weir);
        gateway.arg("serve").arg("--config").arg(&config).args(["--store", &format!("redis://{store}")]);
        gateway.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]).env("RUST_LOG", "error");
        // Children stay where their parent was when it made them.
        cores.enter(GATEWAY_CORE)?;
        let gateway = Process::start(gateway, listen);
        cores.enter(LOAD_CORE)?;
        let priority = Priority::of_this_thread(is_session_first);
        Ok(Self { gateway: gateway?, proxy, redis, listen, admin, redis_at, priority, dir })
    }

    /// From now on replies are late.
    pub(crate) fn disturb(&self, replies_share: f64, late: Duration) {
        if let Some(proxy) = &self.proxy {
            proxy.inject(Fault::late(late), Share::Replies(replies_share));
        }
    }

    /// Where the journal is, if there is one.
    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }
}

fn write_config(serve: &Serve, dir: &Path) -> Result<(), crate::Failed> {
    std::fs::create_dir_all(dir.join("catalog"))?;
    let mut settings = format!("namespace = \"{}\"\n", rows::NAMESPACE);
    if let Some(max) = serve.in_flight_max {
        settings += &format!("in_flight_max = {max}\n");
    }
    settings += &format!("[cache]\ncapacity_mib = {}\n", serve.cache_mib);
    if serve.journal {
        let journal = dir.with_file_name("journal");
        settings += &format!("[journal]\ndir = \"{}\"\nseal_after_s = 5\n", journal.display());
    }
    std::fs::write(dir.join("weir.toml"), settings)?;
    std::fs::write(dir.join("catalog/catalog.toml"), rows::catalog(serve))?;
    if let Some(component) = &serve.transform {
        let to = dir.join("transform.wasm");
        std::fs::copy(component, to).map_err(|e| format!("{}: {e} (make plugins builds it)", component.display()))?;
    }
    Ok(())
}

/// A child that is told to end when nobody needs it, and killed when it does not.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it and waits until it listens.
    fn start(mut command: Command, at: SocketAddr) -> Result<Self, crate::Failed> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|e| format!("{name}: {e}"))?;
        let mut process = Self(child);
        let patience = Instant::now() + START;
        while TcpStream::connect(at).is_err() {
            if let Some(status) = process.0.try_wait()? {
                return Err(format!("{name} ended before it listened: {status}").into());
            }
            if Instant::now() > patience {
                return Err(format!("{name} does not listen").into());
            }
            pause();
        }
        Ok(process)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // A child that has ended already needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end and waits.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let patience = Instant::now() + STOP;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < patience {
            pause();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Another process does not tell us when it is ready; we look a hundred times a second.
#[allow(clippy::disallowed_methods, reason = "the condition is in another process, and the wait has a limit")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The cores that this thread may use, in order.
pub(crate) struct Cores(Vec<usize>);

impl Cores {
    /// As they are before anything is pinned.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_this_thread() -> Result<Self, crate::Failed> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        Ok(Self((0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()))
    }

    /// Elsewhere nothing is pinned.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of_this_thread() -> Result<Self, crate::Failed> {
        Ok(Self(Vec::new()))
    }

    /// The gateway gets the first, everybody else the second; this thread, and what it starts from now on, stays there.
    fn enter(&self, index: usize) -> Result<(), crate::Failed> {
        #[cfg(target_os = "linux")]
        if self.0.len() > 1 {
            let mut cores = rustix::thread::CpuSet::new();
            cores.set(self.0[index]);
            rustix::thread::sched_setaffinity(None, &cores)?;
        }
        let _ = index;
        Ok(())
    }
}

fn free_address() -> Result<SocketAddr, crate::Failed> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
