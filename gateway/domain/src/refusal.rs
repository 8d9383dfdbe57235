//! Why a request is refused: a small closed set. Anything that goes wrong after the plan is made degrades
//! the answer instead.

use std::fmt;
use std::time::Duration;

/// A request that gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The catalog has no such service.
    UnknownService {
        /// The name asked for.
        service: String,
    },
    /// The request does not fit its service; every violation is listed (up to a limit).
    Invalid(Vec<Violation>),
    /// More bytes or rows than a request may have.
    TooLarge(Violation),
    /// The granted time was over before the work began.
    DeadlineExceeded,
    /// The rest of the request did not come.
    SlowBody {
        /// In this time.
        within: Duration,
    },
    /// More requests in flight than the gateway takes.
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field as the caller wrote it: `items.tailnum[3]`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Both may quote the caller, whose names can be as long as a request; no error needs to be.
const FIELD_BYTES_MAX: usize = 192;
const DESCRIPTION_BYTES_MAX: usize = 768;

impl Violation {
    /// A violation of `field`. Of what is very long, the beginning stays.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        let field = cut(field.into(), FIELD_BYTES_MAX);
        Self { field, description: cut(description.into(), DESCRIPTION_BYTES_MAX) }
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

impl Refusal {
    /// The documented reason: error detail, metric label and log field.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownService { .. } => "UNKNOWN_SERVICE",
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::TooLarge(_) => "TOO_LARGE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::SlowBody { .. } => "SLOW_BODY",
            Self::Overloaded { .. } => "OVERLOADED",
        }
    }

    /// The fields that are wrong, if it is about fields.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(violations) => violations,
            Self::TooLarge(violation) => std::slice::from_ref(violation),
            Self::UnknownService { .. } | Self::DeadlineExceeded | Self::SlowBody { .. } | Self::Overloaded { .. } => {
                &[]
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService { service } => write!(f, "no feature service named {service:?}"),
            Self::Invalid(violations) => {
                f.write_str("the request cannot be answered as it is")?;
                for (i, v) in violations.iter().enumerate() {
                    write!(f, "{} {}: {}", if i == 0 { ":" } else { ";" }, v.field, v.description)?;
                }
                Ok(())
            }
            Self::TooLarge(v) => write!(f, "{}: {}", v.field, v.description),
            Self::DeadlineExceeded => f.write_str("the deadline had passed before the work began"),
            Self::SlowBody { within } => write!(f, "the body of the request did not come within {within:?}"),
            Self::Overloaded { .. } => f.write_str("too many requests in flight"),
        }
    }
}

impl std::error::Error for Refusal {}
