//! A real redis-server for a test: on a free port, in a folder of its own, saving nothing, gone when dropped.
//! Knows nothing of this crate, so other crates' tests can include it by path.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]
#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test binary uses another part of it")]
#![allow(clippy::disallowed_methods, reason = "waiting for a process is looking again after a while, with a limit")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod certs;
mod cluster;
mod watched;

pub use certs::Certificates;
pub use cluster::{Cluster, MASTERS};
pub use watched::Watched;

/// Longest wait for anything to come true; a condition that takes longer is a failed test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A redis-server process of this test's own.
pub struct RedisServer {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    options: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more options, as on redis-server's command line: `["--requirepass", "x"]`.
    pub fn start_with(options: &[&str]) -> Self {
        // Another process may take the port between our look and the server's bind: then try another.
        let server = (0..20).find_map(|_| Self::start_at(free_port(), options));
        server.expect("redis-server starts; is it installed?")
    }

    /// On this port, or `None` when it cannot have it.
    pub fn start_at(port: u16, options: &[&str]) -> Option<Self> {
        let options: Vec<String> = options.iter().map(|o| o.to_string()).collect();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { child: spawn(port, &dir, &options), port, dir, options };
        server.is_up().then_some(server)
    }

    /// The value of an option it was started with.
    pub fn option(&self, name: &str) -> String {
        let at = self.options.iter().position(|option| option == name).expect("an option it was started with");
        self.options[at + 1].clone()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Stops the process where it stands; the kernel still accepts connections for it.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill redis-server");
        self.child.wait().expect("wait for redis-server");
    }

    /// Again on the same port, after [`kill`](Self::kill), with nothing in it.
    pub fn start_again(&mut self) {
        self.child = spawn(self.port, &self.dir, &self.options);
        assert!(self.is_up(), "redis-server does not start again");
    }

    /// Sends one command and returns the reply as text: a status, a number, an error with its `-`, a bulk
    /// string, or `(nil)`.
    pub fn command<A: AsRef<[u8]>>(&self, arguments: &[A]) -> String {
        let password = self.options.iter().position(|option| option == "--requirepass");
        ask(self.port, password.map(|at| self.options[at + 1].as_str()), arguments)
    }

    /// How many times a command was called, by the server's own count.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|l| l.split(',').next()).map_or(0, |n| n.parse().expect("a number of calls"))
    }

    fn is_up(&mut self) -> bool {
        is_up(&mut self.child, self.port)
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("run kill").success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL also ends a frozen process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// True once it answers, false once it has exited.
fn is_up(child: &mut Child, port: u16) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if child.try_wait().expect("look at redis-server").is_some() {
            return false;
        }
        let answer = TcpStream::connect(("127.0.0.1", port)).and_then(|mut s| exchange(&mut s, &["PING"]));
        // An error is an answer too: a server with a password says -NOAUTH.
        if answer.is_ok_and(|a| !a.starts_with("-LOADING")) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

fn ask<A: AsRef<[u8]>>(port: u16, password: Option<&str>, arguments: &[A]) -> String {
    let once = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        if let Some(password) = password {
            assert_eq!(exchange(&mut stream, &["AUTH", password])?, "OK");
        }
        exchange(&mut stream, arguments)
    };
    // Sentinels cut all connections of a server they give another part to.
    once().or_else(|_| once()).expect("an answer from redis-server")
}

fn spawn(port: u16, dir: &tempfile::TempDir, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is on the PATH")
}

fn exchange<A: AsRef<[u8]>>(stream: &mut TcpStream, arguments: &[A]) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut command = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        command.extend(format!("${}\r\n", argument.len()).into_bytes());
        command.extend(argument);
        command.extend(b"\r\n");
    }
    stream.write_all(&command)?;
    let mut reply = BufReader::new(stream);
    let mut line = String::new();
    reply.read_line(&mut line)?;
    let line = line.trim_end().to_owned();
    match line.split_at_checked(1) {
        Some(("$", "-1")) => Ok("(nil)".into()),
        Some(("$", length)) => {
            let mut bulk = vec![0; length.parse().map_err(std::io::Error::other)?];
            reply.read_exact(&mut bulk)?;
            Ok(String::from_utf8_lossy(&bulk).into_owned())
        }
        Some(("+" | ":", rest)) => Ok(rest.into()),
        Some(_) => Ok(line),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Waits for a condition while a test is being set up.
pub fn wait(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a condition, and says which one did not come true.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
