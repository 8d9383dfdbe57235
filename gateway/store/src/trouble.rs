//! What can be wrong with a store, as a small closed set: the kind of a failed read is its metric label.

use std::error::Error;
use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, ServerError};
use tokio_rustls::rustls;

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
    /// The server's certificate is not one we accept, or it does not accept ours.
    Tls,
    /// A key holds something that the command is not for.
    WrongType,
    /// The server is out of memory.
    OutOfMemory,
    /// The answer was not what the command promises; the connection is not trusted any more.
    Protocol,
    /// Not asked: the breaker is open.
    Breaker,
    /// Not asked: as many reads are in flight as may be.
    Busy,
    /// The key is on another node, and following it there once led to yet another: slots are moving faster
    /// than we learn of it, or the address of a cluster's node was given as that of a single server.
    Moved,
    /// Keys of several slots in one command: the address of a cluster's node was given as that of a single
    /// server.
    CrossSlot,
    /// No node of the cluster has the key's slot.
    NoOwner,
    /// The cluster, or the part of it we reach, is not whole and does not serve.
    ClusterDown,
    /// The key's slot is being moved right now.
    TryAgain,
    /// The node is a replica: its master changed, and we have not heard yet.
    ReadOnly,
    /// A replica that has lost its master and serves nothing until it has one.
    MasterDown,
    /// The sentinels know no master, or none that says it is one.
    NoMaster,
    /// A replica that is none any more, or has not heard from its master for long.
    NotReplica,
    /// The master has too few replicas to take anything in.
    NoReplicas,
    /// The server is held up by a script.
    Script,
    /// Anything else the server complained about.
    Other,
}

impl Trouble {
    /// Every kind there is, in the order of its counters.
    pub const ALL: [Trouble; 23] = [
        Self::Timeout,
        Self::Connection,
        Self::Loading,
        Self::Auth,
        Self::Permission,
        Self::Tls,
        Self::WrongType,
        Self::OutOfMemory,
        Self::Protocol,
        Self::Breaker,
        Self::Busy,
        Self::Moved,
        Self::CrossSlot,
        Self::NoOwner,
        Self::ClusterDown,
        Self::TryAgain,
        Self::ReadOnly,
        Self::MasterDown,
        Self::NoMaster,
        Self::NotReplica,
        Self::NoReplicas,
        Self::Script,
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
            Self::Tls => "tls",
            Self::WrongType => "wrong_type",
            Self::OutOfMemory => "out_of_memory",
            Self::Protocol => "protocol",
            Self::Breaker => "breaker",
            Self::Busy => "busy",
            Self::Moved => "moved",
            Self::CrossSlot => "cross_slot",
            Self::NoOwner => "no_owner",
            Self::ClusterDown => "cluster_down",
            Self::TryAgain => "try_again",
            Self::ReadOnly => "read_only",
            Self::MasterDown => "master_down",
            Self::NoMaster => "no_master",
            Self::NotReplica => "not_replica",
            Self::NoReplicas => "no_replicas",
            Self::Script => "script",
            Self::Other => "other",
        }
    }

    /// Only an operator can mend it: asking again soon is useless.
    pub(crate) const fn is_configuration(self) -> bool {
        matches!(self, Self::Auth | Self::Permission | Self::Tls)
    }

    /// The server may be gone or stuck: this counts against the breaker. An error the server took the
    /// trouble to send does not.
    pub(crate) const fn is_silence(self) -> bool {
        matches!(self, Self::Timeout | Self::Connection | Self::Protocol)
    }

    /// Somebody else may have the keys by now.
    pub(crate) const fn is_news_of_others(self) -> bool {
        matches!(self, Self::Moved | Self::NoOwner | Self::ClusterDown | Self::ReadOnly | Self::MasterDown)
    }

    /// What the client library reports when there is no reply at all.
    pub(crate) fn of_error(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Auth,
            // A server that answers garbage, or another protocol than it was asked for.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::RESP3NotSupported => Self::Protocol,
            ErrorKind::Io if error.is_timeout() => Self::Timeout,
            ErrorKind::Io if is_refused_certificate(error) => Self::Tls,
            ErrorKind::Io => Self::Connection,
            _ => error.code().map_or(Self::Other, Self::of_code),
        }
    }

    /// What a socket reports.
    pub(crate) fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::TimedOut => Self::Timeout,
            // What rustls makes of everything it does not accept, the other side's alerts included.
            std::io::ErrorKind::InvalidData => Self::Tls,
            _ => Self::Connection,
        }
    }

    /// What the server replied instead of a value.
    pub(crate) fn of_reply(error: &ServerError) -> Self {
        Self::of_code(error.code())
    }

    /// What the server replied instead of a value, in its own words.
    pub(crate) fn of_complaint(text: &str) -> Self {
        Self::of_code(text.split(' ').next().unwrap_or_default())
    }

    fn of_code(code: &str) -> Self {
        match code {
            "LOADING" => Self::Loading,
            "NOAUTH" | "WRONGPASS" => Self::Auth,
            "NOPERM" => Self::Permission,
            "WRONGTYPE" => Self::WrongType,
            "OOM" => Self::OutOfMemory,
            "MOVED" | "ASK" => Self::Moved,
            "CROSSSLOT" => Self::CrossSlot,
            "CLUSTERDOWN" => Self::ClusterDown,
            "TRYAGAIN" => Self::TryAgain,
            "READONLY" => Self::ReadOnly,
            "MASTERDOWN" => Self::MasterDown,
            "NOREPLICAS" => Self::NoReplicas,
            "BUSY" => Self::Script,
            _ => Self::Other,
        }
    }
}

/// In TLS 1.3 a server refuses our certificate only after the handshake, which is then the first read to fail.
fn is_refused_certificate(error: &RedisError) -> bool {
    // The library keeps the socket's error behind an Arc, and the error inside that is rustls's.
    let shared = error.source().and_then(|e| e.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let inner = shared.and_then(|e| e.downcast_ref::<std::io::Error>()).and_then(std::io::Error::get_ref);
    inner.is_some_and(|e| e.is::<rustls::Error>())
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
