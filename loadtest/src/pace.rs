//! Waits for a moment to some ten microseconds. Tokio's own timer turns in milliseconds, which would make one burst a
//! millisecond of what is planned as even traffic.

use std::io;

#[cfg(target_os = "linux")]
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A timer of the kernel.
#[cfg(target_os = "linux")]
pub(crate) struct Pacer(AsyncFd<rustix::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Pacer {
    #[allow(deprecated, reason = "what it warns of is a type whose descriptor changes; an OwnedFd's does not")]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    /// Returns at `then`, or at once when that is past.
    pub(crate) async fn until(&self, then: Instant) -> io::Result<()> {
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut [0; 8])?)) {
                Ok(read) => return read.map(drop),
                // It was not the timer that woke us.
                Err(_) => continue,
            }
        }
    }
}

/// Elsewhere a millisecond has to do.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Pacer;

#[cfg(not(target_os = "linux"))]
impl Pacer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Returns at `then`, or at once when that is past.
    pub(crate) async fn until(&self, then: Instant) -> io::Result<()> {
        tokio::time::sleep_until(then).await;
        Ok(())
    }
}
