//! Reads a [`RedisAddress`] from a URL. Its mistakes say which part is wrong and how it should look; they never
//! quote the URL, since a password that is written wrongly can be anywhere in it.

use std::path::PathBuf;

use super::address::{
    AddressError, RedisAddress, RedisLayout, RedisLogin, RedisTls, SENTINEL_PORT, SERVER_PORT, TlsCheck,
};

const FORMS: &str = "expected redis://[user:password@]host[:port][/db], rediss://… (TLS), redis+unix:///path, \
     redis-cluster://host:port,host:port or redis-sentinel://host:port,host:port/MASTER[/db]";

enum Scheme {
    Single,
    Socket,
    Cluster,
    Sentinel,
}

/// The parts of a URL, still encoded.
struct Parts<'a> {
    authority: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

pub(super) fn read(text: &str) -> Result<RedisAddress, AddressError> {
    let Some((scheme, rest)) = text.split_once("://") else { return wrong(format!("not a Redis URL; {FORMS}")) };
    let (scheme, is_tls) = match scheme {
        "redis" => (Scheme::Single, false),
        "rediss" => (Scheme::Single, true),
        "redis+unix" => (Scheme::Socket, false),
        "redis-cluster" => (Scheme::Cluster, false),
        "rediss-cluster" => (Scheme::Cluster, true),
        "redis-sentinel" => (Scheme::Sentinel, false),
        "rediss-sentinel" => (Scheme::Sentinel, true),
        _ => return wrong(format!("not a Redis URL; {FORMS}")),
    };
    let parts = Parts::of(rest);
    let mut query = Query::of(parts.query)?;
    let tls = tls(is_tls, parts.fragment, &mut query)?;
    let (mut login, hosts) = match parts.authority.rsplit_once('@') {
        Some((login, hosts)) => (read_login(login)?, hosts),
        None => (RedisLogin::default(), parts.authority),
    };
    let path = parts.path.trim_matches('/');
    let port = if matches!(scheme, Scheme::Sentinel) { SENTINEL_PORT } else { SERVER_PORT };
    let nodes = if matches!(scheme, Scheme::Socket) { vec![] } else { read_hosts(hosts, port, "the list")? };
    let replicas = match scheme {
        Scheme::Single => query.take("replicas").map(|hosts| read_hosts(&hosts, port, "replicas=")).transpose()?,
        _ => None,
    };
    let (layout, db) = match scheme {
        Scheme::Single => (RedisLayout::Single, path.to_owned()),
        Scheme::Cluster => (RedisLayout::Cluster, path.to_owned()),
        Scheme::Socket => {
            if !parts.authority.is_empty() {
                return wrong("a unix socket's URL is redis+unix:///path?db=N&user=…&pass=…");
            }
            login = RedisLogin { username: query.take("user"), password: query.take("pass") };
            let file = PathBuf::from(decoded(parts.path, "the path")?);
            (RedisLayout::Socket(file), query.take("db").unwrap_or_default())
        }
        Scheme::Sentinel => {
            let (master, db) = path.split_once('/').unwrap_or((path, ""));
            let (username, password) = (query.take("sentinel_user"), query.take("sentinel_password"));
            let login = RedisLogin { username, password };
            let master = decoded(master, "the master's name")?;
            (RedisLayout::Sentinel { master, login, tls: tls.clone() }, db.to_owned())
        }
    };
    let db = match db.as_str() {
        "" => 0,
        db => db.parse().map_err(|_| AddressError::new("the database is no number"))?,
    };
    query.finish()?;
    Ok(RedisAddress { layout, nodes, replicas: replicas.unwrap_or_default(), db, login, tls })
}

fn wrong<T>(what: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError::new(what))
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, fragment) = split(rest, '#');
        let (rest, query) = split(rest, '?');
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Self { authority, path, query, fragment }
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn tls(is_tls: bool, fragment: Option<&str>, query: &mut Query) -> Result<Option<RedisTls>, AddressError> {
    if !is_tls {
        return if fragment.is_none() { Ok(None) } else { wrong("a # part is for TLS (rediss…) alone") };
    }
    let check = match fragment {
        None => TlsCheck::Full,
        Some("any-name") => TlsCheck::AnyName,
        Some("insecure") => TlsCheck::Nothing,
        Some(_) => return wrong("after # there can be any-name or insecure"),
    };
    let client_files = match (query.take("cert"), query.take("key")) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        _ => return wrong("a certificate of our own wants both cert= and key="),
    };
    Ok(Some(RedisTls { ca_file: query.take("ca").map(PathBuf::from), client_files, check }))
}

fn read_login(text: &str) -> Result<RedisLogin, AddressError> {
    let (username, password) = split(text, ':');
    let username = match username {
        "" => None,
        name => Some(decoded(name, "the user's name")?),
    };
    let password = password.map(|password| decoded(password, "the password")).transpose()?;
    Ok(RedisLogin { username, password })
}

fn read_hosts(text: &str, default_port: u16, list: &str) -> Result<Vec<(String, u16)>, AddressError> {
    let read = |(i, host)| {
        let what =
            || AddressError::new(format!("host {} of {list} is not host or host:port, port at most 65535", i + 1));
        read_host(host, default_port).ok_or_else(what)
    };
    text.split(',').enumerate().map(read).collect()
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn read_host(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(is_name) {
                return None;
            }
            (host, port)
        }
    };
    let port = match port {
        "" => default_port,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    Some((host.to_owned(), port))
}

/// Undoes the percent-encoding.
fn decoded(text: &str, what: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |b: u8| char::from(b).to_digit(16).map(|digit| digit as u8);
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else {
                    return wrong(format!("{what} has a % that is not followed by two hexadecimal digits"));
                };
                bytes.push(high << 4 | low);
                rest = tail;
            }
            (b'%', _) => return wrong(format!("{what} has a % that is not followed by two hexadecimal digits")),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).or_else(|_| wrong(format!("{what} is not UTF-8")))
}

/// What stands after `?`, to be taken key by key; what nobody takes is a mistake.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: Option<&str>) -> Result<Self, AddressError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = split(pair, '=');
            // As forms are encoded, which is how other clients read this part.
            let value = value.unwrap_or_default().replace('+', " ");
            let value = decoded(&value, "a value after ?")?;
            if pairs.iter().any(|(known, _)| known == key) {
                return wrong("a key after ? is there twice");
            }
            pairs.push((key.to_owned(), value));
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(at).1)
    }

    fn finish(self) -> Result<(), AddressError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => wrong(
                "an unknown key after ?; there are replicas (one server), ca, cert and key (with TLS), db, user and pass \
                 (unix socket), sentinel_user and sentinel_password (sentinels)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(of: &[(&str, u16)]) -> Vec<(String, u16)> {
        of.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect()
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        let plain = RedisAddress::single("localhost", 6379);
        let full = RedisLogin::new(Some("u"), Some("p@:/?#%"));
        let tls = RedisTls::default();
        let sentinel = |login| RedisLayout::Sentinel { master: "my master".into(), login, tls: None };
        let good = [
            ("redis://localhost", plain.clone()),
            ("redis://localhost/", plain.clone()),
            (
                "redis://localhost/3?replicas=a:1,[::1]",
                RedisAddress { db: 3, replicas: nodes(&[("a", 1), ("::1", 6379)]), ..plain.clone() },
            ),
            ("redis://[::1]:7000/3", RedisAddress { db: 3, ..RedisAddress::single("::1", 7000) }),
            ("redis://u:p%40%3A%2F%3F%23%25@localhost", RedisAddress { login: full.clone(), ..plain.clone() }),
            ("redis://:a@b@localhost", RedisAddress { login: RedisLogin::new(None, Some("a@b")), ..plain.clone() }),
            ("redis://u@localhost", RedisAddress { login: RedisLogin::new(Some("u"), None), ..plain.clone() }),
            ("rediss://localhost", RedisAddress { tls: Some(tls.clone()), ..plain.clone() }),
            (
                "rediss://localhost/?ca=/ca.pem&cert=c+d.pem&key=k%20l.pem#any-name",
                RedisAddress {
                    tls: Some(RedisTls {
                        ca_file: Some("/ca.pem".into()),
                        client_files: Some(("c d.pem".into(), "k l.pem".into())),
                        check: TlsCheck::AnyName,
                    }),
                    ..plain.clone()
                },
            ),
            (
                "rediss://localhost#insecure",
                RedisAddress { tls: Some(RedisTls { check: TlsCheck::Nothing, ..tls.clone() }), ..plain.clone() },
            ),
            (
                "redis+unix:///run/my%20redis.sock?db=2&user=u&pass=p%40%3A%2F%3F%23%25",
                RedisAddress {
                    layout: RedisLayout::Socket("/run/my redis.sock".into()),
                    nodes: vec![],
                    replicas: vec![],
                    db: 2,
                    login: full.clone(),
                    tls: None,
                },
            ),
            (
                "rediss-cluster://u:p%40%3A%2F%3F%23%25@a.b:1,c_d,[::1]:2",
                RedisAddress {
                    layout: RedisLayout::Cluster,
                    nodes: nodes(&[("a.b", 1), ("c_d", 6379), ("::1", 2)]),
                    replicas: vec![],
                    db: 0,
                    login: full.clone(),
                    tls: Some(tls),
                },
            ),
            (
                "redis-sentinel://a,b:1/my%20master",
                RedisAddress {
                    layout: sentinel(RedisLogin::default()),
                    nodes: nodes(&[("a", 26379), ("b", 1)]),
                    ..plain.clone()
                },
            ),
            (
                "redis-sentinel://:pw@a/my%20master/4?sentinel_user=u&sentinel_password=p%40%3A%2F%3F%23%25",
                RedisAddress {
                    layout: sentinel(full),
                    nodes: nodes(&[("a", 26379)]),
                    replicas: vec![],
                    db: 4,
                    login: RedisLogin::new(None, Some("pw")),
                    tls: None,
                },
            ),
        ];
        for (url, wanted) in good {
            let address: RedisAddress = url.parse().unwrap_or_else(|e| panic!("{url}: {e}"));
            assert!(address == wanted, "{url}: {address}");
        }
    }

    #[test]
    fn a_mistake_is_named_and_no_password_quoted() {
        let bad = [
            ("", "not a Redis URL"),
            ("xyzzy@localhost:6379", "not a Redis URL"),
            ("http://:xyzzy@localhost", "not a Redis URL"),
            ("redis://", "host 1"),
            ("redis://:xyzzy@", "host 1"),
            ("redis://:xy/zzy@localhost", "host 1"),
            ("redis://:xyzzy@a,xyzzy", "one host"),
            ("redis://:xyzzy@localhost:", "host 1"),
            ("redis://:xyzzy@localhost:0", "host 1"),
            ("redis://:xyzzy@localhost:65536", "host 1"),
            ("redis://:xyzzy@::1", "host 1"),
            ("redis://:xyzzy@[xyzzy]:1", "host 1"),
            ("redis://:xyzzy@0.0.0.0", "host 1"),
            ("redis://:xyzzy%@localhost", "password"),
            ("redis://:xyzzy%zz@localhost", "password"),
            ("redis://:xyzzy%ff@localhost", "UTF-8"),
            ("redis://:xyzzy@localhost/x/y", "database"),
            ("redis://:xyzzy@localhost/-1", "database"),
            ("redis://localhost?password=xyzzy", "unknown key"),
            ("redis://localhost?ca=xyzzy", "unknown key"),
            ("redis://localhost?replicas=a,xyzzy:x", "host 2 of replicas="),
            ("redis-cluster://localhost?replicas=xyzzy", "unknown key"),
            ("redis://localhost#insecure", "TLS"),
            ("rediss://localhost#xyzzy", "insecure"),
            ("rediss://localhost?cert=xyzzy", "key="),
            ("redis+unix://:xyzzy@localhost/x", "redis+unix:///path"),
            ("redis+unix:///x?pass=xyzzy&pass=xyzzy", "twice"),
            ("redis+unix:///x?db=xyzzy", "database"),
            ("redis-cluster://:xyzzy@a:1,,b:2", "host 2"),
            ("redis-cluster://:xyzzy@a:1/2", "database 0"),
            ("redis-sentinel://:xyzzy@a:1", "name of the master"),
            ("redis-sentinel://:xyzzy@a:1/m/x", "database"),
        ];
        for (url, named) in bad {
            let error = match url.parse::<RedisAddress>() {
                Err(error) => format!("{error} {error:?}"),
                Ok(address) => panic!("{url:?} was taken as {address}"),
            };
            assert!(error.contains(named), "{url}: {error}");
            assert!(!error.contains("zzy"), "{url}: {error}");
        }
    }
}
