//! How fast a node answers, learnt from its answers, and how many of its batches may be asked twice. Promises: what is
//! learnt is of the last seconds, and of what a node was asked then at most [`HEDGES_SHARE`] is asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// No batch is asked again sooner. A server nearby answers in a fifth of it, so what takes longer waits for something,
/// while less would mostly hedge the pauses of our own threads.
pub(super) const PATIENCE_MIN: Duration = Duration::from_micros(500);
/// How long a node is waited for before its own time is known: a fifth of a usual budget.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(5);
/// The share of answers that come within a node's patience: hedging then costs a twentieth of the load at most, unless
/// something is wrong.
const PATIENCE_SHARE: f32 = 0.95;
/// Of the batches of the last seconds, how many may be asked again. A tenth is twice what the patience lets through
/// while all is well, and too little to bring down a replica when a master stops altogether.
const HEDGES_SHARE: f32 = 0.1;
/// Both counts of the quota are halved this often: what was saved in quiet times and what comes in meanwhile are, in
/// any ten seconds of even load, less than a sixth of the batches.
const QUOTA_HALVED_EVERY: Duration = Duration::from_millis(2_500);
/// What was learnt of answers is halved this often: long enough for a thousand answers of a node that is hardly used,
/// short enough to follow one that has become slower.
const ANSWERS_HALVED_EVERY: Duration = Duration::from_secs(10);
/// Fewer answers tell nothing of the slowest twentieth of them.
const ANSWERS_MIN: u32 = 20;
/// Answers between two looks at the whole.
const LOOK_EVERY: u32 = 16;
/// A node that said it has too much to do, or that it is not ready, is sent no second questions for this long.
const REST: Duration = Duration::from_secs(1);

/// Buckets per doubling: a time is known to an eighth of itself.
const STEPS: usize = 8;
/// From 1 µs to half a second, twice as long as any read may live.
const BUCKETS: usize = 19 * STEPS;

/// What is known of a node's answers.
pub(super) struct Tempo(Mutex<Learnt>);

struct Learnt {
    /// Answers by the logarithm of their time.
    answers: [u32; BUCKETS],
    total: u32,
    answers_since: Instant,
    looked_at: u32,
    median: Option<Duration>,
    patience: Duration,
    batches: f32,
    hedges: f32,
    quota_since: Instant,
    rests_until: Option<Instant>,
}

impl Tempo {
    pub(super) fn unknown() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Learnt {
            answers: [0; BUCKETS],
            total: 0,
            answers_since: now,
            looked_at: 0,
            median: None,
            patience: PATIENCE_UNKNOWN,
            batches: 0.0,
            hedges: 0.0,
            quota_since: now,
            rests_until: None,
        }))
    }

    /// A batch is sent. How long to wait before asking somebody else too: as long as nearly all answers take.
    pub(super) fn asked(&self, now: Instant) -> Duration {
        let mut learnt = self.learnt();
        learnt.forget(now);
        learnt.batches += 1.0;
        learnt.patience
    }

    /// An answer came, after this long.
    pub(super) fn answered(&self, took: Duration) {
        let mut learnt = self.learnt();
        learnt.answers[bucket(took)] += 1;
        learnt.total += 1;
        learnt.looked_at += 1;
        if learnt.total >= ANSWERS_MIN && (learnt.looked_at >= LOOK_EVERY || learnt.median.is_none()) {
            learnt.look();
        }
    }

    /// How long half of the answers take; `None` while there were too few.
    pub(super) fn median(&self) -> Option<Duration> {
        self.learnt().median
    }

    /// Leave to ask one batch of this node's again, elsewhere.
    pub(super) fn grant(&self, now: Instant) -> bool {
        let mut learnt = self.learnt();
        learnt.forget(now);
        let granted = learnt.hedges + 1.0 <= learnt.batches * HEDGES_SHARE;
        learnt.hedges += f32::from(u8::from(granted));
        granted
    }

    /// The node said that it cannot.
    pub(super) fn rest(&self, now: Instant) {
        self.learnt().rests_until = Some(now + REST);
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.learnt().rests_until.is_some_and(|until| now < until)
    }

    /// Nothing panics while the lock is held.
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learnt {
    fn forget(&mut self, now: Instant) {
        let times = halvings(&mut self.quota_since, now, QUOTA_HALVED_EVERY);
        if times > 0 {
            let share = 0.5f32.powi(times as i32);
            (self.batches, self.hedges) = (self.batches * share, self.hedges * share);
        }
        let times = halvings(&mut self.answers_since, now, ANSWERS_HALVED_EVERY);
        if times > 0 {
            self.answers.iter_mut().for_each(|count| *count >>= times);
            self.total = self.answers.iter().sum();
        }
    }

    fn look(&mut self) {
        self.looked_at = 0;
        self.median = Some(self.within(0.5));
        self.patience = self.within(PATIENCE_SHARE).max(PATIENCE_MIN);
    }

    /// The time within which this share of the answers came.
    fn within(&self, share: f32) -> Duration {
        let mut left = (self.total as f32 * share).ceil() as u32;
        let reached = self.answers.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        upper_bound(reached.unwrap_or(BUCKETS - 1))
    }
}

/// How often `every` has gone by, at most 31 times; `since` moves on by as much.
fn halvings(since: &mut Instant, now: Instant, every: Duration) -> u32 {
    let passed = now.saturating_duration_since(*since);
    if passed < every {
        return 0;
    }
    *since = now;
    ((passed.as_millis() / every.as_millis()) as u32).min(31)
}

fn bucket(took: Duration) -> usize {
    let us = took.as_micros().clamp(1, u128::from(u32::MAX)) as u32;
    let doubling = us.ilog2() as usize;
    let step = if doubling >= 3 { us >> (doubling - 3) } else { us << (3 - doubling) } as usize - STEPS;
    (doubling * STEPS + step).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    Duration::from_nanos((1_000 << doubling) * (STEPS + step + 1) as u64 / STEPS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_time_is_in_a_bucket_that_ends_a_little_later() {
        for us in (1..1_000).chain([1_023, 1_024, 5_000, 99_999, 250_000, 500_000]) {
            let took = Duration::from_micros(us);
            let bound = upper_bound(bucket(took));
            assert!(bound > took && bound <= took * 9 / 8 + Duration::from_micros(1), "{took:?} {bound:?}");
        }
        assert_eq!(bucket(Duration::from_secs(9)), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_what_nearly_all_answers_take_and_follows_them() {
        let tempo = Tempo::unknown();
        assert_eq!((tempo.asked(Instant::now()), tempo.median()), (PATIENCE_UNKNOWN, None));
        let learn = |fast: usize, slow: usize, slow_ms: u32| {
            (0..fast).for_each(|_| tempo.answered(2 * MS));
            (0..slow).for_each(|_| tempo.answered(slow_ms * MS));
        };
        learn(960, 40, 100);
        let patience = tempo.asked(Instant::now());
        assert!((2 * MS..3 * MS).contains(&patience), "{patience:?}");
        assert!((2 * MS..3 * MS).contains(&tempo.median().unwrap()));
        // Slower from now on; what was before is forgotten.
        tokio::time::advance(ANSWERS_HALVED_EVERY * 8).await;
        tempo.asked(Instant::now());
        learn(0, 100, 20);
        let patience = tempo.asked(Instant::now());
        assert!((20 * MS..23 * MS).contains(&patience), "{patience:?}");
        // Not at every little pause.
        tokio::time::advance(ANSWERS_HALVED_EVERY * 20).await;
        tempo.asked(Instant::now());
        (0..100).for_each(|_| tempo.answered(MS / 10));
        assert_eq!(tempo.asked(Instant::now()), PATIENCE_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn of_ten_batches_one_is_asked_again_whatever_was_saved() {
        let tempo = Tempo::unknown();
        let (mut window, mut worst) = (std::collections::VecDeque::new(), 0.0f32);
        // 200 a second; every one would be hedged, after a quiet minute, and again after it has been quiet.
        for second in 0..180 {
            let wants = !(0..60).contains(&second) && !(100..120).contains(&second);
            let mut hedges = 0.0;
            for _ in 0..200 {
                tokio::time::advance(5 * MS).await;
                tempo.asked(Instant::now());
                hedges += f32::from(u8::from(wants && tempo.grant(Instant::now())));
            }
            window.push_back(hedges);
            if window.len() > 10 {
                window.pop_front();
                worst = worst.max(window.iter().sum::<f32>() / 2_000.0);
            }
        }
        assert!((0.1..0.17).contains(&worst), "{worst}");
        assert!(window.iter().sum::<f32>() / 2_000.0 < 0.11);
        tokio::time::advance(QUOTA_HALVED_EVERY * 100).await;
        assert!(!tempo.grant(Instant::now()), "nothing is saved for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_is_left_alone_for_a_while() {
        let tempo = Tempo::unknown();
        assert!(!tempo.is_resting(Instant::now()));
        tempo.rest(Instant::now());
        assert!(tempo.is_resting(Instant::now()));
        tokio::time::advance(REST).await;
        assert!(!tempo.is_resting(Instant::now()));
    }
}
