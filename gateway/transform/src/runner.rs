//! A plugin bound to one transform of the catalog: columns by name, limits, warm instances, a breaker.
//! [`Runner::call`] is the only way to run a guest, and it never panics and never outlives its slice.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use weir_domain::catalog::Transform;
use weir_domain::{Cell, FeatureType, Provenance};

use crate::Plugin;
use crate::batch::{Batch, Source, decode};
use crate::breaker::{Breaker, Pass};
use crate::guest::{Allowance, Ending, Guest, Patience};
use crate::ticker::ticks;

/// Less time is not worth starting with: a call takes about this long when its instance is cold.
const SLICE_MIN: Duration = Duration::from_micros(50);

/// An instance that has grown by more than this is not kept: memory never shrinks, and the warm instances
/// of all transforms together should stay a fraction of the gateway's.
const WARM_GROWTH_BYTES: usize = 8 << 20;

/// Dropping more memory than this takes long enough to be done elsewhere (50 MiB: 1.8 ms).
const DROP_ASIDE_BYTES: usize = 4 << 20;

/// Characters of a guest's words in our log.
const DETAIL_CHARS: usize = 200;

/// Why a call gave no values. Also the label under which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Failure {
    /// It did not end within its slice.
    #[error("out of time")]
    Slice,
    /// It wanted more memory than it may have.
    #[error("out of memory")]
    Memory,
    /// It trapped: a panic, an overflow of the stack, an access out of bounds.
    #[error("trapped")]
    Trap,
    /// It answered with an error.
    #[error("refused")]
    Refused,
    /// Its answer is too large or not as the contract says.
    #[error("malformed output")]
    Output,
    /// The cells are not what was bound: the plan and the component disagree.
    #[error("inputs of another type or length")]
    Input,
    /// It failed too often of late and is left alone for a while.
    #[error("breaker open")]
    BreakerOpen,
    /// There was no time left to start it.
    #[error("no time left")]
    NoTime,
    /// All instances or threads that it may use are busy.
    #[error("busy")]
    Busy,
}

impl Failure {
    /// All of them, for tables of metrics.
    pub const ALL: [Self; 9] = [
        Self::Slice,
        Self::Memory,
        Self::Trap,
        Self::Refused,
        Self::Output,
        Self::Input,
        Self::BreakerOpen,
        Self::NoTime,
        Self::Busy,
    ];

    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slice => "slice",
            Self::Memory => "memory",
            Self::Trap => "trap",
            Self::Refused => "refused",
            Self::Output => "output",
            Self::Input => "input",
            Self::BreakerOpen => "breaker_open",
            Self::NoTime => "no_time",
            Self::Busy => "busy",
        }
    }

    /// Whether the guest itself is to blame, and might be again the next time.
    const fn is_misconduct(self) -> bool {
        matches!(self, Self::Slice | Self::Memory | Self::Trap | Self::Output)
    }
}

/// The catalog and the component disagree.
#[derive(Debug, Error)]
#[error("{}", .0.join("; "))]
pub struct BindError(
    /// Every disagreement, a sentence each.
    pub Vec<String>,
);

/// Calls one transform.
pub struct Runner {
    bound: Arc<Bound>,
    breaker: Breaker,
    aside: Arc<Semaphore>,
}

/// What a call needs, also when it runs on after its caller has stopped waiting.
struct Bound {
    plugin: Arc<Plugin>,
    /// `name@version`, for the log.
    transform: String,
    sources: Vec<Source>,
    /// Types in the guest's order.
    computed: Vec<FeatureType>,
    /// The transform's outputs, as positions in the guest's order.
    outputs: Vec<usize>,
    time_limit: Duration,
    allow: Allowance,
    warm: Mutex<Vec<Guest>>,
    /// The last call that ran aside was too slow for the request's thread.
    slow: AtomicBool,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("transform", &self.bound.transform).finish_non_exhaustive()
    }
}

impl Runner {
    /// Binds by name. Disagreements that [`Plugin::check`] would name are refused, save for the types of
    /// the inputs, which only the whole catalog knows.
    pub fn new(plugin: Arc<Plugin>, transform: &Transform) -> Result<Self, BindError> {
        let wrong = plugin.check_names(transform);
        if !wrong.is_empty() {
            return Err(BindError(wrong));
        }
        let schema = plugin.schema();
        // Every name was found above; `filter_map` only spares us saying so again.
        let sources = schema
            .inputs
            .iter()
            .filter_map(|field| {
                let cell = transform.inputs.iter().position(|(name, _)| **name == *field.name)?;
                Some(Source { cell, of: field.of })
            })
            .collect();
        let position = |name: &str| schema.outputs.iter().position(|field| field.name == name);
        let outputs = transform.outputs.iter().filter_map(|output| position(&output.name)).collect();
        let computed = schema.outputs.iter().map(|field| field.of).collect();
        let allow = Allowance {
            memory_bytes: (transform.memory_limit_mib as usize) << 20,
            output_bytes: plugin.engine.settings.output_max_bytes,
        };
        let aside = Arc::new(Semaphore::new(plugin.engine.settings.aside_max));
        let bound = Bound {
            transform: format!("{}@{}", transform.doc.name, transform.version),
            sources,
            computed,
            outputs,
            time_limit: transform.time_limit,
            allow,
            warm: Mutex::default(),
            slow: AtomicBool::new(false),
            plugin,
        };
        Ok(Self { bound: Arc::new(bound), breaker: Breaker::default(), aside })
    }

    /// The plugin that it runs.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.bound.plugin
    }

    /// Computes the transform's outputs, in the catalog's order, for `rows` rows. `inputs` are the cells
    /// of the transform's inputs, in the catalog's order, of `rows` values or of one that is repeated. It
    /// takes no longer than `slice` or the transform's own limit, whichever is less, and a tick.
    pub async fn call(&self, inputs: &[&Cell], rows: usize, slice: Duration) -> Result<Vec<Cell>, Failure> {
        let slice = slice.min(self.bound.time_limit);
        if slice < SLICE_MIN {
            return Err(Failure::NoTime);
        }
        if rows == 0 {
            return Ok(self.bound.nothing());
        }
        let pass = self.breaker.enter().ok_or(Failure::BreakerOpen)?;
        let batch = Batch::encode(&self.bound.sources, inputs, rows).ok_or(Failure::Input)?;
        let answer = self.run(batch, slice).await;
        self.judge(pass, answer.as_ref().err().copied());
        answer
    }

    /// On the request's own thread unless the guest is known to be slow. One that turns out to be is started
    /// again elsewhere: transforms are pure, so nothing happens twice.
    async fn run(&self, batch: Batch, slice: Duration) -> Result<Vec<Cell>, Failure> {
        let deadline = Instant::now() + slice;
        let inline_max = self.bound.plugin.engine.settings.inline_max;
        let short = slice <= inline_max;
        let quick = inline_max >= SLICE_MIN && !self.bound.slow.load(Ordering::Relaxed);
        if short || quick {
            let answer = self.bound.run(&batch, slice.min(inline_max), None);
            if short || !matches!(answer, Err(Failure::Slice)) {
                return answer;
            }
        }
        self.run_aside(batch, deadline).await
    }

    /// On a thread of its own; the caller waits no longer than the slice, whatever the guest does, and when he leaves
    /// the guest is not started any more, or stopped.
    async fn run_aside(&self, batch: Batch, deadline: Instant) -> Result<Vec<Cell>, Failure> {
        let Ok(Ok(permit)) = timeout_at(deadline, Arc::clone(&self.aside).acquire_owned()).await else {
            return Err(Failure::Busy);
        };
        let bound = Arc::clone(&self.bound);
        let caller = Arc::new(());
        let seen = Arc::downgrade(&caller);
        let call = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            if left < SLICE_MIN || seen.strong_count() == 0 {
                return Err(Failure::Busy);
            }
            let answer = bound.run(&batch, left, Some(seen.clone()));
            // Half, so that a guest near the limit does not go back and forth.
            let inline_max = bound.plugin.engine.settings.inline_max;
            let is_slow = begun.elapsed() > inline_max / 2;
            // One that was stopped early has shown nothing.
            if is_slow || seen.strong_count() > 0 {
                bound.slow.store(is_slow, Ordering::Relaxed);
            }
            answer
        });
        match timeout_at(deadline, call).await {
            Ok(Ok(answer)) => answer,
            // The runtime is shutting down, or the engine has a bug: either way there is no answer.
            Ok(Err(_)) => Err(Failure::Trap),
            Err(_) => Err(Failure::Slice),
        }
    }

    fn judge(&self, pass: Pass<'_>, failure: Option<Failure>) {
        match failure {
            None | Some(Failure::Refused) => pass.succeeded(),
            Some(failure) if failure.is_misconduct() => {
                if let Some(wait) = pass.failed() {
                    let (transform, wait_ms) = (&self.bound.transform, wait.as_millis() as u64);
                    tracing::warn!(%transform, failure = failure.name(), wait_ms, "transform keeps failing, leaving it alone");
                }
            }
            Some(_) => drop(pass),
        }
    }
}

impl Bound {
    fn run(&self, batch: &Batch, slice: Duration, caller: Option<Weak<()>>) -> Result<Vec<Cell>, Failure> {
        let _watch = self.plugin.engine.ticker.watch();
        let patience = Patience { ticks: ticks(slice), caller };
        // A statement of its own: the lock must not be held while an instance is made.
        let warm = self.lock_warm().pop();
        let mut guest = match warm {
            Some(guest) => guest,
            None => Guest::new(&self.plugin.pre, self.allow, patience.clone()).map_err(|ending| self.note(&ending))?,
        };
        match guest.call(batch.param(), patience) {
            Ok(answer) => {
                let cells = decode(&self.computed, &answer, batch.rows());
                // Whoever answers nonsense may have lost its mind: only a sound guest is called again.
                match cells {
                    Some(cells) => {
                        self.keep(guest);
                        Ok(self.arrange(cells))
                    }
                    None => {
                        discard(guest);
                        let detail = "the answer is not as the contract says".to_owned();
                        Err(self.note(&Ending { failure: Failure::Output, detail }))
                    }
                }
            }
            Err(ending) => {
                match ending.failure {
                    Failure::Refused => self.keep(guest),
                    _ => discard(guest),
                }
                Err(self.note(&ending))
            }
        }
    }

    /// From the guest's order to the catalog's. Names are unique on both sides, so each cell moves once.
    fn arrange(&self, cells: Vec<Cell>) -> Vec<Cell> {
        let mut cells: Vec<Option<Cell>> = cells.into_iter().map(Some).collect();
        self.outputs.iter().filter_map(|guest| cells.get_mut(*guest)?.take()).collect()
    }

    fn nothing(&self) -> Vec<Cell> {
        self.arrange(self.computed.iter().map(|of| Cell::absent(*of, 0, Provenance::Missing)).collect())
    }

    fn keep(&self, guest: Guest) {
        let settings = &self.plugin.engine.settings;
        if guest.calls < settings.calls_per_instance && guest.grown_bytes() <= WARM_GROWTH_BYTES {
            let mut warm = self.lock_warm();
            if warm.len() < settings.warm_max {
                warm.push(guest);
                return;
            }
        }
        discard(guest);
    }

    fn lock_warm(&self) -> MutexGuard<'_, Vec<Guest>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line for whoever looks closely; the metrics count.
    fn note(&self, ending: &Ending) -> Failure {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let detail: String = ending.detail.chars().take(DETAIL_CHARS).collect();
            tracing::debug!(transform = %self.transform, failure = ending.failure.name(), detail, "transform failed");
        }
        ending.failure
    }
}

fn discard(guest: Guest) {
    match Handle::try_current() {
        Ok(runtime) if guest.memory_bytes() > DROP_ASIDE_BYTES => {
            runtime.spawn_blocking(move || drop(guest));
        }
        _ => drop(guest),
    }
}
