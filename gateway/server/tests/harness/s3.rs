//! An S3-compatible store that shares no line with the gateway: moto, in a process of its own on loopback. What it
//! holds is gone when it stops.
#![allow(unreachable_pub, reason = "as the rest of the harness")]
#![allow(clippy::disallowed_methods, reason = "waiting for a process is looking again after a while, with a limit")]

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::redis::{Certificates, free_port};
use crate::harness::{PATIENCE, repo};
use crate::python::python;

pub struct S3 {
    child: Child,
    port: u16,
    certificates: Option<Certificates>,
}

impl S3 {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks TLS, with a certificate that no system trusts.
    pub fn start_tls() -> Self {
        Self::start_with(Some(Certificates::make("127.0.0.1")))
    }

    fn start_with(certificates: Option<Certificates>) -> Self {
        let began = Instant::now();
        loop {
            // Somebody else may have taken the port in the meantime.
            let port = free_port();
            if let Some(child) = spawn(port, certificates.as_ref()) {
                return Self { child, port, certificates };
            }
            assert!(
                began.elapsed() < PATIENCE,
                "moto does not start; if it is missing, `make setup-python` installs it"
            );
        }
    }

    pub fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The file of the authority that vouches for it.
    pub fn ca(&self) -> String {
        self.certificates.as_ref().expect("a store with TLS").text("ca.pem")
    }

    /// Puts an object, which replaces the one before.
    pub async fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("write the object");
        let put = repo().join("gateway/server/tests/put_object.py").display().to_string();
        let file = file.path().display().to_string();
        let mut args = vec![put, self.endpoint(), bucket.to_owned(), key.to_owned(), file];
        args.extend(self.certificates.is_some().then(|| self.ca()));
        python(&args).await;
    }

    pub fn stop(&mut self) {
        self.child.kill().expect("kill moto");
        self.child.wait().expect("wait for moto");
    }

    /// Starts it again where it was, empty.
    pub fn start_again(&mut self) {
        self.child = spawn(self.port, self.certificates.as_ref()).expect("the same port");
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// None if it ended at once.
fn spawn(port: u16, certificates: Option<&Certificates>) -> Option<Child> {
    let mut command = Command::new(repo().join("target/py/bin/python"));
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    if let Some(certificates) = certificates {
        command.args(["-s", "-c", &certificates.text("server.pem"), "-k", &certificates.text("server.key")]);
    }
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().expect("run Python: `make setup-python` installs it");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if child.try_wait().expect("look at moto").is_some() {
            return None;
        }
        if TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("moto does not answer");
}
