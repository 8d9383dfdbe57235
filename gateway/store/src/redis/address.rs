//! Where Redis is and how to log in: one server, a cluster, or the master that sentinels watch. Built by hand or
//! read from a URL (see `url`). Promises: neither `Debug`, `Display` nor an error ever shows a password.

use std::fmt::{self, Debug, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

/// Where servers listen unless told otherwise.
pub(super) const SERVER_PORT: u16 = 6379;
/// Where sentinels listen unless told otherwise.
pub(super) const SENTINEL_PORT: u16 = 26379;
/// Most servers an address may list. They are only a way in, the rest is learnt from them; a list as long as
/// this is a mistake.
const NODES_MAX: usize = 256;

/// Where Redis is and how to log in. Checked when it is read from a URL and again when it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// What is there.
    pub layout: RedisLayout,
    /// Hosts and ports: the server; some nodes of the cluster; the sentinels. Empty for a unix socket.
    pub nodes: Vec<(String, u16)>,
    /// Hosts and ports of the replicas of one server. Those of a cluster, or of whom sentinels watch, are learnt.
    pub replicas: Vec<(String, u16)>,
    /// The database; always 0 in a cluster.
    pub db: u32,
    /// How to log in to the servers that hold the data.
    pub login: RedisLogin,
    /// How to encrypt what goes to the servers that hold the data; `None` = not at all.
    pub tls: Option<RedisTls>,
}

/// What is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisLayout {
    /// One server.
    Single,
    /// One server, behind a unix socket at this path.
    Socket(PathBuf),
    /// A Redis Cluster; the nodes tell who else is in it.
    Cluster,
    /// One master and its replicas; the nodes are sentinels, who know which one is the master.
    Sentinel {
        /// The name by which the sentinels know it.
        master: String,
        /// How to log in to the sentinels themselves.
        login: RedisLogin,
        /// How to encrypt what goes to the sentinels; `None` = not at all.
        tls: Option<RedisTls>,
    },
}

/// A user's name and password. Neither = the server's default user without a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// The ACL user; `None` = the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

/// How to encrypt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM file of the certificates that may sign the server's; `None` = what the system trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our own certificate (with its chain) and its key, for servers that want to know who we are.
    pub client_files: Option<(PathBuf, PathBuf)>,
    /// What is checked.
    pub check: TlsCheck,
}

/// What is checked of a server's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsCheck {
    /// That it is signed by whom we trust, and for the host we asked for.
    #[default]
    Full,
    /// That it is signed by whom we trust, for whatever host: for clusters whose nodes are known by addresses
    /// that their certificates do not name.
    AnyName,
    /// Nothing: whoever answers is believed, and told the password.
    Nothing,
}

/// An address that cannot be used. Says what is wrong, never what was written: there may be a password in it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct AddressError {
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl AddressError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    pub(super) fn of(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

impl RedisAddress {
    /// One server without a password.
    pub fn single(host: &str, port: u16) -> Self {
        Self {
            layout: RedisLayout::Single,
            nodes: vec![(host.to_owned(), port)],
            replicas: vec![],
            db: 0,
            login: RedisLogin::default(),
            tls: None,
        }
    }

    /// Whether it can be used; nothing is connected and no file is read.
    pub fn check(&self) -> Result<(), AddressError> {
        let wrong = |what: &str| Err(AddressError::new(what));
        match &self.layout {
            RedisLayout::Single if self.nodes.len() != 1 => return wrong("one server has one host"),
            RedisLayout::Socket(path) if !path.is_absolute() => return wrong("a unix socket's path begins with /"),
            RedisLayout::Socket(_) if !self.nodes.is_empty() => return wrong("a unix socket has no host"),
            RedisLayout::Socket(_) if self.tls.is_some() => return wrong("there is no TLS over a unix socket"),
            RedisLayout::Socket(_) | RedisLayout::Cluster | RedisLayout::Sentinel { .. }
                if !self.replicas.is_empty() =>
            {
                return wrong("replicas are named for one server alone");
            }
            RedisLayout::Cluster if self.db != 0 => return wrong("a cluster has database 0 alone"),
            RedisLayout::Sentinel { master, .. } if master.is_empty() => {
                return wrong("the name of the master that the sentinels watch is missing");
            }
            RedisLayout::Cluster | RedisLayout::Sentinel { .. } if self.nodes.is_empty() => {
                return wrong("a host is missing");
            }
            _ => {}
        }
        if self.nodes.len().max(self.replicas.len()) > NODES_MAX {
            return Err(AddressError::new(format!("more than {NODES_MAX} hosts")));
        }
        for (i, (host, port)) in self.nodes.iter().chain(&self.replicas).enumerate() {
            if host.is_empty() || *port == 0 || host == "0.0.0.0" || host == "::" {
                return Err(AddressError::new(format!("host {} of the list is none that can be reached", i + 1)));
            }
        }
        Ok(())
    }
}

impl RedisAddress {
    /// Whether it can be used with the certificates it names; reads them, and connects to nobody.
    pub fn check_files(&self) -> Result<(), AddressError> {
        self.check()?;
        let sentinels = match &self.layout {
            RedisLayout::Sentinel { tls, .. } => tls.as_ref(),
            _ => None,
        };
        self.tls.iter().chain(sentinels).try_for_each(|tls| super::tls::connector(tls).map(drop))
    }
}

impl FromStr for RedisAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = super::url::read(text)?;
        address.check()?;
        Ok(address)
    }
}

impl RedisLogin {
    /// With this password, as this user or the default one.
    pub fn new(username: Option<&str>, password: Option<&str>) -> Self {
        Self { username: username.map(str::to_owned), password: password.map(str::to_owned) }
    }

    fn shown(&self) -> String {
        let username = self.username.as_deref().unwrap_or_default();
        match self.password {
            Some(_) => format!("{username}:***@"),
            None if username.is_empty() => String::new(),
            None => format!("{username}@"),
        }
    }
}

/// A URL again, with stars in place of passwords.
impl Display for RedisAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let node = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let list = |nodes: &[(String, u16)]| nodes.iter().map(node).collect::<Vec<_>>().join(",");
        let (nodes, replicas) = (list(&self.nodes), list(&self.replicas));
        let login = self.login.shown();
        match &self.layout {
            RedisLayout::Single if replicas.is_empty() => write!(f, "{scheme}://{login}{nodes}/{}", self.db),
            RedisLayout::Single => write!(f, "{scheme}://{login}{nodes}/{}?replicas={replicas}", self.db),
            RedisLayout::Socket(path) => write!(f, "redis+unix://{login}{}?db={}", path.display(), self.db),
            RedisLayout::Cluster => write!(f, "{scheme}-cluster://{login}{nodes}"),
            RedisLayout::Sentinel { master, .. } => {
                write!(f, "{scheme}-sentinel://{login}{nodes}/{master}/{}", self.db)
            }
        }
    }
}

impl Debug for RedisAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Debug for RedisLogin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_password() {
        let login = RedisLogin::new(Some("ann"), Some("secret"));
        let layout = RedisLayout::Sentinel { master: "main".into(), login: login.clone(), tls: None };
        let address = RedisAddress { layout, login, ..RedisAddress::single("::1", 1) };
        assert_eq!(address.to_string(), "redis-sentinel://ann:***@[::1]:1/main/0");
        for shown in [format!("{address:?}"), format!("{:#?}", address.layout), format!("{:?}", address.login)] {
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn an_address_made_by_hand_is_checked_as_well() {
        let good = RedisAddress::single("localhost", 1);
        assert!(good.check().is_ok());
        let sentinel =
            |master: &str| RedisLayout::Sentinel { master: master.into(), login: RedisLogin::default(), tls: None };
        let socket = |path: &str| RedisLayout::Socket(path.into());
        let tls = Some(RedisTls::default());
        let bad = [
            RedisAddress { nodes: vec![], ..good.clone() },
            RedisAddress { nodes: vec![("a".into(), 1), ("b".into(), 2)], ..good.clone() },
            RedisAddress { layout: RedisLayout::Cluster, nodes: vec![], ..good.clone() },
            RedisAddress { layout: RedisLayout::Cluster, nodes: vec![("a".into(), 1); 257], ..good.clone() },
            RedisAddress { layout: RedisLayout::Cluster, db: 1, ..good.clone() },
            RedisAddress { layout: sentinel(""), ..good.clone() },
            RedisAddress { layout: socket("/run/redis.sock"), ..good.clone() },
            RedisAddress { layout: socket("redis.sock"), nodes: vec![], ..good.clone() },
            RedisAddress { layout: socket("/run/redis.sock"), nodes: vec![], tls, ..good.clone() },
            RedisAddress { replicas: vec![("".into(), 1)], ..good.clone() },
            RedisAddress { layout: RedisLayout::Cluster, replicas: vec![("a".into(), 1)], ..good.clone() },
            RedisAddress::single("", 1),
            RedisAddress::single("0.0.0.0", 1),
            RedisAddress::single("localhost", 0),
        ];
        for address in bad {
            assert!(address.check().is_err(), "{address}");
        }
    }
}
