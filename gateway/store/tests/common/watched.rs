//! A master, its replica, and three sentinels that watch them, for a test.

use std::process::{Child, Command, Stdio};

use super::{RedisServer, free_port, wait};

/// The name by which the sentinels know the master.
pub const NAME: &str = "main";

pub struct Watched {
    /// The first is the master, to begin with.
    pub servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    child: Child,
    port: u16,
    password: Option<String>,
    _dir: tempfile::TempDir,
}

impl Watched {
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// With more options for the servers, and more lines for the sentinels' configuration.
    pub fn start_with(options: &[&str], lines: &[&str]) -> Self {
        let fast = ["--repl-diskless-sync-delay", "0"];
        let master = RedisServer::start_with(&[&fast, options].concat());
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&[&fast, options, &["--replicaof", "127.0.0.1", &port]].concat());
        let servers = vec![master, replica];
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(servers[0].port(), lines)).collect();
        let watched = Self { servers, sentinels };
        wait(|| watched.servers[1].command(&["INFO", "replication"]).contains("master_link_status:up"));
        // Each asks the master for its replicas and for the other sentinels, every few seconds.
        let line = "slaves=1,sentinels=3";
        wait(|| watched.sentinels.iter().all(|s| s.command(&["INFO", "sentinel"]).contains(line)));
        watched
    }

    /// The sentinels, and the master's name.
    pub fn url(&self) -> String {
        let places: Vec<String> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
        format!("redis-sentinel://{}/{NAME}", places.join(","))
    }

    /// `kill -9` one of the sentinels.
    pub fn kill_sentinel(&mut self, at: usize) {
        self.sentinels[at].child.kill().expect("kill a sentinel");
    }

    /// Stops one of the sentinels where it stands.
    pub fn freeze_sentinel(&self, at: usize) {
        let pid = self.sentinels[at].child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().expect("run kill").success());
    }

    /// Makes the replica the master, as an operator would.
    pub fn fail_over(&self) {
        assert_eq!(self.sentinels[2].command(&["SENTINEL", "FAILOVER", NAME]), "OK");
    }

    /// The sentinel that leads a failover says so when it is over; then it names the other server.
    pub fn names(&self, server: usize) -> bool {
        let told = self.sentinels[2].command(&["INFO", "sentinel"]);
        told.contains(&format!("address=127.0.0.1:{},", self.servers[server].port()))
    }

    pub fn is_master(&self, server: usize) -> bool {
        self.servers[server].command(&["INFO", "replication"]).contains("role:master")
    }
}

impl Sentinel {
    fn start(master: u16, lines: &[&str]) -> Self {
        (0..20).find_map(|_| Self::start_at(free_port(), master, lines)).expect("a sentinel starts")
    }

    fn start_at(port: u16, master: u16, lines: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // A sentinel writes what it learns into its configuration.
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 3000\n{}\n",
            dir.path().display(),
            lines.join("\n"),
        );
        std::fs::write(&file, text).expect("write sentinel.conf");
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is on the PATH");
        let password = lines.iter().find_map(|line| line.strip_prefix("requirepass ")).map(str::to_owned);
        let mut sentinel = Self { child, port, password, _dir: dir };
        super::is_up(&mut sentinel.child, port).then_some(sentinel)
    }

    fn command<A: AsRef<[u8]>>(&self, arguments: &[A]) -> String {
        super::ask(self.port, self.password.as_deref(), arguments)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
