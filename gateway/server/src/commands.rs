//! The commands of the `weir` binary besides the demo. Each returns its exit code; what people read goes to
//! stdout, what went wrong to stderr.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tokio::signal::unix::{SignalKind, signal};
use weir_domain::catalog::Mistake;
use weir_domain::experiment::assign;
use weir_transform::Engine;

use crate::app::{App, StartError};
use crate::cli::{Assign, Check, Load, Plugin, Serve};
use crate::config::{Config, Overrides, StoreUrl};
use crate::feast::{self, Feast, FeastConfig};
use crate::snapshot::{self, chain};
use crate::{json, load};

/// `sysexits.h`: something is wrong with the configuration.
const EX_CONFIG: u8 = 78;
/// Clap's own code for wrong usage.
const EX_USAGE: u8 = 2;

/// Serves until SIGTERM or Ctrl-C; the second one leaves at once.
pub async fn serve(args: Serve) -> ExitCode {
    let Serve { config, store, feast, feast_semantics: semantics, doors } = args;
    let overrides = Overrides { feast, semantics, ..doors.over(store) };
    let read = match config {
        Some(dir) => settings(&dir, overrides),
        None => Config::of_feast(overrides),
    };
    let config = match read {
        Ok(config) => config,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    let mut stop = std::pin::pin!(told_to_stop());
    let started = tokio::select! {
        // Signals first: from the moment anything is open, being told to stop closes it in order.
        biased;
        () = &mut stop => return ExitCode::SUCCESS,
        started = App::start(config) => started,
    };
    match started {
        Ok(app) => {
            app.run_until(stop).await;
            ExitCode::SUCCESS
        }
        Err(error) => failed_start(&error),
    }
}

/// Reads the settings; when they are wrong, what is wrong in the catalog beside them is listed too.
pub(crate) fn settings(dir: &Path, overrides: Overrides) -> Result<Config, Vec<Mistake>> {
    Config::load(dir, overrides).map_err(|mut mistakes| {
        // Where there is no folder at all, that is the one mistake.
        if dir.is_dir() {
            mistakes.extend(snapshot::catalog(dir).err().into_iter().flatten());
        }
        mistakes
    })
}

/// Resolves when the process is told to stop. From then on a second signal ends it without waiting.
pub(crate) async fn told_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without signal handlers the default action ends the process; there is nothing to wait for.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping: requests under way end first; a second signal leaves at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::warn!("leaving at once");
        #[expect(clippy::exit, reason = "the operator asked twice: nothing is waited for any more")]
        std::process::exit(1);
    });
}

/// Checks a configuration as a whole, transforms included.
pub async fn check(args: &Check) -> ExitCode {
    let checked = async {
        let config = settings(&args.config, Overrides::default())?;
        let engine = Engine::new(weir_transform::Settings::default()).map_err(|e| engine_mistake(&args.config, &e))?;
        let feast = Feast::configured(&config).await?;
        let checked = snapshot::check(&config, &engine, feast.as_ref())?;
        match &config.store {
            StoreUrl::Embedded => drop(load::store(&config, &checked.catalog, feast.as_ref(), &Arc::default())?),
            StoreUrl::Redis(address) => load::reachable(&config, address)?,
            StoreUrl::Feast => {}
        }
        Ok::<_, Vec<Mistake>>(checked)
    };
    match checked.await {
        Ok(checked) => {
            let catalog = &checked.catalog;
            let plans: usize = checked.plans.services().map(|(_, s)| s.all().len()).sum();
            let counts = json!({
                "ok": true,
                "catalog_version": &*catalog.version,
                "views": catalog.views.len(),
                "transforms": catalog.transforms.len(),
                "services": catalog.services.len(),
                "experiments": catalog.experiments.layers.iter().map(|l| l.experiments.len()).sum::<usize>(),
                "plans": plans,
            });
            if args.json {
                say(&counts.to_string());
            } else {
                say(&format!(
                    "ok: catalog {} with {} views, {} transforms, {} services, {} experiments: {plans} plans",
                    catalog.version, counts["views"], counts["transforms"], counts["services"], counts["experiments"]
                ));
            }
            ExitCode::SUCCESS
        }
        Err(mistakes) if args.json => {
            let list: Vec<Json> = mistakes
                .iter()
                .map(|m| json!({ "file": &*m.at.file, "line": m.at.line, "message": m.message }))
                .collect();
            say(&json!({ "ok": false, "mistakes": list }).to_string());
            ExitCode::from(EX_CONFIG)
        }
        Err(mistakes) => wrong_config(&mistakes),
    }
}

fn engine_mistake(dir: &Path, error: &weir_transform::EngineError) -> Vec<Mistake> {
    let at = weir_domain::catalog::Place { file: dir.display().to_string().into(), line: 1 };
    vec![Mistake { at, message: format!("cannot start the Wasm engine: {}", chain(error)) }]
}

/// Loads the views' files into Redis.
pub async fn load(args: Load) -> ExitCode {
    let Some(dir) = args.config.clone().filter(|_| args.feast.is_empty()) else { return load_feast(&args).await };
    let overrides = Overrides { store: args.store, ..Overrides::default() };
    let read = settings(&dir, overrides).and_then(|config| Ok((snapshot::catalog(&config.dir)?, config)));
    let (catalog, config) = match read {
        Ok(read) => read,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    let StoreUrl::Redis(redis) = &config.store else {
        complain("weir load: --store redis://… says where to load to");
        return ExitCode::from(EX_USAGE);
    };
    match load::into_redis(&config, &catalog, redis, &args.views).await {
        Ok(loaded) if args.json => {
            let rows: serde_json::Map<String, Json> =
                loaded.rows.into_iter().map(|(view, n)| (view, n.into())).collect();
            say(&json!({ "rows": rows, "filled_by_feast": loaded.feasts }).to_string());
            ExitCode::SUCCESS
        }
        Ok(loaded) => {
            for (view, rows) in loaded.rows {
                say(&format!("{view}: {rows} rows"));
            }
            for view in loaded.feasts {
                say(&format!("{view}: not loaded: {}", load::NOT_OURS));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("weir load: {}", chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// Loads one file into one view of a Feast repository.
async fn load_feast(args: &Load) -> ExitCode {
    let (repo, view, file) = match args.feast.as_slice() {
        [repo, view, file] => (repo.clone(), view, file),
        [view, file] => (PathBuf::from("."), view, file),
        _ => {
            complain("weir load: --feast [REPO] VIEW FILE is expected");
            return ExitCode::from(EX_USAGE);
        }
    };
    let feast = match Feast::open(FeastConfig::new(repo)).await {
        Ok(feast) => feast,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    match feast::load(&feast, &view.to_string_lossy(), file).await {
        Ok(loaded) if args.json => {
            say(&json!({ "rows": loaded.rows, "written": loaded.written }).to_string());
            ExitCode::SUCCESS
        }
        Ok(feast::Loaded { rows, written }) => {
            say(&format!("{}: {rows} rows, {written} of them newer than what was there", view.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("weir load: {}", chain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Says which arms a unit is in, as JSON.
pub fn assign_unit(args: &Assign) -> ExitCode {
    let compiled =
        snapshot::catalog(&args.config).and_then(|catalog| Ok((weir_domain::plan::compile(&catalog)?, catalog)));
    let (plans, catalog) = match compiled {
        Ok(compiled) => compiled,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    let mut map = serde_json::Map::new();
    for attribute in &args.attributes {
        let Some((name, text)) = attribute.split_once('=') else {
            complain(&format!("weir assign: {attribute:?} is not NAME=VALUE"));
            return ExitCode::from(EX_USAGE);
        };
        let value = serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned()));
        map.insert(name.to_owned(), value);
    }
    let attributes = match json::attributes(map) {
        Ok(attributes) => attributes,
        Err(refusal) => {
            complain(&format!("weir assign: {refusal}"));
            return ExitCode::from(EX_USAGE);
        }
    };
    let mut assignment = assign(&catalog.experiments, Some(&args.unit), &attributes);
    if let Some(name) = &args.service {
        let Some(plans) = plans.service(name) else {
            complain(&format!("weir assign: no feature service named {name:?}"));
            return ExitCode::from(EX_USAGE);
        };
        plans.choose(&mut assignment);
    }
    let holdouts: Vec<&str> = assignment.holdouts.iter().map(|h| &**h).collect();
    let assignments = serde_json::to_value(json::Assignments(&assignment)).unwrap_or(Json::Null);
    say(&json!({ "unit": args.unit, "assignments": assignments, "holdouts": holdouts }).to_string());
    ExitCode::SUCCESS
}

/// Packs or shows a component.
pub fn plugin(command: &Plugin) -> ExitCode {
    let done = match command {
        Plugin::Pack { module, output } => pack(module, output),
        Plugin::Show { component } => show(component),
    };
    match done {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("weir plugin: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn pack(module: &Path, output: &Path) -> Result<String, String> {
    let core = std::fs::read(module).map_err(|e| format!("{}: {e}", module.display()))?;
    let component = weir_transform::pack(&core).map_err(|e| format!("{}: {}", module.display(), chain(&e)))?;
    std::fs::write(output, &component).map_err(|e| format!("{}: {e}", output.display()))?;
    Ok(format!("{} {} bytes {}", output.display(), component.len(), weir_transform::digest(&component)))
}

fn show(component: &Path) -> Result<String, String> {
    let bytes = std::fs::read(component).map_err(|e| format!("{}: {e}", component.display()))?;
    let engine = Engine::new(weir_transform::Settings::default()).map_err(|e| chain(&e))?;
    let plugin = engine.load(&bytes).map_err(|e| format!("{}: {}", component.display(), chain(&e)))?;
    let columns = |fields: &[weir_transform::Field]| -> Vec<Json> {
        fields.iter().map(|f| json!({ "name": f.name, "type": f.of.to_string() })).collect()
    };
    let schema = plugin.schema();
    let (inputs, outputs) = (columns(&schema.inputs), columns(&schema.outputs));
    Ok(json!({ "digest": plugin.digest(), "inputs": inputs, "outputs": outputs }).to_string())
}

/// Says why a gateway did not start.
pub(crate) fn failed_start(error: &StartError) -> ExitCode {
    match error {
        StartError::Config(mistakes) => wrong_config(mistakes),
        other => {
            complain(&format!("weir: {}", chain(other)));
            ExitCode::FAILURE
        }
    }
}

/// Lists every mistake on stderr.
pub(crate) fn wrong_config(mistakes: &[Mistake]) -> ExitCode {
    for mistake in mistakes {
        complain(&mistake.to_string());
    }
    complain(&format!("weir: the configuration has {} mistake(s)", mistakes.len()));
    ExitCode::from(EX_CONFIG)
}

/// A line on stdout. Whoever reads it may have gone: that is no error of ours.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on stderr.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
