//! Calls over several connections, whichever the protocol, and what their ends mean. A connection that breaks is made
//! anew by the next call that wants it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, Semaphore};
use tonic::codegen::http::StatusCode;

use crate::client::{self, Refused};
use crate::http1;
use crate::scenario::{Asks, Protocol};
use crate::tally::Outcome;

/// `grpc-status` of a request that was too late.
const DEADLINE_EXCEEDED: i32 = 4;
/// `grpc-status` of a request that was refused for there are too many.
const RESOURCE_EXHAUSTED: i32 = 8;

/// Connections to one gateway.
pub(crate) struct Callers {
    to: SocketAddr,
    timeout: Option<Duration>,
    way: Way,
}

enum Way {
    /// Many calls at a time on each connection.
    Grpc { lanes: Vec<Lane>, turn: Cell<usize> },
    /// One call at a time on each.
    Json { idle: RefCell<Vec<http1::Connection>>, free: Semaphore },
}

#[derive(Default)]
struct Lane {
    connection: RefCell<Option<client::Connection>>,
    opening: Mutex<()>,
}

impl Callers {
    pub(crate) fn new(to: SocketAddr, asks: &Asks) -> Self {
        let way = match asks.protocol {
            Protocol::Grpc => {
                Way::Grpc { lanes: (0..asks.connections).map(|_| Lane::default()).collect(), turn: Cell::default() }
            }
            Protocol::Json => Way::Json { idle: RefCell::default(), free: Semaphore::new(asks.connections) },
        };
        Self { to, timeout: asks.timeout, way }
    }

    /// The calls from now on go over the next connection.
    pub(crate) fn turn(&self) {
        if let Way::Grpc { turn, .. } = &self.way {
            turn.set(turn.get().wrapping_add(1));
        }
    }

    /// Calls; with `keep`, returns the message of an answer.
    pub(crate) async fn call(&self, body: Bytes, keep: bool) -> (Outcome, Option<Bytes>) {
        let called = match &self.way {
            Way::Grpc { lanes, turn } => self.call_grpc(&lanes[turn.get() % lanes.len()], body, keep).await,
            Way::Json { idle, free } => self.call_json(idle, free, body, keep).await,
        };
        match called {
            Ok(done) => done,
            Err(error) => (failure(&*error), None),
        }
    }

    async fn call_grpc(&self, lane: &Lane, body: Bytes, keep: bool) -> Result<(Outcome, Option<Bytes>), crate::Failed> {
        let mut connection = self.open(lane).await?;
        if connection.ready().await.is_err() {
            // It has gone, or its server is about to: nothing was sent on it yet.
            lane.connection.take();
            connection = self.open(lane).await?;
        }
        let mut reply = keep.then(BytesMut::new);
        let called = connection.call(body, |chunk| reply.iter_mut().for_each(|r| r.extend_from_slice(&chunk))).await;
        if let Err(error) = &called
            && let Some(error) = error.downcast_ref::<h2::Error>()
            && !error.is_reset()
        {
            lane.connection.take();
        }
        called.map(|()| (Outcome::Answered, reply.map(BytesMut::freeze)))
    }

    async fn open(&self, lane: &Lane) -> Result<client::Connection, crate::Failed> {
        let open = lane.connection.borrow().clone();
        if let Some(connection) = open {
            return Ok(connection);
        }
        let _alone = lane.opening.lock().await;
        if let Some(connection) = &*lane.connection.borrow() {
            return Ok(connection.clone());
        }
        let connection = client::Connection::open_with_timeout(self.to, self.timeout).await?;
        *lane.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }

    async fn call_json(
        &self,
        idle: &RefCell<Vec<http1::Connection>>,
        free: &Semaphore,
        body: Bytes,
        keep: bool,
    ) -> Result<(Outcome, Option<Bytes>), crate::Failed> {
        let _permit = free.acquire().await?;
        let kept = idle.borrow_mut().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => http1::Connection::open(self.to, self.timeout).await?,
        };
        let (status, reply) = connection.call(body).await?;
        // A caller who leaves in between takes the connection along: its reply would be taken for the next one's.
        idle.borrow_mut().push(connection);
        let outcome = match status {
            StatusCode::OK => Outcome::Answered,
            StatusCode::TOO_MANY_REQUESTS => Outcome::Refused,
            StatusCode::GATEWAY_TIMEOUT => Outcome::TooLate,
            other => Outcome::Failed(format!("HTTP {}", other.as_u16())),
        };
        Ok((outcome, keep.then_some(reply)))
    }
}

/// What an error means; few words, since they are counted by.
fn failure(error: &(dyn std::error::Error + 'static)) -> Outcome {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return match refused.code {
            RESOURCE_EXHAUSTED => Outcome::Refused,
            DEADLINE_EXCEEDED => Outcome::TooLate,
            code => Outcome::Failed(format!("grpc-status {code}")),
        };
    }
    if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
        return Outcome::Failed(format!("HTTP/2 {reason:?}"));
    }
    Outcome::Failed("connection".to_owned())
}
