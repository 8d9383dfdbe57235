//! A peer: the cluster client of redis-rs, asked for the rows of a request with one MGET, which it splits by slot itself. An
//! example and not a part of `weir-loadtest`, so that nobody else has to build that client.
//!
//!     cluster_client ADDR FILE SECONDS IN_FLIGHT
//!
//! FILE has the keys of a request on each line. What was measured is one JSON object on stdout.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use tokio::task::{JoinSet, LocalSet};

type Failed = Box<dyn Error>;

/// The same as in `weir`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [address, file, seconds, in_flight] = given.as_slice() else {
        return Err("usage: cluster_client ADDR FILE SECONDS IN_FLIGHT".into());
    };
    let address: SocketAddr = address.parse()?;
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not on loopback").into());
    }
    let lines = std::fs::read_to_string(file)?;
    let requests: Rc<[Vec<String>]> =
        lines.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    let (seconds, in_flight): (f64, usize) = (seconds.parse()?, in_flight.parse()?);
    let client = ClusterClient::builder([format!("redis://{address}")])
        .tcp_settings(TcpSettings::default().set_nodelay(true))
        .build()?;
    let connection = client.get_async_connection().await?;
    let (started, cpu_before) = (Instant::now(), own_cpu()?);
    let until = started + Duration::from_secs_f64(seconds);
    let (local, mut asking) = (LocalSet::new(), JoinSet::new());
    for first in 0..in_flight {
        asking.spawn_local_on(ask(connection.clone(), Rc::clone(&requests), first, until), &local);
    }
    let mut answered = 0;
    local
        .run_until(async {
            while let Some(done) = asking.join_next().await {
                answered += done??;
            }
            Ok::<_, Failed>(())
        })
        .await?;
    let (took, cpu) = (started.elapsed().as_secs_f64(), (own_cpu()? - cpu_before).as_secs_f64());
    let (rps, cpu_us) = (f64::from(answered) / took, cpu * 1e6 / f64::from(answered));
    let said = serde_json::json!({ "answered": answered, "rps": rps, "cpu_us": cpu_us, "cpu_share": cpu / took });
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

/// One request after the other; how many were answered in full.
async fn ask(
    mut connection: ClusterConnection,
    requests: Rc<[Vec<String>]>,
    first: usize,
    until: Instant,
) -> Result<u32, Failed> {
    let mut answered = 0;
    for at in first.. {
        if Instant::now() >= until {
            break;
        }
        let keys = &requests[at % requests.len()];
        let rows: Vec<Vec<u8>> = redis::cmd("MGET").arg(keys).query_async(&mut connection).await?;
        if rows.len() != keys.len() || rows.iter().any(Vec::is_empty) {
            return Err("rows are missing".into());
        }
        answered += 1;
    }
    Ok(answered)
}

/// Processor time of this thread, which does everything.
fn own_cpu() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(stat.split_whitespace().next().ok_or("schedstat is empty")?.parse()?))
}
