//! Certificates for a test, made by the openssl program: an authority, a server and a client that it vouches for,
//! and another authority that vouches for nobody.

use std::path::PathBuf;
use std::process::Command;

use super::{RedisServer, free_port};

pub struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    /// For a server that is reached by this name or address.
    pub fn make(server: &str) -> Self {
        let made = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        for authority in ["ca", "other"] {
            made.openssl(&format!(
                "req -x509 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ));
        }
        let kind = if server.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
        std::fs::write(made.path("names"), format!("subjectAltName={kind}:{server}")).expect("write the names");
        for who in ["server", "client"] {
            made.openssl(&format!("req -nodes -subj /CN={who} -keyout {who}.key -out {who}.csr"));
            let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
            made.openssl(&format!("{sign} -in {who}.csr -out {who}.pem"));
        }
        made
    }

    /// A file: `ca.pem`, `other.pem`, `client.pem`, `client.key` …
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A redis-server that also speaks TLS, and its port for that. `clients` says what it wants of clients: `yes`
    /// is a certificate, `no` none.
    pub fn server(&self, clients: &str) -> (RedisServer, u16) {
        let port = free_port();
        let (cert, key, ca) = (self.text("server.pem"), self.text("server.key"), self.text("ca.pem"));
        let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let options = ["--tls-port", &port.to_string(), "--tls-auth-clients", clients];
        (RedisServer::start_with(&[&options[..], &files].concat()), port)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        if arguments.starts_with("req") {
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        }
        let output = command.current_dir(self.dir.path()).output().expect("openssl is on the PATH");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
