//! The gate: where a request meets [`admission`](crate::admission), when its headers have been seen and before its body
//! is read. Who asks is what they say: `x-weir-caller`, or else the address they call from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// The arms of a unit, without features.
pub(crate) const ASSIGN: &str = "/v1/assign";
/// What else has a message that somebody sends: arms, and writes as Feast's servers take them.
const GRPC_ASSIGN: &str = "/weir.v1.ExperimentService/Assign";
const FEAST_WRITES: [&str; 2] = ["/GrpcFeatureServer/Push", "/GrpcFeatureServer/WriteToOnlineStore"];

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

    /// Until when what asks for no features may wait: for as long as its caller, and no longer than with `patience`.
    /// Refused if its caller has gone already.
    pub(crate) fn until(self, headers: &axum::http::HeaderMap, patience: Duration) -> Result<Instant, Refusal> {
        let within = timeout::read(headers)?.map_or(patience, |timeout| timeout.min(patience));
        if self.at.elapsed() >= within {
            return Err(Refusal::DeadlineExceeded);
        }
        Ok(self.at + within)
    }
}

/// Lets requests in.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Gateway>);

/// A request that was let in, with its permit if it is one that needs it.
pub(crate) struct Entered {
    at: Instant,
    permit: Option<Permit>,
    asks: Asks,
}

/// What a permit is for.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    /// Features, through these doors.
    Features(Through),
    /// Arms or writes. Nothing of them can be left out, so they are done or refused.
    Other,
}

impl Asks {
    /// As what it enters. What is not degraded is refused last, like everything through Feast's doors, and has no budget
    /// that it could have waited too long for.
    fn through(self) -> Through {
        match self {
            Self::Features(through) => through,
            Self::Other => Through::Feast { budget: Duration::MAX },
        }
    }
}

impl Gate {
    /// Headers were seen. Says no at once, in the caller's own protocol.
    pub(crate) fn enter<B>(&self, request: &Request<B>, from: IpAddr) -> Result<Entered, Box<Response>> {
        let at = Instant::now();
        let Some(asks) = self.asks(request) else { return Ok(Entered { at, permit: None, asks: Asks::Other }) };
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
        let entered = admission.enter(Visitor { priority, seat, through: asks.through() }, at);
        let permit = entered.map_err(|refusal| Box::new(self.refused(&refusal, request)))?;
        Ok(Entered { at, permit: Some(permit), asks })
    }

    /// The request has got a core: notes when it arrived and how it is answered. The permit is to be held until it is.
    pub(crate) fn begin<B>(&self, entered: Entered, request: &mut Request<B>) -> Result<Option<Permit>, Refusal> {
        let Entered { at, mut permit, asks } = entered;
        let mode = match &mut permit {
            Some(permit) if asks != Asks::Other => {
                // One that cannot be read is refused where it is read for good.
                permit.begin(|| timeout::read(request.headers()).unwrap_or_default(), Instant::now())?
            }
            _ => Mode::Full,
        };
        request.extensions_mut().insert(Arrived { at, mode });
        Ok(permit)
    }

    /// What is asked for, if it needs a permit: whatever costs memory or the store. Health and the lists of what can be
    /// asked do not.
    fn asks<B>(&self, request: &Request<B>) -> Option<Asks> {
        if request.method() != Method::POST {
            return None;
        }
        let path = request.uri().path();
        if path == GET_FEATURES || path == FEATURES {
            return Some(Asks::Features(Through::Weir));
        }
        if path == ASSIGN || path == GRPC_ASSIGN {
            return Some(Asks::Other);
        }
        let served = self.0.feast.as_ref()?;
        if path == feast::ONLINE || FEAST_FEATURES.contains(&path) {
            return Some(Asks::Features(Through::Feast { budget: served.budget() }));
        }
        (feast::OTHERS.contains(&path) || FEAST_WRITES.contains(&path)).then_some(Asks::Other)
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
