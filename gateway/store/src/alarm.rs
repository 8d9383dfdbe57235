//! Deadlines on time. Tokio's timer wheel turns in milliseconds and rounds up, which is most of a budget of a few.
//! Here all deadlines of the process wait in one queue, driven by one `timerfd`: a wait ends within a tenth of a
//! millisecond of what it was aimed at, and one that is called off costs a fraction of a microsecond.
//!
//! A thread waits for the timer, not a task: while the only worker that is awake computes, nobody asks the runtime's
//! own driver what has become due, but a wake from outside wakes another worker. `examples/lateness.rs` measures it.

use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

/// Waits until then.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, waiting: Waiting::Not }
}

/// What the future yields, or `None` if it does not by then. A future that is ready is never late.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let (mut future, mut sleep) = (pin!(future), pin!(sleep_until(deadline)));
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// See [`sleep_until`]. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    waiting: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Not,
    Queued(&'static Alarm, Place),
    /// Where there is no timer, no room, or a clock that a test has stopped.
    Wheel(Pin<Box<tokio::time::Sleep>>),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        match &mut self.waiting {
            Waiting::Not => {
                if let Some((alarm, place)) = alarm().and_then(|a| Some((a, a.enter(deadline, cx.waker())?))) {
                    self.waiting = Waiting::Queued(alarm, place);
                    return Poll::Pending;
                }
            }
            Waiting::Queued(alarm, place) => {
                if alarm.stays(*place, cx.waker()) {
                    return Poll::Pending;
                }
                if Instant::now() >= deadline {
                    self.waiting = Waiting::Not;
                    return Poll::Ready(());
                }
            }
            Waiting::Wheel(sleep) => return sleep.as_mut().poll(cx),
        }
        let mut sleep = Box::pin(tokio::time::sleep_until(deadline));
        let polled = sleep.as_mut().poll(cx);
        self.waiting = Waiting::Wheel(sleep);
        polled
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Waiting::Queued(alarm, place) = &self.waiting {
            alarm.leave(*place);
        }
    }
}

/// The process's own, started when it is first needed.
fn alarm() -> Option<&'static Alarm> {
    static ALARM: OnceLock<Option<Alarm>> = OnceLock::new();
    static DRIVEN: OnceLock<bool> = OnceLock::new();
    let alarm = ALARM.get_or_init(Alarm::new).as_ref()?;
    let drive = || std::thread::Builder::new().name("weir-alarm".into()).spawn(|| alarm.drive()).is_ok();
    DRIVEN.get_or_init(drive).then_some(alarm)
}

pub(crate) use timer::{Alarm, Place};

#[cfg(target_os = "linux")]
mod timer {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    use rustix::fd::OwnedFd;
    use rustix::io::Errno;
    use rustix::time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
        timerfd_settime,
    };

    use super::Waker;

    /// Deadlines that wait at once; about ten for each request that a gateway admits at most. Beyond, the wheel.
    const PLACES_MAX: usize = 16_384;

    /// A deadline's place in the queue: the earlier one first, of two at the same time the one that came first.
    pub(crate) type Place = (Instant, u64);

    #[derive(Debug)]
    pub(crate) struct Alarm {
        timer: OwnedFd,
        /// The same moment on both clocks: the timer wants the system's own.
        zero: (Instant, Duration),
        queue: Mutex<Queue>,
    }

    #[derive(Debug, Default)]
    struct Queue {
        waiting: BTreeMap<Place, Waker>,
        entered: u64,
        /// What the timer is set to, which may be earlier than the first deadline: setting it costs more than all
        /// else, so a deadline that is called off leaves it as it is.
        armed: Option<Instant>,
        /// The system's timer has failed; it never has.
        broken: bool,
    }

    impl Alarm {
        pub(super) fn new() -> Option<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).ok()?;
            // In this order what is read in between makes a deadline later, never earlier.
            let zero = Instant::now();
            let clock = clock_gettime(ClockId::Monotonic);
            let clock = Duration::new(clock.tv_sec.try_into().ok()?, clock.tv_nsec.try_into().ok()?);
            Some(Self { timer, zero: (zero, clock), queue: Mutex::default() })
        }

        /// Wakes whoever is due, for as long as the process lives.
        pub(super) fn drive(&self) {
            let mut expirations = [0; 8];
            loop {
                let is_read = match rustix::io::read(&self.timer, &mut expirations) {
                    Err(Errno::INTR) => continue,
                    read => read.is_ok(),
                };
                let now = Instant::now();
                let mut queue = self.queue();
                let later = queue.waiting.split_off(&(now, u64::MAX));
                let mut due = std::mem::replace(&mut queue.waiting, later);
                queue.armed = queue.waiting.first_key_value().map(|((at, _), _)| *at);
                if !is_read || queue.armed.is_some_and(|at| self.arm(at).is_err()) {
                    queue.broken = true;
                    due.append(&mut queue.waiting);
                }
                let broken = queue.broken;
                drop(queue);
                due.into_values().for_each(Waker::wake);
                if broken {
                    return;
                }
            }
        }

        /// A place in the queue, unless it is full.
        pub(super) fn enter(&self, deadline: tokio::time::Instant, waker: &Waker) -> Option<Place> {
            let waker = waker.clone();
            let mut queue = self.queue();
            if queue.broken || queue.waiting.len() >= PLACES_MAX {
                return None;
            }
            let place = (deadline.into_std(), queue.entered);
            queue.entered += 1;
            if queue.armed.is_none_or(|armed| place.0 < armed) {
                self.arm(place.0).ok()?;
                queue.armed = Some(place.0);
            }
            queue.waiting.insert(place, waker);
            Some(place)
        }

        /// Whether it is not yet due; then it is this task that is woken.
        pub(super) fn stays(&self, place: Place, waker: &Waker) -> bool {
            let mut queue = self.queue();
            let Some(known) = queue.waiting.get_mut(&place) else { return false };
            let old = (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()));
            drop(queue);
            // What drops with a waker may be a task, with a wait of its own.
            drop(old);
            true
        }

        pub(super) fn leave(&self, place: Place) {
            let gone = self.queue().waiting.remove(&place);
            drop(gone);
        }

        fn arm(&self, at: Instant) -> Result<(), Errno> {
            let at = self.zero.1 + at.saturating_duration_since(self.zero.0);
            let at = Timespec { tv_sec: at.as_secs() as _, tv_nsec: at.subsec_nanos().into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once).map(drop)
        }

        /// Nothing panics while the lock is held: poison means nothing here.
        fn queue(&self) -> MutexGuard<'_, Queue> {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

/// Elsewhere the wheel has to do.
#[cfg(not(target_os = "linux"))]
mod timer {
    use super::{Instant, Waker};

    pub(crate) type Place = ();

    #[derive(Debug)]
    pub(crate) struct Alarm;

    impl Alarm {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn drive(&self) {}

        pub(super) fn enter(&self, _: Instant, _: &Waker) -> Option<Place> {
            None
        }

        pub(super) fn stays(&self, (): Place, _: &Waker) -> bool {
            false
        }

        pub(super) fn leave(&self, (): Place) {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn nobody_is_woken_early_nor_has_to_wait_for_a_later_deadline() {
        let begun = Instant::now();
        let far = tokio::spawn(sleep_until(begun + 3_600_000 * MS));
        let wait = async |ms: u32| {
            sleep_until(begun + ms * MS).await;
            assert!(begun.elapsed() >= ms * MS);
        };
        // Set back, set forward, and in the past.
        tokio::join!(wait(40), wait(4), wait(200), wait(0));
        assert!(!far.is_finished());
        far.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_is_woken_to_the_last_one() {
        let begun = Instant::now();
        let waits =
            (0..5_000u32).map(|n| tokio::spawn(sleep_until(begun + Duration::from_micros((n % 97 * 100).into()))));
        for wait in waits.collect::<Vec<_>>() {
            wait.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_in_time_is_given_out_and_what_is_not_is_dropped() {
        let soon = || Instant::now() + MS;
        assert_eq!(timeout_at(Instant::now(), async { 7 }).await, Some(7), "what is ready is never late");
        assert_eq!(timeout_at(soon(), std::future::pending::<()>()).await, None);
        let own = Arc::new(());
        let held = own.clone();
        let forever = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        assert_eq!(timeout_at(soon(), forever).await, None);
        assert_eq!(Arc::strong_count(&own), 1);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn whoever_waits_last_is_woken_and_who_has_left_is_not() {
        let (gone, passed_on, last) = (Arc::<Woken>::default(), Arc::<Woken>::default(), Arc::<Woken>::default());
        let poll = |sleep: &mut Sleep, woken: &Arc<Woken>| {
            Pin::new(sleep).poll(&mut Context::from_waker(&woken.clone().into())).is_ready()
        };
        // Long enough to be polled before, on whatever machine.
        let at = Instant::now() + 500 * MS;
        let (mut left, mut waits) = (sleep_until(at), sleep_until(at));
        assert!(!poll(&mut left, &gone) && !poll(&mut waits, &passed_on) && !poll(&mut waits, &last));
        drop(left);
        assert_eq!((Arc::strong_count(&gone), Arc::strong_count(&passed_on)), (1, 1), "no waker is kept");
        sleep_until(at + MS).await;
        while last.0.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(poll(&mut waits, &last));
        assert_eq!((gone.0.load(SeqCst), passed_on.0.load(SeqCst), last.0.load(SeqCst)), (0, 0, 1));
    }

    #[tokio::test]
    async fn a_stopped_clock_is_left_to_the_wheel() {
        tokio::time::pause();
        let begun = Instant::now();
        sleep_until(begun + 5 * MS).await;
        assert!(begun.elapsed() >= 5 * MS);
    }
}
