//! A gateway for a test: the real app over a copy of the demo in a folder of its own, on free ports, in this
//! process ([`Setup::start`]) or in one of its own that can be killed ([`Setup::spawn`]).
#![allow(dead_code, unreachable_pub, reason = "every test binary uses another part of it")]
#![allow(clippy::disallowed_methods, reason = "waiting for a process is looking again after a while, with a limit")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::transport::Channel;
use weir::app::{App, StartError};
use weir::config::{Config, Limits, Overrides, StoreUrl};
use weir_proto::v1;
use weir_proto::v1::feature_service_client::FeatureServiceClient;

#[path = "../../../store/tests/common/mod.rs"]
pub mod redis;

/// Longest wait for anything to come true; a condition that takes longer is a failed test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a gateway is started from: change its files, then start.
pub struct Setup {
    dir: TempDir,
    store: Option<StoreUrl>,
    journal: Option<PathBuf>,
    env: Vec<(&'static str, String)>,
    limits: Option<Limits>,
}

impl Setup {
    /// A copy of the demo that serves from the embedded store and writes no journal. It is patient: on a busy
    /// machine nothing is late that no test means to be.
    pub fn demo() -> Self {
        Self::hasty().edit("catalog/services.toml", "budget_ms = 25", "budget_ms = 10000").edit(
            "catalog/transforms.toml",
            "time_limit_ms = 10",
            "time_limit_ms = 5000",
        )
    }

    /// The same with the demo's own budgets. Waiting for a core of a machine that runs other tests is no overload here.
    pub fn hasty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let demo = repo().join("deploy/demo");
        for part in ["catalog", "data"] {
            copy_dir(&demo.join(part), &dir.path().join(part));
        }
        copy_dir(components(), &dir.path().join("plugins"));
        fs::write(
            dir.path().join("weir.toml"),
            "namespace = \"flights\"\nas_of = \"2013-12-01T05:00:00Z\"\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             latency_target_ms = 60000\n",
        )
        .expect("write weir.toml");
        Self { dir, store: None, journal: None, env: Vec::new(), limits: None }
    }

    pub fn store(mut self, url: &str) -> Self {
        self.store = Some(StoreUrl::parse(url).expect("a store"));
        self
    }

    /// Sets a variable in the environment of processes.
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    /// Writes the journal into a folder inside this setup.
    pub fn journal(mut self) -> Self {
        self.journal = Some(self.journal_dir());
        self
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces text in a file; it must be there.
    pub fn edit(self, file: &str, from: &str, to: &str) -> Self {
        self.change(file, from, to);
        self
    }

    pub fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.dir.path().join(file);
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(&path, text.replace(from, to)).expect("write");
    }

    /// Appends to a file.
    pub fn append(self, file: &str, text: &str) -> Self {
        let path = self.dir.path().join(file);
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, old + text).expect("write");
        self
    }

    pub fn config(&self) -> Config {
        let overrides = Overrides { store: self.store.clone(), journal: self.journal.clone(), ..Overrides::default() };
        let config = Config::load(self.dir.path(), overrides).expect("a good weir.toml");
        Config { limits: self.limits.clone().unwrap_or(config.limits), ..config }
    }

    /// Changes what strangers may do at the doors of this process.
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = self.config().limits;
        change(&mut limits);
        self.limits = Some(limits);
        self
    }

    /// Starts the app in this process.
    pub async fn start(self) -> Running {
        let app = self.try_start().await.unwrap_or_else(|e| panic!("{e}: {:?}", e));
        Running::new(app, self).await
    }

    pub async fn try_start(&self) -> Result<App, StartError> {
        App::start(self.config()).await
    }

    /// Runs a command of the real binary on this setup to its end.
    pub fn run(&self, command: &str, args: &[&str]) -> std::process::Output {
        self.command(command, args).output().expect("run weir")
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.arg(command).arg("--config").arg(self.dir.path()).args(args).env_remove("RUST_LOG").stdin(Stdio::null());
        weir.envs(self.env.iter().map(|(name, value)| (name, value)));
        weir
    }

    /// Starts `weir serve` in a process of its own and waits until it serves.
    pub fn spawn(&self) -> Process {
        let mut command = self.command("serve", &["--log", "json"]);
        if let Some(StoreUrl::Redis(address)) = &self.store {
            command.args(["--store", &address.to_string()]);
        }
        if let Some(journal) = &self.journal {
            command.arg("--journal").arg(journal);
        }
        Process::start(command)
    }
}

/// A gateway inside this process.
pub struct Running {
    app: App,
    pub setup: Setup,
    pub client: FeatureServiceClient<Channel>,
}

impl Running {
    async fn new(app: App, setup: Setup) -> Self {
        let client = connect(app.listen()).await;
        Self { app, setup, client }
    }

    pub fn listen(&self) -> SocketAddr {
        self.app.listen()
    }

    pub fn admin(&self) -> SocketAddr {
        self.app.admin()
    }

    pub fn gateway(&self) -> &Arc<weir::gateway::Gateway> {
        self.app.gateway()
    }

    pub async fn get(&self, request: v1::GetFeaturesRequest) -> Result<v1::GetFeaturesResponse, tonic::Status> {
        self.client.clone().get_features(request).await.map(tonic::Response::into_inner)
    }

    /// The value of a metric line that starts with this text (name and labels). A label that nothing was counted for
    /// yet is 0; a metric without labels is always there.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = http_get(self.admin(), "/metrics").await.1;
        let value = page.lines().find_map(|l| l.strip_prefix(name));
        assert!(value.is_some() || name.contains('{'), "no metric {name:?}");
        value.map_or(0.0, |v| v.trim().parse().expect("a number"))
    }

    pub async fn stop(self) -> Setup {
        drop(self.client);
        self.app.stop().await;
        self.setup
    }
}

/// A gateway in a process of its own; killed when dropped.
pub struct Process {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it and waits until it serves; its log is JSON.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start weir");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let mut seen = Vec::new();
        let serving = loop {
            let Some(Ok(line)) = lines.next() else { panic!("weir ended early: {seen:#?}") };
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            seen.push(line);
            if json["message"] == "serving" {
                break json;
            }
        };
        let address = |key: &str| serving[key].as_str().expect(key).parse().expect("an address");
        let (listen, admin) = (address("listen"), address("admin"));
        let log = Arc::new(Mutex::new(seen));
        let more = Arc::clone(&log);
        // Ends with the process, whose end of the pipe it reads.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|l| more.lock().expect("log").push(l)));
        Self { child, listen, admin, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("run kill");
        assert!(sent.success());
    }

    pub fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("wait");
    }

    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("weir does not end: {:#?}", self.log());
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn connect(to: SocketAddr) -> FeatureServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{to}")).expect("a URL").connect().await.expect("connect");
    FeatureServiceClient::new(channel).max_decoding_message_size(64 << 20)
}

/// Status and body of an HTTP/1.1 GET.
pub async fn http_get(to: SocketAddr, path: &str) -> (u16, String) {
    http(to, "GET", path, &[], "").await
}

/// Status and body of a JSON POST.
pub async fn post(to: SocketAddr, path: &str, body: &str) -> (u16, serde_json::Value) {
    let (status, body) = http(to, "POST", path, &[("content-type", "application/json")], body).await;
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
}

/// Status and body of one HTTP/1.1 exchange.
pub async fn http(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let (status, _, body) = exchange(to, method, path, headers, body).await;
    (status, body)
}

/// Status, head and body of one HTTP/1.1 exchange, spelled out: a client that shares nothing with the server under
/// test.
pub async fn exchange(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.expect("connect");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    head += &format!("content-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("send the head");
    // A server that has refused already may close before the body is sent: its answer is what counts.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {head:?}"));
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    (status, head.to_owned(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole += &rest[..size];
        body = &rest[size + 2..];
    }
    whole
}

/// A column of texts for a request.
pub fn texts<T: ToString>(name: &str, values: &[T]) -> v1::Column {
    let values = values.iter().map(ToString::to_string).collect();
    let kind = v1::values::Kind::Strings(v1::Strings { values });
    v1::Column { name: name.to_owned(), values: Some(v1::Values { kind: Some(kind) }) }
}

/// A column of floats for a request.
pub fn floats(name: &str, values: &[f64]) -> v1::Column {
    let kind = v1::values::Kind::Doubles(v1::Doubles { values: values.to_vec() });
    v1::Column { name: name.to_owned(), values: Some(v1::Values { kind: Some(kind) }) }
}

/// A request for flights from one origin.
pub fn flights(unit: &str, origin: &str, items: &[(&str, &str, &str)]) -> v1::GetFeaturesRequest {
    let column =
        |name: &str, of: fn(&(&str, &str, &str)) -> String| texts(name, &items.iter().map(of).collect::<Vec<_>>());
    v1::GetFeaturesRequest {
        service: "arrival_delay".to_owned(),
        unit: unit.to_owned(),
        context: vec![texts("origin", &[origin])],
        items: vec![
            column("tailnum", |i| i.0.to_owned()),
            column("carrier", |i| i.1.to_owned()),
            column("dest", |i| i.2.to_owned()),
        ],
        features: vec![floats("runway_heading_deg", &[310.0])],
        ..v1::GetFeaturesRequest::default()
    }
}

/// A column of a reply.
pub fn column<'a>(reply: &'a v1::GetFeaturesResponse, name: &str) -> &'a v1::FeatureColumn {
    reply.columns.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no column {name}"))
}

/// Waits until something is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every example and hostile component, built once for all test processes.
pub fn components() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = repo().join("plugins/target/components");
        fs::create_dir_all(&out).expect("a folder for components");
        let lock = File::create(out.with_extension("lock")).expect("a lock file");
        lock.lock().expect("the build lock");
        let built = Command::new(repo().join("plugins/build.sh"))
            .arg(&out)
            .env("WEIR_PACK", env!("CARGO_BIN_EXE_weir"))
            .output()
            .expect("run plugins/build.sh");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        out
    })
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}
