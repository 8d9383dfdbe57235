//! The rows without a gateway: the items of a request over bare sockets, looked at only as far as it takes to know that
//! every row came. With the floor it is what a cache miss cannot beat by much.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::ask::Ask;
use crate::hashes;
use crate::mux::Lost;
use crate::nodes::Nodes;
use crate::report::{self, Tally};
use crate::resp::{self, Scan};

/// Room made before every read.
const READ_BYTES: usize = 128 << 10;

/// `weir-loadtest raw`
#[derive(Args, Debug)]
pub(crate) struct Raw {
    /// The Redis server.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    to: SocketAddr,
    /// How rows are read.
    #[arg(long, value_enum, default_value_t = Command::Mget)]
    command: Command,
    /// `to` is one of a cluster: its slots are asked for, and each node gets the keys that it has.
    #[arg(long)]
    cluster: bool,
    /// What the gateway's keys begin with.
    #[arg(long, value_name = "PREFIX", default_value = "bench:rows@1:")]
    prefix: String,
    /// Fields of a hash that are asked for.
    #[arg(long, default_value_t = 50)]
    features: usize,
    #[command(flatten)]
    ask: Ask,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// How long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// How rows are read.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Command {
    /// Packed rows, all in one command.
    Mget,
    /// Packed rows, a command each in one batch, as a cluster needs it.
    Get,
    /// Whole hashes.
    Hgetall,
    /// Some fields of hashes, and their time.
    Hmget,
}

impl Raw {
    /// Asks request after request, then reports.
    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let until = Duration::from_secs_f64(self.seconds);
        if self.in_flight > 1 || self.cluster {
            return self.many(until).await;
        }
        let keys = |ids: &Vec<String>| ids.iter().map(|id| self.key(id)).collect::<Vec<_>>();
        let batches: Vec<_> = self.ask.ids().iter().map(|ids| self.batch(&keys(ids))).collect();
        let mut stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let mut came = BytesMut::new();
        let tally = Tally::start()?;
        let until = Instant::now() + until;
        for (commands, replies) in batches.iter().cycle() {
            let asked = Instant::now();
            if asked >= until {
                break;
            }
            stream.write_all(commands).await?;
            let (mut scan, mut ended) = (Scan::of(*replies), None);
            while ended.is_none() {
                came.reserve(READ_BYTES);
                if stream.read_buf(&mut came).await? == 0 {
                    return Err("Redis closed the connection".into());
                }
                ended = scan.end(&came)?;
            }
            tally.answered(asked, came.len());
            came.clear();
        }
        report::say(&tally.json());
        Ok(())
    }

    /// Several at a time, over one multiplexed connection a node; commands are made when they are wanted.
    async fn many(self, until: Duration) -> Result<(), crate::Failed> {
        let nodes = if self.cluster { Nodes::of_cluster(self.to).await? } else { Nodes::one(self.to).await? };
        let (requests, nodes, raw) = (Rc::new(self.ask.ids()), Rc::new(nodes), Rc::new(self));
        let tally = Tally::start()?;
        let until = Instant::now() + until;
        let (local, mut asking) = (LocalSet::new(), JoinSet::new());
        for first in 0..raw.in_flight {
            let (raw, requests, nodes) = (Rc::clone(&raw), Rc::clone(&requests), Rc::clone(&nodes));
            let tally = tally.clone();
            let asks = async move {
                for at in first.. {
                    let asked = Instant::now();
                    if asked >= until {
                        break;
                    }
                    tally.answered(asked, raw.ask_nodes(&nodes, &requests[at % requests.len()]).await?);
                }
                Ok::<_, crate::Failed>(())
            };
            asking.spawn_local_on(asks, &local);
        }
        local
            .run_until(async {
                while let Some(ended) = asking.join_next().await {
                    ended??;
                }
                Ok::<_, crate::Failed>(())
            })
            .await?;
        report::say(&tally.json());
        Ok(())
    }

    /// Asks every node for what it has, all at once; returns how many bytes came.
    async fn ask_nodes(&self, nodes: &Nodes, ids: &[String]) -> Result<usize, crate::Failed> {
        let mut parts = vec![Vec::new(); nodes.count()];
        for id in ids {
            let key = self.key(id);
            parts[nodes.node(&key)].push(key);
        }
        let mut told = Vec::with_capacity(parts.len());
        for (node, keys) in parts.iter().enumerate().filter(|(_, keys)| !keys.is_empty()) {
            let (commands, replies) = self.batch(keys);
            told.push(nodes.mux(node).ask(commands, replies)?);
        }
        let mut bytes = 0;
        for reply in told {
            bytes += reply.await.map_err(|_| Lost)?.len();
        }
        Ok(bytes)
    }

    fn key(&self, id: &str) -> Vec<u8> {
        match self.command {
            Command::Mget | Command::Get => packed_key(&self.prefix, id),
            Command::Hgetall | Command::Hmget => hashes::key(id),
        }
    }

    /// The commands for some keys, and how many replies they have.
    fn batch(&self, keys: &[Vec<u8>]) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let fields = self.fields();
        for key in keys {
            match self.command {
                Command::Mget => {
                    mget(&mut out, keys);
                    return (out, 1);
                }
                Command::Get => resp::push(&mut out, &[b"GET", key]),
                Command::Hgetall => resp::push(&mut out, &[b"HGETALL", key]),
                Command::Hmget => {
                    let parts = [b"HMGET".as_slice(), key].into_iter().chain(fields.iter().map(Vec::as_slice));
                    resp::push(&mut out, &parts.collect::<Vec<_>>());
                }
            }
        }
        (out, keys.len())
    }

    fn fields(&self) -> Vec<Vec<u8>> {
        if self.command != Command::Hmget {
            return Vec::new();
        }
        let mut fields = hashes::fields(self.features);
        fields.push(hashes::time_field());
        fields
    }
}

/// Where the gateway has a packed row: see `rows::key`.
pub(crate) fn packed_key(prefix: &str, id: &str) -> Vec<u8> {
    format!("{prefix}s{}:{id}", id.len()).into_bytes()
}

/// All of these keys in one command.
pub(crate) fn mget(out: &mut Vec<u8>, keys: &[Vec<u8>]) {
    let parts: Vec<&[u8]> = std::iter::once(b"MGET".as_slice()).chain(keys.iter().map(Vec::as_slice)).collect();
    resp::push(out, &parts);
}
