//! Memory is a budget, too. What the process holds is looked at all the time, and as it nears what it may hold, first
//! the cache gives rows up, then requests are answered from what is known, and in the end they are refused: a gateway
//! that is killed for its memory answers nobody, and its cache is gone as well.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::gateway::Gateway;

/// As long as there is enough. A look costs 12 µs.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Once there is not: what grows by a gigabyte a second grows by 2 MB meanwhile, and a mark of 5 % is 6 MB in the smallest
/// of containers.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(2);
/// Once rows were given up, the allocator gets this long to return their pages before more of them are.
const SHRINK_EVERY: Duration = Duration::from_secs(1);
/// In per cent of what may be held, from where on the cache shrinks, requests are degraded, and they are refused.
const MARKS_PCT: [u64; 3] = [80, 90, 95];
/// A pressure that is on stays until so many per cent less are held: who sits on a mark does not waver.
const RELIEF_PCT: u64 = 5;
/// The first version of cgroups says "no limit" by a number of about this size.
const NO_LIMIT: u64 = 1 << 60;

/// What is done about memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub enum Pressure {
    /// Nothing: there is enough.
    #[default]
    None,
    /// The cache gives up rows.
    Shrink,
    /// And requests are answered from what is known.
    Degrade,
    /// And none is let in.
    Refuse,
}

impl Pressure {
    const ALL: [Self; 4] = [Self::None, Self::Shrink, Self::Degrade, Self::Refuse];

    /// What `used` of `max` bytes calls for, after what was called for before.
    fn of(used: u64, max: u64, before: Self) -> Self {
        let used_pct = u128::from(used) * 100 / u128::from(max.max(1));
        let is_on = |(mark, pressure): &(u64, Self)| {
            let relief = if before >= *pressure { RELIEF_PCT } else { 0 };
            used_pct >= u128::from(mark - relief)
        };
        let on = MARKS_PCT.into_iter().zip(Self::ALL.into_iter().skip(1)).take_while(is_on).last();
        on.map_or(Self::None, |(_, pressure)| pressure)
    }
}

impl From<u8> for Pressure {
    fn from(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

/// Looks after the memory of the process for as long as it is polled.
pub(crate) async fn keep(gateway: Arc<Gateway>, max: u64) {
    let (mut before, mut may_shrink_at) = (Pressure::None, Instant::now());
    // A cache of a gigabyte takes a second; looking goes on meanwhile.
    let mut shrinking: Option<JoinHandle<()>> = None;
    loop {
        sleep(if before == Pressure::None { LOOK_EVERY } else { LOOK_CLOSELY_EVERY }).await;
        let now = Instant::now();
        let Some(used) = used() else { return };
        let pressure = Pressure::of(used, max, before);
        gateway.admission.press(pressure);
        if pressure != before {
            tell(pressure, used, max);
        }
        let store = Arc::clone(&gateway.snapshot().store);
        if shrinking.as_ref().is_some_and(|shrinking| !shrinking.is_finished()) {
            may_shrink_at = now + SHRINK_EVERY;
        } else if pressure == Pressure::None {
            store.grow_cache();
        } else if now >= may_shrink_at {
            shrinking = Some(tokio::task::spawn_blocking(move || store.shrink_cache()));
        }
        before = pressure;
    }
}

fn tell(pressure: Pressure, used_bytes: u64, max_bytes: u64) {
    match pressure {
        Pressure::None => tracing::info!(used_bytes, max_bytes, "there is enough memory again"),
        Pressure::Shrink => tracing::warn!(used_bytes, max_bytes, "memory is short: the cache shrinks"),
        Pressure::Degrade => {
            tracing::warn!(used_bytes, max_bytes, "memory is short: requests are answered from what is known");
        }
        Pressure::Refuse => tracing::error!(used_bytes, max_bytes, "memory is all but gone: requests are refused"),
    }
}

/// Bytes that only this process holds, and its shared memory: what cannot be taken from it without harm. `None` where
/// the system does not say.
pub(crate) fn used() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
        kib.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some(of("RssAnon:")? + of("RssShmem:")?)
}

/// The most that the cgroups of this process allow it to hold, if they say.
pub(crate) fn cgroup_max() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    least_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The least of the limits of these groups and all above them. Lines are `id:controllers:path`.
fn least_of(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            of if of.split(',').any(|of| of == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let above = Path::new(path).ancestors();
        let limits =
            above.filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok());
        limits.filter(|bytes: &u64| *bytes < NO_LIMIT).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_by_its_marks_and_falls_later() {
        let after = |before: Pressure| move |used: u64| Pressure::of(used, 1_000, before);
        let rising = [0, 799, 800, 899, 900, 949, 950, 5_000].map(after(Pressure::None));
        use Pressure::{Degrade, None, Refuse, Shrink};
        assert_eq!(rising, [None, None, Shrink, Shrink, Degrade, Degrade, Refuse, Refuse]);
        assert_eq!([900, 899, 850, 849, 750, 749].map(after(Refuse)), [Refuse, Degrade, Degrade, Shrink, Shrink, None]);
        assert_eq!([949, 850, 849, 750, 749].map(after(Degrade)), [Degrade, Degrade, Shrink, Shrink, None]);
        assert_eq!(Pressure::of(u64::MAX, 0, None), Refuse);
        assert_eq!([0, 1, 2, 3, 4].map(Pressure::from), [None, Shrink, Degrade, Refuse, None]);
    }

    #[test]
    fn the_least_limit_above_a_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let least = |groups: &str| least_of(groups, root.path());
        assert_eq!(least("0::/pods/one\n"), None);
        write("pods/one/memory.max", "max\n");
        assert_eq!(least("0::/pods/one\n"), None);
        write("pods/memory.max", "2000\n");
        assert_eq!(least("0::/pods/one\n"), Some(2_000));
        write("pods/one/memory.max", "1000\n");
        assert_eq!(least("0::/pods/one\n"), Some(1_000));
        // In a container its own group is the root.
        write("memory.max", "500\n");
        assert_eq!(least("0::/\n"), Some(500));

        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let first = "4:cpu,cpuacct:/a\n3:memory:/docker/x\n";
        assert_eq!(least(first), None);
        write("memory/memory.limit_in_bytes", "300\n");
        assert_eq!(least(first), Some(300));
        assert_eq!(least("nonsense\n"), None);
    }

    #[test]
    fn the_process_holds_something() {
        assert!(used().is_some_and(|bytes| bytes > 100 << 10));
    }
}
