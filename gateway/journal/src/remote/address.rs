//! Which store a URL means and how it is reached: every setting is looked at here, so that a wrong one is a mistake
//! of the configuration and not a surprise of the first request.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::http::Connector;

/// Feast's own variable for S3-compatible stores; it stands above the AWS tools' own.
const FEAST_ENDPOINT: &str = "FEAST_S3_ENDPOINT_URL";
/// Certificates to trust instead of the system's, as the AWS tools have it.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
/// Google's own variable for emulators: no credentials are sent there.
const GCS_EMULATOR: &str = "STORAGE_EMULATOR_HOST";
/// Feast's own variable for an Azure account's key.
const AZURE_KEY: &str = "REGISTRY_BLOB_KEY";

/// The AWS tools' variables that say who we are, and where. `AWS_REGION` stands above `AWS_DEFAULT_REGION`.
const AWS: [(&str, Shape); 17] = [
    ("AWS_ACCESS_KEY_ID", Shape::Text),
    ("AWS_SECRET_ACCESS_KEY", Shape::Text),
    ("AWS_SESSION_TOKEN", Shape::Text),
    ("AWS_REGION", Shape::Name),
    ("AWS_DEFAULT_REGION", Shape::Name),
    ("AWS_ENDPOINT_URL", Shape::Url),
    ("AWS_ENDPOINT_URL_S3", Shape::Url),
    ("AWS_ENDPOINT_URL_STS", Shape::Url),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", Shape::Free),
    ("AWS_ROLE_ARN", Shape::Text),
    ("AWS_ROLE_SESSION_NAME", Shape::Text),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Shape::UrlPath),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Shape::Url),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Shape::Free),
    ("AWS_SKIP_SIGNATURE", Shape::Text),
    ("AWS_REQUEST_PAYER", Shape::Text),
    ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", Shape::Text),
];
/// Google's and `object_store`'s own.
const GCS: [(&str, Shape); 4] = [
    ("GOOGLE_APPLICATION_CREDENTIALS", Shape::Free),
    ("GOOGLE_SERVICE_ACCOUNT", Shape::Free),
    ("GOOGLE_SERVICE_ACCOUNT_KEY", Shape::Free),
    ("GOOGLE_SKIP_SIGNATURE", Shape::Text),
];
/// Those of Azure's tools.
const AZURE: [(&str, Shape); 11] = [
    ("AZURE_STORAGE_ACCOUNT_NAME", Shape::Name),
    ("AZURE_STORAGE_ACCOUNT_KEY", Shape::Text),
    ("AZURE_STORAGE_SAS_TOKEN", Shape::Text),
    ("AZURE_STORAGE_ENDPOINT", Shape::Url),
    ("AZURE_CLIENT_ID", Shape::Text),
    ("AZURE_CLIENT_SECRET", Shape::Text),
    ("AZURE_TENANT_ID", Shape::Name),
    ("AZURE_AUTHORITY_HOST", Shape::Url),
    ("AZURE_FEDERATED_TOKEN_FILE", Shape::Free),
    ("IDENTITY_ENDPOINT", Shape::Url),
    ("MSI_ENDPOINT", Shape::Url),
];

/// What a variable may hold. The library below takes everything and panics later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Anything: paths, and JSON with its line breaks.
    Free,
    /// Anything that fits into a header: the line break at the end of a mounted secret does not.
    Text,
    /// Part of a host name.
    Name,
    /// `http://` or `https://`.
    Url,
    /// The end of a URL.
    UrlPath,
}

/// Which setting is wrong. Values are not told: they may be secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("s3://BUCKET/KEY, gs://BUCKET/KEY or https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY is expected")]
    Url,
    #[error("{0:?} is no name of a bucket or container")]
    Bucket(String),
    #[error("the key has an empty or relative part")]
    Key(#[source] object_store::path::Error),
    #[error("{0} is not set, and the URL does not name the account")]
    Account(&'static str),
    #[error("{0} {1}")]
    Variable(&'static str, &'static str),
    #[error("{CA_BUNDLE} {file}")]
    CaBundle { file: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0}")]
    Store(Box<dyn std::error::Error + Send + Sync>),
}

/// Whether text is a URL of something that is not a local file.
pub fn is_remote(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme != "file" && !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// A URL's parts.
#[derive(Debug, PartialEq)]
enum Place<'u> {
    S3 { bucket: &'u str },
    Gcs { bucket: &'u str },
    Azure { account: Option<&'u str>, endpoint: Option<String>, container: &'u str },
}

/// Keys are taken as they stand, as Feast takes them: nothing is unescaped.
fn parse(url: &str) -> Result<(Place<'_>, Path), Wrong> {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").ok_or(Wrong::Url)?;
    let (authority, path) = rest.split_once('/').ok_or(Wrong::Url)?;
    let path = path.trim_start_matches('/');
    let (place, key) = match scheme {
        "s3" => (Place::S3 { bucket: authority }, path),
        "gs" => (Place::Gcs { bucket: authority }, path),
        "az" | "abfs" | "abfss" => match authority.split_once('@') {
            None => (Place::Azure { account: None, endpoint: None, container: authority }, path),
            Some((container, host)) => {
                let (account, endpoint) = azure_host(host)?;
                (Place::Azure { account: Some(account), endpoint: Some(endpoint), container }, path)
            }
        },
        "https" => {
            let (account, endpoint) = azure_host(authority)?;
            let (container, key) = path.split_once('/').ok_or(Wrong::Url)?;
            (Place::Azure { account: Some(account), endpoint: Some(endpoint), container }, key)
        }
        _ => return Err(Wrong::Url),
    };
    let (Place::S3 { bucket: name } | Place::Gcs { bucket: name } | Place::Azure { container: name, .. }) = &place;
    if !Shape::Name.fits(name) {
        return Err(Wrong::Bucket((*name).to_owned()));
    }
    let key = Path::parse(key).map_err(Wrong::Key)?;
    if key.as_ref().is_empty() { Err(Wrong::Url) } else { Ok((place, key)) }
}

/// Account and endpoint of `ACCOUNT.blob.…` (any of Azure's clouds); what is spelled `dfs` has the same blobs there.
fn azure_host(host: &str) -> Result<(&str, String), Wrong> {
    let (account, cloud) = host.split_once('.').ok_or(Wrong::Url)?;
    let cloud = cloud.strip_prefix("blob.").or_else(|| cloud.strip_prefix("dfs.")).ok_or(Wrong::Url)?;
    if !Shape::Name.fits(account) || !Shape::Name.fits(cloud) {
        return Err(Wrong::Url);
    }
    Ok((account, format!("https://{account}.blob.{cloud}")))
}

/// Puts together what reads the object.
pub(super) fn open(url: &str, env: &impl Fn(&str) -> Option<String>) -> Result<(Box<dyn ObjectStore>, Path), Wrong> {
    let (place, path) = parse(url)?;
    let connector = match env(CA_BUNDLE).filter(|file| !file.is_empty()) {
        Some(file) => Connector::trusting(&file).map_err(|source| Wrong::CaBundle { file, source })?,
        None => Connector::new().map_err(Wrong::Store)?,
    };
    let store = match place {
        Place::S3 { bucket } => s3(bucket, env, connector)?,
        Place::Gcs { bucket } => gcs(bucket, env, connector)?,
        Place::Azure { account, endpoint, container } => azure(account, endpoint, container, env, connector)?,
    };
    Ok((store, path))
}

fn s3(
    bucket: &str,
    env: &impl Fn(&str) -> Option<String>,
    connector: Connector,
) -> Result<Box<dyn ObjectStore>, Wrong> {
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    let mut endpoint = None;
    for (name, value) in set(env, &AWS)? {
        match name {
            "AWS_ENDPOINT_URL" => endpoint = endpoint.or(Some(value)),
            "AWS_ENDPOINT_URL_S3" => endpoint = Some(value),
            _ => {
                let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(store_error)?;
                builder = builder.with_config(key, value);
            }
        }
    }
    if let Some(url) = one(env, FEAST_ENDPOINT, Shape::Url)? {
        endpoint = Some(url);
    }
    let options = options(endpoint.as_deref());
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let builder = builder.with_client_options(options).with_retry(once()).with_http_connector(connector);
    Ok(Box::new(builder.build().map_err(store_error)?))
}

fn gcs(
    bucket: &str,
    env: &impl Fn(&str) -> Option<String>,
    connector: Connector,
) -> Result<Box<dyn ObjectStore>, Wrong> {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
    for (name, value) in set(env, &GCS)? {
        let key: GoogleConfigKey = name.to_ascii_lowercase().parse().map_err(store_error)?;
        builder = builder.with_config(key, value);
    }
    let emulator = one(env, GCS_EMULATOR, Shape::Url)?;
    let options = options(emulator.as_deref());
    if let Some(emulator) = &emulator {
        builder = builder.with_base_url(emulator.trim_end_matches('/')).with_skip_signature(true);
    }
    let builder = builder.with_client_options(options).with_retry(once()).with_http_connector(connector);
    Ok(Box::new(builder.build().map_err(store_error)?))
}

fn azure(
    account: Option<&str>,
    endpoint: Option<String>,
    container: &str,
    env: &impl Fn(&str) -> Option<String>,
    connector: Connector,
) -> Result<Box<dyn ObjectStore>, Wrong> {
    let mut builder = MicrosoftAzureBuilder::new().with_container_name(container);
    let mut named = account.map(str::to_owned);
    // What the URL says stands above the environment.
    let mut reached = endpoint;
    for (name, value) in set(env, &AZURE)? {
        match name {
            "AZURE_STORAGE_ACCOUNT_NAME" => named = named.or(Some(value)),
            "AZURE_STORAGE_ENDPOINT" => reached = reached.or(Some(value)),
            _ => {
                let key: AzureConfigKey = name.to_ascii_lowercase().parse().map_err(store_error)?;
                builder = builder.with_config(key, value);
            }
        }
    }
    if let Some(key) = one(env, AZURE_KEY, Shape::Text)? {
        builder = builder.with_access_key(key);
    }
    let named = named.ok_or(Wrong::Account("AZURE_STORAGE_ACCOUNT_NAME"))?;
    let options = options(reached.as_deref());
    if let Some(endpoint) = reached {
        builder = builder.with_endpoint(endpoint);
    }
    let builder = builder.with_account(named).with_client_options(options).with_retry(once());
    Ok(Box::new(builder.with_http_connector(connector).build().map_err(store_error)?))
}

/// Without TLS only where somebody has written `http://`.
fn options(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new().with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")))
}

/// We repeat reads as a whole: see `ATTEMPTS_MAX`.
fn once() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: super::READ_TIMEOUT }
}

/// The variables that are set, looked at. An empty one counts as unset: containers often cannot leave one out.
fn set(
    env: &impl Fn(&str) -> Option<String>,
    variables: &[(&'static str, Shape)],
) -> Result<Vec<(&'static str, String)>, Wrong> {
    let read = variables.iter().filter_map(|(name, shape)| Some((*name, one(env, name, *shape).transpose()?)));
    read.map(|(name, value)| Ok((name, value?))).collect()
}

fn one(env: &impl Fn(&str) -> Option<String>, name: &'static str, shape: Shape) -> Result<Option<String>, Wrong> {
    match env(name).filter(|value| !value.is_empty()) {
        Some(value) if !shape.fits(&value) => Err(Wrong::Variable(name, shape.complaint())),
        value => Ok(value),
    }
}

impl Shape {
    fn fits(self, value: &str) -> bool {
        match self {
            Self::Free => true,
            Self::Text => value.bytes().all(|b| (b' '..=b'~').contains(&b)),
            Self::Name => {
                let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                !value.is_empty() && value.bytes().all(fits)
            }
            Self::Url => {
                let rest = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
                let uri = value.parse::<hyper::Uri>();
                rest.is_some() && uri.is_ok_and(|uri| uri.host().is_some() && uri.query().is_none())
            }
            Self::UrlPath => value.starts_with('/') && value.parse::<hyper::Uri>().is_ok(),
        }
    }

    fn complaint(self) -> &'static str {
        match self {
            Self::Free | Self::Text => "holds a line break or another character that no header may have",
            Self::Name => "is no name",
            Self::Url => "is no http:// or https:// URL",
            Self::UrlPath => "is no path of a URL",
        }
    }
}

fn store_error(error: object_store::Error) -> Wrong {
    // What it wraps says it without the name of the library's type.
    match error {
        object_store::Error::Generic { source, .. } => Wrong::Store(source),
        other => Wrong::Store(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (Place<'_>, String) {
        let (place, key) = parse(url).unwrap();
        (place, key.to_string())
    }

    #[test]
    fn urls_are_read_as_feast_spells_them() {
        let (bucket, key) = ("feast", "prod/registry.db".to_owned());
        assert_eq!(parsed("s3://feast/prod/registry.db"), (Place::S3 { bucket }, key.clone()));
        assert_eq!(parsed("s3://feast//prod/registry.db"), (Place::S3 { bucket }, key.clone()));
        assert_eq!(parsed("gs://feast/prod/registry.db?x#y"), (Place::Gcs { bucket }, key.clone()));
        assert_eq!(parsed("s3://feast/a b%20c").1, "a b%20c");
        let azure = |account, endpoint: Option<&str>| {
            let endpoint = endpoint.map(str::to_owned);
            (Place::Azure { account, endpoint, container: "feast" }, key.clone())
        };
        let there = azure(Some("shop"), Some("https://shop.blob.core.windows.net"));
        assert_eq!(parsed("https://shop.blob.core.windows.net/feast/prod/registry.db"), there);
        assert_eq!(parsed("abfss://feast@shop.dfs.core.windows.net/prod/registry.db"), there);
        assert_eq!(parsed("az://feast/prod/registry.db"), azure(None, None));
        let china = azure(Some("shop"), Some("https://shop.blob.core.chinacloudapi.cn"));
        assert_eq!(parsed("https://shop.blob.core.chinacloudapi.cn/feast/prod/registry.db"), china);
        for wrong in ["s3://b u/k", "s3://b/..", "s3://b/a//b", "https://shop.blob.core.windows.net/feast", "s3:/b/k"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn local_paths_are_not_remote() {
        assert!(["s3://b/k", "gs://b/k", "https://a.blob.x/c/k", "hdfs://n/k"].iter().all(|url| is_remote(url)));
        assert!(!["registry.db", "/a/b://c", "file:///a/b", "://x"].iter().any(|path| is_remote(path)));
    }

    #[test]
    fn every_variable_is_one_that_the_library_knows() {
        for (name, _) in AWS {
            assert!(name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
        for (name, _) in GCS {
            assert!(name.to_ascii_lowercase().parse::<GoogleConfigKey>().is_ok(), "{name}");
        }
        for (name, _) in AZURE {
            assert!(name.to_ascii_lowercase().parse::<AzureConfigKey>().is_ok(), "{name}");
        }
    }
}
