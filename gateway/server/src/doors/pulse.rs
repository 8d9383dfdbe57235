//! What a connection does, seen from outside: whether it says anything, whether it asks for anything, and whether it
//! takes its replies.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::counts::Counts;
use super::frames::{Frames, PREFACE};

/// Shared by a connection's stream, its replies and whoever watches it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    heard: AtomicUsize,
    flooded: Notify,
    /// Replies that are not sent yet, by the parity of the round in which they were ready.
    unread: [AtomicUsize; 2],
    round: AtomicUsize,
}

impl Pulse {
    /// Whether enough was heard to know which protocol is spoken; until then no timeout of either applies.
    pub(super) fn is_known(&self) -> bool {
        self.heard.load(Ordering::Relaxed) >= PREFACE.len()
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

/// The stream of a connection.
pub(super) struct Felt {
    stream: TcpStream,
    pulse: Arc<Pulse>,
    frames: Frames,
    is_flood: bool,
}

impl Felt {
    pub(super) fn new(stream: TcpStream, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse, frames: Frames::new(), is_flood: false }
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
        self.pulse.heard.fetch_add(new.len(), Ordering::Relaxed);
        if self.frames.are_a_flood(new) {
            self.is_flood = true;
            self.pulse.flooded.notify_one();
        }
        read
    }
}

impl AsyncWrite for Felt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of a reply, whose bytes count as unread until the last of them is handed to the system.
pub(super) struct Awaited {
    body: Body,
    pulse: Arc<Pulse>,
    counts: Arc<Counts>,
}

impl Awaited {
    pub(super) fn new(body: Body, pulse: Arc<Pulse>, counts: Arc<Counts>) -> Self {
        Self { body, pulse, counts }
    }

    fn unread(&self, bytes: Bytes) -> Bytes {
        let slot = self.pulse.round.load(Ordering::Relaxed) % 2;
        self.pulse.unread[slot].fetch_add(1, Ordering::Relaxed);
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
        self.pulse.unread[self.slot].fetch_sub(1, Ordering::Relaxed);
        self.counts.unread_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}
