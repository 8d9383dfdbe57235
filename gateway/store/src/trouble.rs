//! What can be wrong with a store, as a small closed set: the kind of a failed read is its metric label.

use ::redis::{ErrorKind, RedisError, ServerError};

/// Why a read of the store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// No answer within the time a read may live.
    Timeout,
    /// Refused, reset, closed, or never reached.
    Connection,
    /// The server is still reading its data from disk.
    Loading,
    /// The server does not accept our credentials, or wants some.
    Auth,
    /// Our user may not run this command or read this key.
    Permission,
    /// A key holds something that is not a string.
    WrongType,
    /// The server is out of memory.
    OutOfMemory,
    /// The answer was not what the command promises; the connection is not trusted any more.
    Protocol,
    /// Not asked: the breaker is open.
    Breaker,
    /// Not asked: as many reads are in flight as may be.
    Busy,
    /// Anything else the server complained about.
    Other,
}

impl Trouble {
    /// Every kind there is, in the order of its counters.
    pub const ALL: [Trouble; 11] = [
        Self::Timeout,
        Self::Connection,
        Self::Loading,
        Self::Auth,
        Self::Permission,
        Self::WrongType,
        Self::OutOfMemory,
        Self::Protocol,
        Self::Breaker,
        Self::Busy,
        Self::Other,
    ];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Loading => "loading",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::WrongType => "wrong_type",
            Self::OutOfMemory => "out_of_memory",
            Self::Protocol => "protocol",
            Self::Breaker => "breaker",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }

    /// Only an operator can mend it: asking again soon is useless.
    pub(crate) const fn is_configuration(self) -> bool {
        matches!(self, Self::Auth | Self::Permission)
    }

    /// The server may be gone or stuck: this counts against the breaker. An error the server took the
    /// trouble to send does not.
    pub(crate) const fn is_silence(self) -> bool {
        matches!(self, Self::Timeout | Self::Connection | Self::Protocol)
    }

    /// What the client library reports when there is no reply at all.
    pub(crate) fn of_error(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Auth,
            // A server that answers garbage, or another protocol than it was asked for.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::RESP3NotSupported => Self::Protocol,
            ErrorKind::Io if error.is_timeout() => Self::Timeout,
            ErrorKind::Io => Self::Connection,
            _ => error.code().map_or(Self::Other, Self::of_code),
        }
    }

    /// What the server replied instead of a value.
    pub(crate) fn of_reply(error: &ServerError) -> Self {
        Self::of_code(error.code())
    }

    fn of_code(code: &str) -> Self {
        match code {
            "LOADING" | "MASTERDOWN" => Self::Loading,
            "NOAUTH" | "WRONGPASS" => Self::Auth,
            "NOPERM" => Self::Permission,
            "WRONGTYPE" => Self::WrongType,
            "OOM" => Self::OutOfMemory,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_its_own_counter() {
        for (i, a) in Trouble::ALL.into_iter().enumerate() {
            assert_eq!(a as usize, i);
            assert!(Trouble::ALL.into_iter().all(|b| a == b || a.name() != b.name()));
        }
    }
}
