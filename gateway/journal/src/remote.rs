//! One object in somebody's store (S3 and what is compatible with it, Google Cloud Storage, Azure Blob Storage) that
//! is read over and over. Promises: what has not changed is not downloaded again; every read ends, within
//! `READ_TIMEOUT`; nothing larger than [`OBJECT_BYTES_MAX`] is held; an error names the URL and the cause, and no
//! secret.
//!
//! Credentials come from where the clouds' own tools look: the environment's variables, or else the machine's
//! metadata service. The files of those tools (`~/.aws`) and proxies are not used.

mod address;
mod error;
mod http;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};

pub use address::is_remote;
pub use error::{RemoteError, Trouble};

/// Longest wait for a connection, TLS included. A store in the same region takes some 10 ms; a first packet that is
/// lost is sent again after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest exchange, the whole answer included: enough for [`OBJECT_BYTES_MAX`] at 30 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest read with its repeated attempts and whatever must be asked for credentials first. Whoever starts a
/// gateway waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest object. A registry of a thousand views with a hundred features each has some 10 MB; what is larger than
/// this is not what was meant, and must not take the memory of those who are served.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;
/// A store that is overloaded or swaps its servers refuses now and then and takes the next request; one that refuses
/// three times is in trouble, and whoever reads will be back.
const ATTEMPTS_MAX: u32 = 3;
/// First wait between attempts; the next one is twice as long.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// An object in a store, by its URL.
pub struct Remote {
    url: String,
    store: Box<dyn ObjectStore>,
    path: Path,
}

/// Which content was read: the store's own mark for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(Option<String>);

impl Remote {
    /// Knows how to reach an object. `env` gives the environment's variables; nothing is asked of the store yet.
    ///
    /// `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY`,
    /// `az://CONTAINER/KEY`, `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY`.
    pub fn open(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, RemoteError> {
        let (store, path) = address::open(url, &env).map_err(|wrong| RemoteError::wrong(url, wrong))?;
        Ok(Self { url: error::shown(url), store, path })
    }

    /// The URL, without what may be a secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads the object; `None` if it is still the one that was `seen`.
    pub async fn read(&self, seen: Option<&Tag>) -> Result<Option<(Bytes, Tag)>, RemoteError> {
        let read = tokio::time::timeout(READ_TIMEOUT, self.attempts(seen)).await;
        read.unwrap_or_else(|_| Err(RemoteError::slow(&self.url, READ_TIMEOUT)))
    }

    async fn attempts(&self, seen: Option<&Tag>) -> Result<Option<(Bytes, Tag)>, RemoteError> {
        let mut pause = ATTEMPT_PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            match self.attempt(seen).await {
                Err(error) if error.may_pass() => tokio::time::sleep(jittered(pause)).await,
                outcome => return outcome,
            }
            pause *= 2;
        }
        self.attempt(seen).await
    }

    async fn attempt(&self, seen: Option<&Tag>) -> Result<Option<(Bytes, Tag)>, RemoteError> {
        let options = GetOptions { if_none_match: seen.and_then(|tag| tag.0.clone()), ..GetOptions::default() };
        let got = match self.store.get_opts(&self.path, options).await {
            Err(object_store::Error::NotModified { .. }) => return Ok(None),
            got => got.map_err(|error| RemoteError::of(&self.url, error))?,
        };
        let tag = Tag(got.meta.e_tag.clone());
        let bytes = got.bytes().await.map_err(|error| RemoteError::of(&self.url, error))?;
        Ok(Some((bytes, tag)))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library would show what it was given, and that has secrets.
        f.debug_tuple("Remote").field(&self.url).finish()
    }
}

/// Between half of a wait and all of it, so that gateways that were started together do not come together each time.
pub fn jittered(wait: Duration) -> Duration {
    // std seeds every RandomState differently, which is all the randomness this needs.
    let share = RandomState::new().hash_one(0) % 512;
    wait / 2 + wait.mul_f64(share as f64 / 1024.0)
}
