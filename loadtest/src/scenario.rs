//! A scenario as it stands in its file: what is served, what is asked, when, and what is expected of it. Every mistake is
//! reported at once, with its line; a key that nobody knows is one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_domain::Value;
use weir_domain::catalog::{Keys, Mistake, Mistakes};

use crate::figures::Figure;

/// A load test is over within the hour, phase by phase.
const SECONDS_MAX: f64 = 3_600.0;
/// More than two cores send or answer.
const RPS_MAX: f64 = 1_000_000.0;
/// As many requests as memory for their handful of kilobytes is there for.
const IN_FLIGHT_MAX: u64 = 20_000;
/// Different requests of a scenario, encoded before it begins.
const BODIES: u64 = 1_024;
/// A request is given up after this unless the scenario says otherwise: longer than any budget worth testing.
const GIVE_UP: Duration = Duration::from_secs(1);
/// A generator that is later than this is measuring itself.
const LAG_P99_MS: f64 = 1.0;

/// A scenario, checked.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// What it is called in tables.
    pub(crate) name: String,
    /// One line for people.
    pub(crate) description: String,
    /// What to serve; without it there must be a target that serves already.
    pub(crate) serve: Option<Serve>,
    /// What to ask.
    pub(crate) ask: Asks,
    /// How to find out what the gateway can do, when a phase wants a share of that.
    pub(crate) capacity: Option<Capacity>,
    /// One after the other, without a pause between them.
    pub(crate) phases: Vec<Phase>,
}

/// The gateway and the data of a scenario, all generated.
#[derive(Clone, Debug)]
pub(crate) struct Serve {
    /// Entities, from `e0000000` on.
    pub(crate) entities: u32,
    /// Views of the entity.
    pub(crate) views: usize,
    /// Features asked of each view.
    pub(crate) features: usize,
    /// Features that each view has.
    pub(crate) stored_features: usize,
    /// Features of a second entity, `user`, which a request has one of; 0 = there is none.
    pub(crate) user_features: usize,
    /// The service's budget.
    pub(crate) budget: Duration,
    /// The gateway's cache; 0 = none.
    pub(crate) cache_mib: u64,
    /// How long a row is served without asking the store.
    pub(crate) fresh_for: Duration,
    /// How old a row may get while the store does not answer.
    pub(crate) stale_for: Duration,
    /// Requests answered at a time; `None` leaves it to the gateway.
    pub(crate) in_flight_max: Option<u64>,
    /// A component with the columns of the `crosswind` example.
    pub(crate) transform: Option<PathBuf>,
    /// Whether an experiment assigns every caller an arm.
    pub(crate) experiment: bool,
    /// Whether answers are written down.
    pub(crate) journal: bool,
    /// Share of Redis replies that are late, and by how much.
    pub(crate) late: Option<(f64, Duration)>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    /// gRPC or JSON.
    pub(crate) protocol: Protocol,
    /// The feature service.
    pub(crate) service: String,
    /// Items of a request.
    pub(crate) items: usize,
    /// Entities to draw items from.
    pub(crate) entities: u32,
    /// Exponent of Zipf's law; `None` draws uniformly.
    pub(crate) zipf: Option<f64>,
    /// Different requests, drawn before the run and sent in turn.
    pub(crate) bodies: usize,
    /// Connections; for JSON, which has one request at a time on each, the most there may be.
    pub(crate) connections: usize,
    /// Requests under way at a time; what is due beyond is dropped, and counted.
    pub(crate) in_flight_max: usize,
    /// Deadline that callers send along, and when they give up.
    pub(crate) timeout: Option<Duration>,
    /// When a request counts as lost.
    pub(crate) give_up: Duration,
    /// Share of the requests that are abandoned, and how long after they were sent.
    pub(crate) cancel: Option<(f64, Duration)>,
    /// What a reply must not take longer than to be in time, a millisecond added.
    pub(crate) budget: Duration,
    /// The run is void when the generator's own lag is over this at p99.
    pub(crate) lag_p99_ms_max: f64,
    /// Of keys, arrivals and faults.
    pub(crate) seed: u64,
}

/// How questions travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `weir.v1.FeatureService/GetFeatures`
    Grpc,
    /// `POST /v1/features`
    Json,
}

/// A ramp: the rate grows step by step until less than nine tenths of it are answered in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Rate of the first step.
    pub(crate) from_rps: f64,
    /// Rate of a step, divided by that of the one before.
    pub(crate) growth: f64,
    /// Length of a step.
    pub(crate) step: Duration,
    /// The ramp ends here at the latest.
    pub(crate) rps_max: f64,
}

/// A stretch of even traffic.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// What it is called in the verdict.
    pub(crate) name: String,
    /// How long.
    pub(crate) length: Duration,
    /// How many requests a second.
    pub(crate) rate: Rate,
    /// How they are spread.
    pub(crate) arrivals: Arrivals,
    /// Figures and what they must be.
    pub(crate) expect: Vec<(Figure, f64)>,
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// As many as this.
    Rps(f64),
    /// This many times what the ramp found.
    OfCapacity(f64),
}

/// How requests are spread over a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// Evenly.
    Constant,
    /// As callers who know nothing of each other send them.
    Poisson,
}

impl Scenario {
    /// Reads a file, or lists every mistake in it.
    pub(crate) fn load(path: &Path) -> Result<Self, Vec<Mistake>> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let at = weir_domain::catalog::Place { file: name.as_str().into(), line: 1 };
            vec![Mistake { at, message: format!("cannot be read: {error}") }]
        })?;
        Self::parse(&name, &text, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads a text; paths in it are relative to `folder`.
    pub(crate) fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, Vec<Mistake>> {
        let mistakes = Mistakes::default();
        let scenario = Keys::parse(name, text, &mistakes).and_then(|keys| read(keys, folder));
        match scenario {
            Some(scenario) if mistakes.is_empty() => Ok(scenario),
            _ => Err(mistakes.into_vec()),
        }
    }
}

fn read(mut keys: Keys<'_, '_>, folder: &Path) -> Option<Scenario> {
    keys.rename("scenario".to_owned());
    let name = keys.required_text("name");
    let description = keys.required_text("description");
    let serve = keys.table("serve").map(|keys| read_serve(keys, folder));
    let ask = keys.table("ask");
    let ask = keys.required("ask", ask).map(|keys| read_ask(keys, serve.as_ref()));
    let capacity = keys.table("capacity").map(read_capacity);
    let written = keys.tables("phase");
    if written.is_empty() {
        keys.mistake("phase", "there is none");
    }
    let phases = written.into_iter().map(|phase| read_phase(phase, capacity.is_some())).collect();
    keys.finish();
    Some(Scenario { name: name?, description: description?, serve, ask: ask?, capacity, phases })
}

fn read_serve(mut keys: Keys<'_, '_>, folder: &Path) -> Serve {
    let count = |keys: &mut Keys<'_, '_>, key, default, max| keys.number(key, 1..=max).unwrap_or(default) as usize;
    let features = count(&mut keys, "features", 50, 1_000);
    let late_share = share(&mut keys, "late_share");
    let late = keys.millis("late_ms", GIVE_UP);
    let serve = Serve {
        entities: count(&mut keys, "entities", 20_000, 10_000_000) as u32,
        views: count(&mut keys, "views", 1, 100),
        features,
        stored_features: count(&mut keys, "stored_features", features as u64, 1_000),
        user_features: keys.number("user_features", 0..=1_000).unwrap_or(0) as usize,
        budget: keys.millis("budget_ms", GIVE_UP).unwrap_or(Duration::from_millis(10)),
        cache_mib: keys.number("cache_mib", 0..=4_096).unwrap_or(0),
        fresh_for: keys.millis("fresh_for_ms", Duration::from_secs(86_400)).unwrap_or(Duration::from_secs(1)),
        stale_for: keys.millis("stale_for_ms", Duration::from_secs(86_400)).unwrap_or(Duration::from_secs(60)),
        in_flight_max: keys.number("in_flight_max", 1..=100_000),
        transform: keys.text("transform").map(|path| folder.join(path)),
        experiment: keys.flag("experiment").unwrap_or(true),
        journal: keys.flag("journal").unwrap_or(false),
        late: late_share.zip(late),
    };
    if serve.stored_features < features {
        keys.mistake("stored_features", format!("fewer than the {features} that are asked"));
    }
    if late_share.is_some() != late.is_some() {
        keys.mistake("late_share", "late_share and late_ms go together");
    }
    keys.finish();
    serve
}

fn read_ask(mut keys: Keys<'_, '_>, serve: Option<&Serve>) -> Asks {
    let protocol = keys.text("protocol");
    let protocol = match protocol.as_deref() {
        None | Some("grpc") => Protocol::Grpc,
        Some("json") => Protocol::Json,
        Some(other) => {
            keys.mistake("protocol", format!("{other:?} is neither \"grpc\" nor \"json\""));
            Protocol::Grpc
        }
    };
    let cancel_share = share(&mut keys, "cancel_share");
    let cancel_after = keys.millis("cancel_after_ms", GIVE_UP);
    if cancel_share.is_some() != cancel_after.is_some() {
        keys.mistake("cancel_share", "cancel_share and cancel_after_ms go together");
    }
    let budget = keys.millis("budget_ms", GIVE_UP);
    let asks = Asks {
        protocol,
        service: keys.text("service").unwrap_or_else(|| "asked".to_owned()),
        items: keys.number("items", 1..=10_000).unwrap_or(100) as usize,
        entities: keys.number("entities", 1..=10_000_000).map_or(serve.map_or(20_000, |s| s.entities), |n| n as u32),
        zipf: number(&mut keys, "zipf", 0.01..=4.0),
        bodies: keys.number("bodies", 1..=100_000).unwrap_or(BODIES) as usize,
        connections: keys.number("connections", 1..=1_024).unwrap_or(8) as usize,
        in_flight_max: keys.number("in_flight_max", 1..=IN_FLIGHT_MAX).unwrap_or(2_000) as usize,
        timeout: keys.millis("timeout_ms", Duration::from_secs(10)),
        give_up: keys.millis("give_up_ms", Duration::from_secs(10)).unwrap_or(GIVE_UP),
        cancel: cancel_share.zip(cancel_after),
        budget: budget.or(serve.map(|s| s.budget)).unwrap_or(Duration::from_millis(10)),
        lag_p99_ms_max: number(&mut keys, "lag_p99_ms_max", 0.01..=1_000.0).unwrap_or(LAG_P99_MS),
        seed: keys.number("seed", 0..=u64::MAX >> 1).unwrap_or(1),
    };
    keys.finish();
    asks
}

fn read_capacity(mut keys: Keys<'_, '_>) -> Capacity {
    let capacity = Capacity {
        from_rps: number(&mut keys, "from_rps", 1.0..=RPS_MAX).unwrap_or(500.0),
        growth: number(&mut keys, "growth", 1.01..=4.0).unwrap_or(1.25),
        step: seconds(&mut keys, "step_s").unwrap_or(Duration::from_secs(1)),
        rps_max: number(&mut keys, "rps_max", 1.0..=RPS_MAX).unwrap_or(RPS_MAX),
    };
    keys.finish();
    capacity
}

fn read_phase(mut keys: Keys<'_, '_>, has_capacity: bool) -> Phase {
    let name = keys.required_name("name").as_deref().unwrap_or_default().to_owned();
    keys.rename(format!("phase {name:?}"));
    let length = seconds(&mut keys, "seconds");
    let length = keys.required("seconds", length).unwrap_or_default();
    let rps = number(&mut keys, "rps", 0.1..=RPS_MAX);
    let share = number(&mut keys, "of_capacity", 0.01..=10.0);
    let rate = match (rps, share) {
        (Some(rps), None) => Rate::Rps(rps),
        (None, Some(share)) => Rate::OfCapacity(share),
        _ => {
            keys.mistake("rps", "either rps or of_capacity says how much");
            Rate::Rps(1.0)
        }
    };
    if share.is_some() && !has_capacity {
        keys.mistake("of_capacity", "needs a [capacity] table, whose ramp finds it out");
    }
    let arrivals = keys.text("arrivals");
    let arrivals = match arrivals.as_deref() {
        None | Some("poisson") => Arrivals::Poisson,
        Some("constant") => Arrivals::Constant,
        Some(other) => {
            keys.mistake("arrivals", format!("{other:?} is neither \"poisson\" nor \"constant\""));
            Arrivals::Poisson
        }
    };
    let mut expect = Vec::new();
    if let Some(mut table) = keys.table("expect") {
        for figure in Figure::ALL {
            expect.extend(number(&mut table, figure.name(), 0.0..=1e9).map(|wanted| (figure, wanted)));
        }
        table.finish();
    }
    keys.finish();
    Phase { name, length, rate, arrivals, expect }
}

fn number(keys: &mut Keys<'_, '_>, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
    let number = match keys.value(key)? {
        Value::F64(number) => number,
        Value::I64(number) => number as f64,
        _ => f64::NAN,
    };
    if range.contains(&number) {
        return Some(number);
    }
    keys.mistake(key, format!("a number between {} and {} is expected", range.start(), range.end()));
    None
}

fn share(keys: &mut Keys<'_, '_>, key: &'static str) -> Option<f64> {
    number(keys, key, 0.0..=1.0)
}

fn seconds(keys: &mut Keys<'_, '_>, key: &'static str) -> Option<Duration> {
    number(keys, key, 0.01..=SECONDS_MAX).map(Duration::from_secs_f64)
}
