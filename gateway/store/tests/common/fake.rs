//! A server that greets like Redis and then answers reads as it is told: for what a real one never does.
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How the fake answers an MGET.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// As a Redis without any key.
    Proper,
    /// With these bytes, whatever was asked.
    Says(Vec<u8>),
    /// With these bytes, then the connection is closed.
    HangsUpAfter(Vec<u8>),
    /// With the first bytes, and then the others over and over.
    NeverStopsAfter(Vec<u8>, Vec<u8>),
}

pub(crate) struct Fake {
    port: u16,
    manner: Arc<Mutex<Manner>>,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let manner = Arc::new(Mutex::new(manner));
        let manners = manner.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, manners.clone()));
            }
        });
        Self { port, manner, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("nobody panics with it") = manner;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One command arrives in one piece on loopback, as long as it is short and alone, which holds for the tests
/// that use this.
async fn talk(mut stream: TcpStream, manner: Arc<Mutex<Manner>>) {
    let mut command = vec![0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut command).await {
        let text = String::from_utf8_lossy(&command[..n]).into_owned();
        if !text.contains("MGET") {
            let pongs = "+PONG\r\n".repeat(text.matches("PING").count());
            let _ = stream.write_all(pongs.as_bytes()).await;
            continue;
        }
        let manner = manner.lock().expect("nobody panics with it").clone();
        match manner {
            Manner::Proper => {
                let arguments: usize = text[1..].split("\r\n").next().and_then(|n| n.parse().ok()).unwrap_or(1);
                let nils = format!("*{}\r\n{}", arguments - 1, "$-1\r\n".repeat(arguments - 1));
                let _ = stream.write_all(nils.as_bytes()).await;
            }
            Manner::Says(bytes) => {
                let _ = stream.write_all(&bytes).await;
            }
            Manner::HangsUpAfter(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Manner::NeverStopsAfter(bytes, more) => {
                let mut sent = stream.write_all(&bytes).await;
                while sent.is_ok() {
                    sent = stream.write_all(&more).await;
                }
                return;
            }
        }
    }
}
