//! Who goes first on a core. A generator that waits for a core is late, and a run whose generator was late says nothing;
//! and what strangers on the machine take at such moments is put down to the gateway. So the generator's thread goes
//! before everybody else, and a scenario with all its processes before other sessions. Both need rights that not everybody
//! has: without them a run goes on as well as it can, and says so.

use std::process::{Command, Stdio};

use rustix::process::{getpid, getsid};
use serde_json::{Value as Json, json};

/// Any number of real time goes before all that are not.
const REAL_TIME: &str = "10";
/// A session's nice value: some thirty times the weight of others on a core that both want.
const SESSION: &str = "-15";

/// What was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Priority {
    is_real_time: bool,
    is_session_first: bool,
}

impl Priority {
    /// For the thread that calls. Threads and children that it makes later are as any others.
    pub(crate) fn of_this_thread(is_session_first: bool) -> Self {
        // The program, since there is no safe call for it.
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let mut change = Command::new("chrt");
        change.args(["--reset-on-fork", "--fifo", "--pid", REAL_TIME]).args(thread.file_name());
        change.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { is_real_time: change.status().is_ok_and(|status| status.success()), is_session_first }
    }

    /// For everything in this session, if it is our own: not for the terminal of somebody.
    pub(crate) fn of_this_session() -> bool {
        getsid(None).is_ok_and(|session| session == getpid()) && std::fs::write("/proc/self/autogroup", SESSION).is_ok()
    }

    /// For the verdict.
    pub(crate) fn json(self) -> Json {
        json!({ "real_time": self.is_real_time, "before_other_sessions": self.is_session_first })
    }
}
