//! The command line, as written. What each command does is in [`commands`](crate::commands) and
//! [`demo`](crate::demo).

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use weir_feast::Semantics;

use crate::config::{Overrides, StoreUrl};
use crate::feast::semantics;
use crate::telemetry::LogFormat;

/// Weir: features inside a latency budget, with the origin of every value.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100)]
pub struct Cli {
    /// How logs look (they go to stderr; RUST_LOG sets their level).
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log: LogFormat,
    #[command(subcommand)]
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve features.
    Serve(Serve),
    /// Serve the demo and replay real flights against it.
    Demo(Demo),
    /// Check a configuration and list every mistake.
    Check(Check),
    /// Load the views' Parquet files into Redis.
    Load(Load),
    /// Make a catalog from what another feature store knows.
    #[command(subcommand)]
    Import(Import),
    /// Say which arms a unit is in.
    Assign(Assign),
    /// Work with transform components.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Options that lie over `weir.toml`.
#[derive(Args, Debug)]
pub struct Doors {
    /// Address for callers (gRPC and HTTP); port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address for operators (health, metrics, reload).
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Folder to write served answers to.
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
}

impl Doors {
    /// As overrides, with the store to read from.
    pub fn over(self, store: Option<StoreUrl>) -> Overrides {
        let Self { listen, admin, journal } = self;
        Overrides { listen, admin, store, journal, ..Overrides::default() }
    }
}

/// `weir serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Folder with weir.toml and catalog/.
    #[arg(long, value_name = "DIR", env = "WEIR_CONFIG", required_unless_present = "feast")]
    pub config: Option<PathBuf>,
    /// Store to read from: embedded, redis://…, redis-cluster://… or redis-sentinel://…
    #[arg(long, value_name = "URL", env = "WEIR_STORE", hide_env_values = true, value_parser = StoreUrls)]
    pub store: Option<StoreUrl>,
    /// Feast repository to serve in place of a Feast feature server: its folder, or feature_store.yaml, and
    /// registry.db (or its URL) where that lies elsewhere.
    #[arg(long, value_name = "PATH", num_args = 1..=2)]
    pub feast: Vec<PathBuf>,
    /// What statuses say: python (everything is PRESENT, as Feast's Python server has it) or strict (ttl counts, as its
    /// Go and Java servers have it).
    #[arg(long, value_name = "WHICH", value_parser = semantics)]
    pub feast_semantics: Option<Semantics>,
    #[command(flatten)]
    /// Addresses and the journal.
    pub doors: Doors,
}

/// Reads `--store`. Unlike clap's own errors, what it says does not repeat the value, which may hold a password.
#[derive(Clone)]
struct StoreUrls;

impl TypedValueParser for StoreUrls {
    type Value = StoreUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<StoreUrl, clap::Error> {
        let read = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned()).and_then(StoreUrl::parse);
        let wrong = |why| clap::Error::raw(ErrorKind::ValueValidation, format!("--store: {why}\n")).with_cmd(command);
        read.map_err(wrong)
    }
}

/// `weir demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// Folder of the demo.
    #[arg(long, value_name = "DIR", default_value = "deploy/demo")]
    pub config: PathBuf,
    #[command(flatten)]
    /// Addresses and the journal.
    pub doors: Doors,
    /// Exit after the summary, with the journal sealed.
    #[arg(long)]
    pub once: bool,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Flights to replay; all there are by default.
    #[arg(long, value_name = "N")]
    pub flights: Option<usize>,
}

/// `weir check`
#[derive(Args, Debug)]
pub struct Check {
    /// Folder with weir.toml and catalog/.
    #[arg(long, value_name = "DIR", env = "WEIR_CONFIG")]
    pub config: PathBuf,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `weir load`
#[derive(Args, Debug)]
pub struct Load {
    /// Folder with weir.toml and catalog/.
    #[arg(long, value_name = "DIR", env = "WEIR_CONFIG", required_unless_present = "feast")]
    pub config: Option<PathBuf>,
    /// Redis to load into; weir.toml's store by default.
    #[arg(long, value_name = "URL", env = "WEIR_STORE", hide_env_values = true, value_parser = StoreUrls)]
    pub store: Option<StoreUrl>,
    /// Load a Parquet file into a Feast feature view, as `feast materialize` would: its repository (the folder we are in
    /// when it is left out), the view and the file.
    #[arg(long, value_names = ["REPO", "VIEW", "FILE"], num_args = 2..=3, conflicts_with = "views")]
    pub feast: Vec<PathBuf>,
    /// Views to load; all by default.
    pub views: Vec<String>,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `weir import …`
#[derive(Debug, Subcommand)]
pub enum Import {
    /// A Feast repository: entities, views that read Feast's own hashes, and feature services.
    Feast(ImportFeast),
}

/// `weir import feast`
#[derive(Args, Debug)]
pub struct ImportFeast {
    /// The repository: its folder, or feature_store.yaml.
    pub path: PathBuf,
    /// registry.db or its URL, where that lies elsewhere than the repository says.
    pub registry: Option<PathBuf>,
    /// Folder to write weir.toml and catalog/ into; without it the catalog goes to stdout.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite files that are there already.
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Print the outcome as one JSON object.
    #[arg(long, requires = "out")]
    pub json: bool,
}

/// `weir assign`
#[derive(Args, Debug)]
pub struct Assign {
    /// Folder with weir.toml and catalog/.
    #[arg(long, value_name = "DIR", env = "WEIR_CONFIG")]
    pub config: PathBuf,
    /// Whom experiments split by.
    pub unit: String,
    /// What experiments may target, as name=value; the value is JSON, or else text.
    #[arg(long = "attribute", short, value_name = "NAME=VALUE")]
    pub attributes: Vec<String>,
    /// Only experiments that change this feature service.
    #[arg(long)]
    pub service: Option<String>,
}

/// `weir plugin …`
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Turn a core module (what cargo builds for wasm32-unknown-unknown) into a component.
    Pack {
        /// The core module.
        module: PathBuf,
        /// Where to write the component.
        #[arg(long, short)]
        output: PathBuf,
    },
    /// Show what a component takes and gives, and its digest.
    Show {
        /// The component.
        component: PathBuf,
    },
}
