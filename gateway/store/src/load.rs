//! Writes rows into Redis, for `weir load`. It has a connection of its own and is no part of [`Redis`](crate::Redis):
//! serving only ever reads.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, Pipeline, Value};
use bytes::Bytes;

use crate::Trouble;
use crate::redis::{UrlError, client};

/// Rows per pipeline: enough that round trips do not count, few enough that a chunk of ordinary rows stays
/// below a megabyte.
pub const LOAD_CHUNK_ROWS: usize = 1_000;
/// A server busy with a snapshot may take seconds over a chunk; a dead one must not hold the loader for ever.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// To connect, greet and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes rows into one Redis.
pub struct Loader {
    connection: MultiplexedConnection,
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The URL is not one we can use.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The server could not be reached, or what it said was no answer.
    #[error("Redis does not answer ({})", kind.name())]
    Connection {
        /// The kind of the failure.
        kind: Trouble,
        /// What the client library saw.
        source: ::redis::RedisError,
    },
    /// The server refused a row; the rows before it are written.
    #[error("Redis refused a row ({}): {message}", kind.name())]
    Refused {
        /// The kind of the refusal.
        kind: Trouble,
        /// The server's own words.
        message: String,
    },
}

impl Loader {
    /// Connects, or says why not: a loader has nothing to do without its server.
    pub async fn connect(url: &str) -> Result<Self, LoadError> {
        let client: Client = client(url)?;
        let config = ::redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CHUNK_TIMEOUT));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)?;
        Ok(Self { connection })
    }

    /// Writes (key, packed row) pairs, [`LOAD_CHUNK_ROWS`] per round trip, in place of what was there.
    pub async fn write(&mut self, rows: &[(Bytes, Bytes)]) -> Result<(), LoadError> {
        for chunk in rows.chunks(LOAD_CHUNK_ROWS) {
            let mut pipeline = Pipeline::with_capacity(chunk.len());
            for (key, row) in chunk {
                pipeline.cmd("SET").arg(&key[..]).arg(&row[..]);
            }
            let replies = self.connection.send_packed_commands(&pipeline, 0, chunk.len()).await.map_err(failed)?;
            for reply in replies {
                if let Value::ServerError(error) = reply {
                    return Err(LoadError::Refused { kind: Trouble::of_reply(&error), message: error.to_string() });
                }
            }
        }
        Ok(())
    }
}

fn failed(source: ::redis::RedisError) -> LoadError {
    LoadError::Connection { kind: Trouble::of_error(&source), source }
}
