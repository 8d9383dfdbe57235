//! Who goes first on a core. A generator that waits for a core is late, and a run whose generator was late says nothing;
//! and what strangers on the machine take at such moments is put down to the gateway. So the generator's thread goes
//! before everybody else, and a scenario with all its processes before other sessions. Both need rights that not everybody
//! has: without them a run goes on as well as it can, and says so.

use std::process::{Command, Stdio};

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
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        leads_its_session(&stat) && std::fs::write("/proc/self/autogroup", SESSION).is_ok()
    }

    /// For the verdict.
    pub(crate) fn json(self) -> Json {
        json!({ "real_time": self.is_real_time, "before_other_sessions": self.is_session_first })
    }
}

/// By proc_pid_stat(5): pid, name in brackets, state, parent, group, session. The session is 0 where its leader is
/// outside of a container, which the safe call for it takes for impossible.
fn leads_its_session(stat: &str) -> bool {
    let pid = stat.split(' ').next();
    let session = stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(4));
    pid.is_some() && pid == session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_leader_of_a_session_leads_it() {
        for (stat, leads) in [
            ("42 (weir-loadtest) S 7 42 42 0 -1", true),
            ("42 (odd) name) S 7 42 42 0 -1", true),
            ("42 (weir-loadtest) S 7 42 7 0 -1", false),
            ("42 (weir-loadtest) S 0 42 0 0 -1", false),
            ("", false),
        ] {
            assert_eq!(leads_its_session(stat), leads, "{stat}");
        }
    }
}
