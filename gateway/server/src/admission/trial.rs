//! A trial: are answers quicker if fewer are let in? Where they are, somebody behind the gateway has more to do than he
//! can. Where they are not, he is slow whoever asks, and refusing anybody would be for nothing.

/// Looks that a trial takes, once those that were let in before it have had time to leave, and at most.
const LOOKS: usize = 5;
const LOOKS_MAX: usize = 100;
/// Answers are quicker if they take no more than this share of what they took before.
const QUICKER: f64 = 0.7;
/// Looks until the next trial, after one that was for nothing; twice as many after each, up to about a minute.
const PAUSE_MIN: usize = 100;
const PAUSE_MAX: usize = 6_400;

#[derive(Debug)]
pub(super) struct Trial {
    under_way: Option<UnderWay>,
    /// Looks until another may begin.
    pause: usize,
    /// How many those will be if it is for nothing.
    pause_next: usize,
}

#[derive(Debug)]
struct UnderWay {
    spent_s: f64,
    limit: f64,
    looks_left: usize,
}

/// What a trial has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found {
    Quicker,
    NoQuicker {
        /// The limit, as it was.
        before: f64,
    },
}

impl Default for Trial {
    fn default() -> Self {
        Self { under_way: None, pause: 0, pause_next: PAUSE_MIN }
    }
}

impl Trial {
    pub(super) fn may_begin(&self) -> bool {
        self.under_way.is_none() && self.pause == 0
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// From now on fewer are let in. Those who are here leave within so many looks.
    pub(super) fn begin(&mut self, spent_s: f64, limit: f64, looks_to_leave: usize) {
        let looks_left = (LOOKS + looks_to_leave).min(LOOKS_MAX);
        self.under_way = Some(UnderWay { spent_s, limit, looks_left });
    }

    /// It would say nothing any more.
    pub(super) fn end(&mut self) {
        self.under_way = None;
    }

    /// One look later, when answers take so long.
    pub(super) fn look(&mut self, spent_s: f64) -> Option<Found> {
        self.pause = self.pause.saturating_sub(1);
        let under_way = self.under_way.as_mut()?;
        under_way.looks_left -= 1;
        if under_way.looks_left > 0 {
            return None;
        }
        let UnderWay { spent_s: spent_before_s, limit, .. } = self.under_way.take()?;
        if spent_s <= spent_before_s * QUICKER {
            self.pause_next = PAUSE_MIN;
            return Some(Found::Quicker);
        }
        self.pause = self.pause_next;
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
        Some(Found::NoQuicker { before: limit })
    }
}
