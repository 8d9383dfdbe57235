//! Rows before the reply: one MGET for the items of a request over a bare multiplexer, and on request the reply's columns
//! made of them: what tonic, prost and Redis take by themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use weir_proto::v1::values::Kind;
use weir_proto::v1::{GetFeaturesRequest, GetFeaturesResponse};

use crate::mux::Mux;
use crate::raw::{mget, packed_key};
use crate::resp;

/// Before the null bitmap of a packed row: fingerprint, number of features, flags, event time.
const ROW_HEADER: usize = 16;

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Unanswered {
    Items,
    Redis,
    Row,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Items => "items by text are expected",
            Self::Redis => "the connection to Redis is lost, or a row is missing",
            Self::Row => "a row is too short",
        })
    }
}

impl std::error::Error for Unanswered {}

/// The same commands, again and again.
#[derive(Clone)]
pub(super) struct Asked {
    mux: Mux,
    commands: Arc<[u8]>,
    replies: usize,
}

impl Asked {
    pub(super) async fn of(redis: SocketAddr, commands: &Path) -> Result<Self, crate::Failed> {
        let commands = std::fs::read(commands).map_err(|e| format!("{}: {e}", commands.display()))?;
        // Each is an array of strings; none of them has a line that begins with a star.
        let replies = commands.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"*")).count();
        Ok(Self { mux: Mux::connect(redis).await?, commands: commands.into(), replies })
    }

    /// Waits for the replies and does not look at them.
    pub(super) async fn answered(&self) -> Result<(), Unanswered> {
        let told = self.mux.ask(self.commands.to_vec(), self.replies).map_err(|_| Unanswered::Redis)?;
        told.await.map(drop).map_err(|_| Unanswered::Redis)
    }
}

/// Reads rows.
#[derive(Clone)]
pub(super) struct Fetch {
    mux: Mux,
    prefix: Arc<str>,
    makes_columns: bool,
}

impl Fetch {
    pub(super) async fn connect(redis: SocketAddr, prefix: String, makes_columns: bool) -> Result<Self, crate::Failed> {
        Ok(Self { mux: Mux::connect(redis).await?, prefix: prefix.into(), makes_columns })
    }

    /// Waits for the rows of the items; `template` is the reply, but for the numbers.
    pub(super) async fn answer(
        &self,
        request: &GetFeaturesRequest,
        template: Arc<GetFeaturesResponse>,
    ) -> Result<Arc<GetFeaturesResponse>, Unanswered> {
        let items = request.items.first().and_then(|column| column.values.as_ref()?.kind.as_ref());
        let Some(Kind::Strings(ids)) = items else { return Err(Unanswered::Items) };
        let keys: Vec<Vec<u8>> = ids.values.iter().map(|id| packed_key(&self.prefix, id)).collect();
        let mut command = Vec::new();
        mget(&mut command, &keys);
        let told = self.mux.ask(command, 1).map_err(|_| Unanswered::Redis)?;
        let rows = told.await.map_err(|_| Unanswered::Redis)?;
        if !self.makes_columns {
            return Ok(template);
        }
        let rows: Vec<&[u8]> = resp::values(&rows).collect();
        let mut reply = GetFeaturesResponse::clone(&template);
        let slots = ROW_HEADER + reply.columns.len().div_ceil(8);
        for (n, column) in reply.columns.iter_mut().enumerate() {
            if let Some(Kind::Doubles(doubles)) = column.values.as_mut().and_then(|v| v.kind.as_mut()) {
                doubles.values.clear();
                let slot = |row: &&[u8]| row.get(slots + 8 * n..)?.first_chunk().copied().map(f64::from_le_bytes);
                doubles.values.extend(rows.iter().filter_map(slot));
                if doubles.values.len() != rows.len() {
                    return Err(Unanswered::Row);
                }
            }
        }
        Ok(Arc::new(reply))
    }
}
