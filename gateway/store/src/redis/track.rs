//! Hears of every write to a server, by client tracking, on one connection beside those that read. Promises: what was
//! read before hearing began, or while it may have been interrupted, is not taken for fresh once it is back; a server
//! that refuses is not asked in a loop; and a connection over which nothing comes any more is noticed.
//!
//! Broadcasting mode: the server tells of writes to all keys of a prefix, whoever reads them over whichever connection,
//! and remembers no key for us. One prefix, not one per view: the server compares every write with every prefix.
//!
//! The connection speaks RESP2 and has tracking redirected to itself, as messages of a channel. As RESP3's pushes the
//! library (fred 10.1) loses the one that says that all keys are gone (FLUSHALL), and a server lets what it has to
//! push pile up without limit, which it does not for channels.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientInterface, ClientLike, PubsubInterface, TrackingInterface};
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, Server, ServerConfig, TcpConfig, TlsConnector};
use fred::types::{ConnectHandle, Key, RespVersion, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::dial::{CONNECT_TIMEOUT, Place};
use super::lane::{CONFIGURATION_PAUSE, HEARTBEAT, STEADY, jittered};
use super::node::{Node, READ_LIFE};
use crate::tracking::{Reach, Tracking};
use crate::{Counters, Trouble};

/// Where a server announces writes to clients that speak RESP2.
const CHANNEL: &str = "__redis__:invalidate";
/// Wait after the first failed attempt; doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest wait between attempts: meanwhile rows are only as fresh as their view says.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// Messages that may wait for us. A server puts all writes of one turn of its loop into one; when more than this wait,
/// everything counts as written instead.
const MESSAGES_MAX: usize = 1_024;
/// Keys that are forgotten in one go, half a microsecond each, before others may use the thread.
const KEYS_AT_ONCE: usize = 128;

/// Listens, and again when that ends; never returns. Dropping the future closes the connection.
pub(super) async fn track(node: Arc<Node>, tracking: Arc<Tracking>) {
    let counters = &node.counters;
    let _listener = Listener::join(counters);
    let mut reach = tracking.reach();
    let (mut pause, mut told) = (PAUSE_MIN, None);
    loop {
        let began = Instant::now();
        let ended = session(&node, &tracking, &mut reach, &mut told).await;
        if began.elapsed() >= STEADY {
            pause = PAUSE_MIN;
        }
        let Some(Lost { trouble, why }) = ended.err() else { continue };
        counters.trouble(trouble);
        let (place, kind) = (&node.place, trouble.name());
        // A server that has something against it has so the next time too: no permission, too old a version.
        if trouble.is_configuration() || trouble == Trouble::Other {
            if told.replace(trouble) != Some(trouble) {
                tracing::error!(node = %place, trouble = kind, %why, "Redis does not let us track writes; somebody must mend that");
            }
            sleep(jittered(CONFIGURATION_PAUSE)).await;
            continue;
        }
        if told.replace(trouble) != Some(trouble) {
            tracing::warn!(node = %place, trouble = kind, %why, "writes are not tracked; trying on");
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why there is no tracking.
struct Lost {
    trouble: Trouble,
    why: String,
}

/// One connection's life. Ends well when it is to be made anew with another reach.
async fn session(
    node: &Node,
    tracking: &Tracking,
    reach: &mut watch::Receiver<Reach>,
    told: &mut Option<Trouble>,
) -> Result<(), Lost> {
    let wanted = *reach.borrow_and_update();
    let client = client(node);
    let mut messages = client.invalidation_rx();
    let mut driver = Driver(client.connect());
    tokio::select! {
        biased;
        end = &mut driver.0 => return Err(ended(end)),
        begun = timeout(CONNECT_TIMEOUT, begin(&client, tracking.prefix(wanted))) => match begun {
            Ok(begun) => begun?,
            Err(_) => return Err(Lost::new(Trouble::Timeout, "no answer")),
        },
    }
    // Whatever was read until now was not tracked by this connection.
    tracking.unheard();
    let _up = Up::count(&node.counters);
    if told.take().is_some() {
        tracing::info!(node = %node.place, "writes are tracked again");
    }
    let silence = silence(&client);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            biased;
            message = messages.recv() => match message {
                // No keys: all of them.
                Ok(message) if message.keys.is_empty() => tracking.unheard(),
                Ok(message) => written(tracking, &message.keys).await,
                Err(RecvError::Lagged(_)) => tracking.unheard(),
                Err(RecvError::Closed) => return Err(Lost::new(Trouble::Connection, "closed")),
            },
            end = &mut driver.0 => return Err(ended(end)),
            why = &mut silence => return Err(why),
            _ = reach.changed() => return Ok(()),
        }
    }
}

async fn written(tracking: &Tracking, keys: &[Key]) {
    for some in keys.chunks(KEYS_AT_ONCE) {
        some.iter().for_each(|key| tracking.written(key.as_bytes()));
        if some.len() == KEYS_AT_ONCE {
            yield_now().await;
        }
    }
}

/// Asks the server to tell of writes, and waits until it does.
async fn begin(client: &Client, prefix: Option<&str>) -> Result<(), Lost> {
    let own: i64 = client.client_id().await?;
    let prefixes: Vec<String> = prefix.into_iter().map(str::to_owned).collect();
    let () = client.client_tracking("ON", Some(own), prefixes, true, false, false, false).await?;
    // Returns before the server has heard; the greeting after it is answered differently once it has.
    client.subscribe(CHANNEL).await?;
    match client.ping(None).await? {
        Value::Array(_) => Ok(()),
        _ => Err(Lost::new(Trouble::Protocol, "the server does not take us for a subscriber")),
    }
}

/// Until the server does not answer any more.
async fn silence(client: &Client) -> Lost {
    loop {
        sleep(HEARTBEAT).await;
        match timeout(READ_LIFE, client.ping::<Value>(None)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Lost::new(Trouble::Timeout, "no answer"),
        }
    }
}

/// Not connected yet. It makes one connection and no second: when that ends, so does the client, and we know.
fn client(node: &Node) -> Client {
    let (username, password) = node.dialer.credentials();
    let server = match &node.place {
        Place::Socket(path) => ServerConfig::Unix { path: path.clone() },
        Place::Tcp(host, port) => {
            // The library puts a colon and the port behind the host and looks that up.
            let reached = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
            let tls_server_name = Some(host.to_string().into());
            ServerConfig::Centralized { server: Server { host: reached.into(), port: *port, tls_server_name } }
        }
    };
    let config = Config {
        username: username.map(str::to_owned),
        password: password.map(str::to_owned),
        server,
        version: RespVersion::RESP2,
        // Tracking knows no databases: a write to a key of this name in any of them is told.
        database: None,
        tls: node.dialer.tls().map(|tls| TlsConnector::from(tls.clone()).into()),
        ..Config::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: CONNECT_TIMEOUT,
        internal_command_timeout: CONNECT_TIMEOUT,
        max_command_attempts: 1,
        auto_client_setname: false,
        tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig { broadcast_channel_capacity: MESSAGES_MAX, ..PerformanceConfig::default() };
    Client::new(config, Some(performance), Some(connection), None)
}

/// The library's task; aborted, it closes the connection.
struct Driver(ConnectHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn ended(end: Result<Result<(), Error>, tokio::task::JoinError>) -> Lost {
    match end {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => Lost::new(Trouble::Connection, "closed"),
        Err(error) => Lost::new(Trouble::Other, error.to_string()),
    }
}

impl Lost {
    fn new(trouble: Trouble, why: impl Into<String>) -> Self {
        Self { trouble, why: why.into() }
    }
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        let details = error.details();
        let trouble = match error.kind() {
            ErrorKind::Auth => Trouble::Auth,
            ErrorKind::Timeout => Trouble::Timeout,
            ErrorKind::Tls => Trouble::Tls,
            // The library keeps of a socket's error only its text; this kind is what rustls makes of a certificate.
            ErrorKind::IO if details.contains("InvalidData") => Trouble::Tls,
            ErrorKind::IO | ErrorKind::Canceled => Trouble::Connection,
            ErrorKind::Protocol | ErrorKind::Parse => Trouble::Protocol,
            _ => match Trouble::of_complaint(details) {
                // Neither a code that we know nor that of all other complaints: the library's own words, for an end that
                // came while it waited.
                Trouble::Other if !details.starts_with("ERR") => Trouble::Connection,
                said => said,
            },
        };
        Self::new(trouble, details)
    }
}

/// A server whose writes are to be heard of, for as long as this lives.
struct Listener<'a>(&'a Counters);

impl<'a> Listener<'a> {
    fn join(counters: &'a Counters) -> Self {
        counters.listeners.fetch_add(1, Relaxed);
        Self(counters)
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Relaxed);
    }
}

/// A server whose writes are heard of, for as long as this lives.
struct Up<'a>(&'a Counters);

impl<'a> Up<'a> {
    fn count(counters: &'a Counters) -> Self {
        counters.listeners_up.fetch_add(1, Relaxed);
        Self(counters)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.listeners_up.fetch_sub(1, Relaxed);
    }
}
