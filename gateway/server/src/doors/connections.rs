//! Connections: how many there may be, how long each may stay, and when it has to go. The protocol's own limits on what a
//! stranger may do to the process through one stand here, those that are worth changing in `limits`.

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Door;
use super::counts::Ending;
use super::limits::Limits;
use super::patience::Patience;
use super::pulse::{Awaited, Felt, Pulse};
use super::turn::{AtOnce, Outbox, Turns};
use crate::cores::Seat;

/// Streams at a time on one HTTP/2 connection: a busy client opens a second connection instead.
const STREAMS_MAX: u32 = 256;
/// Bytes of headers of one request.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes that a slow reader may keep waiting per stream beside the reply itself.
const SEND_BUFFER_MAX: usize = 1 << 20;
/// A peer that vanished without a word is noticed after this and the next.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a caller may open and reset before the server could answer (rapid reset).
const PENDING_RESETS_MAX: usize = 100;
/// Streams of a connection's whole life that were over here when more of them came, beyond the fifty a second that the
/// library remembers: then it ends the connection with all its calls. This happens to a caller of many calls that are
/// refused while their bodies are on the way. Each costs some 200 bytes until the caller reads that it is over: all of
/// them no more than the bodies for which there is a window.
const STREAM_ERRORS_MAX: usize = 4_096;
/// Bytes of one body, and of all bodies of a connection, that may come before they are read: the largest takes four
/// round trips, and a connection never costs more than this of bodies that wait, however many streams it has.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of a frame, the least that HTTP/2 allows: it is looked at when all of it is here.
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// Pause after a failed accept: without free file descriptors the next one fails too.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// How long a flooder is listened to after the goodbye: not at all, but what was answered may still be sent.
const FLOOD_GRACE: Duration = Duration::from_secs(1);

/// Takes connections until `stop`, then lets those under way end within `drain`.
pub(crate) async fn serve(listener: TcpListener, door: Door, stop: impl Future<Output = ()>, drain: Duration) {
    let door = Arc::new(door);
    let (leave, leaving) = watch::channel(false);
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // Both ends are told by the closing of it.
            Ok(_) if open.len() >= door.limits.connections_max => {
                door.counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok((stream, from)) => {
                is_failing = false;
                let seat = door.cores.seat();
                let core = seat.handle();
                open.spawn_on(connection(stream, from.ip(), seat, Arc::clone(&door), leaving.clone()), &core);
            }
            Err(error) => {
                // The peer gave up, or we are out of file descriptors: neither is a reason to stop.
                door.counts.accept_errors.fetch_add(1, Ordering::Relaxed);
                if !is_failing {
                    tracing::warn!(%error, "connections cannot be accepted; tried again until they can");
                }
                is_failing = true;
                sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    drop(listener);
    leave.send_replace(true);
    if timeout(drain, async { while open.join_next().await.is_some() {} }).await.is_err() {
        let open = open.len();
        tracing::warn!(open, drain_ms = drain.as_millis() as u64, "connections were cut: their requests took too long");
    }
}

fn server(requests: AtOnce) -> auto::Builder<AtOnce> {
    let mut server = auto::Builder::new(requests);
    server
        .http1()
        .timer(TokioTimer::new())
        // It would run between requests, too: `Patience` tells headers that do not come from a caller without a request.
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(STREAM_ERRORS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    server
}

/// The life of a connection.
async fn connection(stream: TcpStream, from: IpAddr, _seat: Seat, door: Arc<Door>, leaving: watch::Receiver<bool>) {
    // Sockets are watched by the runtime that they were made in.
    let Ok(stream) = stream.into_std().and_then(TcpStream::from_std) else {
        door.counts.accept_errors.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let counts = Arc::clone(&door.counts);
    counts.open.fetch_add(1, Ordering::Relaxed);
    let ending = drive(stream, from, door, leaving).await;
    counts.open.fetch_sub(1, Ordering::Relaxed);
    counts.ended(ending);
    tracing::debug!(?ending, "a connection ended");
}

async fn drive(stream: TcpStream, from: IpAddr, door: Arc<Door>, leaving: watch::Receiver<bool>) -> Ending {
    // Replies are whole messages: waiting for more would only cost the budget.
    let _ = stream.set_nodelay(true);
    let (limits, counts) = (Arc::clone(&door.limits), Arc::clone(&door.counts));
    let (pulse, cores) = (Arc::new(Pulse::default()), door.cores.clone());
    let felt = Arc::clone(&pulse);
    // Called when headers are seen; what it returns is polled when there is a core for it. Whoever is refused is so here
    // and now, and does not take the room of a request.
    let answer = move |request: Request<Incoming>| {
        let under_way = (request.version() < Version::HTTP_2).then(|| felt.asked());
        let entered = door.gate.as_ref().map_or(Ok(None), |gate| gate.enter(&request, from).map(Some));
        let answering = entered.map(|entered| Box::pin(Arc::clone(&door).answer(entered, request)));
        let (pulse, counts) = (Arc::clone(&felt), Arc::clone(&counts));
        async move {
            let reply = match answering {
                Ok(answering) => answering.await,
                Err(refused) => *refused,
            };
            Ok::<_, Infallible>(reply.map(|body| Awaited::new(body, pulse, counts, under_way)))
        }
    };
    let (read, write) = stream.into_split();
    let outbox = Outbox::of(write, Arc::clone(&pulse));
    let stream = TokioIo::new(Felt::new(read, outbox.clone(), Arc::clone(&pulse)));
    let server = server(AtOnce(outbox.clone(), cores));
    let mut connection = Turns::of(server.serve_connection(stream, hyper::service::service_fn(answer)), outbox);
    let ending = tokio::select! {
        biased;
        ended = &mut connection => return Ending::of(ended),
        ending = until_it_must_go(&pulse, &limits, leaving) => ending,
    };
    let grace = match ending {
        Ending::Silent | Ending::Unread => return ending,
        Ending::Flood => FLOOD_GRACE,
        // Whoever is told to go may finish, and so may whom the gateway leaves: `drain` ends that.
        _ => limits.leaving_max,
    };
    connection.connection().graceful_shutdown();
    let finished = async {
        tokio::select! {
            biased;
            _ = &mut connection => {}
            () = left_unread(&pulse, &limits) => {}
            _ = Patience::with(&pulse, &limits) => {}
        }
    };
    let _ = timeout(grace, finished).await;
    ending
}

/// Resolves when a connection has had its time.
async fn until_it_must_go(pulse: &Pulse, limits: &Limits, mut leaving: watch::Receiver<bool>) -> Ending {
    tokio::select! {
        ending = Patience::with(pulse, limits) => ending,
        () = left_unread(pulse, limits) => Ending::Unread,
        () = sleep(jittered(limits.age)) => Ending::Age,
        () = pulse.flood() => Ending::Flood,
        // An error means that the door is gone.
        _ = leaving.wait_for(|leaving| *leaving) => Ending::Drain,
    }
}

/// Resolves when a reply was not taken in its time. Rounds are half of it: a reply is as old as one round or two.
async fn left_unread(pulse: &Pulse, limits: &Limits) {
    while !pulse.is_left_unread() {
        sleep(limits.unread_max / 2).await;
    }
}

/// Give or take a tenth, so that connections that were opened together do not go together.
fn jittered(age: Duration) -> Duration {
    // Every state is another: that is what it is for.
    let random = RandomState::new().hash_one(0) % 2_000;
    age.mul_f64(0.9 + random as f64 / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_age_go_at_different_times() {
        let age = Duration::from_secs(1_000);
        let ages: std::collections::BTreeSet<_> = (0..1_000).map(|_| jittered(age)).collect();
        assert!(ages.len() > 500);
        assert!(ages.first() >= Some(&Duration::from_secs(900)) && ages.last() < Some(&Duration::from_secs(1_100)));
    }
}
