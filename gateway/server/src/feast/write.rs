//! Writes through Feast's doors: `/push` and `/write-to-online-store` put rows into Feast's hashes as Feast itself would.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weir_domain::Refusal;
use weir_domain::feast::{KeyFormat, field, push_time};
use weir_feast::{Frame, Raised, Target, View, ViewKind, WriteRow, key_part, no_key};
use weir_store::HashWrite;

use super::serve::Unanswered;
use super::{Current, Feast};
use crate::snapshot::chain;

/// Longest wait of a write for its turn, without a shorter deadline of the caller's own. Ordinary writes take a
/// millisecond; who has waited for so long waits for a Redis that does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Suggested to callers whose turn did not come.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where a push goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Online,
    Offline,
    Both,
}

impl To {
    pub(crate) fn parse(text: &str) -> Result<Self, Raised> {
        match text {
            "online" => Ok(Self::Online),
            "offline" => Ok(Self::Offline),
            "online_and_offline" => Ok(Self::Both),
            other => Err(Raised::value(format!(
                "{other} is not a supported push format. Please specify one of these ['online', 'offline', 'online_and_offline']."
            ))),
        }
    }
}

/// Writes a frame into every view that the push source feeds. A view that refuses it does not hold up the others.
pub(crate) async fn push(
    feast: &Feast,
    source: &str,
    frame: &Frame<'_>,
    to: To,
    until: Instant,
) -> Result<(), Unanswered> {
    let current = feast.current();
    let views = current.registry.pushed_by(source);
    if views.is_empty() {
        let class = weir_feast::Class::Feast("PushSourceNotFoundException", 422);
        return Err(Raised { class, message: format!("Unable to find push source '{source}'.") }.into());
    }
    if to != To::Offline {
        let mut outcome = Ok(());
        for view in views {
            outcome = outcome.and(write(feast, &current, view, frame, until).await);
        }
        outcome?;
    }
    if to == To::Online {
        return Ok(());
    }
    let done = if to == To::Both { "The rows were written online. " } else { "" };
    Err(Raised::value(format!(
        "{done}This gateway has no offline store: push with to=\"online\" here and write offline elsewhere."
    ))
    .into())
}

/// Which of Feast's servers is written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// It asks for the view first, and knows no label views.
    Http,
    /// It looks the name up among all views.
    Grpc,
}

/// Writes a frame into one view.
pub(crate) async fn write_to(
    feast: &Feast,
    view: &str,
    frame: &Frame<'_>,
    through: Through,
    until: Instant,
) -> Result<(), Unanswered> {
    let current = feast.current();
    let found = current.registry.views.get(view);
    let found = found.filter(|view| through == Through::Grpc || view.kind != ViewKind::Label);
    let view = found.ok_or_else(|| match through {
        Through::Http => {
            let message = format!("Can't recognize feast object with a name {view}");
            Raised::not_found("FeastObjectNotFoundException", message)
        }
        Through::Grpc => Raised::key(view),
    })?;
    if matches!(view.kind, ViewKind::OnDemand(_)) {
        return Err(Raised::value(format!(
            "On demand feature view '{}' is computed by Python inside Feast, which cannot run here: write its values through Feast.",
            view.name
        ))
        .into());
    }
    write(feast, &current, view, frame, until).await
}

async fn write(
    feast: &Feast,
    current: &Current,
    view: &Arc<View>,
    frame: &Frame<'_>,
    until: Instant,
) -> Result<(), Unanswered> {
    let rows = rows(view, frame)?;
    let writes: Vec<HashWrite> =
        rows.into_iter().map(|row| hash_write(current, view, row)).collect::<Result<_, _>>()?;
    if writes.is_empty() {
        return Ok(());
    }
    let written = feast.writer.write_by(until, writes).await;
    let written = written.ok_or(Refusal::Overloaded { retry_after: RETRY_AFTER })?;
    Ok(written.map(drop).map_err(|error| Raised::python("ConnectionError", chain(&error)))?)
}

fn rows(view: &View, frame: &Frame<'_>) -> Result<Vec<WriteRow>, Raised> {
    let Some(source) = &view.source else {
        let message = format!("Feature view '{}' has no batch_source and cannot be converted to proto.", view.name);
        return Err(Raised::value(message));
    };
    let typed = |fields: &[weir_feast::Field]| fields.iter().map(|f| (f.name.clone(), f.of)).collect::<Vec<_>>();
    let vectors: Vec<(String, u32)> =
        view.features.iter().filter_map(|f| f.vector().map(|length| (f.name.clone(), length))).collect();
    // Rows of a view without an entity go, in Feast, to the hash of a key without parts. Nobody reads it: reads ask for
    // that of the dummy.
    let entity_columns = if view.is_entityless() { &[][..] } else { &view.entity_columns };
    frame.rows(&Target {
        view: &view.name,
        features: &typed(&view.features),
        join_keys: &typed(entity_columns),
        timestamp_field: &source.timestamp_field,
        created_timestamp_column: source.created_timestamp_column.as_deref(),
        field_mapping: &source.field_mapping,
        vectors: &vectors,
    })
}

fn hash_write(current: &Current, view: &View, mut row: WriteRow) -> Result<HashWrite, Raised> {
    let stored = current.options.stored_name(view);
    row.keys.sort_by(|a, b| a.0.cmp(&b.0));
    let mut key = Vec::new();
    current.naming.format.push_names(&mut key, row.keys.iter().map(|(name, _)| name.as_str()));
    for (_, value) in &row.keys {
        let part = key_part(value).ok_or_else(|| no_key(value))?;
        KeyFormat::push_part(&mut key, part);
    }
    key.extend_from_slice(current.naming.project.as_bytes());
    let (seconds, nanos) = row.event_time;
    let mut time = Vec::new();
    push_time(&mut time, seconds, nanos);
    let fields = row.features.iter().map(|(index, value)| {
        let name = view.features.get(*index).map_or("", |f| f.name.as_str());
        (field(&stored, name).to_vec(), prost::Message::encode_to_vec(value))
    });
    let time_field = format!("{}{stored}", weir_domain::feast::TIME_FIELD).into_bytes();
    let fields = [(time_field, time)].into_iter().chain(fields).collect();
    Ok(HashWrite { key, time: (seconds, nanos), fields })
}
