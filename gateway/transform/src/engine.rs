//! The engine: one a gateway, several in a process if need be. Its limits bound every guest together.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, io, thread};

use thiserror::Error;
use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::guest::Limits;
use crate::ticker::Ticker;
use crate::{LoadError, Plugin, digest};

/// What all guests of a gateway may use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Instances alive at once, over all transforms. Each reserves some GiB of address space, not memory.
    pub instances_max: u32,
    /// Most memory an instance may have, whatever the catalog says. Copying all of it delays the end of a
    /// runaway guest (20 MiB: 1 ms), so this is also a limit on time.
    pub memory_max_mib: u32,
    /// Most bytes one call may hand back.
    pub output_max_bytes: usize,
    /// Largest component that is compiled: compilation cannot be interrupted, its input can be bounded.
    pub component_max_bytes: usize,
    /// Longest that [`Engine::load`] waits for a compilation.
    pub compile_limit: Duration,
    /// Instances of one transform kept for the next call.
    pub warm_max: usize,
    /// Calls after which an instance is replaced, so that whatever leaks or fragments in a guest does not
    /// live as long as the gateway. 1 = a fresh instance for every call: no state survives, 23 µs dearer.
    pub calls_per_instance: u32,
    /// Longest that a guest holds up the request's own thread, whose other requests wait meanwhile. Moving
    /// a call elsewhere costs tens of microseconds where most calls take a few: only slow guests are moved.
    pub inline_max: Duration,
    /// Calls of one transform that run off the request's thread at once.
    pub aside_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Enough for the warm instances of 64 transforms; 3 TiB of the 128 that a process can address.
            instances_max: 512,
            memory_max_mib: 64,
            // 500 rows of 50 columns are 200 KB; vectors and text make it more.
            output_max_bytes: 16 << 20,
            // A guest in Rust is 50 KB, one with an interpreter inside 18 MB.
            component_max_bytes: 32 << 20,
            // A guest in Rust takes 30 ms, one with an interpreter inside 15 s on two cores.
            compile_limit: Duration::from_secs(60),
            // As many calls of one transform as are likely to run at once: inline calls need one a core.
            warm_max: 8,
            calls_per_instance: 10_000,
            inline_max: Duration::from_millis(2),
            aside_max: 16,
        }
    }
}

/// Guest stack. Guests recurse little; the host's threads have 2 MiB and need some of it themselves.
const STACK_BYTES: usize = 512 << 10;

/// Memory of a discarded instance that is wiped by hand instead of by a system call. More costs more than
/// the page faults it saves.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;

/// A component is one module and the shims around it; guests with an interpreter inside have a dozen.
const MODULES_PER_INSTANCE: u32 = 16;

/// Runs guests. Cheap to clone; everything ends when the last clone, plugin and runner are dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<Limits>,
    pub(crate) ticker: Ticker,
    pub(crate) settings: Settings,
    plugins: Mutex<HashMap<String, Weak<Plugin>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// Sets up compiler, instance pool and clock.
    pub fn new(settings: Settings) -> Result<Self, EngineError> {
        let wasm = wasmtime::Engine::new(&config(&settings)).map_err(|e| EngineError::Wasm(e.into()))?;
        let ticker = Ticker::start(wasm.clone()).map_err(EngineError::Clock)?;
        // Empty for ever: a guest has nothing to import.
        let linker = Linker::new(&wasm);
        let shared = Shared { wasm, linker, ticker, settings, plugins: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Compiles a component and asks for its schema. The same bytes give the same plugin for as long as
    /// anybody holds it.
    ///
    /// Compiling takes 30 ms for a small guest and seconds for one with an interpreter inside: call it
    /// where that is no harm.
    pub fn load(&self, component: &[u8]) -> Result<Arc<Plugin>, LoadError> {
        let digest = digest(component);
        if let Some(plugin) = self.known(&digest) {
            return Ok(plugin);
        }
        // Not under the lock: a slow compilation must not hold up the others.
        let plugin = Arc::new(self.compile(component, digest)?);
        let mut plugins = self.shared.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.retain(|_, plugin| plugin.strong_count() > 0);
        if let Some(earlier) = plugins.get(plugin.digest()).and_then(Weak::upgrade) {
            return Ok(earlier);
        }
        plugins.insert(plugin.digest().to_owned(), Arc::downgrade(&plugin));
        Ok(plugin)
    }

    /// On a thread of its own: one that takes too long is given up, and ends by itself some time later.
    fn compile(&self, component: &[u8], digest: String) -> Result<Plugin, LoadError> {
        let (send, receive) = sync_channel(1);
        let (shared, component) = (Arc::clone(&self.shared), component.to_vec());
        let compile = move || {
            // Nobody listens any more if this took too long.
            let _ = send.send(Plugin::compile(&shared, &component, digest));
        };
        thread::Builder::new().name("weir-compile".to_owned()).spawn(compile).map_err(LoadError::Thread)?;
        let limit = self.shared.settings.compile_limit;
        receive.recv_timeout(limit).unwrap_or_else(|waited| match waited {
            RecvTimeoutError::Timeout => Err(LoadError::Slow { limit }),
            RecvTimeoutError::Disconnected => Err(LoadError::Compiler),
        })
    }

    fn known(&self, digest: &str) -> Option<Arc<Plugin>> {
        let plugins = self.shared.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.get(digest).and_then(Weak::upgrade)
    }
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The settings do not fit this machine: most often, not enough address space for the pool.
    #[error("cannot set up the Wasm engine")]
    Wasm(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No thread for the clock.
    #[error("cannot start the thread that ends guests")]
    Clock(#[source] io::Error),
}

fn config(settings: &Settings) -> Config {
    let instances = settings.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MODULES_PER_INSTANCE))
        .max_core_instances_per_component(MODULES_PER_INSTANCE)
        .total_memories(instances)
        .max_memories_per_component(1)
        .total_tables(instances.saturating_mul(2))
        .max_tables_per_component(2)
        .max_memory_size((settings.memory_max_mib as usize) << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);

    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // Same input, same bytes, on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_memory64(false)
        .max_wasm_stack(STACK_BYTES)
        // Guests never wait for anything; the machinery for it would quintuple the cost of a call.
        .concurrency_support(false)
        // The class of a trap is what we act on; walking its stack costs more than the call.
        .wasm_backtrace_max_frames(None)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}
