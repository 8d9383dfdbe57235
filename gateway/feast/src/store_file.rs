//! `feature_store.yaml`: what Feast keeps outside its registry. Every mistake is told with its line; what serving has
//! no use for (offline store, provider) is passed over.

use std::sync::Arc;
use std::time::Duration;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use weir_domain::catalog::{Mistake, Place};
use weir_domain::feast::KeyFormat;

/// `registry.cache_ttl_seconds` where it is not given.
const REGISTRY_TTL: Duration = Duration::from_secs(600);
/// `connection_string` where it is not given.
const CONNECTION: &str = "localhost:6379";
/// `sentinel_master` where it is not given.
const SENTINEL_MASTER: &str = "mymaster";

/// A Feast repository, as serving needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Repo {
    /// `project`.
    pub project: String,
    /// Where the registry lies: a path relative to the repository, or a URL of an object store.
    pub registry: String,
    /// How often it is looked at; zero = never again.
    pub registry_ttl: Duration,
    /// `registry.enable_online_feature_view_versioning`.
    pub versioning: bool,
    /// `registry.serve_features_while_materializing`.
    pub serves_while_materializing: bool,
    /// `entity_key_serialization_version`.
    pub key_format: KeyFormat,
    /// `online_store`.
    pub online: Online,
    /// `auth.type`, where Feast's own servers would ask who somebody is.
    pub auth: Option<String>,
}

/// A Redis online store.
#[derive(Clone, Debug, PartialEq)]
pub struct Online {
    /// How its servers stand to each other.
    pub topology: Topology,
    /// Host and port.
    pub nodes: Vec<(String, u16)>,
    /// Number of the database.
    pub db: i64,
    /// ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// The connection is encrypted.
    pub tls: Option<Tls>,
    /// Hashes that are written expire.
    pub key_ttl: Option<Duration>,
    /// Rows are written without asking whether the store has a newer one.
    pub skip_dedup: bool,
}

/// How servers are reached through TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// File with the certificates to trust instead of the system's.
    pub ca_file: Option<String>,
    /// Our certificate.
    pub cert_file: Option<String>,
    /// Its key.
    pub key_file: Option<String>,
    /// The server's certificate is not looked at.
    pub insecure: bool,
}

/// Kinds of Redis set-ups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// A cluster.
    Cluster,
    /// Sentinels that know where this master is.
    Sentinel(String),
}

impl Repo {
    /// Reads the text of the file named `file`; `env` gives the environment's variables, which Feast fills in first.
    pub fn parse(file: &str, text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Mistake>> {
        let text = expanded(text, env);
        let mut reader = Reader { file: file.into(), mistakes: Vec::new() };
        let repo = reader.repo(&text);
        match repo {
            Some(repo) if reader.mistakes.is_empty() => Ok(repo),
            _ => Err(reader.mistakes),
        }
    }
}

/// `$NAME` and `${NAME}`; names without a value stay as they are, as in Python's `expandvars`.
fn expanded(text: &str, env: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, whole) = match after.strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(end) => (&inner[..end], end + 2),
                None => ("", 0),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match env(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..at + 1 + whole]),
        }
        rest = &after[whole..];
    }
    out.push_str(rest);
    out
}

type Node<'n> = MarkedYaml<'n>;

struct Reader {
    file: Arc<str>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn mistake(&mut self, line: usize, message: impl Into<String>) {
        self.mistakes.push(Mistake { at: Place { file: Arc::clone(&self.file), line }, message: message.into() });
    }

    fn repo(&mut self, text: &str) -> Option<Repo> {
        let documents = match MarkedYaml::load_from_str(text) {
            Ok(documents) => documents,
            Err(error) => {
                self.mistake(error.marker().line(), error.info().to_owned());
                return None;
            }
        };
        let Some(root) = documents.first().filter(|node| matches!(node.data, YamlData::Mapping(_))) else {
            self.mistake(1, "is no feature_store.yaml: a mapping with project, registry and online_store is expected");
            return None;
        };
        let project = self.text(root, "project");
        if project.is_none() && self.mistakes.is_empty() {
            self.mistake(1, "project is missing");
        }
        let registry = get(root, "registry");
        let (path, ttl, versioning, while_materializing) = match registry {
            None => {
                self.mistake(1, "registry is missing");
                (None, REGISTRY_TTL, false, false)
            }
            Some(node) if scalar(node).is_some() => (scalar(node), REGISTRY_TTL, false, false),
            Some(node) => {
                if let Some(kind) = self.text(node, "registry_type").filter(|kind| kind != "file") {
                    let line = line(get(node, "registry_type").unwrap_or(node));
                    self.mistake(
                        line,
                        format!("registry_type {kind:?}: only file registries (local or in an object store) are read"),
                    );
                }
                let path = self.text(node, "path");
                if path.is_none() {
                    self.mistake(line(node), "registry.path is missing");
                }
                let ttl = self.integer(node, "cache_ttl_seconds").map_or(REGISTRY_TTL, Duration::from_secs);
                let versioning = self.flag(node, "enable_online_feature_view_versioning");
                (path, ttl, versioning, self.flag(node, "serve_features_while_materializing"))
            }
        };
        let key_format = match self.integer(root, "entity_key_serialization_version") {
            None | Some(3) => KeyFormat::V3,
            Some(2) => KeyFormat::V2,
            Some(other) => {
                let at = get(root, "entity_key_serialization_version").map_or(1, line);
                self.mistake(at, format!("entity_key_serialization_version {other}: 2 and 3 are read"));
                KeyFormat::V3
            }
        };
        let online = match get(root, "online_store") {
            Some(node) => self.online(node),
            None => {
                self.mistake(1, "online_store is missing: only Redis is served from, and Feast's default is SQLite");
                None
            }
        };
        let auth = get(root, "auth").and_then(|auth| self.text(auth, "type")).filter(|kind| kind != "no_auth");
        Some(Repo {
            auth,
            project: project?,
            registry: path?,
            registry_ttl: ttl,
            versioning,
            serves_while_materializing: while_materializing,
            key_format,
            online: online?,
        })
    }

    fn online(&mut self, node: &Node<'_>) -> Option<Online> {
        let kind = scalar(node).or_else(|| self.text(node, "type")).unwrap_or_default();
        if kind != "redis" && kind != "feast.infra.online_stores.redis.RedisOnlineStore" {
            self.mistake(line(node), format!("online_store {kind:?}: only redis is served from"));
            return None;
        }
        let topology = match self.text(node, "redis_type").as_deref() {
            None | Some("redis") => Topology::Single,
            Some("redis_cluster") => Topology::Cluster,
            Some("redis_sentinel") => {
                Topology::Sentinel(self.text(node, "sentinel_master").unwrap_or_else(|| SENTINEL_MASTER.to_owned()))
            }
            Some(other) => {
                let at = line(get(node, "redis_type").unwrap_or(node));
                self.mistake(at, format!("redis_type {other:?}: redis, redis_cluster or redis_sentinel is expected"));
                return None;
            }
        };
        let at = get(node, "connection_string").map_or_else(|| line(node), line);
        let connection = self.text(node, "connection_string").unwrap_or_else(|| CONNECTION.to_owned());
        let key_ttl = self.integer(node, "key_ttl_seconds").filter(|ttl| *ttl > 0).map(Duration::from_secs);
        let skip_dedup = self.flag(node, "skip_dedup");
        match connected(&connection) {
            Ok(online) => Some(Online { topology, key_ttl, skip_dedup, ..online }),
            Err(message) => {
                self.mistake(at, format!("connection_string: {message}"));
                None
            }
        }
    }

    fn text(&mut self, node: &Node<'_>, key: &str) -> Option<String> {
        let value = get(node, key)?;
        if is_null(value) {
            return None;
        }
        let text = scalar(value);
        if text.is_none() {
            self.mistake(line(value), format!("{key} is expected to be text"));
        }
        text
    }

    fn integer(&mut self, node: &Node<'_>, key: &str) -> Option<u64> {
        let value = get(node, key)?;
        if is_null(value) {
            return None;
        }
        let number = scalar(value).and_then(|text| text.parse().ok());
        if number.is_none() {
            self.mistake(line(value), format!("{key} is expected to be a whole number"));
        }
        number
    }

    fn flag(&mut self, node: &Node<'_>, key: &str) -> bool {
        let Some(value) = get(node, key) else { return false };
        match scalar(value).map(|text| text.to_ascii_lowercase()).as_deref() {
            // What YAML 1.1, which Feast reads, takes for a bool.
            Some("true" | "yes" | "on") => true,
            Some("false" | "no" | "off") | None => false,
            Some(other) => {
                self.mistake(line(value), format!("{key} is expected to be true or false, not {other:?}"));
                false
            }
        }
    }
}

fn get<'n>(node: &'n Node<'n>, key: &str) -> Option<&'n Node<'n>> {
    let YamlData::Mapping(fields) = &node.data else { return None };
    fields.iter().find(|(name, _)| scalar(name).as_deref() == Some(key)).map(|(_, value)| value)
}

fn is_null(node: &Node<'_>) -> bool {
    matches!(node.data, YamlData::Value(Scalar::Null))
}

fn scalar(node: &Node<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        YamlData::Representation(text, ..) => Some(text.to_string()),
        _ => None,
    }
}

fn line(node: &Node<'_>) -> usize {
    node.span.start.line()
}

/// `host:port,host:port,name=value,…`. Timeouts and other settings of redis-py are ours to choose, and passed over.
fn connected(text: &str) -> Result<Online, String> {
    let mut online = Online {
        topology: Topology::Single,
        nodes: Vec::new(),
        db: 0,
        username: None,
        password: None,
        tls: None,
        key_ttl: None,
        skip_dedup: false,
    };
    let (mut is_tls, mut tls) = (false, Tls::default());
    for part in text.split(',') {
        let Some((name, value)) = part.split_once('=') else {
            let (host, port) = part.rsplit_once(':').ok_or_else(|| format!("{part:?} is not host:port"))?;
            let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            online.nodes.push((host.to_owned(), port));
            continue;
        };
        // Feast reads values as JSON and takes what is none as it stands.
        let plain = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
        match name {
            "db" => online.db = value.parse().map_err(|_| format!("db {value:?} is no number"))?,
            "password" => online.password = Some(plain),
            "username" => online.username = Some(plain),
            "ssl" => is_tls = value.eq_ignore_ascii_case("true"),
            "ssl_ca_certs" => tls.ca_file = Some(plain),
            "ssl_certfile" => tls.cert_file = Some(plain),
            "ssl_keyfile" => tls.key_file = Some(plain),
            "ssl_cert_reqs" => tls.insecure = plain.eq_ignore_ascii_case("none"),
            _ => {}
        }
    }
    if online.nodes.is_empty() {
        return Err("names no host:port".to_owned());
    }
    online.tls = is_tls.then_some(tls);
    Ok(online)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\
project: shop
registry: data/registry.db
provider: local
online_store:
  type: redis
  connection_string: ${REDIS},db=2,ssl=true,password=\"p,w\"
entity_key_serialization_version: 3
";

    fn parse(text: &str) -> Result<Repo, Vec<String>> {
        let env = |name: &str| (name == "REDIS").then(|| "h1:6379,h2:6380".to_owned());
        Repo::parse("feature_store.yaml", text, env).map_err(|m| m.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_repository_is_read_with_the_environment_filled_in() {
        let repo = parse(&PLAIN.replace("\"p,w\"", "secret")).unwrap();
        assert_eq!((repo.project.as_str(), repo.registry.as_str()), ("shop", "data/registry.db"));
        assert_eq!(repo.online.nodes, [("h1".to_owned(), 6379), ("h2".to_owned(), 6380)]);
        assert_eq!((repo.online.db, repo.online.password.as_deref()), (2, Some("secret")));
        assert_eq!((repo.key_format, repo.registry_ttl), (KeyFormat::V3, REGISTRY_TTL));
        assert!(repo.online.tls.is_some() && !repo.versioning);
        let asks = |auth: &str| parse(&format!("{}{auth}", PLAIN.replace("\"p,w\"", "secret"))).unwrap().auth;
        assert_eq!((asks(""), asks("auth:\n  type: no_auth\n")), (None, None));
        assert_eq!(asks("auth:\n  type: oidc\n  client_id: feast\n").as_deref(), Some("oidc"));
    }

    #[test]
    fn registries_topologies_and_switches_are_read() {
        let repo = parse(
            "project: p\nregistry:\n  registry_type: file\n  path: s3://bucket/registry.db\n  cache_ttl_seconds: 5\n  enable_online_feature_view_versioning: true\nonline_store:\n  type: redis\n  redis_type: redis_sentinel\n  sentinel_master: main\n  connection_string: \"a:1,b:2\"\n  key_ttl_seconds: 60\n  skip_dedup: yes\nentity_key_serialization_version: 2\n",
        )
        .unwrap();
        assert_eq!(repo.registry, "s3://bucket/registry.db");
        assert_eq!((repo.registry_ttl, repo.versioning), (Duration::from_secs(5), true));
        assert_eq!(repo.online.topology, Topology::Sentinel("main".to_owned()));
        assert_eq!((repo.online.key_ttl, repo.online.skip_dedup), (Some(Duration::from_secs(60)), true));
        assert_eq!(repo.key_format, KeyFormat::V2);
    }

    #[test]
    fn mistakes_name_their_line() {
        let told = parse("project: p\nregistry:\n  registry_type: sql\n  path: x\nonline_store:\n  type: sqlite\n");
        assert_eq!(
            told.unwrap_err(),
            [
                "feature_store.yaml:3: registry_type \"sql\": only file registries (local or in an object store) are read",
                "feature_store.yaml:6: online_store \"sqlite\": only redis is served from",
            ]
        );
        assert!(parse("- a\n").unwrap_err()[0].starts_with("feature_store.yaml:1: is no feature_store.yaml"));
        assert!(parse("project: [\n").unwrap_err()[0].starts_with("feature_store.yaml:"));
    }
}
