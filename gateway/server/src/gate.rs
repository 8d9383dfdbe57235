//! The gate: where a request for features meets [`admission`](crate::admission), when its headers have been seen and
//! before its body is read. Who asks is what they say: `x-weir-caller`, or else the address they call from.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Extensions, Method, Request};
use axum::response::Response;
use tokio::time::Instant;
use weir_domain::Refusal;
use weir_domain::catalog::Priority;

use crate::admission::{Admission, Mode, Permit, Through, Visitor};
use crate::cores::Cores;
use crate::doors::is_grpc;
use crate::gateway::Gateway;
use crate::pipeline::Arrival;
use crate::{feast, refuse, timeout};

/// Names the caller.
const CALLER: &str = "x-weir-caller";
/// The path of `weir.v1.FeatureService/GetFeatures`.
pub(crate) const GET_FEATURES: &str = "/weir.v1.FeatureService/GetFeatures";
/// The same as JSON.
pub(crate) const FEATURES: &str = "/v1/features";
/// The same from Feast's servers: Go's and Java's, and Python's.
const FEAST_FEATURES: [&str; 2] =
    ["/feast.serving.ServingService/GetOnlineFeatures", "/GrpcFeatureServer/GetOnlineFeatures"];

/// When a request's headers were seen and how it is to be answered, noted before its body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) mode: Mode,
}

impl Arrived {
    /// What the gate noted.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let noted = extensions.get::<Self>().copied();
        noted.unwrap_or_else(|| Self { at: Instant::now(), mode: Mode::Full })
    }

    /// With the caller's own deadline, if it gave one that can be read.
    pub(crate) fn with(self, headers: &axum::http::HeaderMap) -> Result<Arrival, Refusal> {
        Ok(Arrival { at: self.at, timeout: timeout::read(headers)?, mode: self.mode })
    }
}

/// Lets requests in.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Gateway>);

/// A request that was let in, with its permit if it is one that needs it.
pub(crate) struct Entered {
    at: Instant,
    permit: Option<Permit>,
}

impl Gate {
    /// Headers were seen. Says no at once, in the caller's own protocol.
    pub(crate) fn enter<B>(&self, request: &Request<B>, from: IpAddr) -> Result<Entered, Box<Response>> {
        let at = Instant::now();
        let Some(through) = self.through(request) else { return Ok(Entered { at, permit: None }) };
        let admission = &self.0.admission;
        if admission.is_look_due(at) {
            look(Arc::clone(admission), self.0.cores.clone());
        }
        let caller = request.headers().get(CALLER).map(|name| name.as_bytes());
        let (priority, seat) = match caller {
            Some(name) => {
                let named = std::str::from_utf8(name).map(|name| self.0.with_catalog(|c| c.priority(name)));
                (named.unwrap_or_default(), admission.seat(name))
            }
            None => match from {
                IpAddr::V4(from) => (Priority::default(), admission.seat(&from.octets())),
                IpAddr::V6(from) => (Priority::default(), admission.seat(&from.octets())),
            },
        };
        let entered = admission.enter(Visitor { priority, seat, through }, at);
        let permit = entered.map_err(|refusal| Box::new(self.refused(&refusal, request)))?;
        Ok(Entered { at, permit: Some(permit) })
    }

    /// The request has got a core: notes when it arrived and how it is answered. The permit is to be held until it is.
    pub(crate) fn begin<B>(&self, entered: Entered, request: &mut Request<B>) -> Result<Option<Permit>, Refusal> {
        let Entered { at, mut permit } = entered;
        let mode = permit.as_mut().map(|permit| {
            // One that cannot be read is refused where it is read for good.
            permit.begin(|| timeout::read(request.headers()).unwrap_or_default(), Instant::now())
        });
        let mode = mode.transpose()?.unwrap_or(Mode::Full);
        request.extensions_mut().insert(Arrived { at, mode });
        Ok(permit)
    }

    /// Whether features are asked for, and through whose doors.
    fn through<B>(&self, request: &Request<B>) -> Option<Through> {
        if request.method() != Method::POST {
            return None;
        }
        let path = request.uri().path();
        if path == GET_FEATURES || path == FEATURES {
            return Some(Through::Weir);
        }
        let served = self.0.feast.as_ref()?;
        let is_feast = path == feast::ONLINE || FEAST_FEATURES.contains(&path);
        is_feast.then(|| Through::Feast { budget: served.budget() })
    }

    /// The refusal in the caller's own protocol.
    pub(crate) fn refused<B>(&self, refusal: &Refusal, request: &Request<B>) -> Response {
        self.0.metrics.refused(refusal);
        if is_grpc(request) { refuse::grpc(refusal).into_http::<Body>() } else { refuse::http(refusal) }
    }
}

/// Looks how busy the cores were. A task of its own: it is not the caller's time.
fn look(admission: Arc<Admission>, cores: Cores) {
    tokio::spawn(async move { admission.learn(cores.busy(), Instant::now()) });
}
