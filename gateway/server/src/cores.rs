//! A runtime for each core. A connection is served by one of them from its first byte to its last, and what that core
//! asks the store goes over a connection of its own: nothing of a request waits for another core to wake up. The
//! process's own runtime takes connections in and keeps house.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, RuntimeMetrics};
use tokio::sync::oneshot;

/// Tasks that run before sockets are looked at again. A reply of 47 kB takes its task 60 µs, so a core with more to do
/// than it can sees new requests, which it may have to refuse, after a millisecond and not after four.
pub const TASKS_PER_LOOK: u32 = 16;

/// The runtimes that connections are served on: one at least.
#[derive(Clone)]
pub struct Cores(Arc<[Arc<Core>]>);

/// Threads of [`Cores`]; they end when it is dropped.
pub struct Threads(Vec<(oneshot::Sender<()>, JoinHandle<()>)>);

struct Core {
    handle: Handle,
    connections: AtomicUsize,
    /// It has nothing to do. Always false where nobody looks.
    is_idle: Arc<AtomicBool>,
}

/// A connection's place on a core.
pub(crate) struct Seat(Arc<Core>);

impl Cores {
    /// As many as the runtime that this is called on has workers; when that is one, it will do itself.
    pub fn start() -> io::Result<(Self, Threads)> {
        match Handle::current().metrics().num_workers() {
            1 => Ok((Self::here(), Threads(Vec::new()))),
            several => Self::start_as_many(several),
        }
    }

    fn start_as_many(cores: usize) -> io::Result<(Self, Threads)> {
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        for number in 0..cores {
            let is_idle = Arc::new(AtomicBool::new(false));
            let (idle, busy) = (Arc::clone(&is_idle), Arc::clone(&is_idle));
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(TASKS_PER_LOOK)
                .on_thread_park(move || idle.store(true, Relaxed))
                .on_thread_unpark(move || busy.store(false, Relaxed))
                .build()?;
            let handle = runtime.handle().clone();
            let (end, ended) = oneshot::channel();
            let serve = move || {
                // An error is the end as well.
                let _ = runtime.block_on(ended);
            };
            let thread = std::thread::Builder::new().name(format!("weir-core-{number}")).spawn(serve)?;
            all.push(Arc::new(Core { handle, connections: AtomicUsize::new(0), is_idle }));
            threads.push((end, thread));
        }
        Ok((Self(all.into()), Threads(threads)))
    }

    /// The runtime that this is called on, however many cores it has.
    pub fn here() -> Self {
        let (handle, is_idle) = (Handle::current(), Arc::default());
        Self([Arc::new(Core { handle, connections: AtomicUsize::new(0), is_idle })].into())
    }

    /// One handle for each runtime.
    pub(crate) fn handles(&self) -> Arc<[Handle]> {
        self.0.iter().map(|core| core.handle.clone()).collect()
    }

    /// On the core with the fewest connections.
    pub(crate) fn seat(&self) -> Seat {
        let least = (0..self.0.len()).min_by_key(|core| self.0[*core].connections.load(Relaxed));
        let core = &self.0[least.unwrap_or_default()];
        core.connections.fetch_add(1, Relaxed);
        Seat(Arc::clone(core))
    }

    /// Runs this on a core that has nothing to do, or else here.
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        match self.0.iter().find(|core| core.is_idle.swap(false, Relaxed)) {
            Some(core) => drop(core.handle.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Threads that serve.
    pub(crate) fn count(&self) -> usize {
        self.metrics().map(|runtime| runtime.num_workers()).sum()
    }

    /// For how long they have been busy, all together.
    pub(crate) fn busy(&self) -> Duration {
        let busy = |runtime: RuntimeMetrics| {
            (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum::<Duration>()
        };
        self.metrics().map(busy).sum()
    }

    fn metrics(&self) -> impl Iterator<Item = RuntimeMetrics> {
        self.0.iter().map(|core| core.handle.metrics())
    }
}

impl Seat {
    pub(crate) fn handle(&self) -> Handle {
        self.0.handle.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let (ends, threads): (Vec<_>, Vec<_>) = self.0.drain(..).unzip();
        drop(ends);
        for thread in threads {
            // A panic of its own was told when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_sit_where_there_are_fewest_and_work_goes_where_there_is_none() {
        let (cores, threads) = Cores::start_as_many(3).unwrap();
        assert_eq!((cores.count(), cores.handles().len()), (3, 3));
        let seats: Vec<_> = (0..7).map(|_| cores.seat()).collect();
        let taken = || cores.0.iter().map(|core| core.connections.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(taken(), [3, 2, 2]);
        drop(seats);
        assert_eq!(taken(), [0, 0, 0]);
        // Once all have been heard of idle, three tasks that block have a core each, or none would ever end.
        while !cores.0.iter().all(|core| core.is_idle.load(Relaxed)) {
            std::thread::yield_now();
        }
        let all = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let all = Arc::clone(&all);
            cores.spawn(async move {
                all.wait();
            });
        }
        all.wait();
        drop(threads);
        assert!(cores.0.iter().all(|core| Handle::metrics(&core.handle).num_alive_tasks() == 0));
    }

    #[tokio::test]
    async fn one_core_is_the_one_that_is_there() {
        let (cores, threads) = Cores::start().unwrap();
        assert!(threads.0.is_empty() && cores.0[0].handle.id() == Handle::current().id());
        let (done, is_done) = oneshot::channel::<()>();
        cores.spawn(async move { drop(done) });
        is_done.await.unwrap_err();
    }
}
