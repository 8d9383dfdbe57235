//! What went wrong with a store, told once and without its decoration: the libraries below repeat each other's words.

use std::fmt;
use std::time::Duration;

use object_store::client::HttpError;

use super::address::Wrong;
use super::http::Fault;

/// Kinds of failures, for those who tell each only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The URL or the environment's settings for its store are wrong.
    Settings,
    /// Nobody answers.
    Unreachable,
    /// The answer takes too long.
    Slow,
    /// The credentials are missing, wrong, or not enough.
    Denied,
    /// There is no such object.
    Missing,
    /// It is larger than [`OBJECT_BYTES_MAX`](super::OBJECT_BYTES_MAX).
    TooLarge,
    /// The store answered with something else than the object.
    Failed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "cannot be read with these settings",
            Self::Unreachable => "cannot be reached",
            Self::Slow => "takes too long to read",
            Self::Denied => "may not be read with these credentials",
            Self::Missing => "does not exist",
            Self::TooLarge => "is too large",
            Self::Failed => "cannot be read",
        })
    }
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
#[error("{url} {trouble}")]
pub struct RemoteError {
    url: String,
    trouble: Trouble,
    source: Cause,
}

impl RemoteError {
    /// What kind of failure it is.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    pub(super) fn wrong(url: &str, wrong: Wrong) -> Self {
        Self { url: shown(url), trouble: Trouble::Settings, source: Cause::Wrong(wrong) }
    }

    pub(super) fn slow(url: &str, limit: Duration) -> Self {
        Self { url: url.to_owned(), trouble: Trouble::Slow, source: Cause::Slow(limit) }
    }

    pub(super) fn of(url: &str, error: object_store::Error) -> Self {
        let cause = Cause::Store(error);
        Self { url: url.to_owned(), trouble: cause.trouble(), source: cause }
    }

    /// Whether the next attempt may well succeed.
    pub(super) fn may_pass(&self) -> bool {
        self.source.fault().is_some_and(Fault::may_pass)
    }
}

/// What is underneath, as one sentence.
#[derive(Debug)]
enum Cause {
    Wrong(Wrong),
    Slow(Duration),
    Store(object_store::Error),
}

impl Cause {
    fn links(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let first: Option<&(dyn std::error::Error + 'static)> = match self {
            Self::Store(error) => Some(error),
            Self::Wrong(_) | Self::Slow(_) => None,
        };
        std::iter::successors(first, |error| error.source())
    }

    /// Our own transport's complaint.
    fn fault(&self) -> Option<&Fault> {
        self.links().find_map(|error| {
            let boxed = error.downcast_ref::<HttpError>().and_then(std::error::Error::source);
            boxed.and_then(|error| error.downcast_ref::<Fault>())
        })
    }

    fn trouble(&self) -> Trouble {
        match self {
            Self::Wrong(_) => Trouble::Settings,
            Self::Slow(_) => Trouble::Slow,
            Self::Store(_) => self.fault().map_or(Trouble::Failed, Fault::trouble),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(wrong) => wrong.fmt(f),
            Self::Slow(limit) => write!(f, "not done within {} s", limit.as_secs()),
            Self::Store(_) => match self.fault() {
                Some(fault) => fault.fmt(f),
                // The one that was there first says most and repeats nobody.
                None => self.links().last().map_or(Ok(()), |error| write!(f, "{error}")),
            },
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Wrong(wrong) => std::error::Error::source(wrong),
            Self::Slow(_) => None,
            Self::Store(_) => self.fault().and_then(std::error::Error::source),
        }
    }
}

/// A URL as it may be told: whatever could be a password or a signature stays out of it.
pub(super) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{scheme}://{host}{path}"),
        _ => format!("{scheme}://{authority}{path}"),
    }
}
