//! One connection that many use at once: commands go out in the order in which they come, and each caller gets the
//! bytes of its own replies, to take apart itself. Promises: replies are never mispaired; whoever stops waiting costs
//! the others nothing; and when bytes come that are no replies, everybody who waits is told and the connection ends.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::poll_read_buf;

use super::resp::{Replies, Scan};
use crate::Trouble;

/// Questions that wait to be sent. More than a store has batches under way: full means that nothing is sent any more.
const QUESTIONS_MAX: usize = 2_048;
/// Room made for what comes: a reply of a hundred rows comes in one or two pieces.
const READ_BYTES: usize = 64 << 10;
/// What is left of it is read into before there is more room. Mostly there is nothing to read then, and when there is
/// something, whoever has the last reply is done with it and its room is used again, which is near.
const READ_BYTES_MIN: usize = 16 << 10;
/// Bytes of replies to a small question: as much as a network of 2 Gbit/s brings while a read lives. More is a server that
/// has lost its mind, and would have all our memory. What they are read into doubles as they come, and must not once
/// more to find that out.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// And so many for each byte that was asked with, which is 3 KiB for a key of fifty: whoever lawfully asks for a hundred
/// thousand rows does not take the connection from all others.
const REPLY_BYTES_PER_ASKED: usize = 64;
/// Bytes waiting to be sent before more questions are taken: a server that does not read is not fed.
const SEND_BYTES_MAX: usize = 4 << 20;
/// Replies under way beyond which questions wait here: two batches of a hundred hashes. Redis takes whatever lies in its
/// buffer before it writes on, so that of ten batches all replies come at the end, together, and nobody here has anything
/// to do until then. One batch that it works on and one that is next keep both sides busy; what still waits here and is
/// not wanted any more is never asked.
const UNDER_WAY_MAX: usize = 200;
/// Reads between two chances for other tasks of the thread.
const READS_PER_POLL: usize = 32;

/// Asks over one connection. The last clone closes it, once what was asked is answered.
#[derive(Clone, Debug)]
pub(crate) struct Mux {
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    commands: Bytes,
    replies: usize,
    tell: oneshot::Sender<Result<Replies, Trouble>>,
}

impl Mux {
    /// Asks over this stream; the future does the work and ends with the connection.
    pub(crate) fn over<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Self, Driver<S>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let driver = Driver {
            stream,
            asked,
            is_asked_no_more: false,
            out: BytesMut::new(),
            came: BytesMut::new(),
            waiting: VecDeque::new(),
            scan: Scan::default(),
            has_gathered: false,
            under_way: 0,
        };
        (Self { questions }, driver)
    }

    /// Sends encoded commands and returns the bytes of their replies, `replies` in number. Sent at most once; who
    /// drops the future only stops waiting.
    pub(crate) async fn ask(&self, commands: impl Into<Bytes>, replies: usize) -> Result<Replies, Trouble> {
        let (commands, (tell, told)) = (commands.into(), oneshot::channel());
        self.questions.try_send(Question { commands, replies, tell }).map_err(|error| match error {
            TrySendError::Full(_) => Trouble::Busy,
            TrySendError::Closed(_) => Trouble::Connection,
        })?;
        told.await.unwrap_or(Err(Trouble::Connection))
    }
}

/// A question that was sent, or is about to be.
#[derive(Debug)]
struct Waiting {
    replies: usize,
    bytes_max: usize,
    tell: oneshot::Sender<Result<Replies, Trouble>>,
}

/// Moves bytes between the stream and those who wait.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    stream: S,
    asked: mpsc::Receiver<Question>,
    is_asked_no_more: bool,
    out: BytesMut,
    came: BytesMut,
    waiting: VecDeque<Waiting>,
    /// Of the replies to the first that waits.
    scan: Scan,
    /// Whether what is to be sent has waited for more.
    has_gathered: bool,
    /// Replies that were asked for and have not come.
    under_way: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let ended = match this.exchange(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => Trouble::Connection,
            Poll::Ready(Err(trouble)) => trouble,
        };
        this.asked.close();
        while let Ok(question) = this.asked.try_recv() {
            let _ = question.tell.send(Err(ended));
        }
        for waiting in this.waiting.drain(..) {
            let _ = waiting.tell.send(Err(ended));
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Until the connection is of no use any more, or of none to anybody.
    fn exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        self.send(cx)?;
        self.came.reserve(READ_BYTES);
        for _ in 0..READS_PER_POLL {
            if self.is_asked_no_more && self.waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.came.capacity() - self.came.len() < READ_BYTES_MIN {
                self.came.reserve(READ_BYTES);
            }
            match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.came)) {
                Ok(1..) => {
                    let was_full = self.is_full();
                    self.answer()?;
                    if was_full && !self.is_full() {
                        self.send(cx)?;
                    }
                }
                // The end of the stream, or an error: what was asked is not answered any more.
                Ok(0) => return Poll::Ready(Err(Trouble::Connection)),
                Err(error) => return Poll::Ready(Err(Trouble::of_io(&error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes questions and sends as much as the stream takes. The first question lets everybody else on this thread go
    /// before: what they ask goes out with it, in one piece that the server answers in one piece. Under load that is one
    /// system call on either side for several requests; without load there is nobody to wait for.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        loop {
            while self.out.len() < SEND_BYTES_MAX && !self.is_asked_no_more && !self.is_full() {
                match self.asked.poll_recv(cx) {
                    Poll::Ready(Some(question)) => self.take(question),
                    Poll::Ready(None) => self.is_asked_no_more = true,
                    Poll::Pending => break,
                }
            }
            if self.out.is_empty() {
                self.has_gathered = false;
                return Ok(());
            }
            if !std::mem::replace(&mut self.has_gathered, true) {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(sent @ 1..)) => self.out.advance(sent),
                Poll::Ready(Ok(0)) => return Err(Trouble::Connection),
                Poll::Ready(Err(error)) => return Err(Trouble::of_io(&error)),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Whether questions have to wait for replies.
    fn is_full(&self) -> bool {
        self.under_way >= UNDER_WAY_MAX
    }

    fn take(&mut self, question: Question) {
        // Nobody waits any more: then it need not be asked either.
        if question.tell.is_closed() {
            return;
        }
        self.out.extend_from_slice(&question.commands);
        if self.waiting.is_empty() {
            self.scan = Scan::of(question.replies);
        }
        self.under_way += question.replies;
        let bytes_max = REPLY_BYTES_MAX + question.commands.len() * REPLY_BYTES_PER_ASKED;
        self.waiting.push_back(Waiting { replies: question.replies, bytes_max, tell: question.tell });
    }

    /// Hands out the replies that are complete.
    fn answer(&mut self) -> Result<(), Trouble> {
        while let Some(first) = self.waiting.front() {
            if !self.scan.is_over(&self.came).map_err(|_| Trouble::Protocol)? {
                return if self.came.len() + READ_BYTES > first.bytes_max { Err(Trouble::Protocol) } else { Ok(()) };
            }
            let scan = std::mem::take(&mut self.scan);
            let replies = self.came.split_to(scan.len()).freeze();
            if let Some(answered) = self.waiting.pop_front() {
                self.under_way -= answered.replies;
                let _ = answered.tell.send(Ok(scan.replies(replies)));
            }
            self.scan = Scan::of(self.waiting.front().map_or(0, |next| next.replies));
        }
        // A reply without a question: the pairing cannot be trusted any more.
        if self.came.has_remaining() { Err(Trouble::Protocol) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn everyone_gets_their_own_replies_in_whatever_pieces_they_come() {
        let (ours, mut theirs) = duplex(1 << 16);
        let (mux, driver) = Mux::over(ours);
        let driver = tokio::spawn(driver);
        let ask = |text: &'static str, replies| {
            let mux = mux.clone();
            tokio::spawn(async move { mux.ask(text.as_bytes().to_vec(), replies).await })
        };
        let first = ask("first", 2);
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).await.unwrap();
        let second = ask("second", 1);
        let mut heard = [0; 6];
        theirs.read_exact(&mut heard).await.unwrap();
        for byte in b"+a\r\n$1\r\nb\r\n:7\r\n" {
            theirs.write_all(&[*byte]).await.unwrap();
        }
        let first: Vec<_> = first.await.unwrap().unwrap().each().collect();
        assert_eq!(first, ["+a\r\n", "$1\r\nb\r\n"]);
        assert_eq!(second.await.unwrap().unwrap().all(), ":7\r\n");
        drop(mux);
        driver.await.unwrap();
    }

    #[tokio::test]
    async fn who_stops_waiting_costs_the_others_nothing() {
        let (ours, mut theirs) = duplex(1 << 16);
        let (mux, driver) = Mux::over(ours);
        tokio::spawn(driver);
        let (left, stays) = (mux.clone(), mux.clone());
        let left = tokio::spawn(async move { left.ask(b"x".to_vec(), 1).await });
        let mut heard = [0; 1];
        theirs.read_exact(&mut heard).await.unwrap();
        left.abort();
        let stays = tokio::spawn(async move { stays.ask(b"y".to_vec(), 1).await });
        theirs.read_exact(&mut heard).await.unwrap();
        theirs.write_all(b":1\r\n:2\r\n").await.unwrap();
        assert_eq!(stays.await.unwrap().unwrap().all(), ":2\r\n");
    }

    #[tokio::test]
    async fn what_would_only_wait_at_the_server_waits_here() {
        let (ours, mut theirs) = duplex(1 << 16);
        let (mux, driver) = Mux::over(ours);
        tokio::spawn(driver);
        let ask = |text: &'static str, replies| {
            let mux = mux.clone();
            tokio::spawn(async move { mux.ask(text.as_bytes().to_vec(), replies).await })
        };
        let (first, second, left, last) = (ask("1", UNDER_WAY_MAX - 1), ask("2", 9), ask("3", 1), ask("4", 1));
        let mut heard = [0; 2];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"12");
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        // Whatever could be sent is sent before anybody hears of a reply.
        theirs.write_all(&b":1\r\n".repeat(UNDER_WAY_MAX - 1)).await.unwrap();
        assert!(first.await.unwrap().is_ok());
        theirs.read_exact(&mut heard[..1]).await.unwrap();
        assert_eq!(heard[0], b'4', "nobody waits for the third any more");
        theirs.write_all(&b":1\r\n".repeat(10)).await.unwrap();
        assert!(second.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn garbage_and_replies_that_nobody_asked_for_end_the_connection() {
        for bytes in [&b"HTTP/1.1 200\r\n"[..], b":1\r\n:2\r\n", b"$5\r\nab"] {
            let (ours, mut theirs) = duplex(1 << 16);
            let (mux, driver) = Mux::over(ours);
            let driver = tokio::spawn(driver);
            let asked = mux.clone();
            let asked = tokio::spawn(async move { asked.ask(b"x".to_vec(), 1).await });
            let mut heard = [0; 1];
            theirs.read_exact(&mut heard).await.unwrap();
            theirs.write_all(bytes).await.unwrap();
            drop(theirs);
            driver.await.unwrap();
            let told = asked.await.unwrap();
            assert!(told.as_ref().map_or(true, |told| told.all() == ":1\r\n"), "{told:?}");
            assert_eq!(mux.ask(b"y".to_vec(), 1).await, Err(Trouble::Connection));
        }
    }

    #[tokio::test]
    async fn who_asks_for_much_may_be_told_much() {
        let told = async |asked_bytes: usize, value_bytes: usize| {
            let (ours, mut theirs) = duplex(1 << 20);
            let (mux, driver) = Mux::over(ours);
            tokio::spawn(driver);
            let asked = tokio::spawn(async move { mux.ask(vec![b'x'; asked_bytes], 1).await });
            theirs.read_exact(&mut vec![0; asked_bytes]).await.unwrap();
            let _ = theirs
                .write_all(&[format!("${value_bytes}\r\n").as_bytes(), &vec![b'v'; value_bytes], b"\r\n"].concat())
                .await;
            asked.await.unwrap().map(|told| told.all().len())
        };
        assert_eq!(told(50, REPLY_BYTES_MAX).await, Err(Trouble::Protocol));
        assert_eq!(told(1 << 20, REPLY_BYTES_MAX).await, Ok(REPLY_BYTES_MAX + "$67108864\r\n\r\n".len()));
        assert_eq!(told(1 << 20, 2 * REPLY_BYTES_MAX).await, Err(Trouble::Protocol));
    }
}
