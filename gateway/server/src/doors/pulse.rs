//! What a connection does, seen from outside: what its caller owes it, whether it asks for anything, and whether it takes
//! its replies.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;

use super::counts::Counts;
use super::frames::{Frames, Heard};
use super::turn::Outbox;

/// What a caller has to say next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Owed {
    /// Its first word, or the rest of headers that it has begun (over HTTP/2, of any frame but a body's).
    #[default]
    Headers,
    /// Its next request, over HTTP/1: there is none under way. What came of it together with the last one is not seen.
    Request,
    /// Nothing that has a deadline here: requests are under way, or HTTP/2 is spoken, where none need be.
    Nothing,
}

/// What is owed since the debt of this number.
pub(super) type Debt = (Owed, usize);

/// Shared by a connection's stream, its replies and whoever watches it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    debt: Mutex<Debt>,
    flooded: Notify,
    /// Replies that are not sent yet, by the parity of the round in which they were ready.
    unread: [AtomicUsize; 2],
    round: AtomicUsize,
}

impl Pulse {
    /// What the caller owes. While it has something to take it owes no next request.
    pub(super) fn debt(&self) -> Debt {
        let (owed, number) = *self.lock();
        let is_taking = owed == Owed::Request && self.unread.iter().any(|slot| slot.load(Ordering::Relaxed) > 0);
        (if is_taking { Owed::Nothing } else { owed }, number)
    }

    fn owes(&self, owed: Owed) {
        let mut debt = self.lock();
        *debt = (owed, debt.1 + 1);
    }

    /// First bytes, or more of HTTP/1. If nothing was under way, headers have begun.
    pub(super) fn begins(&self) {
        let debt = *self.lock();
        if debt == Debt::default() || debt.0 == Owed::Request {
            self.owes(Owed::Headers);
        }
    }

    /// A request of HTTP/1 was made; it is under way until this is dropped.
    pub(super) fn asked(self: &Arc<Self>) -> UnderWay {
        self.owes(Owed::Nothing);
        UnderWay(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, Debt> {
        self.debt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is ready for the caller to take: where that was counted.
    pub(super) fn unread(&self) -> usize {
        let slot = self.round.load(Ordering::Relaxed) % 2;
        self.unread[slot].fetch_add(1, Ordering::Relaxed);
        slot
    }

    /// It was taken.
    pub(super) fn taken(&self, slot: usize) {
        self.unread[slot].fetch_sub(1, Ordering::Relaxed);
    }

    /// Resolves when the caller floods, else never.
    pub(super) async fn flood(&self) {
        self.flooded.notified().await;
    }

    /// Begins the next round; says whether a reply was left unread for the whole of this one.
    pub(super) fn is_left_unread(&self) -> bool {
        let round = self.round.load(Ordering::Relaxed);
        if self.unread[(round + 1) % 2].load(Ordering::Relaxed) > 0 {
            return true;
        }
        self.round.store(round + 1, Ordering::Relaxed);
        false
    }
}

/// The one request that HTTP/1 has at a time.
pub(super) struct UnderWay(Arc<Pulse>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.owes(Owed::Request);
    }
}

/// The stream of a connection.
pub(super) struct Felt {
    stream: OwnedReadHalf,
    outbox: Outbox,
    pulse: Arc<Pulse>,
    frames: Frames,
    heard: Heard,
    is_flood: bool,
}

impl Felt {
    pub(super) fn new(stream: OwnedReadHalf, outbox: Outbox, pulse: Arc<Pulse>) -> Self {
        Self { stream, outbox, pulse, frames: Frames::new(), heard: Heard::Preface, is_flood: false }
    }

    fn hear(&mut self, new: &[u8]) {
        if self.frames.are_a_flood(new) {
            self.is_flood = true;
            self.pulse.flooded.notify_one();
        }
        let heard = self.frames.heard();
        match heard {
            Heard::Preface | Heard::Http1 => self.pulse.begins(),
            Heard::Http2 { unfinished: Some(_) } if heard != self.heard => self.pulse.owes(Owed::Headers),
            Heard::Http2 { unfinished: None } if heard != self.heard => self.pulse.owes(Owed::Nothing),
            Heard::Http2 { .. } => {}
        }
        self.heard = heard;
    }
}

impl AsyncRead for Felt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_flood {
            // The rest stays where it is: the connection has a moment to say goodbye, and then it is cut.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.hear(new);
        }
        read
    }
}

impl AsyncWrite for Felt {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outbox.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Everything is sent when the turn ends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.poll_shutdown(cx)
    }
}

/// The body of a reply, whose bytes count as unread until the last of them is handed to the system.
pub(super) struct Awaited {
    body: Body,
    pulse: Arc<Pulse>,
    counts: Arc<Counts>,
    /// Over HTTP/1, the request ends with the body of its reply.
    _under_way: Option<UnderWay>,
}

impl Awaited {
    pub(super) fn new(body: Body, pulse: Arc<Pulse>, counts: Arc<Counts>, under_way: Option<UnderWay>) -> Self {
        Self { body, pulse, counts, _under_way: under_way }
    }

    fn unread(&self, bytes: Bytes) -> Bytes {
        let slot = self.pulse.unread();
        self.counts.unread_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Unread { bytes, slot, pulse: Arc::clone(&self.pulse), counts: Arc::clone(&self.counts) })
    }
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        frame.map_ok(|frame| frame.map_data(|bytes| self.unread(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that the caller has not taken yet. They are dropped when they are sent or never will be.
struct Unread {
    bytes: Bytes,
    slot: usize,
    pulse: Arc<Pulse>,
    counts: Arc<Counts>,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.pulse.taken(self.slot);
        self.counts.unread_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}
