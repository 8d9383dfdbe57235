//! A bare multiplexer: many ask over one connection, and replies are given out in the order of the questions. It has no
//! timeouts, no breakers and no second try: what a client of Redis cannot beat by much.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::resp::Scan;

/// More than a floor is ever asked at a time.
const QUESTIONS_MAX: usize = 4_096;
/// Room for the reply to a request of 100 rows of 50 numbers.
const READ_BYTES: usize = 64 << 10;

/// Nothing more comes.
#[derive(Debug)]
pub(crate) struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection to Redis is lost, or a row is missing")
    }
}

impl std::error::Error for Lost {}

/// One connection. The last clone closes it.
#[derive(Clone)]
pub(crate) struct Mux {
    questions: mpsc::Sender<Question>,
}

struct Question {
    commands: Vec<u8>,
    replies: usize,
    tell: oneshot::Sender<Bytes>,
}

impl Mux {
    /// Connects. Must be called within a tokio runtime, two of whose tasks then move the bytes.
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self, crate::Failed> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (sent, waiting) = mpsc::channel(QUESTIONS_MAX);
        tokio::spawn(send(write, asked, sent));
        tokio::spawn(receive(read, waiting));
        Ok(Self { questions })
    }

    /// Sends commands; what is returned brings the bytes of their replies, or the end of the connection.
    pub(crate) fn ask(&self, commands: Vec<u8>, replies: usize) -> Result<oneshot::Receiver<Bytes>, Lost> {
        let (tell, told) = oneshot::channel();
        let asked = self.questions.try_send(Question { commands, replies, tell });
        asked.map_err(|_| Lost)?;
        Ok(told)
    }
}

type Waiting = (usize, oneshot::Sender<Bytes>);

async fn send(mut to: OwnedWriteHalf, mut asked: mpsc::Receiver<Question>, sent: mpsc::Sender<Waiting>) {
    let (mut questions, mut out) = (Vec::new(), Vec::new());
    loop {
        if asked.recv_many(&mut questions, QUESTIONS_MAX).await == 0 {
            return;
        }
        // Whoever else is about to ask goes out with the first: one system call for all of them.
        tokio::task::yield_now().await;
        while let Ok(more) = asked.try_recv() {
            questions.push(more);
        }
        out.clear();
        for question in questions.drain(..) {
            out.extend_from_slice(&question.commands);
            if sent.send((question.replies, question.tell)).await.is_err() {
                return;
            }
        }
        if to.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Ends with the connection, or at what is no reply; whoever still waits is told by the end of his channel.
async fn receive(mut from: OwnedReadHalf, mut waiting: mpsc::Receiver<Waiting>) {
    let mut came = BytesMut::new();
    while let Some((replies, tell)) = waiting.recv().await {
        let mut scan = Scan::of(replies);
        let end = loop {
            match scan.end(&came) {
                Ok(Some(end)) => break end,
                Ok(None) => {}
                Err(error) => return crate::report::complain(&*error),
            }
            came.reserve(READ_BYTES);
            if !from.read_buf(&mut came).await.is_ok_and(|more| more > 0) {
                return;
            }
        };
        let _ = tell.send(came.split_to(end).freeze());
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn everybody_gets_his_own_reply_and_nobody_one_that_does_not_come() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 6];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"onetwo");
            // Two replies for the first, one for the second, and none for the third.
            for piece in [b"$1\r\na\r\n$1\r".as_slice(), b"\nb\r\n*1\r\n$2\r\ncd\r\n", b"-ERR no\r\n"] {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
            }
            stream.read_exact(&mut [0; 5]).await
        });
        let mux = Mux::connect(at).await.unwrap();
        let (first, second) = (mux.ask(b"one".into(), 2).unwrap(), mux.ask(b"two".into(), 1).unwrap());
        assert_eq!(first.await.unwrap(), b"$1\r\na\r\n$1\r\nb\r\n".as_slice());
        assert_eq!(second.await.unwrap(), b"*1\r\n$2\r\ncd\r\n".as_slice());
        assert!(mux.ask(b"three".into(), 1).unwrap().await.is_err());
        drop(mux);
        server.await.unwrap().unwrap();
    }
}
