//! The doors: one port that speaks gRPC and JSON over HTTP/1.1 and HTTP/2. How connections are taken and given back is in
//! `connections`, and what strangers may do in `limits`.

mod connections;
mod counts;
mod frames;
mod limits;
mod patience;
mod prompt;
mod pulse;
mod sight;
mod turn;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request};
use axum::response::Response;
use hyper::body::Incoming;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::ServiceExt;
use weir_domain::Refusal;
use weir_proto::encoded::{FeatureServiceServer, GrpcFeatureServerServer, ServingServiceServer};
use weir_proto::v1;
use weir_proto::v1::experiment_service_server::ExperimentServiceServer;

use crate::admission::Permit;
use crate::cores::Cores;
use crate::feast::{self, FeastGrpc};
use crate::gate::{Entered, FEATURES, GET_FEATURES, Gate};
use crate::gateway::Gateway;
use crate::grpc::Grpc;
use crate::http::{self, BODY_BYTES_MAX};
use crate::metrics::Metrics;
use crate::refuse;

pub(crate) use connections::serve;
pub(crate) use counts::Counts;
pub use limits::Limits;
pub(crate) use prompt::{Prompt, refusal};
pub(crate) use sight::is_grpc;

/// Suggested to callers while too much is left unread: about the time in which the slowest are cut off.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Where callers stream: between two of its messages such a stream may be silent for as long as its caller likes. All
/// other calls have one message, and end it.
const REFLECTION: &str = "/grpc.reflection.";
/// Bytes of one of its messages, which is the name of a file or a symbol: half of one may be left lying for ever.
const REFLECTION_BYTES_MAX: usize = 16 << 10;

/// What lies behind a port.
pub(crate) struct Door {
    /// What callers have to pass; operators are always let in.
    gate: Option<Gate>,
    /// The call that everybody makes all the time; it is not sent through the router, and neither is the same as JSON.
    features: Option<(Grpc, FeatureServiceServer<Grpc>)>,
    /// Feast's own such call.
    online: Option<feast::Served>,
    routes: Router,
    metrics: Arc<Metrics>,
    counts: Arc<Counts>,
    limits: Arc<Limits>,
    cores: Cores,
}

impl Door {
    /// A port with nothing but these routes. Its connections are not in the metrics.
    pub(crate) fn to(routes: Router, metrics: Arc<Metrics>, limits: Arc<Limits>, cores: Cores) -> Self {
        Self { gate: None, features: None, online: None, routes, metrics, counts: Arc::default(), limits, cores }
    }

    async fn answer(self: Arc<Self>, entered: Option<Entered>, mut request: Request<Incoming>) -> Response {
        // Held until the answer is there.
        let permit = match self.gate.as_ref().zip(entered) {
            Some((gate, entered)) => match gate.begin(entered, &mut request) {
                Ok(permit) => permit,
                Err(refusal) => return gate.refused(&refusal, &request),
            },
            None => None,
        };
        if let Some(refused) = sight::refused(&request, &self.metrics) {
            return refused;
        }
        let is_grpc = is_grpc(&request);
        if self.counts.unread_bytes.load(Ordering::Relaxed) > self.limits.unread_bytes_max {
            let refusal = Refusal::Overloaded { retry_after: RETRY_AFTER };
            self.metrics.refused(&refusal);
            return if is_grpc { refuse::grpc(&refusal).into_http() } else { refuse::http(&refusal) };
        }
        let is_stream = is_grpc && request.uri().path().starts_with(REFLECTION);
        let within = (!is_stream).then_some(self.limits.body_timeout);
        let for_tonic = is_grpc.then(|| Arc::clone(&self.metrics));
        let room = permit.as_ref().map(Permit::room);
        let request = request.map(|body| Prompt::new(body, within, room, for_tonic));
        let is_post = request.method() == Method::POST;
        let routed = match (request.uri().path(), &self.features, &self.online) {
            (GET_FEATURES, Some((grpc, tonic)), _) => return grpc.call(request, tonic).await,
            (FEATURES, Some((grpc, _)), _) if is_post => {
                return http::features(State(Arc::clone(&grpc.0)), request).await;
            }
            (feast::ONLINE, _, Some(served)) if is_post => return feast::online(State(served.clone()), request).await,
            _ => self.routes.clone().oneshot(request.map(Body::new)).await,
        };
        match routed {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Everything callers may ask.
pub(crate) async fn public(gateway: &Arc<Gateway>, limits: Arc<Limits>) -> Door {
    let grpc = Grpc(Arc::clone(gateway));
    let features = FeatureServiceServer::new(grpc.clone()).max_decoding_message_size(BODY_BYTES_MAX);
    let experiments = ExperimentServiceServer::new(grpc.clone()).max_decoding_message_size(BODY_BYTES_MAX);
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
        routes = routes
            .add_service(v1.max_decoding_message_size(REFLECTION_BYTES_MAX))
            .add_service(v1alpha.max_decoding_message_size(REFLECTION_BYTES_MAX));
    }
    let is_feast = online.is_some();
    let routes = json.merge(routes.into_axum_router()).fallback(move |request| nowhere(request, is_feast));
    let (gate, metrics) = (Some(Gate(Arc::clone(gateway))), Arc::clone(&gateway.metrics));
    let counts = Arc::clone(&metrics.door);
    let cores = gateway.cores.clone();
    Door { gate, features: Some((grpc, features)), online, routes, metrics, counts, limits, cores }
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
