//! What strangers may do to the process, as far as it is worth changing. What is the protocol's business is in
//! `connections`.

use std::time::Duration;

/// Connections at a time: some 30 KiB each, a third of a gigabyte. A fleet of a thousand callers with ten each.
const CONNECTIONS_MAX: usize = 10_000;
/// Headers are a few packets: whatever of them was lost on the way has been sent again by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest body (4 MiB) over a link of ten megabit a second.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the 60 s for which nginx keeps an idle connection to what is behind it: it is better that callers close,
/// who know whether they are about to ask something.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Longer than any budget, which is a minute at most.
const LEAVING_MAX: Duration = Duration::from_secs(75);
/// The largest replies, some tens of MiB, over a link of ten megabit a second.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// Bytes. With less memory than this to spare, a gateway has other troubles.
const UNREAD_BYTES_MAX: usize = 512 << 20;
/// Long enough that new connections cost nothing, short enough that a new gateway has its share within the hour.
const AGE: Duration = Duration::from_secs(30 * 60);

/// What strangers may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; one more is closed at once.
    pub connections_max: usize,
    /// A caller that has not said a word by then, or has not finished the headers that it has begun, is a slow-loris or
    /// gone.
    pub header_timeout: Duration,
    /// The body of a request that has not come by then never comes.
    pub body_timeout: Duration,
    /// An HTTP/1 connection may wait for its next request for so long.
    pub idle_timeout: Duration,
    /// What is under way on a connection that is asked to leave may take so long.
    pub leaving_max: Duration,
    /// Whoever does not take a reply for this long loses the connection and the replies on it, which are memory.
    pub unread_max: Duration,
    /// Bytes of replies, all connections together, that callers may leave unread before nobody is answered any more.
    pub unread_bytes_max: usize,
    /// A connection of this age, give or take a tenth, is asked to be opened anew, so that callers behind a balancer of
    /// connections find gateways that are new.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            header_timeout: HEADER_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            leaving_max: LEAVING_MAX,
            unread_max: UNREAD_MAX,
            unread_bytes_max: UNREAD_BYTES_MAX,
            age: AGE,
        }
    }
}
