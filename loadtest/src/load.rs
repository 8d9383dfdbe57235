//! A closed loop: a fixed number of streams, each asking again as soon as it is answered. It finds out how many
//! answers a second there can be, and what one costs; not how long callers would wait under a given load.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::ask::Ask;
use crate::client::Connection;
use crate::report::{self, Tally};

/// `weir-loadtest load`
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// The gateway or the floor.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    to: SocketAddr,
    #[command(flatten)]
    ask: Ask,
    /// How long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// HTTP/2 connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Streams at a time on each.
    #[arg(long, default_value_t = 8)]
    streams: usize,
}

impl Load {
    /// Loads, then reports. The first refusal ends it: refusals are cheap, and would pass for speed.
    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let questions = Questions { frames: self.ask.frames().into(), next: Cell::default() };
        let questions = Rc::new(questions);
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(self.to).await?);
        }
        let tally = Tally::start()?;
        let until = Instant::now() + Duration::from_secs_f64(self.seconds);
        let local = LocalSet::new();
        let mut streams = JoinSet::new();
        for connection in &connections {
            for _ in 0..self.streams {
                let asking = ask(connection.clone(), Rc::clone(&questions), tally.clone(), until);
                streams.spawn_local_on(asking, &local);
            }
        }
        local
            .run_until(async {
                while let Some(ended) = streams.join_next().await {
                    ended??;
                }
                Ok::<_, crate::Failed>(())
            })
            .await?;
        report::say(&tally.json());
        Ok(())
    }
}

/// The requests, handed out in turn.
struct Questions {
    frames: Box<[Bytes]>,
    next: Cell<usize>,
}

impl Questions {
    fn next(&self) -> Bytes {
        let at = self.next.get();
        self.next.set((at + 1) % self.frames.len());
        self.frames[at].clone()
    }
}

async fn ask(
    mut connection: Connection,
    questions: Rc<Questions>,
    tally: Tally,
    until: Instant,
) -> Result<(), crate::Failed> {
    loop {
        let asked = Instant::now();
        if asked >= until {
            return Ok(());
        }
        let mut bytes = 0;
        connection.call(questions.next(), |chunk| bytes += chunk.len()).await?;
        tally.answered(asked, bytes);
    }
}
