//! Stands between a store and its Redis: holds the replies to reads back, or lets nobody track writes, as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) struct Relay {
    pub(crate) port: u16,
    holds: watch::Sender<bool>,
    refuses_tracking: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (holds, refuses_tracking) = (watch::Sender::new(false), Arc::<AtomicBool>::default());
        let mut task = JoinSet::new();
        let (held, refuses) = (holds.subscribe(), refuses_tracking.clone());
        task.spawn(async move {
            let mut pairs = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let tracks = Arc::<AtomicBool>::default();
                pairs.spawn(up(from_client, to_server, tracks.clone(), refuses.clone()));
                pairs.spawn(down(from_server, to_client, tracks, held.clone()));
            }
        });
        Self { port, holds, refuses_tracking, _task: task }
    }

    /// Replies wait, except those to who tracks.
    pub(crate) fn hold(&self) {
        self.holds.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.holds.send_replace(false);
    }

    /// Who asks for tracking is cut off.
    pub(crate) fn refuse_tracking(&self, refuse: bool) {
        self.refuses_tracking.store(refuse, SeqCst);
    }
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, tracks: Arc<AtomicBool>, refuses: Arc<AtomicBool>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        // A command is short and arrives in one piece.
        if bytes[..n].windows(8).any(|w| w == b"TRACKING") {
            if refuses.load(SeqCst) {
                return;
            }
            tracks.store(true, SeqCst);
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    tracks: Arc<AtomicBool>,
    mut held: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if !tracks.load(SeqCst) {
            // Fails only when the relay is gone.
            let _ = held.wait_for(|held| !held).await;
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
