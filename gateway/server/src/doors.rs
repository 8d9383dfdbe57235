//! The doors: one port that speaks gRPC and JSON over HTTP/1.1 and HTTP/2, and how connections are taken and
//! given back. Every limit on what a stranger may do to the process stands here.

mod sight;

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Service, ServiceExt};
use weir_domain::Refusal;
use weir_proto::encoded::{FeatureServiceServer, GrpcFeatureServerServer, ServingServiceServer};
use weir_proto::v1;
use weir_proto::v1::experiment_service_server::ExperimentServiceServer;

use crate::feast::{self, FeastGrpc};
use crate::gate::{Entered, GET_FEATURES, Gate};
use crate::gateway::Gateway;
use crate::grpc::Grpc;
use crate::http::{self, BODY_BYTES_MAX};
use crate::metrics::Metrics;

pub(crate) use sight::is_grpc;

/// A caller that has not sent its headers by then is a slow-loris or gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any budget: a request that takes this long is one whose body never comes.
const REQUEST_MAX: Duration = Duration::from_secs(75);
/// What every HTTP/2 connection begins with. Until it is told apart from HTTP/1 no timeout of either applies.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams at a time on one HTTP/2 connection: a busy client opens a second connection instead.
const STREAMS_MAX: u32 = 256;
/// Bytes of headers of one request.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes that a slow reader may keep waiting per stream.
const SEND_BUFFER_MAX: usize = 1 << 20;
/// A peer that vanished without a word is noticed after this and the next.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a caller may open and reset before the server could answer (rapid reset).
const PENDING_RESETS_MAX: usize = 100;
/// Pause after a failed accept: without free file descriptors the next one fails too.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// What lies behind a port.
#[derive(Clone)]
pub(crate) struct Door {
    /// What callers have to pass; operators are always let in.
    gate: Option<Gate>,
    /// The call that everybody makes all the time; it is not sent through the router.
    features: Option<FeatureServiceServer<Grpc>>,
    /// Feast's own such call.
    online: Option<feast::Served>,
    routes: Router,
    metrics: Arc<Metrics>,
}

impl Door {
    /// A port with nothing but these routes.
    pub(crate) fn to(routes: Router, metrics: Arc<Metrics>) -> Self {
        Self { gate: None, features: None, online: None, routes, metrics }
    }

    async fn answer(self, entered: Result<Option<Entered>, Refusal>, mut request: Request<Incoming>) -> Response {
        let _permit = match &self.gate {
            Some(gate) => {
                let begun = entered.and_then(|entered| entered.map(|e| gate.begin(e, &mut request)).transpose());
                match begun {
                    Ok(permit) => permit,
                    Err(refusal) => return gate.refused(&refusal, &request),
                }
            }
            None => None,
        };
        if let Some(refused) = sight::refused(&request, &self.metrics) {
            return refused;
        }
        let is_grpc = is_grpc(&request);
        let answered = async {
            match self.features {
                Some(mut features) if request.uri().path() == GET_FEATURES => {
                    features.call(request).await.map(|response| response.map(Body::new))
                }
                _ if request.uri().path() == feast::ONLINE && request.method() == Method::POST => match self.online {
                    Some(served) => Ok(feast::online(State(served), request).await),
                    None => self.routes.oneshot(request.map(Body::new)).await,
                },
                _ => self.routes.oneshot(request.map(Body::new)).await,
            }
        };
        match tokio::time::timeout(REQUEST_MAX, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) if is_grpc => tonic::Status::deadline_exceeded("the request never came").into_http(),
            Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
        }
    }
}

/// Everything callers may ask.
pub(crate) async fn public(gateway: &Arc<Gateway>) -> Door {
    let grpc = Grpc(Arc::clone(gateway));
    let features = FeatureServiceServer::new(grpc.clone()).max_decoding_message_size(BODY_BYTES_MAX);
    let experiments = ExperimentServiceServer::new(grpc).max_decoding_message_size(BODY_BYTES_MAX);
    let online = gateway.feast.clone().map(|feast| feast::Served { gateway: Arc::clone(gateway), feast });
    let health = HealthServer::new(HealthService::from_health_reporter(serving().await));
    let mut routes = Routes::default().add_service(features.clone()).add_service(experiments).add_service(health);
    let mut json = http::routes(Arc::clone(gateway));
    if let Some(served) = &online {
        json = json.merge(feast::routes(served.clone()));
        let grpc = FeastGrpc(served.clone());
        let python = GrpcFeatureServerServer::new(grpc.clone()).max_decoding_message_size(BODY_BYTES_MAX);
        let go = ServingServiceServer::new(grpc).max_decoding_message_size(BODY_BYTES_MAX);
        routes = routes.add_service(python).add_service(go);
    }
    let reflection = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        if online.is_some() {
            builder = builder.register_encoded_file_descriptor_set(weir_proto::feast::FILE_DESCRIPTOR_SET);
        }
        builder
    };
    // Older clients ask for v1alpha. The descriptors were made by our own build: they always parse.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        routes = routes.add_service(v1).add_service(v1alpha);
    }
    let is_feast = online.is_some();
    let routes = json.merge(routes.into_axum_router()).fallback(move |request| nowhere(request, is_feast));
    let (gate, metrics) = (Some(Gate(Arc::clone(gateway))), Arc::clone(&gateway.metrics));
    Door { gate, features: Some(features), online, routes, metrics }
}

/// A path that leads nowhere, said in the caller's own protocol.
async fn nowhere(request: Request<Body>, is_feast: bool) -> Response {
    if is_grpc(&request) {
        tonic::Status::unimplemented("no such method").into_http()
    } else if is_feast {
        feast::Served::nowhere(request.uri(), request.headers())
    } else {
        http::nothing_at(request.uri().path())
    }
}

/// gRPC health: the whole server ("") and each service serve from the start. While it leaves it takes no
/// connection that could ask.
async fn serving() -> HealthReporter {
    let reporter = HealthReporter::new();
    reporter.set_serving::<FeatureServiceServer<Grpc>>().await;
    reporter.set_serving::<ExperimentServiceServer<Grpc>>().await;
    reporter
}

/// Takes connections until `stop`, then lets those under way end within `drain`.
pub(crate) async fn serve(listener: TcpListener, door: Door, stop: impl Future<Output = ()>, drain: Duration) {
    let server = server();
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => connect(stream, from.ip(), &server, &door, &connections),
            Err(error) => {
                // The peer gave up, or we are out of file descriptors: neither is a reason to stop.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    drop(listener);
    let open = connections.count();
    if tokio::time::timeout(drain, connections.shutdown()).await.is_err() {
        tracing::warn!(open, drain_ms = drain.as_millis() as u64, "connections were cut: their requests took too long");
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    server
}

fn connect(
    stream: TcpStream,
    from: IpAddr,
    server: &auto::Builder<TokioExecutor>,
    door: &Door,
    connections: &GracefulShutdown,
) {
    // Replies are whole messages: waiting for more would only cost the budget.
    let _ = stream.set_nodelay(true);
    let door = door.clone();
    // Called when headers are seen; what it returns is polled when there is a core for it.
    let answer = move |request| {
        let entered = door.gate.as_ref().map(|gate| gate.enter(&request, from)).transpose();
        let door = door.clone();
        async move { Ok::<_, Infallible>(door.answer(entered, request).await) }
    };
    let service = hyper::service::service_fn(answer);
    let heard = Arc::new(AtomicUsize::new(0));
    let stream = Counted { stream, heard: Arc::clone(&heard) };
    let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        tokio::select! {
            ended = watched => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            },
            () = silence(&heard) => tracing::debug!("a connection was closed: nothing to answer came over it"),
        }
    });
}

/// Resolves after the header timeout if too little was heard to know the protocol, else never.
async fn silence(heard: &AtomicUsize) {
    tokio::time::sleep(HEADER_TIMEOUT).await;
    if heard.load(Ordering::Relaxed) >= PREFACE.len() {
        std::future::pending().await
    }
}

/// A stream that counts the bytes read from it.
struct Counted {
    stream: TcpStream,
    heard: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.heard.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
