//! What a scenario serves: a catalog and its rows, generated, and written into Redis as `weir load` would; and the requests
//! that ask for them.

use std::fmt::Write as _;
use std::io::{BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use serde_json::json;
use weir_domain::catalog::{self, View};
use weir_proto::v1::values::Kind;
use weir_proto::v1::{Column, GetFeaturesRequest, Strings, Values};

use crate::ask::{KEY, frame};
use crate::random::{Popularity, Random};
use crate::scenario::{Asks, Protocol, Serve};

/// Prefix of every key in Redis.
pub(crate) const NAMESPACE: &str = "load";
/// What the second entity is called by.
const USER_KEY: &str = "user_id";
/// Users to draw a request's one from.
const USERS: u32 = 1_000;
/// Rows of one MSET: a megabyte or less of rows of 250 numbers.
const ROWS_PER_COMMAND: usize = 500;
/// Any time in the past does: no view has a ttl.
pub(crate) const EVENT_TIME_US: i64 = 1_700_000_000_000_000;
const DOC: &str = "owner = \"load@example.com\"\ndescription = \"For a load test.\"\n";

/// The catalog as text.
pub(crate) fn catalog(serve: &Serve) -> String {
    let mut out = format!("[[entity]]\nname = \"thing\"\n{DOC}keys = [{{ name = \"{KEY}\", type = \"string\" }}]\n");
    for view in 0..serve.views {
        push_view(&mut out, serve, &view_name(view), "thing", serve.stored_features);
    }
    let mut features = Vec::new();
    let mut context = "";
    if serve.user_features > 0 {
        context = "\"user_id\"";
        let _ =
            write!(out, "[[entity]]\nname = \"user\"\n{DOC}keys = [{{ name = \"{USER_KEY}\", type = \"string\" }}]\n");
        push_view(&mut out, serve, "user", "user", serve.user_features);
        features.extend((0..serve.user_features).map(|f| format!("\"user:f{f:03}\"")));
    }
    features.extend(
        (0..serve.views).flat_map(|v| (0..serve.features).map(move |f| format!("\"{}:f{f:03}\"", view_name(v)))),
    );
    if serve.transform.is_some() {
        push_transform(&mut out, serve);
        features.extend(["\"crosswind:crosswind_mph\"".to_owned(), "\"crosswind:headwind_mph\"".to_owned()]);
    }
    if serve.experiment {
        let _ = write!(
            out,
            "[[layer]]\nname = \"load\"\nsalt = \"layer-load\"\n\
             [[experiment]]\nname = \"load\"\nlayer = \"load\"\nsalt = \"load\"\nstatus = \"running\"\n{DOC}\
             [[experiment.arm]]\nname = \"control\"\nweight = 5000\n\
             [[experiment.arm]]\nname = \"other\"\nweight = 5000\nparams = {{ note = \"nothing else\" }}\n"
        );
    }
    let (budget_ms, features) = (serve.budget.as_millis(), features.join(", "));
    let _ = write!(
        out,
        "[[service]]\nname = \"asked\"\n{DOC}context = [{context}]\nitems = [\"{KEY}\"]\nbudget_ms = {budget_ms}\n\
         features = [{features}]\n"
    );
    out
}

fn view_name(number: usize) -> String {
    format!("rows{number:02}")
}

fn push_view(out: &mut String, serve: &Serve, name: &str, entity: &str, features: usize) {
    let (fresh, stale) = (serve.fresh_for.as_millis(), serve.stale_for.as_millis());
    let _ = write!(
        out,
        "[[view]]\nname = \"{name}\"\nversion = 1\nentity = \"{entity}\"\n{DOC}source = \"none.parquet\"\n\
         fresh_for_ms = {fresh}\nstale_for_ms = {stale}\n"
    );
    for feature in 0..features {
        let _ =
            write!(out, "[[view.feature]]\nname = \"f{feature:03}\"\ntype = \"f64\"\ndescription = \"A number.\"\n");
    }
}

fn push_transform(out: &mut String, serve: &Serve) {
    // Of the user where there is one, so that a value of the context meets one of every item.
    let heading = if serve.user_features > 0 { "user:f000".to_owned() } else { format!("{}:f002", view_name(0)) };
    let view = view_name(0);
    let _ = write!(
        out,
        "[[transform]]\nname = \"crosswind\"\nversion = 1\n{DOC}component = \"transform.wasm\"\n\
         inputs = {{ wind_speed_mph = \"{view}:f000\", wind_dir_deg = \"{view}:f001\", runway_heading_deg = \"{heading}\" }}\n"
    );
    for output in ["crosswind_mph", "headwind_mph"] {
        let _ = write!(
            out,
            "[[transform.output]]\nname = \"{output}\"\ntype = \"f64\"\ndefault = 0.0\ndescription = \"A number.\"\n"
        );
    }
}

/// Writes every row of the catalog into the Redis at `to`.
pub(crate) fn load(serve: &Serve, to: SocketAddr) -> Result<(), crate::Failed> {
    let mut redis = Redis::connect(to)?;
    for view in &views(serve)? {
        let mut random = Random::new(u64::from(view.fingerprint));
        let entities = if &*view.doc.name == "user" { USERS } else { serve.entities };
        let letter = if &*view.doc.name == "user" { 'u' } else { 'e' };
        let ids: Vec<u32> = (0..entities).collect();
        for ids in ids.chunks(ROWS_PER_COMMAND) {
            let mut command = vec![b"MSET".to_vec()];
            for id in ids {
                command.push(key(view, &format!("{letter}{id:07}")).into_bytes());
                command.push(row(view, EVENT_TIME_US, &mut random));
            }
            redis.call(&command)?;
        }
    }
    Ok(())
}

/// The views as the gateway will have them.
pub(crate) fn views(serve: &Serve) -> Result<Vec<std::sync::Arc<View>>, crate::Failed> {
    match catalog::read(&[("catalog.toml".to_owned(), catalog(serve))]) {
        Ok(catalog) => Ok(catalog.views),
        Err(mistakes) => {
            let said: Vec<String> = mistakes.iter().take(3).map(ToString::to_string).collect();
            Err(format!("the generated catalog is wrong: {}", said.join("; ")).into())
        }
    }
}

/// Where Redis has the row of an entity with one join key of text.
pub(crate) fn key(view: &View, id: &str) -> String {
    format!("{NAMESPACE}:{}@{}:s{}:{id}", view.doc.name, view.version, id.len())
}

/// A packed row of numbers, none of them null.
pub(crate) fn row(view: &View, event_time_us: i64, random: &mut Random) -> Vec<u8> {
    let count = view.features.len();
    let mut row = Vec::with_capacity(16 + count.div_ceil(8) + 8 * count);
    row.extend(view.fingerprint.to_le_bytes());
    row.extend((count as u16).to_le_bytes());
    row.extend(0u16.to_le_bytes());
    row.extend(event_time_us.to_le_bytes());
    row.resize(row.len() + count.div_ceil(8), 0);
    for _ in 0..count {
        row.extend((100.0 * random.fraction()).to_le_bytes());
    }
    row
}

/// A connection that asks one thing at a time.
pub(crate) struct Redis(BufReader<TcpStream>);

impl Redis {
    pub(crate) fn connect(to: SocketAddr) -> Result<Self, crate::Failed> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command whose reply is one line, and insists that it is not an error.
    pub(crate) fn call(&mut self, command: &[Vec<u8>]) -> Result<(), crate::Failed> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend(format!("${}\r\n", part.len()).bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)?;
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        match line[0] {
            b'-' => Err(format!("Redis said {}", String::from_utf8_lossy(&line).trim_end()).into()),
            _ => Ok(()),
        }
    }
}

/// Draws whom each request of a scenario asks for.
pub(crate) fn drawn(asks: &Asks) -> Vec<Vec<u32>> {
    let mut random = Random::new(asks.seed);
    let popularity = match asks.zipf {
        Some(exponent) => Popularity::zipf(asks.entities, exponent),
        None => Popularity::Uniform(asks.entities),
    };
    (0..asks.bodies).map(|_| (0..asks.items).map(|_| popularity.draw(&mut random)).collect()).collect()
}

/// Encodes those requests.
pub(crate) fn bodies(asks: &Asks, drawn: &[Vec<u32>], has_user: bool) -> Vec<Bytes> {
    let bodies = drawn.iter().enumerate().map(|(number, ids)| {
        let user = has_user.then(|| format!("u{:07}", number as u32 % USERS));
        body(asks, number, ids.iter().map(|id| entity(*id)).collect(), user)
    });
    bodies.collect()
}

/// The join key of an entity.
pub(crate) fn entity(number: u32) -> String {
    format!("e{number:07}")
}

fn body(asks: &Asks, number: usize, ids: Vec<String>, user: Option<String>) -> Bytes {
    // A unit each, so that experiments have somebody to assign.
    let (service, unit) = (asks.service.clone(), format!("u{number}"));
    match asks.protocol {
        Protocol::Grpc => {
            let items = vec![column(KEY, ids)];
            let context = user.into_iter().map(|user| column(USER_KEY, vec![user])).collect();
            frame(&GetFeaturesRequest { service, context, items, unit, ..Default::default() })
        }
        Protocol::Json => {
            let mut request = json!({ "service": service, "items": { KEY: ids }, "unit": unit });
            if let Some(user) = user {
                request["context"] = json!({ USER_KEY: user });
            }
            request.to_string().into()
        }
    }
}

fn column(name: &str, values: Vec<String>) -> Column {
    Column { name: name.to_owned(), values: Some(Values { kind: Some(Kind::Strings(Strings { values })) }) }
}
