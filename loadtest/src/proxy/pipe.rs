//! One connection through the proxy: carries bytes in both directions, and does to the replies what the orders say.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{CHUNK_BYTES, Fault, Orders, Share, Tally};

/// Replies that are on their way, late ones among them; more stay with the upstream. With [`CHUNK_BYTES`] that is 16 MiB
/// a connection.
const UNDER_WAY_MAX: usize = 256;
/// How often a narrow connection gets its next piece: tokio's timer is no finer than a millisecond.
const BANDWIDTH_TICK: Duration = Duration::from_millis(5);

pub(super) struct Pipe<'a> {
    /// Between 0 and 1: shares of connections are those below them.
    place: f64,
    luck: AtomicU64,
    orders: watch::Receiver<Orders>,
    tally: &'a Tally,
    /// Nothing passes any more.
    is_gone: AtomicBool,
}

/// A reply and what is to become of it.
struct Reply {
    bytes: Vec<u8>,
    due: Instant,
    slice: usize,
    bytes_per_s: Option<u64>,
    end: Option<End>,
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum End {
    /// Because one side has closed it.
    Closed,
    Reset,
    HalfClosed,
}

impl Reply {
    /// No reply at all: only how the connection ends.
    fn end(how: End, due: Instant) -> Self {
        Self { bytes: Vec::new(), due, slice: 1, bytes_per_s: None, end: Some(how) }
    }
}

impl<'a> Pipe<'a> {
    pub(super) fn new(seed: u64, number: u64, orders: watch::Receiver<Orders>, tally: &'a Tally) -> Self {
        /// The golden ratio's fraction: its multiples are spread evenly however many there are.
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let place = (fraction(mix(seed)) + number as f64 * GOLDEN).fract();
        let luck = AtomicU64::new(mix(seed ^ mix(number)));
        Self { place, luck, orders, tally, is_gone: AtomicBool::new(false) }
    }

    pub(super) async fn carry(&self, mut client: TcpStream, upstream: SocketAddr) {
        let mut orders = self.orders.clone();
        let cuts = orders.borrow().cuts;
        let Ok(mut server) = TcpStream::connect(upstream).await else {
            let _ = client.set_zero_linger();
            return;
        };
        // Slices that the kernel puts together again would be none.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let end = tokio::select! {
            _ = orders.wait_for(|orders| orders.cuts != cuts) => End::Reset,
            end = self.replies(from_server, to_client) => end,
            () = self.requests(&mut from_client, to_server) => End::Reset,
        };
        match end {
            End::Closed => {}
            // What the caller still says is read: to close with something unread would be a reset.
            End::HalfClosed => while let Ok(1..) = from_client.read(&mut [0; 1024]).await {},
            End::Reset => drop(client.set_zero_linger()),
        }
    }

    /// Until the connection is broken; when callers have nothing more to say, replies may still come.
    async fn requests(&self, from: &mut ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let Ok(read) = from.read(&mut buffer).await else { return };
            self.thawed().await;
            if self.is_lost() {
                if read == 0 {
                    return;
                }
                continue;
            }
            if read == 0 {
                let _ = to.shutdown().await;
                return std::future::pending().await;
            }
            self.tally.request_bytes.fetch_add(read as u64, SeqCst);
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    async fn replies(&self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> End {
        let (under_way, arrivals) = mpsc::channel(UNDER_WAY_MAX);
        tokio::select! {
            end = self.pass(arrivals, to) => end,
            () = self.take(from, under_way) => End::Closed,
        }
    }

    /// Takes replies from the upstream and draws what becomes of each. The last says how the stream ended.
    async fn take(&self, mut from: ReadHalf<'_>, under_way: mpsc::Sender<Reply>) {
        let mut last = Instant::now();
        loop {
            let mut bytes = vec![0; CHUNK_BYTES];
            let read = from.read(&mut bytes).await;
            self.thawed().await;
            let reply = match read {
                // Who is in a hole does not hear of it.
                Ok(0) | Err(_) if self.is_lost() => break,
                Ok(0) => Reply::end(End::Closed, last),
                Err(_) => Reply::end(End::Reset, last),
                Ok(read) => {
                    bytes.truncate(read);
                    self.tally.replies.fetch_add(1, SeqCst);
                    let Some(reply) = self.judge(bytes, last).await else { continue };
                    reply
                }
            };
            last = reply.due;
            let is_last = reply.end.is_some();
            if under_way.send(reply).await.is_err() || is_last {
                break;
            }
        }
        // Those that are under way are still passed on.
        std::future::pending().await
    }

    /// What the orders of now make of a reply; nothing when it is swallowed.
    async fn judge(&self, bytes: Vec<u8>, last: Instant) -> Option<Reply> {
        let mut reply = Reply { due: Instant::now(), slice: bytes.len(), bytes_per_s: None, end: None, bytes };
        let faults = self.orders.borrow().faults.clone();
        let mut is_struck = false;
        for (fault, share) in faults {
            if !share.strikes(self.place, || self.draw()) {
                continue;
            }
            is_struck = true;
            let mut end_after = |bytes: usize, how: End| {
                if reply.end.is_none() {
                    reply.bytes.truncate(bytes);
                    reply.end = Some(how);
                }
            };
            match fault {
                Fault::Late { fixed, jitter } => reply.due += fixed + jitter.mul_f64(fraction(self.draw())),
                Fault::Frozen => self.told(|orders| orders.faults.iter().all(|(known, _)| *known != fault)).await,
                Fault::BlackHole => self.is_gone.store(true, SeqCst),
                Fault::Reset { after_bytes } => end_after(after_bytes, End::Reset),
                Fault::HalfClose { after_bytes } => end_after(after_bytes, End::HalfClosed),
                Fault::Slices { bytes } => reply.slice = reply.slice.min(bytes.max(1)),
                Fault::Bandwidth { bytes_per_s } => {
                    let least = reply.bytes_per_s.map_or(bytes_per_s, |known| known.min(bytes_per_s));
                    reply.bytes_per_s = Some(least.max(1));
                }
            }
        }
        if is_struck {
            self.tally.struck.fetch_add(1, SeqCst);
        }
        reply.due = reply.due.max(last);
        (!self.is_lost()).then_some(reply)
    }

    /// Passes replies on when they are due, until one says how the connection ends.
    async fn pass(&self, mut arrivals: mpsc::Receiver<Reply>, mut to: WriteHalf<'_>) -> End {
        while let Some(reply) = arrivals.recv().await {
            sleep_until(reply.due).await;
            self.thawed().await;
            if self.is_lost() {
                continue;
            }
            let narrow = reply.bytes_per_s.map(|rate| (rate as f64 * BANDWIDTH_TICK.as_secs_f64()) as usize);
            let piece = narrow.map_or(reply.slice, |piece| reply.slice.min(piece)).max(1);
            for piece in reply.bytes.chunks(piece) {
                if to.write_all(piece).await.is_err() {
                    return End::Reset;
                }
                self.tally.reply_bytes.fetch_add(piece.len() as u64, SeqCst);
                match reply.bytes_per_s {
                    Some(rate) => sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await,
                    None => tokio::task::yield_now().await,
                }
            }
            if let Some(end) = reply.end {
                if matches!(end, End::HalfClosed) {
                    let _ = to.shutdown().await;
                }
                return end;
            }
        }
        End::Closed
    }

    /// Whether the connection is in a black hole, from now on if the orders say so.
    fn is_lost(&self) -> bool {
        if self.is_under(Fault::BlackHole) {
            self.is_gone.store(true, SeqCst);
        }
        self.is_gone.load(SeqCst)
    }

    /// Until this connection is not frozen.
    async fn thawed(&self) {
        if self.is_under(Fault::Frozen) {
            self.told(|orders| !self.strikes(orders, Fault::Frozen)).await;
        }
    }

    /// Until the orders are like this.
    async fn told(&self, are_so: impl FnMut(&Orders) -> bool) {
        // Fails when the proxy is dropped, and this with it.
        let _ = self.orders.clone().wait_for(are_so).await;
    }

    /// Whether this strikes the whole connection.
    fn is_under(&self, fault: Fault) -> bool {
        self.strikes(&self.orders.borrow(), fault)
    }

    fn strikes(&self, orders: &Orders, fault: Fault) -> bool {
        let strikes = |share: Share| matches!(share, Share::Connections(_)) && share.strikes(self.place, || 0);
        orders.faults.iter().any(|(known, share)| *known == fault && strikes(*share))
    }

    fn draw(&self) -> u64 {
        mix(self.luck.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst))
    }
}

/// Between 0 and 1, 1 excluded.
pub(super) fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's output function: neighbours become strangers.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
