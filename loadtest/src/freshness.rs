//! `weir-loadtest freshness`: what a cache that believes a row for longer is worth, and what it costs. The same traffic meets
//! five values of `fresh_for_ms` while somebody keeps writing rows; then Redis is stopped, and what is served until
//! it goes on is looked up in the sealed journal: nothing may be older than `stale_for_ms`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use prost::Message;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tokio::task::LocalSet;
use tokio::time::Instant;
use weir_proto::v1::GetFeaturesResponse;

use crate::ask::FRAME_HEADER;
use crate::caller::Callers;
use crate::open::{Look, Stretch, Traffic};
use crate::plot::{self, Line};
use crate::random::Random;
use crate::rows::{self, Redis};
use crate::run::{beside_us, watched};
use crate::scenario::{Arrivals, Asks, Scenario, Serve};
use crate::stage::{Cores, Stage, pause};
use crate::tally::{quantile_ms, share};
use crate::{Failed, report};

/// From what a page that reloads would notice to what nobody does.
const FRESH_FOR: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
/// A row may be this much older than fresh while Redis does not answer.
const STALE_MORE: Duration = Duration::from_secs(1);
/// Before anything is counted, the most popular rows are where they will be.
const WARM: Duration = Duration::from_secs(2);
/// Rows of one write; a write every ten milliseconds makes 2,000 a second.
const WRITTEN_AT_ONCE: u32 = 20;
/// Every so many replies are decoded for the ages in them.
const LOOK_EVERY: u64 = 4;
/// The scenario in which all this happens; the numbers in it are also those of the text below the table.
const TRAFFIC: &str = r#"
name = "freshness"
description = "10 items a request, Zipf(1.0) over 20,000 entities"
[serve]
features = 10
cache_mib = 256
journal = true
[ask]
items = 10
zipf = 1.0
bodies = 16_384
lag_p99_ms_max = 5
[[phase]]
name = "measured"
seconds = 10
rps = 500
"#;
const RPS: f64 = 500.0;

/// `weir-loadtest freshness`
#[derive(Args, Debug)]
pub(crate) struct Freshness {
    /// How long each value of `fresh_for_ms` is measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Write what was measured here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table between the markers of this file, and the plot beside it.
    #[arg(long, value_name = "README.md")]
    readme: Option<PathBuf>,
    /// A Python that has pyarrow, to read the journal with somebody else's code.
    #[arg(long, value_name = "PATH", default_value = "target/py/bin/python")]
    python: PathBuf,
    /// The gateway's binary [default: `weir` beside this one].
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
}

impl Freshness {
    /// Measures the curve. 1 when something older than `stale_for_ms` was served.
    pub(crate) fn run(self) -> Result<ExitCode, Failed> {
        let scenario = Scenario::parse("freshness", TRAFFIC, Path::new("."))
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let serve = scenario.serve.ok_or("the scenario serves nothing")?;
        let (weir, cores) = (self.weir.clone().map_or_else(beside_us, Ok)?, Cores::of_this_thread()?);
        let mut points = Vec::new();
        for fresh_for in FRESH_FOR {
            let serve = Serve { fresh_for, stale_for: fresh_for + STALE_MORE, ..serve.clone() };
            let stage = Stage::set(&serve, &weir, &cores, scenario.ask.seed)?;
            let point = self.point(&serve, &scenario.ask, stage)?;
            report::say(&point);
            points.push(point);
        }
        // Where nothing stale was served, nothing was tried.
        let holds = |p: &Json| {
            p["stale_rows"].as_u64() > Some(0) && p["oldest_served_ms"].as_u64() <= p["stale_for_ms"].as_u64()
        };
        let all_hold = points.iter().all(holds);
        if let Some(path) = &self.json {
            std::fs::write(path, serde_json::to_string_pretty(&points)?)?;
        }
        if let Some(readme) = &self.readme {
            let text = std::fs::read_to_string(readme)?;
            std::fs::write(readme, between_markers(&text, &table(&points))?)?;
            std::fs::write(readme.with_file_name("freshness.svg"), plot(&points))?;
        }
        Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// One value of `fresh_for_ms`.
    fn point(&self, serve: &Serve, asks: &Asks, mut stage: Stage) -> Result<Json, Failed> {
        let drawn = rows::drawn(asks);
        let bodies = rows::bodies(asks, &drawn, false);
        let writer = Writer::start(serve, stage.redis_at)?;
        let seen = Rc::new(RefCell::new(Seen::new()?));
        let traffic = Traffic {
            asks: asks.clone(),
            callers: Rc::new(Callers::new(stage.listen, asks)),
            bodies: bodies.into(),
            look: look(Rc::clone(&seen), drawn, Arc::clone(&writer.written), writer.started),
            look_every: LOOK_EVERY,
        };
        let even = |seconds| {
            let arrivals = Arrivals::Poisson;
            [Stretch { name: format!("fresh for {:?}", serve.fresh_for), length: seconds, rps: RPS, arrivals }]
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let play = |stretch: [Stretch; 1]| {
            let traffic = &traffic;
            runtime
                .block_on(LocalSet::new().run_until(async move { watched(traffic, &stretch, Some(stage.admin)).await }))
        };
        play(even(WARM + serve.fresh_for))?;
        seen.borrow_mut().clear();
        let length = Duration::from_secs_f64(self.seconds);
        let (tallies, samples) = play(even(length))?;
        let seen_then = seen.replace(Seen::new()?);
        writer.stop()?;

        // From here on nothing can be read: what is served is served from the cache, until it is too old.
        stage.redis.signal(Signal::STOP);
        let frozen = play(even(serve.stale_for + STALE_MORE));
        stage.redis.signal(Signal::CONT);
        frozen?;
        drop(traffic);
        stage.gateway.stop();
        let oldest = self.oldest_served(&stage.journal())?;

        let counted = samples.between(Duration::ZERO, length).ok_or("the gateway has no metrics")?;
        let lookups = counted.by("weir_cache_lookups_total", "result");
        let tally = tallies.first().ok_or("nothing was asked")?;
        Ok(json!({
            "fresh_for_ms": serve.fresh_for.as_millis() as u64,
            "stale_for_ms": serve.stale_for.as_millis() as u64,
            "hit_rate": lookups.get("hit").copied().unwrap_or(0.0) / lookups.values().sum::<f64>(),
            "redis_reads_per_s": counted.sum("weir_store_keys_total") / length.as_secs_f64(),
            "age_p50_ms": seen_then.ages_ms.value_at_quantile(0.5),
            "age_p99_ms": seen_then.ages_ms.value_at_quantile(0.99),
            "outdated_share": share(seen_then.outdated, seen_then.ages_ms.len()),
            "values_looked_at": seen_then.ages_ms.len(),
            "in_time_share": tally.in_time_share(),
            "lag_p99_ms": quantile_ms(&tally.lag_ns, 0.99),
            "journalled_rows": oldest["rows"],
            "stale_rows": oldest["stale_rows"],
            "oldest_served_ms": oldest["oldest_ms"],
        }))
    }

    fn oldest_served(&self, journal: &Path) -> Result<Json, Failed> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oldest_served.py");
        let output = Command::new(&self.python).arg(script).arg(journal).output();
        let output = output.map_err(|e| format!("{}: {e}", self.python.display()))?;
        if !output.status.success() {
            return Err(format!("the journal cannot be read: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What replies say of the rows in them.
struct Seen {
    ages_ms: Histogram<u64>,
    outdated: u64,
}

impl Seen {
    fn new() -> Result<Self, Failed> {
        Ok(Self { ages_ms: Histogram::new_with_max(report::LATENCY_MAX.as_millis() as u64, 3)?, outdated: 0 })
    }

    fn clear(&mut self) {
        self.ages_ms.reset();
        self.outdated = 0;
    }
}

/// Looks at the age of each row, and whether a newer one had been written when the request was due.
fn look(seen: Rc<RefCell<Seen>>, drawn: Vec<Vec<u32>>, written: Arc<[AtomicI64]>, started: Instant) -> Look {
    Rc::new(move |body, due, reply| {
        let Some(Ok(reply)) = reply.get(FRAME_HEADER..).map(GetFeaturesResponse::decode) else { return 1 };
        let due_us = due.saturating_duration_since(started).as_micros() as i64;
        let mut seen = seen.borrow_mut();
        for view in &reply.views {
            for ((age_ms, event_time_us), id) in view.age_ms.iter().zip(&view.event_time_us).zip(&drawn[body]) {
                // No row, no age.
                if *event_time_us == 0 {
                    continue;
                }
                seen.ages_ms.saturating_record(u64::from(*age_ms));
                let newest_us = written[*id as usize].load(SeqCst);
                seen.outdated += u64::from(newest_us < due_us && *event_time_us < rows::EVENT_TIME_US + newest_us);
            }
        }
        0
    })
}

/// Somebody who keeps writing rows, each entity as often as any other.
struct Writer {
    /// When each row was written last, in microseconds since `started`.
    written: Arc<[AtomicI64]>,
    started: Instant,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

impl Writer {
    fn start(serve: &Serve, redis: SocketAddr) -> Result<Self, Failed> {
        let views = rows::views(serve)?;
        let view = views.into_iter().next().ok_or("there is no view")?;
        let written: Arc<[AtomicI64]> = (0..serve.entities).map(|_| AtomicI64::new(0)).collect();
        let (started, stop) = (Instant::now(), Arc::<AtomicBool>::default());
        let (entities, theirs, ends) = (serve.entities, Arc::clone(&written), Arc::clone(&stop));
        let write = move || -> Result<(), Failed> {
            let mut redis = Redis::connect(redis)?;
            let mut random = Random::new(u64::from(entities));
            while !ends.load(SeqCst) {
                let now_us = started.elapsed().as_micros() as i64;
                let ids: Vec<u32> = (0..WRITTEN_AT_ONCE).map(|_| random.below(entities)).collect();
                let mut command = vec![b"MSET".to_vec()];
                for id in &ids {
                    command.push(rows::key(&view, &rows::entity(*id)).into_bytes());
                    command.push(rows::row(&view, rows::EVENT_TIME_US + now_us, &mut random));
                }
                redis.call(&command)?;
                ids.iter().for_each(|id| theirs[*id as usize].store(now_us, SeqCst));
                pause();
            }
            Ok(())
        };
        let thread = std::thread::spawn(move || write().map_err(|e| e.to_string()));
        Ok(Self { written, started, stop, thread })
    }

    fn stop(self) -> Result<(), Failed> {
        self.stop.store(true, SeqCst);
        Ok(self.thread.join().map_err(|_| "the writer has panicked")??)
    }
}

fn table(points: &[Json]) -> String {
    let mut out = "| `fresh_for_ms` | hit rate | Redis reads a second | age p50 / p99, ms | values that a newer write had replaced | oldest \
                   served while Redis was stopped, `stale_for_ms` |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for point in points {
        let number = |key: &str| point[key].as_f64().unwrap_or(f64::NAN);
        out += &format!(
            "| {} | {:.1} % | {:.0} | {} / {} | {:.2} % | {} ms, {} |\n",
            point["fresh_for_ms"],
            100.0 * number("hit_rate"),
            number("redis_reads_per_s"),
            point["age_p50_ms"],
            point["age_p99_ms"],
            100.0 * number("outdated_share"),
            point["oldest_served_ms"],
            point["stale_for_ms"],
        );
    }
    // On a busy machine reads come late, and that lowers the hit rate.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    out + &format!(
        "\nLoad average {load} at the end.\n\n![Hit rate and age by how long a row is believed](freshness.svg)\n"
    )
}

fn plot(points: &[Json]) -> String {
    let line = |name, color, key: &str, factor: f64| {
        let at = |p: &Json| Some((p["fresh_for_ms"].as_f64()?, factor * p[key].as_f64()?));
        Line { name, color, points: points.iter().filter_map(at).collect() }
    };
    let hits = [line("hit rate, %", "#1b6ca8", "hit_rate", 100.0)];
    let ages = [line("age p99, ms", "#b23a48", "age_p99_ms", 1.0), line("age p50, ms", "#e0a458", "age_p50_ms", 1.0)];
    plot::two_panels("fresh_for_ms", &hits, &ages)
}

/// Replaces what stands between the two markers.
fn between_markers(text: &str, new: &str) -> Result<String, Failed> {
    const BEGIN: &str = "<!-- freshness -->\n";
    const END: &str = "<!-- /freshness -->";
    let (before, rest) = text.split_once(BEGIN).ok_or_else(|| format!("there is no {}", BEGIN.trim()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("there is no {END}"))?;
    Ok(format!("{before}{BEGIN}{new}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = "a\n<!-- freshness -->\nold\n<!-- /freshness -->\nb\n";
        assert_eq!(between_markers(text, "new\n").unwrap(), text.replace("old", "new"));
        assert!(between_markers("nothing", "new").is_err());
    }

    #[test]
    fn the_traffic_is_a_good_scenario() {
        assert_eq!(Scenario::parse("freshness", TRAFFIC, Path::new(".")).unwrap().ask.items, 10);
    }
}
