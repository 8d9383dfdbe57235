//! What is counted at the callers' door, and why connections end.

use std::error::Error;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Read by the metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that are open.
    pub(crate) open: AtomicUsize,
    /// Closed at once because too many were open.
    pub(crate) refused: AtomicU64,
    /// Connections that the system did not hand over.
    pub(crate) accept_errors: AtomicU64,
    /// Bytes of replies that callers have not taken yet.
    pub(crate) unread_bytes: AtomicUsize,
    ended: [AtomicU64; Ending::ALL.len()],
}

impl Counts {
    pub(super) fn ended(&self, ending: Ending) {
        self.ended[ending as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that ended, by why.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Ending::ALL.iter().map(|ending| (ending.name(), self.ended[*ending as usize].load(Ordering::Relaxed)))
    }
}

/// Why a connection ended: a label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its caller hung up, or it was done.
    Done,
    /// It broke.
    Lost,
    /// Its caller said nothing, or not enough, or did not answer.
    Silent,
    /// Its caller had no further request.
    Idle,
    /// Its bytes were neither HTTP/1 nor HTTP/2.
    Protocol,
    /// Its caller cost more than it asked for: resets, endless headers, PINGs.
    Flood,
    /// Its caller did not take a reply.
    Unread,
    /// It was old enough.
    Age,
    /// The gateway left.
    Drain,
}

impl Ending {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Lost,
        Self::Silent,
        Self::Idle,
        Self::Protocol,
        Self::Flood,
        Self::Unread,
        Self::Age,
        Self::Drain,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
            Self::Unread => "unread",
            Self::Age => "age",
            Self::Drain => "drain",
        }
    }

    /// Why a connection ended by itself.
    pub(super) fn of(ended: Result<(), Box<dyn Error + Send + Sync>>) -> Self {
        let Err(error) = ended else { return Self::Done };
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                if error.is_timeout() {
                    return Self::Silent;
                } else if error.is_parse() {
                    return Self::Protocol;
                }
            }
            if let Some(error) = error.downcast_ref::<h2::Error>()
                && error.is_go_away()
            {
                return match error.reason() {
                    _ if error.is_remote() => Self::Done,
                    Some(h2::Reason::ENHANCE_YOUR_CALM) => Self::Flood,
                    _ => Self::Protocol,
                };
            }
            cause = error.source();
        }
        Self::Lost
    }
}
