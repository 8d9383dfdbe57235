//! A TCP proxy that does harm: it stands between a gateway and its store, on loopback, and makes replies late, lost, cut
//! or slow, for a share of them or of the connections. Promises: bytes keep their order; the same seed strikes the same
//! connections, and the same replies of each; what it holds in memory is bounded; when it is dropped, its port, its
//! connections and its thread are gone.
//!
//! A reply is what one read of the upstream socket brings (at most [`CHUNK_BYTES`]): on loopback that is one answer of a
//! server while the connection has one question under way, and may be several while it has more. Order is kept as TCP
//! keeps it, so a late reply holds up those behind it on its connection: on a connection with many questions under way
//! far more answers are late than were struck. Times are as exact as tokio's timer: up to 1.1 ms late, never early.
//!
//! It runs on a thread of its own: a test may block, or stop its clock.

mod pipe;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use pipe::{Pipe, fraction};

/// The most that is taken for one reply. As much as a gateway reads at once.
pub const CHUNK_BYTES: usize = 64 << 10;

/// What can happen to a reply or to its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The reply comes later, by `fixed` and up to `jitter` more, evenly spread.
    Late {
        /// At least this much.
        fixed: Duration,
        /// At most this much on top.
        jitter: Duration,
    },
    /// Nothing passes, in either direction, and what comes piles up where it is, until the fault is lifted: then all
    /// of it goes on. A process that is stopped looks like this.
    Frozen,
    /// What comes, in either direction, is swallowed, and the connection never says anything again, healed or not.
    /// A firewall that has forgotten a connection looks like this.
    BlackHole,
    /// The reply ends after this many bytes, or where it ends anyway, with a reset.
    Reset {
        /// What still passes.
        after_bytes: usize,
    },
    /// The reply ends after this many bytes, or where it ends anyway, with an orderly end of the stream; questions are
    /// still taken.
    HalfClose {
        /// What still passes.
        after_bytes: usize,
    },
    /// The reply comes in pieces of this size, each sent on its own.
    Slices {
        /// At least 1.
        bytes: usize,
    },
    /// The reply comes no faster than this.
    Bandwidth {
        /// At least 1.
        bytes_per_s: u64,
    },
}

impl Fault {
    /// Later by exactly this much.
    pub const fn late(fixed: Duration) -> Self {
        Self::Late { fixed, jitter: Duration::ZERO }
    }
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// This share (0 to 1) of connections, those already made included. They are spread evenly (of two connections a
    /// half is one), and a smaller share is part of a larger.
    Connections(f64),
    /// This share (0 to 1) of replies, drawn for each.
    Replies(f64),
}

impl Share {
    /// Every connection and every reply.
    pub const ALL: Self = Self::Connections(1.0);
}

/// What has passed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken.
    pub connections: u64,
    /// Connections there are now.
    pub open: u64,
    /// Bytes from callers to the upstream.
    pub request_bytes: u64,
    /// Replies that came from the upstream.
    pub replies: u64,
    /// Bytes that were passed on to callers.
    pub reply_bytes: u64,
    /// Replies that a fault has struck.
    pub struck: u64,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    tally: Arc<Tally>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What connections are told to do.
#[derive(Clone, Debug, Default)]
struct Orders {
    faults: Vec<(Fault, Share)>,
    /// How often all connections were cut.
    cuts: u64,
}

#[derive(Debug, Default)]
struct Tally {
    connections: AtomicU64,
    open: AtomicU64,
    request_bytes: AtomicU64,
    replies: AtomicU64,
    reply_bytes: AtomicU64,
    struck: AtomicU64,
}

impl Proxy {
    /// Listens on a free port and passes everything on, to and from `upstream`, which must be on loopback.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        Self::start_with_seed(upstream, 0)
    }

    /// With other luck.
    pub fn start_with_seed(upstream: SocketAddr, seed: u64) -> io::Result<Self> {
        if !upstream.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{upstream} is not on loopback")));
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, told) = watch::channel(Orders::default());
        let tally = Arc::<Tally>::default();
        let (stop, stopped) = oneshot::channel();
        let accepted = tally.clone();
        // The tasks of the connections end with the runtime, and the runtime with the thread.
        let thread = std::thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || {
            runtime.block_on(async {
                // Fails when tokio cannot watch the socket: then nobody is ever answered.
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept(listener, upstream, seed, told, accepted) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, orders, tally, stop: Some(stop), thread: Some(thread) })
    }

    /// Where to connect instead of to the upstream.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this happens too. Faults of different kinds add up; of two that end a reply the first does.
    pub fn inject(&self, fault: Fault, strikes: Share) {
        self.orders.send_modify(|orders| orders.faults.push((fault, strikes)));
    }

    /// From now on nothing happens any more. What is already late stays late.
    pub fn heal(&self) {
        self.orders.send_modify(|orders| orders.faults.clear());
    }

    /// Resets all connections there are, at once.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        let tally = &self.tally;
        Counts {
            connections: tally.connections.load(SeqCst),
            open: tally.open.load(SeqCst),
            request_bytes: tally.request_bytes.load(SeqCst),
            replies: tally.replies.load(SeqCst),
            reply_bytes: tally.reply_bytes.load(SeqCst),
            struck: tally.struck.load(SeqCst),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Fails when the thread has panicked, which has been printed already.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    seed: u64,
    orders: watch::Receiver<Orders>,
    tally: Arc<Tally>,
) {
    for number in 0.. {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            // Out of file descriptors, most likely: those that are there go on, and some may end.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        tally.connections.fetch_add(1, SeqCst);
        tally.open.fetch_add(1, SeqCst);
        let (orders, tally) = (orders.clone(), tally.clone());
        tokio::spawn(async move {
            Pipe::new(seed, number, orders, &tally).carry(client, upstream).await;
            tally.open.fetch_sub(1, SeqCst);
        });
    }
}

impl Share {
    /// Whether this strikes a reply (by its own draw) of a connection (by its place between 0 and 1).
    fn strikes(self, place: f64, draw: impl FnOnce() -> u64) -> bool {
        match self {
            Self::Connections(share) => place < share,
            Self::Replies(share) => fraction(draw()) < share,
        }
    }
}
