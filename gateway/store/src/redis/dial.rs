//! Makes connections: resolves, connects, encrypts, logs in. Promises: Nagle is off, every address of a name is
//! tried, and a connection ends when the last who uses it lets go of it. Who calls sets the time limit.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::PubSub;
use ::redis::{Cmd, Pipeline, RedisConnectionInfo, RedisError, Value, parse_redis_value};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::{AddressError, RedisAddress, RedisLayout, RedisLogin, RedisTls};
use super::mux::Mux;
use super::resp::Replies;
use crate::Trouble;

/// To connect, greet, log in and be greeted back. A frozen server leaves the attempt hanging in here and
/// answers it when it thaws, so a long limit delays no recovery.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Addresses of one name that are tried, all at once. A name with more is a load balancer's, and any will do.
const ADDRESSES_MAX: usize = 8;

/// One server as the network knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// Host and port.
    Tcp(Arc<str>, u16),
    /// The path of a unix socket.
    Socket(PathBuf),
}

/// How to get to servers and log in there.
pub(super) struct Dialer {
    login: RedisLogin,
    db: u32,
    tls: Option<TlsConnector>,
}

/// A connection that many use at once. The last clone closes it.
#[derive(Clone)]
pub(super) struct Connection {
    mux: Mux,
    _driver: Arc<Driver>,
}

/// The task that moves bytes between the socket and those who wait for replies.
struct Driver(JoinHandle<()>);

/// Comes true (as an error: nothing is ever sent) when the connection is closed, by whichever side.
pub(super) type Closed = oneshot::Receiver<()>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{}", kind.name())]
pub(super) struct DialError {
    pub(super) kind: Trouble,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

impl Place {
    pub(super) fn tcp(host: &str, port: u16) -> Self {
        Self::Tcp(host.into(), port)
    }

    /// Where the address leads first: the server itself, or all those who may know.
    pub(super) fn all_of(address: &RedisAddress) -> Vec<Self> {
        match &address.layout {
            RedisLayout::Socket(path) => vec![Self::Socket(path.clone())],
            _ => address.nodes.iter().map(|(host, port)| Self::tcp(host, *port)).collect(),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Dialer {
    /// For the servers that hold the data.
    pub(super) fn to_servers(address: &RedisAddress) -> Result<Self, AddressError> {
        Self::new(&address.login, address.db, address.tls.as_ref())
    }

    /// For the sentinels, which have logins of their own and no databases.
    pub(super) fn to_sentinels(login: &RedisLogin, tls: Option<&RedisTls>) -> Result<Self, AddressError> {
        Self::new(login, 0, tls)
    }

    fn new(login: &RedisLogin, db: u32, tls: Option<&RedisTls>) -> Result<Self, AddressError> {
        Ok(Self { login: login.clone(), db, tls: tls.map(super::tls::connector).transpose()? })
    }

    /// A connection, and word of its end.
    pub(super) async fn dial(&self, to: &Place) -> Result<(Connection, Closed), DialError> {
        match self.stream(to).await? {
            Stream::Plain(stream) => self.greet(stream).await,
            Stream::Other(stream) => self.greet(stream).await,
        }
    }

    /// A connection that hears what is published.
    pub(super) async fn listen(&self, to: &Place) -> Result<PubSub, DialError> {
        // One round trip less per connection, and users without CLIENT permission need none.
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(self.db.into());
        if let Some(username) = &self.login.username {
            info = info.set_username(username);
        }
        if let Some(password) = self.password() {
            info = info.set_password(password);
        }
        match self.stream(to).await? {
            Stream::Plain(stream) => Ok(PubSub::new(&info, stream).await?),
            Stream::Other(stream) => Ok(PubSub::new(&info, stream).await?),
        }
    }

    /// Who we are: name and password.
    pub(super) fn credentials(&self) -> (Option<&str>, Option<&str>) {
        (self.login.username.as_deref(), self.password())
    }

    /// How we encrypt, if we do.
    pub(super) fn tls(&self) -> Option<&TlsConnector> {
        self.tls.as_ref()
    }

    /// A user that needs no password still has to be named, and AUTH wants some password then.
    fn password(&self) -> Option<&str> {
        let none = self.login.username.as_ref().map(|_| "");
        self.login.password.as_deref().or(none)
    }

    async fn stream(&self, to: &Place) -> Result<Stream, DialError> {
        let (host, port) = match to {
            Place::Socket(path) => return Ok(Stream::Other(Box::pin(UnixStream::connect(path).await?))),
            Place::Tcp(host, port) => (host, *port),
        };
        let tcp = connect(host, port).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        let name = ServerName::try_from(host.to_string())
            .map_err(|source| DialError { kind: Trouble::Tls, source: source.into() })?;
        Ok(Stream::Other(Box::pin(tls.connect(name, tcp).await?)))
    }

    async fn greet<S>(&self, stream: S) -> Result<(Connection, Closed), DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // No timeouts in here: each read has one timer around all it does, and so has each attempt.
        let (mux, driver) = Mux::over(stream);
        let (ends, closed) = oneshot::channel();
        // Aborted with the last clone of the connection, so it outlives nobody.
        let driver = tokio::spawn(async move {
            driver.await;
            drop::<oneshot::Sender<()>>(ends);
        });
        let connection = Connection { mux, _driver: Arc::new(Driver(driver)) };
        self.log_in(&connection).await?;
        Ok((connection, closed))
    }

    async fn log_in(&self, connection: &Connection) -> Result<(), DialError> {
        if let Some(password) = self.password() {
            let mut auth = ::redis::cmd("AUTH");
            auth.arg(&self.login.username).arg(password);
            if let Value::ServerError(error) = connection.command(&auth).await? {
                // Whatever its words are, a server that does not take a login needs another one.
                let said = Trouble::of_reply(&error);
                let kind = if said == Trouble::Other { Trouble::Auth } else { said };
                return Err(DialError { kind, source: error.into() });
            }
        }
        if self.db != 0
            && let Value::ServerError(error) = connection.command(::redis::cmd("SELECT").arg(self.db)).await?
        {
            return Err(DialError { kind: Trouble::of_reply(&error), source: error.into() });
        }
        Ok(())
    }
}

/// The first of the name's addresses that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for address in lookup_host((host, port)).await?.take(ADDRESSES_MAX) {
        attempts.spawn(TcpStream::connect(address));
    }
    let mut why = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(attempt) = attempts.join_next().await {
        match attempt.map_err(io::Error::other).flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error,
        }
    }
    Err(why)
}

trait Duplex: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Duplex for T {}

/// Plain TCP is what is measured and stays itself; all else shares one type, which costs a call per read.
enum Stream {
    Plain(TcpStream),
    Other(Pin<Box<dyn Duplex + Send>>),
}

impl Connection {
    /// Sends encoded commands at once; the bytes of as many replies, to be taken apart by who asked.
    pub(super) async fn ask(&self, commands: impl Into<Bytes>, replies: usize) -> Result<Replies, Trouble> {
        self.mux.ask(commands, replies).await
    }

    /// Sends one command; what the server has against it is a value too.
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, DialError> {
        let no = |kind| DialError { kind, source: "there is no reply".into() };
        let reply = self.ask(command.get_packed_command(), 1).await.map_err(no)?;
        Ok(parse_redis_value(reply.all())?)
    }

    /// Sends all commands at once; as many replies as commands, in order.
    pub(super) async fn pipeline(&self, commands: &Pipeline) -> Result<Vec<Value>, Trouble> {
        let replies = self.ask(commands.get_packed_pipeline(), commands.len()).await?;
        replies.each().map(|reply| parse_redis_value(&reply).map_err(|e| Trouble::of_error(&e))).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DialError {
    pub(super) fn timeout(after: Duration) -> Self {
        Self { kind: Trouble::Timeout, source: format!("no answer within {after:?}").into() }
    }
}

/// With a time limit on everything that `attempt` does.
pub(super) async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(DialError::timeout(limit)))
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self { kind: Trouble::of_io(&error), source: error.into() }
    }
}

impl From<RedisError> for DialError {
    fn from(error: RedisError) -> Self {
        Self { kind: Trouble::of_error(&error), source: error.into() }
    }
}
