//! What following a changing set of servers takes, whoever tells about it (cluster nodes, sentinels): what is
//! known so far, asking several until one answers, and how often to look.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::dial::DialError;
use super::lane::{CONFIGURATION_PAUSE, jittered};
use crate::Trouble;

/// Shortest wait between two looks; doubles while they bring nothing new. A look is one small command, but a
/// cluster that is being resharded gives a reason for one with every slot.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest wait between looks for which there is a reason: a replica that has been promoted is found within
/// half a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long one server is waited for before the next is asked as well.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is known of servers that may change.
#[derive(Clone)]
pub(super) enum Known<T> {
    /// Nothing yet, with no reason yet to think it will fail.
    Seeking,
    /// This, as far as we have heard.
    At(T),
    /// Nothing, for this reason; the search goes on.
    Lost(Trouble),
}

/// The current knowledge, and news of it.
pub(super) struct Knowledge<T>(watch::Sender<Known<T>>);

impl<T: Clone> Knowledge<T> {
    pub(super) fn nothing() -> Self {
        Self(watch::Sender::new(Known::Seeking))
    }

    /// At once, if it is known or known to be lost; else once that is.
    pub(super) async fn settled(&self) -> Result<T, Trouble> {
        if let Some(settled) = self.now() {
            return settled;
        }
        let mut changes = self.0.subscribe();
        // Fails only when the sender is gone, and it is ours.
        let _ = changes.wait_for(|known| !matches!(known, Known::Seeking)).await;
        self.now().unwrap_or(Err(Trouble::Other))
    }

    /// What is known now; `None` while nothing has been heard.
    pub(super) fn now(&self) -> Option<Result<T, Trouble>> {
        match &*self.0.borrow() {
            Known::Seeking => None,
            Known::At(what) => Some(Ok(what.clone())),
            Known::Lost(trouble) => Some(Err(*trouble)),
        }
    }

    pub(super) fn learn(&self, what: T) {
        self.0.send_replace(Known::At(what));
    }

    /// A search failed. What was known stays believed: servers that cannot be asked about others may still be
    /// there themselves. Returns whether that is news.
    pub(super) fn lose(&self, trouble: Trouble) -> bool {
        self.0.send_if_modified(|known| {
            let is_news = !matches!(known, Known::At(_)) && !matches!(known, Known::Lost(why) if *why == trouble);
            if is_news {
                *known = Known::Lost(trouble);
            }
            is_news
        })
    }
}

/// The first good answer. One after another is asked, the next as soon as one has failed or taken too long.
pub(super) async fn first<T, F>(attempts: impl IntoIterator<Item = F>) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut attempts = attempts.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut why = DialError { kind: Trouble::Other, source: "there is nobody to ask".into() };
    loop {
        let next = attempts.next();
        let is_last = next.is_none();
        under_way.extend(next);
        let answer = if is_last {
            under_way.next().await
        } else {
            match timeout(PATIENCE, under_way.next()).await {
                Ok(answer) => answer,
                Err(_) => continue,
            }
        };
        match answer {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) => why = error,
            None => return Err(why),
        }
    }
}

/// How often to look.
pub(super) struct Pace {
    pause: Duration,
    every: Duration,
}

/// What came of a look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// Something new.
    News,
    /// What was known already.
    Nothing,
    /// Nobody could be asked, and nothing is known from before.
    InVain,
    /// We are refused, which only an operator can mend.
    Refused,
}

impl Pace {
    /// Looks at least as often as this, without any reason.
    pub(super) fn of(every: Duration) -> Self {
        Self { pause: PAUSE_MIN, every }
    }

    /// Until it is time for the next look: some reason for it comes up, but not too soon after the last.
    pub(super) async fn next(&mut self, last: Looked, reason: impl Future) {
        self.pause = if last == Looked::News { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        match last {
            Looked::Refused => sleep(CONFIGURATION_PAUSE).await,
            Looked::InVain => sleep(jittered(self.pause)).await,
            Looked::News | Looked::Nothing => {
                sleep(jittered(self.pause)).await;
                // Either way it is time.
                let _ = timeout(jittered(self.every), reason).await;
            }
        }
    }
}

/// The items, beginning anywhere, so that many gateways do not all ask the same server first.
pub(super) fn from_anywhere<T>(mut items: Vec<T>) -> Vec<T> {
    if !items.is_empty() {
        let start = RandomState::new().hash_one(0) as usize % items.len();
        items.rotate_left(start);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no(kind: Trouble) -> DialError {
        DialError { kind, source: "no".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_asked_when_one_fails_or_hangs() {
        let attempt = |n: u64| async move {
            match n {
                0 => Err(no(Trouble::Connection)),
                1 => std::future::pending().await,
                n => {
                    sleep(Duration::from_millis(n)).await;
                    Ok(n)
                }
            }
        };
        let began = tokio::time::Instant::now();
        assert_eq!(first([0, 1, 0, 5, 1].map(attempt)).await.unwrap(), 5);
        assert_eq!(began.elapsed(), PATIENCE + Duration::from_millis(5));
        // The slow one answers all the same while others are asked.
        assert_eq!(first([150, 1, 1, 1].map(attempt)).await.unwrap(), 150);
        let none: [u64; 0] = [];
        assert_eq!(first(none.map(attempt)).await.unwrap_err().kind, Trouble::Other);
        assert_eq!(first([0, 0].map(attempt)).await.unwrap_err().kind, Trouble::Connection);
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_rare_when_they_bring_nothing() {
        let mut pace = Pace::of(Duration::from_secs(10));
        let took = async |pace: &mut Pace, last, reason: bool| {
            let began = tokio::time::Instant::now();
            let never = std::future::pending::<()>();
            if reason {
                pace.next(last, async {}).await
            } else {
                pace.next(last, never).await
            }
            began.elapsed()
        };
        assert!(took(&mut pace, Looked::News, true).await <= PAUSE_MIN);
        for _ in 0..5 {
            took(&mut pace, Looked::Nothing, true).await;
        }
        assert!(took(&mut pace, Looked::Nothing, true).await >= PAUSE_MAX / 2);
        assert!(took(&mut pace, Looked::News, true).await <= PAUSE_MIN);
        assert!(took(&mut pace, Looked::News, false).await >= Duration::from_secs(5));
        assert!(took(&mut pace, Looked::InVain, false).await <= PAUSE_MAX);
        assert_eq!(took(&mut pace, Looked::Refused, true).await, CONFIGURATION_PAUSE);
    }

    #[tokio::test]
    async fn what_was_known_is_believed_when_nobody_can_be_asked() {
        let knowledge = Knowledge::nothing();
        assert!(knowledge.lose(Trouble::Connection));
        assert!(!knowledge.lose(Trouble::Connection));
        assert_eq!(knowledge.settled().await, Err(Trouble::Connection));
        knowledge.learn(1);
        assert!(!knowledge.lose(Trouble::Connection));
        assert_eq!(knowledge.settled().await, Ok(1));
    }
}
