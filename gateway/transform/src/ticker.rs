//! The clock that ends guests: a thread that advances the engine's epoch once a tick while calls are in
//! flight, and sleeps otherwise. It ends when the [`Ticker`] is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

/// One tick. A guest overruns its slice by at most about one; ten times as many ticks would cost a fifth
/// of a core, these cost 3 %.
const TICK: Duration = Duration::from_millis(1);

/// Idle ticks before the thread sleeps. Under load it never does, so that a call need not wake it (a
/// system call); a tenth of a second of idle ticks costs nothing.
const LINGER_TICKS: u32 = 100;

/// Ticks that give a guest no less than this time: its first tick may come at once.
pub(crate) fn ticks(slice: Duration) -> u64 {
    slice.as_micros().div_ceil(TICK.as_micros()) as u64 + 1
}

/// Owns the thread.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    engine: wasmtime::Engine,
    in_flight: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engine: wasmtime::Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            in_flight: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("weir-epoch".to_owned()).spawn(move || own.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ticks at least until the guard is dropped.
    pub(crate) fn watch(&self) -> Watch<'_> {
        self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        // Either we see the thread asleep, or it sees us in flight before it sleeps: both orders are SeqCst.
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Watch(&self.shared)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // At most a tick away; it cannot have panicked.
            let _ = thread.join();
        }
    }
}

/// A call in flight.
pub(crate) struct Watch<'a>(&'a Shared);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn run(&self) {
        let mut idle = 0;
        while !self.ended.load(Ordering::SeqCst) {
            idle = if self.in_flight.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle > LINGER_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                if self.in_flight.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
                continue;
            }
            #[allow(clippy::disallowed_methods, reason = "this thread is the clock that others wait for")]
            thread::sleep(TICK);
            self.engine.increment_epoch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_rounded_up_to_ticks_and_never_cut_short() {
        assert_eq!(ticks(Duration::from_micros(1)), 2);
        assert_eq!(ticks(Duration::from_millis(1)), 2);
        assert_eq!(ticks(Duration::from_micros(1_001)), 3);
        assert_eq!(ticks(Duration::from_millis(10)), 11);
    }
}
