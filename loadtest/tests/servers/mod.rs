//! Servers that answer any call with next to nothing, and misbehave at a request that is known beforehand.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};

/// How long a server that stalls does.
const STALL: Duration = Duration::from_millis(200);
/// A gRPC message without content.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// What a server does.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// OK to everything.
    Answers,
    /// The same, but while it looks at this request nobody is answered.
    StallsAt(u64),
    /// RESOURCE_EXHAUSTED to every second.
    RefusesEverySecond,
    /// The same in HTTP/1.1: 429.
    JsonRefusesEverySecond,
    /// OK, but a connection is ended, orderly, after so many requests.
    LeavesAfter(u64),
    /// It takes every request, and that is all.
    NeverReplies,
}

/// A server on a thread of its own, which ends with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    pub(crate) fn start(way: Way) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, way) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, _stop: stop }
    }
}

#[derive(Default)]
struct State {
    requests: AtomicU64,
    turn: Mutex<()>,
}

async fn serve(listener: TcpListener, way: Way) {
    let state = Arc::<State>::default();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        match way {
            Way::JsonRefusesEverySecond => tokio::spawn(json(stream, state)),
            _ => tokio::spawn(grpc(stream, way, state)),
        };
    }
}

async fn grpc(stream: TcpStream, way: Way, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut taken = 0;
    while let Some(Ok((_, reply))) = connection.accept().await {
        tokio::spawn(answer(reply, way, Arc::clone(&state)));
        taken += 1;
        if matches!(way, Way::LeavesAfter(most) if most == taken) {
            connection.graceful_shutdown();
        }
    }
}

async fn answer(mut reply: SendResponse<Bytes>, way: Way, state: Arc<State>) {
    let number = state.requests.fetch_add(1, SeqCst);
    match way {
        Way::NeverReplies => std::future::pending::<()>().await,
        Way::StallsAt(at) => {
            let _turn = state.turn.lock().await;
            if number == at {
                tokio::time::sleep(STALL).await;
            }
        }
        _ => {}
    }
    let is_refused = matches!(way, Way::RefusesEverySecond) && number.is_multiple_of(2);
    let status =
        |code| HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(code))]);
    let mut head = Response::new(());
    // A caller who has left is not answered.
    if is_refused {
        *head.headers_mut() = status("8");
        let _ = reply.send_response(head, true);
    } else if let Ok(mut body) = reply.send_response(head, false) {
        let _ = body.send_data(Bytes::from_static(EMPTY_MESSAGE), false);
        let _ = body.send_trailers(status("0"));
    }
}

async fn json(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let number = state.requests.fetch_add(1, SeqCst);
        async move {
            let _ = request.into_body().collect().await;
            let mut reply = Response::new(Full::new(Bytes::from_static(b"{\"rows\": 0, \"features\": []}")));
            if number.is_multiple_of(2) {
                *reply.status_mut() = hyper::StatusCode::TOO_MANY_REQUESTS;
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
