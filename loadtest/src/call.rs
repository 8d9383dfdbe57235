//! One call, looked at closely: what load tools do not look at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::BytesMut;
use clap::Args;
use prost::Message;
use serde_json::json;
use weir_proto::v1::{GetFeaturesResponse, Provenance};

use crate::ask::{Ask, FRAME_HEADER};
use crate::client::Connection;
use crate::report;

/// `weir-loadtest call`
#[derive(Args, Debug)]
pub(crate) struct Call {
    /// The gateway.
    #[arg(long, value_name = "ADDR", value_parser = crate::loopback)]
    to: SocketAddr,
    #[command(flatten)]
    ask: Ask,
    /// Write the request here as a gRPC frame, as `h2load -d` wants it.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Write the reply here, the message alone, as `floor` wants it.
    #[arg(long, value_name = "FILE")]
    reply: Option<PathBuf>,
}

impl Call {
    /// Asks every request of the `Ask` once, in turn; the summary is of all, the files are of the last.
    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn run(self) -> Result<(), crate::Failed> {
        let mut connection = Connection::open(self.to).await?;
        let mut provenance: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut rows, mut columns, mut bytes) = (0, 0, 0);
        for frame in self.ask.frames() {
            let mut reply = BytesMut::new();
            connection.call(frame.clone(), |chunk| reply.extend_from_slice(&chunk)).await?;
            let message = reply.get(FRAME_HEADER..).ok_or("the reply is shorter than a gRPC frame")?;
            let decoded = GetFeaturesResponse::decode(message)?;
            for byte in decoded.columns.iter().flat_map(|c| &c.provenance) {
                let name = Provenance::try_from(i32::from(*byte)).map_or("unknown", |p| p.as_str_name());
                *provenance.entry(name.trim_start_matches("PROVENANCE_")).or_default() += 1;
            }
            (rows, columns, bytes) = (decoded.rows, decoded.columns.len(), message.len());
            if let Some(path) = &self.body {
                std::fs::write(path, &frame)?;
            }
            if let Some(path) = &self.reply {
                std::fs::write(path, message)?;
            }
        }
        report::say(&json!({ "rows": rows, "columns": columns, "reply_bytes": bytes, "provenance": provenance }));
        Ok(())
    }
}
