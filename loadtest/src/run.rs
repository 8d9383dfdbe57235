//! `weir-loadtest run`: plays a scenario and says whether what was expected of it holds.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use prost::Message;
use serde_json::{Value as Json, json};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};
use weir_proto::v1::{GetFeaturesResponse, Provenance};

use crate::ask::FRAME_HEADER;
use crate::caller::Callers;
use crate::metrics::Metrics;
use crate::open::{Look, Stretch, Traffic};
use crate::report;
use crate::rows;
use crate::scenario::{Arrivals, Capacity, Protocol, Rate, Scenario};
use crate::stage::{Cores, Stage};
use crate::tally::{Tally, quantile_ms};
use crate::verdict::{Measured, Samples, real_share};

/// How often the gateway's counters are read during a run.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Every so many replies are decoded and looked at value by value.
const LOOK_EVERY: u64 = 64;
/// The ramp goes on while this share of a step is answered in time.
const CARRIED_SHARE: f64 = 0.9;
/// One bad step may be somebody else's: it is repeated, once whoever was refused or late has left. Two rates in a row that
/// are bad twice are the gateway's.
const TRIES: usize = 2;
const BAD_RATES: usize = 2;
const CALM: Duration = Duration::from_millis(500);
/// Steps' length for which a rate is held to see what is answered in the long run.
const HELD_STEPS: u32 = 5;
/// After the last reply: work that nobody waits for has ended by then.
const SETTLE: Duration = Duration::from_millis(100);
/// A scenario that cannot be read, as `weir` and others have it.
const BAD_SCENARIO: u8 = 2;

/// `weir-loadtest run`
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The scenario.
    #[arg(value_name = "SCENARIO.toml")]
    scenario: PathBuf,
    /// Ask a gateway that is already there, instead of starting the one that the scenario describes.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    target: Option<SocketAddr>,
    /// Its admin address, for what only its metrics say.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback, requires = "target")]
    admin: Option<SocketAddr>,
    /// Write the verdict here; it is on stdout too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The gateway's binary [default: `weir` beside this one].
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
}

impl Run {
    /// Plays it. 0: all holds; 1: something does not, or the run says nothing; 2: the scenario has mistakes.
    pub(crate) fn run(self) -> Result<ExitCode, crate::Failed> {
        let scenario = match Scenario::load(&self.scenario) {
            Ok(scenario) => scenario,
            Err(mistakes) => {
                for mistake in mistakes {
                    report::complain(&*crate::Failed::from(mistake.to_string()));
                }
                return Ok(ExitCode::from(BAD_SCENARIO));
            }
        };
        let (_stage, place) = match (self.target, &scenario.serve) {
            (Some(listen), _) => (None, Place { listen, admin: self.admin, stage: None }),
            (None, Some(serve)) => {
                let weir = self.weir.clone().map_or_else(beside_us, Ok)?;
                let stage = Rc::new(Stage::set(serve, &weir, &Cores::of_this_thread()?, scenario.ask.seed)?);
                let place = Place { listen: stage.listen, admin: Some(stage.admin), stage: Some(Rc::clone(&stage)) };
                (Some(stage), place)
            }
            (None, None) => return Err("the scenario has no [serve] table, so it needs a --target".into()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(rest).build()?;
        let verdict = runtime.block_on(LocalSet::new().run_until(play(&scenario, &place)))?;
        report::say(&verdict);
        if let Some(path) = &self.json {
            std::fs::write(path, serde_json::to_string_pretty(&verdict)?)?;
        }
        Ok(if verdict["verdict"] == "pass" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// For so long the generator lets what comes gather when it has nothing to do for the moment: to be woken by each reply would
/// cost it, and the gateway that wakes it, more than the reply. What it measures grows by as much at most.
const REST: Duration = Duration::from_micros(150);
/// Whoever has had nothing to do for longer than this is not busy, and is woken at once.
const BUSY: Duration = Duration::from_millis(1);

#[allow(clippy::disallowed_methods, reason = "a sleep of the thread, which is what is wanted")]
fn rest() {
    thread_local! {
        static RESTED: Cell<Option<std::time::Instant>> = const { Cell::new(None) };
    }
    if RESTED.get().is_some_and(|rested| rested.elapsed() < BUSY) {
        std::thread::sleep(REST);
    }
    RESTED.set(Some(std::time::Instant::now()));
}

/// The binary that is built along with this one.
pub(crate) fn beside_us() -> Result<PathBuf, crate::Failed> {
    Ok(std::env::current_exe()?.with_file_name("weir"))
}

struct Place {
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    stage: Option<Rc<Stage>>,
}

impl Place {
    /// Pieces of replies that were made late.
    fn struck(&self) -> u64 {
        self.stage.as_ref().and_then(|stage| stage.proxy.as_ref()).map_or(0, |proxy| proxy.counts().struck)
    }
}

async fn play(scenario: &Scenario, place: &Place) -> Result<Json, crate::Failed> {
    let asks = &scenario.ask;
    let serve = scenario.serve.as_ref();
    let bodies = rows::bodies(asks, &rows::drawn(asks), serve.is_some_and(|s| s.user_features > 0));
    let traffic = Traffic {
        asks: asks.clone(),
        callers: Rc::new(Callers::new(place.listen, asks)),
        bodies: bodies.into(),
        look: look(asks.protocol),
        look_every: LOOK_EVERY,
    };
    // Without a cache there is little to warm.
    let warm = if serve.is_some_and(|s| s.cache_mib == 0) { LOOK_EVERY as usize } else { usize::MAX };
    traffic.warm(warm).await?;
    let (peak_rps, ramp) = match scenario.capacity {
        Some(capacity) => climb(&traffic, capacity, place.admin).await?,
        None => (None, Vec::new()),
    };
    if let (Some((replies_share, late)), Some(stage)) = (serve.and_then(|s| s.late), &place.stage) {
        stage.disturb(chunk_share(stage, place, replies_share).await?, late);
    }
    let struck_before = place.struck();
    let stretches: Vec<Stretch> = scenario
        .phases
        .iter()
        .map(|phase| {
            let rps = match phase.rate {
                Rate::Rps(rps) => rps,
                Rate::OfCapacity(share) => share * peak_rps.unwrap_or(0.0),
            };
            Stretch { name: phase.name.clone(), length: phase.length, rps, arrivals: phase.arrivals }
        })
        .collect();
    if stretches.iter().any(|s| s.rps <= 0.0) {
        return Err("the ramp found that nothing is answered in time: there is nothing to take a share of".into());
    }
    let cpu_before = report::own_cpu();
    let (tallies, samples) = watched(&traffic, &stretches, place.admin).await?;
    let cpu = report::own_cpu().zip(cpu_before).map(|(now, before)| (now - before).as_secs_f64());
    let orphans = match place.admin {
        Some(admin) => {
            Some(left_over(admin, serve.and_then(|s| s.late).map_or(SETTLE, |(_, late)| late + SETTLE)).await?)
        }
        None => None,
    };

    let mut phases = Vec::new();
    let (mut all_hold, mut begin) = (true, Duration::ZERO);
    for ((phase, stretch), tally) in scenario.phases.iter().zip(&stretches).zip(&tallies) {
        let samples = &samples;
        let (json, holds) = Measured { phase, rps: stretch.rps, begin, tally, samples, peak_rps, orphans }.json();
        phases.push(json);
        all_hold &= holds;
        begin += phase.length;
    }
    let lag = tallies.iter().filter_map(|t| quantile_ms(&t.lag_ns, 0.99)).fold(0.0, f64::max);
    let is_valid = lag <= asks.lag_p99_ms_max;
    let verdict = match (is_valid, all_hold) {
        (false, _) => "invalid",
        (true, true) => "pass",
        (true, false) => "fail",
    };
    Ok(json!({
        "scenario": scenario.name,
        "description": scenario.description,
        "verdict": verdict,
        "budget_ms": asks.budget.as_secs_f64() * 1e3,
        "generator": {
            "lag_p99_ms": lag,
            "lag_p99_ms_max": asks.lag_p99_ms_max,
            "cpu_share": cpu.map(|cpu| cpu / begin.as_secs_f64()),
            "priority": place.stage.as_ref().map(|stage| stage.priority.json()),
        },
        "ramp": { "peak_rps": peak_rps, "steps": ramp },
        "phases": phases,
        "orphans": orphans,
        "late_pieces": place.struck() - struck_before,
    }))
}

/// Plays the stretches and reads the gateway's counters every second and where a stretch ends.
pub(crate) async fn watched(
    traffic: &Traffic,
    stretches: &[Stretch],
    admin: Option<SocketAddr>,
) -> Result<(Vec<Tally>, Samples), crate::Failed> {
    let Some(admin) = admin else {
        return Ok((traffic.drive(stretches, drop).await?, Samples::default()));
    };
    let mut moments: Vec<Duration> = vec![Duration::ZERO];
    let mut end = Duration::ZERO;
    for stretch in stretches {
        let mut at = end + SAMPLE_EVERY;
        end += stretch.length;
        while at < end {
            moments.push(at);
            at += SAMPLE_EVERY;
        }
        moments.push(end);
    }
    let last = moments.pop().unwrap_or_default();
    let mut sampling = None;
    let tallies = traffic
        .drive(stretches, |begin| {
            sampling = Some(spawn_local(async move {
                let mut samples = Vec::new();
                for at in moments {
                    sleep_until(begin + at).await;
                    // A page that does not come in the middle of an overload leaves a gap, and no more.
                    if let Ok(metrics) = Metrics::read(admin).await {
                        samples.push((Instant::now().saturating_duration_since(begin).max(at), metrics));
                    }
                }
                samples
            }));
        })
        .await?;
    let mut samples = match sampling {
        Some(sampling) => sampling.await?,
        None => Vec::new(),
    };
    // The end is when everybody has been answered, so that no request is counted on one side only.
    samples.push((last, Metrics::read(admin).await?));
    Ok((tallies, Samples(samples)))
}

/// Requests and reads under way although nobody waits.
async fn left_over(admin: SocketAddr, settle: Duration) -> Result<f64, crate::Failed> {
    sleep(settle).await;
    let metrics = Metrics::read(admin).await?;
    Ok(metrics.sum("weir_in_flight") + metrics.sum("weir_store_reads_in_flight"))
}

/// The proxy strikes what one read of its socket brings, and a long reply is several of those: which share of them makes
/// `replies_share` of the replies late.
async fn chunk_share(stage: &Stage, place: &Place, replies_share: f64) -> Result<f64, crate::Failed> {
    let (Some(proxy), Some(admin)) = (&stage.proxy, place.admin) else { return Ok(replies_share) };
    let batches = Metrics::read(admin).await?.sum("weir_store_batches_total");
    let chunks_per_reply = (proxy.counts().replies as f64 / batches.max(1.0)).max(1.0);
    Ok(1.0 - (1.0 - replies_share).powf(1.0 / chunks_per_reply))
}

/// Raises the rate step by step, until nine tenths are no longer answered in time. One good second may be luck, so the
/// highest rate that was carried and the one with the most answers are then held for longer; the peak is the most that was
/// answered in time there. An answer counts by the share of its values that are real, or a gateway that answers with
/// nothing would have no limit.
async fn climb(
    traffic: &Traffic,
    capacity: Capacity,
    admin: Option<SocketAddr>,
) -> Result<(Option<f64>, Vec<Json>), crate::Failed> {
    let lag_ms_max = traffic.asks.lag_p99_ms_max;
    let (mut rps, mut bad, mut steps) = (capacity.from_rps, 0, Vec::new());
    let (mut carried_rps, mut best) = (None, None::<Step>);
    while bad < BAD_RATES && rps <= capacity.rps_max {
        bad += 1;
        for _ in 0..TRIES {
            let step = Step::of(traffic, rps, capacity.step, admin).await?;
            steps.push(step.json());
            // What could not be sent in time says nothing about the gateway.
            if step.lag_ms <= lag_ms_max {
                if best.is_none_or(|best| best.goodput_rps < step.goodput_rps) {
                    best = Some(step);
                }
                if step.carried_share >= CARRIED_SHARE {
                    (bad, carried_rps) = (0, Some(rps));
                    break;
                }
            }
            sleep(CALM).await;
        }
        rps *= capacity.growth;
    }
    let mut peak_rps = 0.0f64;
    let best_rps = best.map(|best| best.rps);
    for rps in carried_rps.into_iter().chain(best_rps.filter(|rps| carried_rps != Some(*rps))) {
        sleep(CALM).await;
        let held = Step::of(traffic, rps, capacity.step * HELD_STEPS, admin).await?;
        steps.push(held.json());
        peak_rps = peak_rps.max(held.goodput_rps);
    }
    Ok(((peak_rps > 0.0).then_some(peak_rps), steps))
}

/// Some seconds of one rate.
#[derive(Clone, Copy)]
struct Step {
    rps: f64,
    length: Duration,
    goodput_rps: f64,
    carried_share: f64,
    real_share: Option<f64>,
    refused: u64,
    lag_ms: f64,
}

impl Step {
    async fn of(
        traffic: &Traffic,
        rps: f64,
        length: Duration,
        admin: Option<SocketAddr>,
    ) -> Result<Self, crate::Failed> {
        let stretch = Stretch { name: "ramp".to_owned(), length, rps, arrivals: Arrivals::Poisson };
        let (tallies, samples) = watched(traffic, &[stretch], admin).await?;
        let tally = tallies.first().ok_or("a step without a tally")?;
        let real_share = samples.between(Duration::ZERO, length).and_then(|counted| real_share(&counted));
        let in_time = tally.in_time as f64 * real_share.unwrap_or(1.0);
        Ok(Self {
            rps,
            length,
            goodput_rps: in_time / length.as_secs_f64(),
            carried_share: in_time / tally.due.max(1) as f64,
            real_share,
            refused: tally.refused,
            lag_ms: quantile_ms(&tally.lag_ns, 0.99).unwrap_or(0.0),
        })
    }

    fn json(&self) -> Json {
        json!({
            "rps": self.rps, "seconds": self.length.as_secs_f64(), "goodput_rps": self.goodput_rps,
            "real_share": self.real_share, "refused": self.refused, "lag_p99_ms": self.lag_ms,
        })
    }
}

/// Counts the values of a reply that have no provenance that the protocol knows.
fn look(protocol: Protocol) -> Look {
    Rc::new(move |_, _, reply| match protocol {
        Protocol::Grpc => untyped_grpc(reply),
        Protocol::Json => untyped_json(reply),
    })
}

fn untyped_grpc(reply: &[u8]) -> u64 {
    let Some(Ok(reply)) = reply.get(FRAME_HEADER..).map(GetFeaturesResponse::decode) else { return 1 };
    let is_typed = |byte: &u8| Provenance::try_from(i32::from(*byte)).is_ok_and(|p| p != Provenance::Unspecified);
    let untyped = reply.columns.iter().map(|column| {
        let typed = column.provenance.iter().filter(|byte| is_typed(byte)).count();
        u64::from(reply.rows).saturating_sub(typed as u64)
    });
    untyped.sum()
}

fn untyped_json(reply: &[u8]) -> u64 {
    let Ok(reply) = serde_json::from_slice::<Json>(reply) else { return 1 };
    let rows = reply["rows"].as_u64().unwrap_or(0);
    let is_typed = |name: &&Json| {
        name.as_str()
            .is_some_and(|n| Provenance::from_str_name(&format!("PROVENANCE_{n}")).is_some_and(|p| p as i32 > 0))
    };
    let untyped = reply["features"].as_array().into_iter().flatten().map(|feature| {
        let typed = feature["provenance"].as_array().into_iter().flatten().filter(is_typed).count();
        rows.saturating_sub(typed as u64)
    });
    untyped.sum()
}
