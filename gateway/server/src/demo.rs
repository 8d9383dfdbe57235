//! `weir demo`: one command that shows the whole gateway at work. It serves the demo's catalog from the embedded
//! store, replays real flights of December 2013 through its own gRPC door, and says what came of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use weir_domain::{Cell, Column, FeatureType, Kind, Provenance};
use weir_journal::Journal;
use weir_journal::table::{TableError, read_table};
use weir_proto::v1;
use weir_proto::v1::feature_service_client::FeatureServiceClient;

use crate::app::App;
use crate::cli::Demo;
use crate::commands::{complain, failed_start, say, settings, told_to_stop, wrong_config};
use crate::load::progress;
use crate::snapshot::chain;

/// The feature service that the replay asks.
const SERVICE: &str = "arrival_delay";
/// Callers at a time: enough to show throughput on two cores, few enough that latency is the gateway's own.
const CALLERS: usize = 8;

/// Runs the demo.
pub async fn run(args: Demo) -> ExitCode {
    let config = match settings(&args.config, args.doors.over(None)) {
        Ok(config) => config,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    if !config.dir.join("plugins").is_dir() {
        complain(
            "weir demo: its transforms are not built yet: run `make demo`, or plugins/build.sh deploy/demo/plugins",
        );
        return ExitCode::FAILURE;
    }
    let flights = match flights(&config.dir, args.flights) {
        Ok(flights) => flights,
        Err(error) => {
            complain(&format!("weir demo: {}", chain(&error)));
            return ExitCode::FAILURE;
        }
    };
    let mut stop = std::pin::pin!(told_to_stop());
    let started = tokio::select! {
        // Signals first: from the moment anything is open, being told to stop closes it in order.
        biased;
        () = &mut stop => return ExitCode::SUCCESS,
        started = App::start(config) => started,
    };
    let app = match started {
        Ok(app) => app,
        Err(error) => return failed_start(&error),
    };
    let replayed = tokio::select! {
        () = &mut stop => None,
        replayed = replay(app.listen(), flights) => Some(replayed),
    };
    let code = match replayed {
        None => ExitCode::SUCCESS,
        Some(Err(error)) => {
            complain(&format!("weir demo: {}", chain(&error)));
            ExitCode::FAILURE
        }
        Some(Ok(replayed)) => {
            let summary = Summary::new(&app, replayed).await;
            say(&if args.json { summary.json() } else { summary.text() });
            if !args.once {
                complain("serving until Ctrl-C");
                stop.await;
            }
            ExitCode::SUCCESS
        }
    };
    app.stop().await;
    code
}

/// The flights to replay, as requests in the order of their departure.
fn flights(dir: &Path, most: Option<usize>) -> Result<Vec<v1::GetFeaturesRequest>, TableError> {
    let text = FeatureType::One(Kind::String);
    let columns = [
        ("origin", text),
        ("dest", text),
        ("carrier", text),
        ("tailnum", text),
        ("sched_hour", FeatureType::One(Kind::I64)),
        ("runway_heading_deg", FeatureType::One(Kind::F64)),
    ];
    let table = read_table(&dir.join("data/replay.parquet"), &columns)?;
    let mut requests = Vec::with_capacity(table.rows() as usize);
    for batch in table {
        let batch = batch?;
        let rows = batch.first().map_or(0, |cell| cell.column.len());
        requests.extend((0..rows).map(|row| request(&batch, row)));
    }
    requests.truncate(most.unwrap_or(usize::MAX));
    Ok(requests)
}

fn request(batch: &[Cell], row: usize) -> v1::GetFeaturesRequest {
    use v1::values::Kind as Wire;
    let text = |i: usize| match &batch[i].column {
        Column::String(blob) => String::from_utf8_lossy(blob.get(row)).into_owned(),
        _ => String::new(),
    };
    let column =
        |name: &str, kind: Wire| v1::Column { name: name.to_owned(), values: Some(v1::Values { kind: Some(kind) }) };
    let strings = |name: &str, value: String| column(name, Wire::Strings(v1::Strings { values: vec![value] }));
    let attribute = |value: String| v1::Attribute { value: Some(v1::attribute::Value::StringValue(value)) };
    let mut features = Vec::with_capacity(2);
    if let Column::I64(hours) = &batch[4].column {
        features.push(column("sched_hour", Wire::Int64s(v1::Int64s { values: vec![hours[row]] })));
    }
    if let Column::F64(headings) = &batch[5].column {
        features.push(column("runway_heading_deg", Wire::Doubles(v1::Doubles { values: vec![headings[row]] })));
    }
    let (origin, dest, carrier, tailnum) = (text(0), text(1), text(2), text(3));
    v1::GetFeaturesRequest {
        service: SERVICE.to_owned(),
        attributes: [("carrier", &carrier), ("dest", &dest)].map(|(k, v)| (k.to_owned(), attribute(v.clone()))).into(),
        unit: tailnum.clone(),
        context: vec![strings("origin", origin)],
        items: vec![strings("tailnum", tailnum), strings("carrier", carrier), strings("dest", dest)],
        features,
        max_staleness: None,
    }
}

/// What one caller saw.
struct Replayed {
    requests: u64,
    errors: u64,
    rows: u64,
    latency_us: Histogram<u64>,
    provenance: BTreeMap<u8, u64>,
    arms: BTreeMap<String, u64>,
    took: Duration,
    first_error: Option<String>,
}

impl Replayed {
    fn new() -> Self {
        Self {
            requests: 0,
            errors: 0,
            rows: 0,
            latency_us: histogram(),
            provenance: BTreeMap::new(),
            arms: BTreeMap::new(),
            took: Duration::ZERO,
            first_error: None,
        }
    }

    fn answered(&mut self, reply: &v1::GetFeaturesResponse) {
        self.rows += u64::from(reply.rows);
        for byte in reply.columns.iter().flat_map(|c| &c.provenance) {
            *self.provenance.entry(*byte).or_default() += 1;
        }
        for assignment in &reply.assignments {
            *self.arms.entry(format!("{}={}", assignment.experiment, assignment.arm)).or_default() += 1;
        }
        for holdout in &reply.holdouts {
            *self.arms.entry(format!("holdout {holdout}")).or_default() += 1;
        }
        if reply.assignments.is_empty() && reply.holdouts.is_empty() {
            *self.arms.entry("no experiment".to_owned()).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.rows += other.rows;
        // Both have the same bounds.
        let _ = self.latency_us.add(&other.latency_us);
        for (key, count) in other.provenance {
            *self.provenance.entry(key).or_default() += count;
        }
        for (key, count) in other.arms {
            *self.arms.entry(key).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Up to a minute, which is longer than any budget, to three digits.
#[expect(clippy::expect_used, reason = "the bounds are constants that the library accepts")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("1 < 60,000,000 and 3 <= 5")
}

async fn replay(to: SocketAddr, flights: Vec<v1::GetFeaturesRequest>) -> Result<Replayed, tonic::transport::Error> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?.tcp_nodelay(true).connect().await?;
    let bar = progress(flights.len() as u64, "replaying flights");
    let mut shares: Vec<Vec<v1::GetFeaturesRequest>> = (0..CALLERS).map(|_| Vec::new()).collect();
    for (i, flight) in flights.into_iter().enumerate() {
        shares[i % CALLERS].push(flight);
    }
    let started = Instant::now();
    let callers = shares.into_iter().map(|share| tokio::spawn(call(channel.clone(), share, bar.clone())));
    let mut all = Replayed::new();
    for caller in futures::future::join_all(callers).await {
        match caller {
            Ok(one) => all.merge(one),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    all.took = started.elapsed();
    bar.finish_and_clear();
    Ok(all)
}

async fn call(channel: Channel, requests: Vec<v1::GetFeaturesRequest>, bar: indicatif::ProgressBar) -> Replayed {
    let mut client = FeatureServiceClient::new(channel);
    let mut seen = Replayed::new();
    for request in requests {
        let started = Instant::now();
        let reply = client.get_features(request).await;
        seen.latency_us.saturating_record(started.elapsed().as_micros() as u64);
        seen.requests += 1;
        match reply {
            Ok(reply) => seen.answered(reply.get_ref()),
            Err(status) => {
                seen.errors += 1;
                seen.first_error.get_or_insert_with(|| status.to_string());
            }
        }
        bar.inc(1);
    }
    seen
}

/// What the demo has to say.
struct Summary {
    seen: Replayed,
    listen: SocketAddr,
    admin: SocketAddr,
    journal: Option<Written>,
}

struct Written {
    dir: String,
    rows: u64,
    dropped: u64,
}

impl Summary {
    /// Seals the journal, so that what is said about it can be read at once.
    async fn new(app: &App, seen: Replayed) -> Self {
        let gateway = std::sync::Arc::clone(app.gateway());
        // A panic in there would show itself as rows that are missing from the summary.
        let _ = tokio::task::spawn_blocking(move || gateway.journal.as_ref().map(Journal::seal)).await;
        let journal = app.gateway().journal.as_ref().zip(app.config().journal.as_ref()).map(|(journal, config)| {
            let counts = journal.counts();
            let dir = std::path::absolute(&config.dir).unwrap_or_else(|_| config.dir.clone());
            Written { dir: dir.display().to_string(), rows: counts.kept.rows, dropped: counts.dropped_total().rows }
        });
        Self { seen, listen: app.listen(), admin: app.admin(), journal }
    }

    fn per_second(&self) -> f64 {
        self.seen.requests as f64 / self.seen.took.as_secs_f64().max(1e-9)
    }

    fn percentiles(&self) -> [(&'static str, u64); 4] {
        let at = |q: f64| self.seen.latency_us.value_at_quantile(q);
        [("p50", at(0.5)), ("p90", at(0.9)), ("p99", at(0.99)), ("p99.9", at(0.999))]
    }

    /// Name and share of each provenance, the most frequent first.
    fn provenance(&self) -> Vec<(&'static str, u64, f64)> {
        let all: u64 = self.seen.provenance.values().sum();
        let mut shares: Vec<_> = self
            .seen
            .provenance
            .iter()
            .map(|(byte, n)| {
                let name = Provenance::from_byte(*byte).map_or("UNKNOWN", Provenance::name);
                (name, *n, *n as f64 / all.max(1) as f64)
            })
            .collect();
        shares.sort_by_key(|(_, n, _)| std::cmp::Reverse(*n));
        shares
    }

    fn json(&self) -> String {
        let provenance: serde_json::Map<_, _> = self
            .provenance()
            .into_iter()
            .map(|(name, values, share)| (name.to_owned(), json!({ "values": values, "share": share })))
            .collect();
        let latency: serde_json::Map<_, _> =
            self.percentiles().into_iter().map(|(q, us)| (q.replace('.', "_"), json!(us))).collect();
        let journal = self.journal.as_ref().map(
            |j| json!({ "dir": j.dir, "rows": j.rows, "dropped": j.dropped, "served": format!("{}/served", j.dir) }),
        );
        json!({
            "requests": self.seen.requests,
            "errors": self.seen.errors,
            "rows": self.seen.rows,
            "seconds": self.seen.took.as_secs_f64(),
            "requests_per_second": self.per_second(),
            "latency_us": latency,
            "provenance": provenance,
            "arms": self.seen.arms,
            "journal": journal,
            "listen": self.listen.to_string(),
            "admin": self.admin.to_string(),
        })
        .to_string()
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        let seen = &self.seen;
        line(format!(
            "\n{} real flights of December 2013, answered in {:.2} s by {CALLERS} callers over gRPC",
            seen.requests,
            seen.took.as_secs_f64()
        ));
        line(format!("  throughput   {:.0} requests/s, {} errors", self.per_second(), seen.errors));
        if let Some(error) = &seen.first_error {
            line(format!("  first error  {error}"));
        }
        let ms = self.percentiles().map(|(q, us)| format!("{q} {:.2} ms", us as f64 / 1e3));
        line(format!("  latency      {}", ms.join("   ")));
        line("  where the values came from".to_owned());
        for (name, values, share) in self.provenance() {
            line(format!("    {name:18} {values:>8}  {:5.1} %", share * 100.0));
        }
        line("  arms".to_owned());
        for (arm, requests) in &seen.arms {
            line(format!("    {arm:32} {requests:>6} requests"));
        }
        if let Some(journal) = &self.journal {
            line(format!(
                "  journal      {} rows in {}/served ({} dropped)",
                journal.rows, journal.dir, journal.dropped
            ));
        }
        line(format!("\nServing on {} (gRPC and HTTP), operators on {}. Try:\n", self.listen, self.admin));
        line(self.curl());
        line(self.grpc());
        if let Some(journal) = &self.journal {
            line(reader(&journal.dir));
        }
        out.truncate(out.trim_end().len());
        out
    }

    fn curl(&self) -> String {
        format!(
            r#"  curl -s http://{}/v1/features -H 'content-type: application/json' -d '{{
    "service": "arrival_delay", "unit": "N14228", "context": {{"origin": "JFK"}},
    "items": {{"tailnum": ["N14228", "N24211"], "carrier": ["UA", "B6"], "dest": ["LAX", "BOS"]}},
    "features": {{"runway_heading_deg": 310, "sched_hour": 17}} }}'
"#,
            self.listen
        )
    }

    fn grpc(&self) -> String {
        format!(
            r#"  {python} -c '
from grpc_requests import Client
texts = lambda name, *values: {{"name": name, "values": {{"strings": {{"values": values}}}}}}
heading = {{"name": "runway_heading_deg", "values": {{"doubles": {{"values": [310.0]}}}}}}
print(Client.get_by_endpoint("{listen}").request("weir.v1.FeatureService", "GetFeatures", {{
    "service": "arrival_delay", "unit": "N14228", "context": [texts("origin", "JFK")], "features": [heading],
    "items": [texts("tailnum", "N14228"), texts("carrier", "UA"), texts("dest", "LAX")]}}))'
"#,
            python = python(),
            listen = self.listen
        )
    }
}

/// Reads the journal with DuckDB.
fn reader(dir: &str) -> String {
    format!(
        r#"  {} -c '
import duckdb
print(duckdb.sql("""select plane__age_years__provenance as plane_age, count(*) as rows, avg(delay_risk__score) as mean_risk
                    from read_parquet("{dir}/served/**/*.parquet", hive_partitioning = true, union_by_name = true)
                    where service = $$arrival_delay$$ group by 1 order by 2 desc"""))'
"#,
        python()
    )
}

/// The Python that `make demo` prepared, or how to prepare one.
fn python() -> &'static str {
    if Path::new("target/py/bin/python").exists() {
        "target/py/bin/python"
    } else {
        "python3 -m venv target/py && target/py/bin/pip install -q duckdb grpc-requests && target/py/bin/python"
    }
}
