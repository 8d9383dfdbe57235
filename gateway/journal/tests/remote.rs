//! Objects in stores that answer as a test wants them to: what is asked, what comes of each answer, and what an error
//! tells. A real store is asked by the gateway's own tests.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir_journal::remote::{OBJECT_BYTES_MAX, Remote, RemoteError, Trouble};

const SECRET: &str = "s3cr3t/of+ours=";
/// Base64, as an account's key is.
const AZURE_SECRET: &str = "czNjcjN0b2ZvdXJz";
const URL: &str = "s3://feast/prod/registry.db";

/// A store on loopback. It answers every request on a connection of its own.
struct Store {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Store {
    /// `answer` makes the answer to a request's head; an empty one is no answer at all, ever.
    async fn start(answer: impl Fn(usize, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heads, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (heads, answer) = (Arc::clone(&heads), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        // Who says hello in TLS is not understood.
                        match stream.read_u8().await {
                            Ok(byte) if byte.is_ascii_graphic() || byte.is_ascii_whitespace() => head.push(byte),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
                    let number = {
                        let mut heads = heads.lock().expect("heads");
                        heads.push(head.clone());
                        heads.len()
                    };
                    match answer(number, &head) {
                        silence if silence.is_empty() => std::future::pending().await,
                        // Who has heard enough hangs up.
                        text => drop(stream.write_all(text.as_bytes()).await),
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// One that has this to say, whatever is asked.
    async fn saying(status: &str, headers: &str, body: &'static str) -> Self {
        let text = answer(status, headers, body);
        Self::start(move |_, _| text.clone()).await
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("heads").clone()
    }

    fn s3(&self) -> Result<Remote, RemoteError> {
        s3(&self.endpoint())
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// Everything Azure's answers have, which is what the strictest reader wants.
fn found(tag: &str, body: &str) -> String {
    let when = "last-modified: Mon, 23 Nov 2026 09:33:40 GMT\r\n";
    answer("200 OK", &format!("etag: \"{tag}\"\r\n{when}"), body)
}

fn open(url: &str, env: &[(&str, &str)]) -> Result<Remote, RemoteError> {
    Remote::open(url, |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
}

fn s3(endpoint: &str) -> Result<Remote, RemoteError> {
    open(
        URL,
        &[
            ("AWS_ACCESS_KEY_ID", "AKIAOURS"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("FEAST_S3_ENDPOINT_URL", endpoint),
        ],
    )
}

fn told(error: &RemoteError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    assert!(!text.contains(SECRET) && !format!("{error:?}").contains(SECRET), "{text}");
    text
}

async fn fails(remote: Result<Remote, RemoteError>) -> (Trouble, String) {
    let error = match remote {
        Ok(remote) => remote.read(None).await.expect_err("no object"),
        Err(error) => error,
    };
    (error.trouble(), told(&error))
}

#[tokio::test]
async fn what_has_not_changed_is_not_read_again() {
    let store = Store::start(|_, head| {
        let unchanged = head.contains("if-none-match: \"one\"\r\n");
        if unchanged { answer("304 Not Modified", "", "") } else { found("one", "registry") }
    })
    .await;
    let remote = store.s3().expect("good settings");
    assert_eq!(remote.url(), URL);
    let (bytes, tag) = remote.read(None).await.expect("an answer").expect("an object");
    assert_eq!(bytes, "registry");
    assert_eq!(remote.read(Some(&tag)).await.expect("an answer"), None);
    let asked = store.asked();
    assert!(asked[0].starts_with("get /feast/prod/registry.db http/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains(&format!("host: {}\r\n", store.address)), "{}", asked[0]);
    assert!(asked[0].contains("credential=akiaours/") && asked[0].contains("/eu-west-1/s3/"), "{}", asked[0]);
    assert!(!asked[0].contains("if-none-match"));
    assert!(!format!("{remote:?}").contains(SECRET));
}

#[tokio::test]
async fn a_store_without_tags_is_read_every_time() {
    let store = Store::saying("200 OK", "", "registry").await;
    let remote = store.s3().expect("good settings");
    let (_, tag) = remote.read(None).await.expect("an answer").expect("an object");
    assert!(remote.read(Some(&tag)).await.expect("an answer").is_some());
}

#[tokio::test]
async fn google_is_asked_for_the_same() {
    let store = Store::start(|_, _| found("g", "registry")).await;
    let remote = open("gs://feast/prod/registry.db", &[("STORAGE_EMULATOR_HOST", &store.endpoint())]);
    let read = remote.expect("good settings").read(None).await;
    assert_eq!(read.expect("an answer").expect("an object").0, "registry");
    let asked = store.asked();
    // Google's own libraries escape keys as a whole too.
    assert!(asked[0].starts_with("get /feast/prod%2fregistry%2edb http/1.1\r\n"), "{}", asked[0]);
    assert!(!asked[0].contains("authorization"), "{}", asked[0]);
}

#[tokio::test]
async fn azure_is_asked_with_the_account_s_key() {
    let store = Store::start(|_, head| {
        let unchanged = head.contains("if-none-match: \"z\"\r\n");
        if unchanged { answer("304 Not Modified", "", "") } else { found("z", "registry") }
    })
    .await;
    let endpoint = store.endpoint();
    let env = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "shop"),
        ("AZURE_STORAGE_ENDPOINT", &endpoint),
        ("REGISTRY_BLOB_KEY", AZURE_SECRET),
    ];
    let remote = open("az://feast/prod/registry.db", &env).expect("good settings");
    let (bytes, tag) = remote.read(None).await.expect("an answer").expect("an object");
    assert_eq!(bytes, "registry");
    assert_eq!(remote.read(Some(&tag)).await.expect("an answer"), None);
    let asked = store.asked();
    assert!(asked[0].starts_with("get /feast/prod/registry.db http/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("authorization: sharedkey shop:"), "{}", asked[0]);
    assert!(!asked[0].contains(&AZURE_SECRET.to_ascii_lowercase()), "{}", asked[0]);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message><AWSAccessKeyId>AKIAOURS\
        </AWSAccessKeyId></Error>";
    let store = Store::saying("403 Forbidden", "", denied).await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!(trouble, Trouble::Denied);
    let address = store.address;
    let why = format!("{address} answers 403 Forbidden: AccessDenied: Access Denied");
    assert_eq!(text, format!("{URL} may not be read with these credentials: {why}"));
    assert_eq!(store.asked().len(), 1, "a refusal is not argued with");

    let gone = "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
    let store = Store::saying("404 Not Found", "", gone).await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!(trouble, Trouble::Missing);
    assert!(text.starts_with(&format!("{URL} does not exist: ")) && text.contains("NoSuchBucket"), "{text}");
}

#[tokio::test]
async fn a_bucket_elsewhere_says_where() {
    let store = Store::saying("301 Moved Permanently", "x-amz-bucket-region: us-west-2\r\n", "").await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!(trouble, Trouble::Settings);
    assert!(text.ends_with("the bucket is in region us-west-2: set AWS_REGION to it"), "{text}");
    // Nobody is led to another host with our signature.
    let store = Store::saying("302 Found", "location: http://127.0.0.1:1/\r\n", "").await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!((trouble, store.asked().len()), (Trouble::Failed, 1), "{text}");
}

#[tokio::test]
async fn a_store_in_passing_trouble_is_asked_again_and_one_in_lasting_trouble_not_for_ever() {
    let busy = answer("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>");
    let never = busy.clone();
    let store = Store::start(move |n, _| if n < 3 { busy.clone() } else { found("t", "registry") }).await;
    let read = store.s3().expect("good settings").read(None).await;
    assert_eq!(read.expect("an answer").expect("an object").0, "registry");
    assert_eq!(store.asked().len(), 3);

    let store = Store::start(move |_, _| never.clone()).await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!((trouble, store.asked().len()), (Trouble::Failed, 3));
    assert!(text.ends_with("answers 503 Service Unavailable: SlowDown"), "{text}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\netag: \"h\"\r\n\r\nhalf";
    let store = Store::start(move |n, _| if n < 2 { half.to_owned() } else { found("t", "registry") }).await;
    let read = store.s3().expect("good settings").read(None).await;
    assert_eq!(read.expect("an answer").expect("an object").0, "registry");
}

#[tokio::test]
async fn what_is_too_large_is_not_held() {
    let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", OBJECT_BYTES_MAX + 1);
    let store = Store::start(move |_, _| announced.clone()).await;
    let (trouble, text) = fails(store.s3()).await;
    assert_eq!(trouble, Trouble::TooLarge);
    assert_eq!(text, format!("{URL} is too large: more than 64 MiB"));

    // Nothing is announced in chunks.
    let chunk = format!("{:x}\r\n{}\r\n", 4 << 20, "x".repeat(4 << 20));
    let endless = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk.repeat(17));
    let store = Store::start(move |_, _| endless.clone()).await;
    assert_eq!(fails(store.s3()).await.0, Trouble::TooLarge);
}

#[tokio::test]
async fn chunks_are_put_together() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nregi\r\n4\r\nstry\r\n0\r\n\r\n";
    let store = Store::start(|_, _| chunks.to_owned()).await;
    let read = store.s3().expect("good settings").read(None).await;
    assert_eq!(read.expect("an answer").expect("an object").0, "registry");
}

#[tokio::test]
async fn nobody_there_is_told_by_address() {
    let (trouble, text) = fails(s3("http://127.0.0.1:1")).await;
    assert_eq!(trouble, Trouble::Unreachable);
    assert!(text.starts_with(&format!("{URL} cannot be reached: no connection to 127.0.0.1:1: ")), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up() {
    let store = Store::start(|_, _| String::new()).await;
    let remote = store.s3().expect("good settings");
    let reading = tokio::spawn(async move { remote.read(None).await });
    while store.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    // From here on nothing happens but time.
    tokio::time::pause();
    let error = reading.await.expect("no panic").expect_err("no answer");
    assert_eq!(error.trouble(), Trouble::Slow);
    assert!(told(&error).contains("no whole answer from 127.0.0.1:"), "{}", told(&error));
}

#[tokio::test]
async fn a_store_is_spoken_to_without_tls_only_where_its_endpoint_says_so() {
    let store = Store::saying("200 OK", "", "registry").await;
    let endpoint = store.endpoint().replace("http://", "https://");
    let (trouble, text) = fails(s3(&endpoint)).await;
    assert_eq!((trouble, store.asked().len()), (Trouble::Unreachable, 0), "{text}");
    // Where credentials come from is no exception.
    let env = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/feast"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/proc/version"),
        ("AWS_ENDPOINT_URL_STS", &store.endpoint()),
    ];
    let (trouble, text) = fails(open(URL, &env)).await;
    assert_eq!((trouble, store.asked().len()), (Trouble::Settings, 0), "{text}");
    assert!(text.contains("without TLS"), "{text}");
}

#[tokio::test]
async fn wrong_settings_are_named_and_not_shown() {
    let wrong = [
        ("AWS_ACCESS_KEY_ID", "AKIAOURS\n"),
        ("AWS_SECRET_ACCESS_KEY", "s3cr3t/of+ours=\n"),
        ("AWS_SESSION_TOKEN", "s3cr3t/of+ours=\n"),
        ("AWS_REGION", "eu west"),
        ("FEAST_S3_ENDPOINT_URL", "minio:9000"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "v2"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem"),
    ];
    for (name, value) in wrong {
        let (trouble, text) = fails(open(URL, &[(name, value)])).await;
        assert_eq!(trouble, Trouble::Settings, "{name}: {text}");
        assert!(text.contains(name), "{name}: {text}");
    }
    let half = fails(open(URL, &[("AWS_ACCESS_KEY_ID", "AKIAOURS")])).await;
    assert_eq!(half.1, format!("{URL} cannot be read with these settings: Missing SecretAccessKey"));
    for url in ["hdfs://h/registry.db", "s3://bucket", "s3://bucket/", "s3:///k", "https://example.com/c/k", "az://c/k"]
    {
        let (trouble, text) = fails(open(url, &[])).await;
        assert!(trouble == Trouble::Settings && text.starts_with(url), "{url}: {text}");
    }
    // A signature in a URL is a secret too.
    let signed = "https://shop.blob.core.windows.net/c?sig=s3cr3t/of+ours=";
    assert!(fails(open(signed, &[])).await.1.starts_with("https://shop.blob.core.windows.net/c cannot"));
}
