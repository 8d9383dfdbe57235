//! Feature files into a store: Parquet, as domain columns, as packed rows under their keys. The embedded store
//! is filled this way at start, and `weir load` fills Redis.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;
use weir_domain::catalog::{Catalog, Layout, Mistake, View};
use weir_domain::{Cell, Column, FeatureType, Kind};
use weir_journal::table::{Table, TableError, read_table};
use weir_store::{
    Backend, CacheSettings, Embedded, LoadError, Loader, Redis, RedisAddress, Store, entity_keys, pack_rows,
};

use crate::config::{Config, StoreUrl};
use crate::feast::Feast;
use crate::snapshot::chain;

/// Why a view is not loaded.
pub(crate) const NOT_OURS: &str = "its rows lie in Feast's hashes, which Feast fills (feast materialize, push)";

/// Opens the store the configuration names. An unreachable Redis is no mistake: it may come back.
pub(crate) fn store(
    config: &Config,
    catalog: &Catalog,
    feast: Option<&Feast>,
    homes: &Arc<[Handle]>,
) -> Result<Store, Vec<Mistake>> {
    let settings = CacheSettings { capacity_bytes: config.cache_bytes };
    let backend = match &config.store {
        StoreUrl::Embedded => Backend::Embedded(embedded(config, catalog)?),
        StoreUrl::Redis(address) => Backend::Redis(redis(config, address, homes)?),
        StoreUrl::Feast => match feast.map(Feast::store_address) {
            Some(address) => Backend::Redis(redis(config, &address, homes)?),
            None => return Err(vec![Mistake { at: place(config), message: "store: no Feast repository".into() }]),
        },
    };
    Ok(Store::new(backend, settings, &config.namespace))
}

fn redis(config: &Config, address: &RedisAddress, homes: &Arc<[Handle]>) -> Result<Redis, Vec<Mistake>> {
    let mistake = |error| vec![Mistake { at: place(config), message: format!("store: {}", chain(&error)) }];
    let tracked = config.client_tracking.then_some(&*config.namespace);
    Redis::open_on(Arc::clone(homes), address, config.replicas, tracked).map_err(mistake)
}

/// Whether the address is one that can be used, certificates included; whether anybody is there is not asked.
pub(crate) fn reachable(config: &Config, address: &RedisAddress) -> Result<(), Vec<Mistake>> {
    let mistake = |error| vec![Mistake { at: place(config), message: format!("store: {}", chain(&error)) }];
    address.check_files().map_err(mistake)
}

fn place(config: &Config) -> weir_domain::catalog::Place {
    weir_domain::catalog::Place { file: config.dir.join("weir.toml").display().to_string().into(), line: 1 }
}

fn embedded(config: &Config, catalog: &Catalog) -> Result<Embedded, Vec<Mistake>> {
    let embedded = Embedded::default();
    let mut mistakes = Vec::new();
    for view in &catalog.views {
        if is_feasts(view) {
            let message = format!(
                "view {:?}: feast views need a Redis store (store = \"redis://…\" in weir.toml, or --store)",
                view.doc.name
            );
            mistakes.push(Mistake { at: view.doc.at.clone(), message });
            continue;
        }
        let loaded = Source::open(config, view).and_then(|source| {
            for rows in source.rows() {
                embedded.insert(rows?);
            }
            Ok(())
        });
        if let Err(error) = loaded {
            mistakes.push(Mistake {
                at: view.doc.at.clone(),
                message: format!("view {:?}: {}", view.doc.name, chain(&error)),
            });
        }
    }
    if mistakes.is_empty() { Ok(embedded) } else { Err(mistakes) }
}

/// Whether Feast writes the view's rows, into hashes of its own.
fn is_feasts(view: &View) -> bool {
    matches!(view.layout, Layout::Feast(_))
}

/// Why a view's file could not be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadViewError {
    /// The view names no file.
    #[error("has no source to load from")]
    NoSource,
    /// The file cannot be read as this view.
    #[error("its source cannot be read")]
    Table(#[from] TableError),
    /// A row has no join key: nobody could ever ask for it.
    #[error("{file}: row {row} has no {key}")]
    NoKey {
        /// The file.
        file: String,
        /// Row number, from 1.
        row: usize,
        /// The join key or event time that is null.
        key: String,
    },
    /// A row does not fit the packed format.
    #[error("a row cannot be packed")]
    Pack(#[from] weir_store::PackError),
    /// The store did not take a row.
    #[error("the store did not take the rows")]
    Store(#[from] LoadError),
}

/// One view's file, opened.
struct Source<'a> {
    config: &'a Config,
    view: &'a View,
    path: PathBuf,
    table: Table,
}

impl<'a> Source<'a> {
    fn open(config: &'a Config, view: &'a View) -> Result<Self, LoadViewError> {
        let path = config.dir.join(view.source.as_ref().ok_or(LoadViewError::NoSource)?);
        let keys = view.entity.keys.iter().map(|k| (k.name.to_string(), FeatureType::One(k.kind)));
        let time = (view.event_time.clone(), FeatureType::One(Kind::Timestamp));
        let features = view.features.iter().map(|f| (f.name.to_string(), f.of));
        let columns: Vec<_> = keys.chain([time]).chain(features).collect();
        let table = read_table(&path, &columns)?;
        Ok(Self { config, view, path, table })
    }

    /// Batches of (key, packed row).
    fn rows(self) -> impl Iterator<Item = Result<Vec<(Bytes, Bytes)>, LoadViewError>> {
        let Self { config, view, path, table } = self;
        let mut before = 0;
        table.map(move |batch| {
            let mut keys = batch?;
            let features = keys.split_off(view.entity.keys.len() + 1);
            let rows = keys.first().map_or(0, |cell| cell.provenance.len());
            let names = view.entity.keys.iter().map(|k| &*k.name).chain([view.event_time.as_str()]);
            for (cell, name) in keys.iter().zip(names) {
                if let Some(row) = cell.provenance.iter().position(|p| p.is_absent()) {
                    let file = path.display().to_string();
                    return Err(LoadViewError::NoKey { file, row: before + row + 1, key: name.to_owned() });
                }
            }
            before += rows;
            let time = keys.pop().map_or_else(Vec::new, event_times);
            let keys: Vec<Column> = keys.into_iter().map(|cell| cell.column).collect();
            let keys = entity_keys(&config.namespace, view, &keys);
            Ok(keys.into_iter().zip(pack_rows(view, &features, &time)?).collect())
        })
    }
}

fn event_times(cell: Cell) -> Vec<i64> {
    match cell.column {
        Column::Timestamp(times) => times,
        // The table was asked for timestamps.
        _ => Vec::new(),
    }
}

/// What was loaded, by view and version.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Rows written.
    pub(crate) rows: Vec<(String, u64)>,
    /// Views that Feast fills.
    pub(crate) feasts: Vec<String>,
}

/// Loads every view that has a source (or only those named) into Redis.
pub(crate) async fn into_redis(
    config: &Config,
    catalog: &Catalog,
    redis: &RedisAddress,
    only: &[String],
) -> Result<Loaded, Box<dyn std::error::Error>> {
    if let Some(name) = only.iter().find(|n| !catalog.views.iter().any(|v| *v.doc.name == ***n)) {
        return Err(format!("there is no view named {name:?}").into());
    }
    let named = |view: &View| only.iter().any(|n| **n == *view.doc.name);
    if let Some(view) = catalog.views.iter().find(|view| is_feasts(view) && named(view)) {
        return Err(format!("view {:?}: {NOT_OURS}", view.doc.name).into());
    }
    let mut loader = Loader::connect(redis).await?;
    let mut loaded = Loaded::default();
    for view in &catalog.views {
        let id = format!("{}@{}", view.doc.name, view.version);
        if is_feasts(view) && only.is_empty() {
            loaded.feasts.push(id);
            continue;
        }
        if view.source.is_none() || !(only.is_empty() || named(view)) {
            continue;
        }
        let source = Source::open(config, view).map_err(|e| format!("view {id}: {}", chain(&e)))?;
        let bar = progress(source.table.rows(), &id);
        let mut count = 0;
        for rows in source.rows() {
            let rows = rows.map_err(|e| format!("view {id}: {}", chain(&e)))?;
            loader.write(&rows).await?;
            count += rows.len() as u64;
            bar.inc(rows.len() as u64);
        }
        bar.finish_and_clear();
        loaded.rows.push((id, count));
    }
    Ok(loaded)
}

/// A bar for long work; nothing is drawn when stderr is no terminal.
pub(crate) fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{msg:18} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
