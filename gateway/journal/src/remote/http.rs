//! HTTP for the stores: one exchange, one connection. Reads are minutes apart, and a connection that idles in between
//! is a connection that somebody has cut. The answer is read to its end here, so every limit is kept here, and nothing
//! goes on in the background.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::Trouble;
use super::{CONNECT_TIMEOUT, OBJECT_BYTES_MAX, REQUEST_TIMEOUT};

/// A metadata service runs on the machine itself: where nothing answers within this, there is none.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// So much of an answer that is none is looked at for its reason.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;
/// So much of the reason is told.
const COMPLAINT_CHARS_MAX: usize = 300;
/// Where S3 says that a bucket lies.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no connection to {0}")]
    Connect(String, #[source] io::Error),
    #[error("no connection to {0} within {1} s")]
    NoConnection(String, u64),
    #[error("no whole answer from {0} within {limit} s", limit = REQUEST_TIMEOUT.as_secs())]
    Slow(String),
    #[error("{0} broke off")]
    Exchange(String, #[source] hyper::Error),
    #[error("{peer} answers {status}{said}")]
    Refused { peer: String, status: StatusCode, said: String, is_metadata: bool },
    #[error("more than {limit} MiB", limit = OBJECT_BYTES_MAX >> 20)]
    TooLarge,
    #[error("{0} would be spoken to without TLS: only an endpoint that says http:// is")]
    Plain(String),
    #[error("this system trusts no certificates; AWS_CA_BUNDLE or SSL_CERT_FILE names a file of them")]
    NoCertificates,
    #[error("the bucket is in region {0}: set AWS_REGION to it")]
    Region(String),
    #[error("{0} sends us elsewhere, which a store does when it is not the right one")]
    Elsewhere(String),
    #[error("a URL without a host")]
    NoHost,
}

impl Fault {
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Connect(..) | Self::NoConnection(..) | Self::NoCertificates => Trouble::Unreachable,
            Self::Slow(_) => Trouble::Slow,
            Self::TooLarge => Trouble::TooLarge,
            Self::Plain(_) | Self::Region(_) | Self::NoHost => Trouble::Settings,
            // A machine without a role has no such page of metadata.
            Self::Refused { is_metadata: true, .. } => Trouble::Denied,
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Trouble::Denied,
                StatusCode::NOT_FOUND => Trouble::Missing,
                _ => Trouble::Failed,
            },
            Self::Exchange(..) | Self::Elsewhere(_) => Trouble::Failed,
        }
    }

    /// What was slow or silent once has had its time; a refused certificate stays refused.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_, error) => error.kind() != io::ErrorKind::InvalidData,
            Self::Exchange(..) => true,
            Self::Refused { status, .. } => {
                let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
                status.is_server_error() || later.contains(status)
            }
            _ => false,
        }
    }
}

impl From<Fault> for HttpError {
    fn from(fault: Fault) -> Self {
        let kind = match fault.trouble() {
            Trouble::Unreachable => HttpErrorKind::Connect,
            Trouble::Slow => HttpErrorKind::Timeout,
            _ => HttpErrorKind::Unknown,
        };
        Self::new(kind, fault)
    }
}

/// Makes clients that trust the same certificates.
#[derive(Clone)]
pub(super) struct Connector {
    /// None where the system trusts nobody, which a store without TLS need not care about.
    tls: Option<TlsConnector>,
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    /// Trusts whom the system trusts.
    pub(super) fn new() -> Result<Self, Boxed> {
        let mut roots = RootCertStore::empty();
        // One unreadable certificate among a hundred is the system's business.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Ok(Self { tls: None }) } else { Self::of(roots) }
    }

    /// Trusts the certificates of a file alone.
    pub(super) fn trusting(file: &str) -> Result<Self, Boxed> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file)? {
            roots.add(certificate?)?;
        }
        if roots.is_empty() { Err("has no certificate".into()) } else { Self::of(roots) }
    }

    fn of(roots: RootCertStore) -> Result<Self, Boxed> {
        // Named here instead of taken from the process, which others configure too.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))) })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        Ok(HttpClient::new(Client { connector: self.clone(), plain }))
    }
}

#[derive(Debug)]
struct Client {
    connector: Connector,
    /// Whether `http://` is spoken at all.
    plain: bool,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let peer = Peer::of(request.uri())?;
        let answered = timeout(REQUEST_TIMEOUT, self.exchange(&peer, request)).await;
        let (mut answer, is_head) = answered.unwrap_or_else(|_| Err(Fault::Slow(peer.told())))?;
        let length = answer.body().len();
        if !is_head {
            // Some gateways before a store send chunks, and the library wants to know the size.
            answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        Ok(answer.map(HttpResponseBody::from))
    }
}

impl Client {
    async fn exchange(&self, peer: &Peer, request: HttpRequest) -> Result<(Response<Bytes>, bool), Fault> {
        if !peer.is_tls && !self.plain {
            return Err(Fault::Plain(peer.told()));
        }
        let limit = if peer.is_metadata() { METADATA_TIMEOUT } else { CONNECT_TIMEOUT };
        let too_late = |_| Fault::NoConnection(peer.told(), limit.as_secs());
        if !peer.is_tls {
            let stream = timeout(limit, peer.connect()).await.map_err(too_late)??;
            return converse(peer, stream, request).await;
        }
        let tls = self.connector.tls.as_ref().ok_or(Fault::NoCertificates)?;
        let secured = async {
            let name = ServerName::try_from(peer.host.clone()).map_err(|_| Fault::NoHost)?;
            let stream = peer.connect().await?;
            tls.connect(name, stream).await.map_err(|error| Fault::Connect(peer.told(), error))
        };
        let stream = timeout(limit, secured).await.map_err(too_late)??;
        converse(peer, stream, request).await
    }
}

/// Whom a request goes to.
struct Peer {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Peer {
    fn of(uri: &Uri) -> Result<Self, Fault> {
        let is_tls = uri.scheme_str() != Some("http");
        let host = uri.host().ok_or(Fault::NoHost)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { host, port, is_tls })
    }

    /// All of these are on the machine itself, by link-local addresses or Google's name for one.
    fn is_metadata(&self) -> bool {
        self.host.starts_with("169.254.") || self.host == "metadata.google.internal"
    }

    fn told(&self) -> String {
        let Self { host, port, .. } = self;
        let why = if self.is_metadata() { " (asked because the environment has no credentials)" } else { "" };
        format!("{host}:{port}{why}")
    }

    async fn connect(&self) -> Result<TcpStream, Fault> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        stream.map_err(|error| Fault::Connect(self.told(), error))
    }
}

/// Sends the request and reads the whole answer, and whether it is one to HEAD. An answer that is none is a fault
/// already here: the library would put the whole of it into its message.
async fn converse<S>(peer: &Peer, stream: S, mut request: HttpRequest) -> Result<(Response<Bytes>, bool), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let broken = |error| Fault::Exchange(peer.told(), error);
    let is_head = request.method() == Method::HEAD;
    address(&mut request)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let status = parts.status;
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            let body = whole(peer, body).await?;
            return Ok((Response::from_parts(parts, body), is_head));
        }
        if status.is_redirection() {
            return Err(elsewhere(peer, &parts.headers));
        }
        let said = complaint(&beginning(peer, body).await?);
        Err(Fault::Refused { peer: peer.told(), status, said, is_metadata: peer.is_metadata() })
    };
    let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
    // The connection has to be driven while the answer is waited for, and may end before all of it was looked at.
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = &mut connection => {}
    }
    answer.await
}

/// Makes a request to a URL one to the host behind a connection.
fn address(request: &mut HttpRequest) -> Result<(), Fault> {
    let uri = request.uri().clone();
    let authority = uri.authority().ok_or(Fault::NoHost)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::NoHost)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Fault::NoHost)?;
    // A signed request brings the host that was signed.
    request.headers_mut().entry(HOST).or_insert(host);
    let agent = HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(USER_AGENT).or_insert(agent);
    Ok(())
}

/// A redirection is not followed: the signature is for this host, and so are the credentials.
fn elsewhere(peer: &Peer, headers: &HeaderMap) -> Fault {
    match headers.get(BUCKET_REGION).and_then(|region| region.to_str().ok()) {
        Some(region) => Fault::Region(region.to_owned()),
        None => Fault::Elsewhere(peer.told()),
    }
}

async fn whole(peer: &Peer, mut body: Incoming) -> Result<Bytes, Fault> {
    let announced = body.size_hint().lower();
    if announced > OBJECT_BYTES_MAX as u64 {
        return Err(Fault::TooLarge);
    }
    let mut bytes = BytesMut::with_capacity(announced as usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::Exchange(peer.told(), error))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > OBJECT_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

async fn beginning(peer: &Peer, mut body: Incoming) -> Result<Bytes, Fault> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::Exchange(peer.told(), error))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > COMPLAINT_BYTES_MAX {
            bytes.truncate(COMPLAINT_BYTES_MAX);
            break;
        }
    }
    Ok(bytes.freeze())
}

/// The reason in an answer that is none, on one line. S3 also sends back key ids and what was signed, so of XML and
/// JSON only the fields that are meant for people are told, and of anything else nothing.
fn complaint(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, after) = text.split_once(&format!("<{name}>"))?;
        after.split_once("</").map(|(inside, _)| inside.to_owned())
    };
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| {
        // Google nests them, and nobody else has an object of that name.
        let found = json.get(name).or_else(|| json.get("error")?.get(name))?;
        found.as_str().map(str::to_owned)
    };
    let code = element("Code").or_else(|| field("error")).or_else(|| field("code")).or_else(|| field("Code"));
    let message = element("Message").or_else(|| field("error_description")).or_else(|| field("message"));
    let told = [code, message].into_iter().flatten().flat_map(|part| [": ".to_owned(), part]).collect::<String>();
    let is_plain = |c: char| if c.is_control() { ' ' } else { c };
    told.chars().map(is_plain).take(COMPLAINT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_is_told_and_what_it_gives_away_is_not() {
        let s3 =
            b"<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>It does\nnot match.</Message>\
            <AWSAccessKeyId>AKIAX</AWSAccessKeyId><StringToSign>AWS4</StringToSign></Error>";
        assert_eq!(complaint(s3), ": SignatureDoesNotMatch: It does not match.");
        assert_eq!(complaint(br#"{"error":{"code":403,"message":"no"}}"#), ": no");
        assert_eq!(
            complaint(br#"{"error":"invalid_grant","error_description":"expired"}"#),
            ": invalid_grant: expired"
        );
        assert_eq!(complaint(b"<html>token=abc</html>"), "");
        let long = format!("<Message>{}</Message>", "x".repeat(1_000));
        assert_eq!(complaint(long.as_bytes()).len(), COMPLAINT_CHARS_MAX);
    }
}
