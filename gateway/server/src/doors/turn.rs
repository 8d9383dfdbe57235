//! Turns. In one, a connection reads what has come, answers what can be answered at once, and sends all of it in one
//! piece: a task and a system call for each reply would cost more than most replies do.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

use super::pulse::Pulse;
use crate::cores::Cores;

/// For so long in a turn, requests are answered where they were read. What comes after is for any core that is free,
/// and those that have their answers do not wait for it.
const AT_ONCE: Duration = Duration::from_micros(200);
/// Sent together; more is sent on the way. The kernel makes one segment of this much.
const PIECE_BYTES: usize = 64 << 10;

/// A connection's future, turn by turn.
pub(super) struct Turns<C> {
    connection: Pin<Box<C>>,
    outbox: Outbox,
}

impl<C> Turns<C> {
    pub(super) fn of(connection: C, outbox: Outbox) -> Self {
        Self { connection: Box::pin(connection), outbox }
    }

    /// The connection itself.
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future> Future for Turns<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.outbox.lock().began = Instant::now();
        let polled = self.connection.as_mut().poll(cx);
        self.outbox.lock().end_turn(cx);
        polled
    }
}

/// Runs a connection's requests: where they were read while the turn is young, else in tasks of their own.
#[derive(Clone)]
pub(super) struct AtOnce(pub(super) Outbox, pub(super) Cores);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for AtOnce {
    fn execute(&self, request: F) {
        let mut request = Box::pin(request);
        if self.0.lock().began.elapsed() < AT_ONCE {
            let mut nobody = Context::from_waker(Waker::noop());
            let polled = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut nobody)));
            // One that has to wait is polled again by its task. A panic ends this request, as it would end a task.
            if matches!(polled, Ok(Poll::Pending)) {
                tokio::spawn(request);
            }
        } else {
            self.1.spawn(request);
        }
    }
}

/// What a connection has to send.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Mutex<Letters>>);

struct Letters {
    stream: OwnedWriteHalf,
    bytes: Vec<u8>,
    sent: usize,
    /// When the turn did.
    began: Instant,
    pulse: Arc<Pulse>,
    /// Where the pulse counts that these bytes are left unread.
    unread: Option<usize>,
    failed: Option<io::ErrorKind>,
}

impl Outbox {
    pub(super) fn of(stream: OwnedWriteHalf, pulse: Arc<Pulse>) -> Self {
        let (bytes, began) = (Vec::new(), Instant::now());
        Self(Arc::new(Mutex::new(Letters { stream, bytes, sent: 0, began, pulse, unread: None, failed: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, bufs)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut letters = self.lock();
        ready!(letters.poll_send(cx))?;
        Pin::new(&mut letters.stream).poll_shutdown(cx)
    }
}

impl Letters {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(failed) = self.failed {
            return Poll::Ready(Err(failed.into()));
        }
        let new: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.bytes.len() + new > PIECE_BYTES {
            ready!(self.poll_send(cx))?;
            if new >= PIECE_BYTES {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            }
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(new))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(failed) = self.failed {
            return Poll::Ready(Err(failed.into()));
        }
        while self.sent < self.bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.bytes.clear();
        SPARE.set(take(&mut self.bytes));
        Poll::Ready(Ok(()))
    }

    /// Sends what the turn has brought. What the caller does not take yet is left unread.
    fn end_turn(&mut self, cx: &mut Context<'_>) {
        if self.bytes.is_empty() {
            return;
        }
        match self.poll_send(cx) {
            Poll::Ready(sent) => {
                if let Some(slot) = self.unread.take() {
                    self.pulse.taken(slot);
                }
                if let Err(error) = sent {
                    // Whoever writes or ends next is told. There is nothing left to try again in the next turn.
                    self.failed = Some(error.kind());
                    self.bytes = Vec::new();
                    self.sent = 0;
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending if self.unread.is_none() => self.unread = Some(self.pulse.unread()),
            Poll::Pending => {}
        }
    }
}

thread_local! {
    /// The room that the last connection of this thread needed: a connection that is idle has none.
    static SPARE: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// An outbox and the other end of its connection.
    async fn outbox(pulse: &Arc<Pulse>) -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, write) = listener.accept().await.unwrap().0.into_split();
        (Outbox::of(write, Arc::clone(pulse)), to)
    }

    fn write(outbox: &Outbox, bytes: &[u8]) -> Poll<usize> {
        let mut nobody = Context::from_waker(Waker::noop());
        outbox.poll_write(&mut nobody, &[IoSlice::new(bytes)]).map(Result::unwrap)
    }

    #[tokio::test]
    async fn what_a_turn_brings_is_sent_when_it_ends_and_much_of_it_before() {
        let pulse = Arc::default();
        let (outbox, mut to) = outbox(&pulse).await;
        let mut read = vec![0; 2 * PIECE_BYTES];
        let turn = Turns::of(
            std::future::poll_fn(|_| {
                assert_eq!((write(&outbox, b"one "), write(&outbox, b"two")), (Poll::Ready(4), Poll::Ready(3)));
                assert!(to.try_read(&mut read).is_err(), "not yet");
                Poll::Ready(())
            }),
            outbox.clone(),
        );
        turn.await;
        to.read_exact(&mut read[..7]).await.unwrap();
        assert_eq!(&read[..7], b"one two");
        for _ in 0..2 {
            assert_eq!(write(&outbox, &vec![b'x'; PIECE_BYTES - 1]), Poll::Ready(PIECE_BYTES - 1));
        }
        to.read_exact(&mut read[..PIECE_BYTES - 1]).await.unwrap();
        assert_eq!(outbox.lock().bytes.len(), PIECE_BYTES - 1, "the second waits for the end of the turn");
    }

    #[tokio::test]
    async fn whoever_takes_nothing_stops_the_writing_and_leaves_it_unread() {
        let pulse = Arc::default();
        let (outbox, to) = outbox(&pulse).await;
        let piece = vec![b'x'; PIECE_BYTES / 2];
        let mut written = 0;
        while let Poll::Ready(bytes) = write(&outbox, &piece) {
            written += bytes;
            assert!(written < 64 << 20, "the system takes no end of it");
        }
        outbox.lock().end_turn(&mut Context::from_waker(Waker::noop()));
        assert!(!pulse.is_left_unread() && pulse.is_left_unread(), "for the whole of the second round");
        let left = {
            let letters = outbox.lock();
            letters.bytes.len() - letters.sent
        };
        let (mut to, mut read) = (to, vec![0; written - left]);
        to.read_exact(&mut read).await.unwrap();
        std::future::poll_fn(|cx| {
            let mut letters = outbox.lock();
            letters.end_turn(cx);
            if letters.bytes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(!pulse.is_left_unread() && !pulse.is_left_unread() && !pulse.is_left_unread());
        assert_eq!(outbox.lock().bytes.capacity(), 0, "a connection that is idle has no room");
    }

    #[tokio::test]
    async fn a_connection_that_broke_says_so_and_is_not_tried_again() {
        let (outbox, to) = outbox(&Arc::default()).await;
        // Closed with bytes that were not read: the system resets the connection.
        assert_eq!(write(&outbox, b"lost"), Poll::Ready(4));
        outbox.lock().end_turn(&mut Context::from_waker(Waker::noop()));
        to.readable().await.unwrap();
        drop(to);
        let broke = std::future::poll_fn(|cx| {
            let mut letters = outbox.lock();
            match letters.poll_write(cx, &[IoSlice::new(b"more")]) {
                Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
                _ => {
                    letters.end_turn(cx);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        });
        let broke = broke.await;
        assert!(matches!(broke, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{broke}");
        let mut letters = outbox.lock();
        assert!(letters.bytes.is_empty());
        let nobody = &mut Context::from_waker(Waker::noop());
        assert!(matches!(letters.poll_send(nobody), Poll::Ready(Err(_))), "whoever ends it is told, too");
    }

    #[tokio::test]
    async fn requests_are_answered_at_once_unless_they_wait_or_the_turn_is_old() {
        let (outbox, _to) = outbox(&Arc::default()).await;
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = |ends_after| {
            let polls = Arc::clone(&polls);
            std::future::poll_fn(move |cx| {
                cx.waker().wake_by_ref();
                if polls.fetch_add(1, Ordering::Relaxed) + 1 < ends_after { Poll::Pending } else { Poll::Ready(()) }
            })
        };
        let (requests, begin) = (AtOnce(outbox.clone(), Cores::here()), |at| outbox.lock().began = at);
        begin(Instant::now() + Duration::from_secs(1));
        requests.execute(counted(1));
        assert_eq!(polls.swap(0, Ordering::Relaxed), 1);
        requests.execute(counted(3));
        assert_eq!(polls.load(Ordering::Relaxed), 1, "the rest is for a task");
        while polls.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        requests.execute(std::future::poll_fn(|_| -> Poll<()> { panic!("as a test") }));
        begin(Instant::now() - 2 * AT_ONCE);
        requests.execute(counted(4));
        assert_eq!(polls.load(Ordering::Relaxed), 3, "all of it is for a task");
        while polls.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
    }
}
