//! One immutable whole: catalog, plans, transforms and the store behind them. A request takes one snapshot at
//! its start and keeps it; a reload swaps the next one in, never half of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weir_domain::FeatureType;
use weir_domain::catalog::{self, Catalog, Mistake, Place, Transform};
use weir_domain::plan::{self, PlanSet, Step};
use weir_store::Store;
use weir_transform::{Engine, Runner};

use crate::config::{CatalogFrom, Config, unreadable};
use crate::feast::Feast;

/// Runners by transform and version.
type Runners = HashMap<(Arc<str>, u32), Arc<Runner>>;

/// Everything a request is answered from.
pub struct Snapshot {
    /// As written and checked.
    pub catalog: Catalog,
    /// As compiled.
    pub plans: PlanSet,
    /// Where features are read.
    pub store: Arc<Store>,
    runners: Runners,
}

impl Snapshot {
    /// The runner of a plan's step. Every step of every plan has one.
    pub fn runner(&self, step: &Step) -> Option<&Arc<Runner>> {
        self.runners.get(&(Arc::clone(&step.transform.doc.name), step.transform.version))
    }

    /// Every transform with its runner.
    pub fn runners(&self) -> impl Iterator<Item = (&(Arc<str>, u32), &Arc<Runner>)> {
        self.runners.iter()
    }

    /// Puts the parts together.
    pub fn new(checked: Checked, store: Arc<Store>) -> Self {
        let Checked { catalog, plans, runners } = checked;
        Self { catalog, plans, store, runners }
    }
}

/// A catalog that has been read, compiled and had its transforms loaded: all that can be wrong was looked at.
pub struct Checked {
    /// As written and checked.
    pub catalog: Catalog,
    /// As compiled.
    pub plans: PlanSet,
    runners: Runners,
}

/// Reads, compiles and loads everything that is configured, or lists every mistake at once.
pub fn check(config: &Config, engine: &Engine, feast: Option<&Feast>) -> Result<Checked, Vec<Mistake>> {
    let catalog = match (config.catalog, feast) {
        (CatalogFrom::Feast, Some(feast)) => feast.catalog()?,
        _ => catalog(&config.dir)?,
    };
    // A file that was cut off or is being written would take everything away from everybody. Beside Feast's own endpoints
    // there may be nothing to lose.
    if catalog.services.is_empty() && feast.is_none() {
        let at = Place { file: config.dir.join("catalog").display().to_string().into(), line: 1 };
        return Err(vec![Mistake { at, message: "there is no [[service]]: nothing could be asked for".to_owned() }]);
    }
    let compiled = plan::compile(&catalog);
    let loaded = load_transforms(&config.dir, engine, &catalog);
    match (compiled, loaded) {
        (Ok(plans), Ok(runners)) => Ok(Checked { catalog, plans, runners }),
        (compiled, loaded) => {
            let mut mistakes: Vec<_> = compiled.err().into_iter().chain(loaded.err()).flatten().collect();
            mistakes.sort();
            Err(mistakes)
        }
    }
}

/// Reads the catalog below `dir` alone, or lists every mistake.
pub fn catalog(dir: &Path) -> Result<Catalog, Vec<Mistake>> {
    catalog::read(&files(dir)?)
}

/// The catalog's files in the order of their names, so that every machine sees the same catalog.
fn files(dir: &Path) -> Result<Vec<(String, String)>, Vec<Mistake>> {
    let folder = dir.join("catalog");
    let entries = std::fs::read_dir(&folder).map_err(|error| vec![unreadable(&folder, &error)])?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    let mut files = Vec::with_capacity(paths.len());
    let mut mistakes = Vec::new();
    for path in &paths {
        // Reading a pipe might never end.
        if std::fs::metadata(path).is_ok_and(|what| !what.is_file()) {
            let at = Place { file: path.display().to_string().into(), line: 1 };
            mistakes.push(Mistake { at, message: "is no regular file".to_owned() });
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(error) => mistakes.push(unreadable(path, &error)),
        }
    }
    if files.is_empty() && mistakes.is_empty() {
        let at = Place { file: folder.display().to_string().into(), line: 1 };
        mistakes.push(Mistake { at, message: "no catalog: there is no .toml file in this folder".to_owned() });
    }
    if mistakes.is_empty() { Ok(files) } else { Err(mistakes) }
}

fn load_transforms(dir: &Path, engine: &Engine, catalog: &Catalog) -> Result<Runners, Vec<Mistake>> {
    let mut runners = HashMap::new();
    let mut mistakes = Vec::new();
    for transform in &catalog.transforms {
        match load(dir, engine, catalog, transform) {
            Ok(runner) => {
                runners.insert((Arc::clone(&transform.doc.name), transform.version), Arc::new(runner));
            }
            Err(messages) => mistakes.extend(messages.into_iter().map(|message| Mistake {
                at: transform.doc.at.clone(),
                message: format!("transform {:?}: {message}", transform.doc.name),
            })),
        }
    }
    if mistakes.is_empty() { Ok(runners) } else { Err(mistakes) }
}

fn load(dir: &Path, engine: &Engine, catalog: &Catalog, transform: &Transform) -> Result<Runner, Vec<String>> {
    let path = dir.join(&transform.component);
    let bytes = std::fs::read(&path).map_err(|e| vec![format!("component {}: {e}", path.display())])?;
    let plugin = engine.load(&bytes).map_err(|e| vec![format!("component {}: {}", path.display(), chain(&e))])?;
    if let Some(wanted) = transform.digest.as_ref().filter(|d| **d != plugin.digest()) {
        return Err(vec![format!("component {} is {}, not {wanted}", path.display(), plugin.digest())]);
    }
    let faults = plugin.check(transform, &input_types(catalog, transform)?);
    if !faults.is_empty() {
        return Err(faults);
    }
    Runner::new(plugin, transform).map_err(|e| vec![chain(&e)])
}

/// The type of each input as the catalog has it.
fn input_types(catalog: &Catalog, transform: &Transform) -> Result<Vec<FeatureType>, Vec<String>> {
    let of = |source: &str, feature: &str| {
        let view = catalog.views.iter().filter(|v| *v.doc.name == *source).flat_map(|v| &v.features);
        let output = catalog.transforms.iter().filter(|t| *t.doc.name == *source).flat_map(|t| &t.outputs);
        let request = catalog.services.iter().flat_map(|s| &s.request).map(|r| &r.feature);
        let request = request.filter(|_| source == catalog::FeatureRef::REQUEST);
        let alias = catalog.services.iter().flat_map(|s| &s.reads).filter(|r| *r.alias == *source);
        let aliased =
            alias.flat_map(|r| catalog.views.iter().filter(move |v| v.doc.name == r.view)).flat_map(|v| &v.features);
        view.chain(output).chain(request).chain(aliased).find(|f| *f.name == *feature).map(|f| f.of)
    };
    let mut types = Vec::with_capacity(transform.inputs.len());
    let mut unknown = Vec::new();
    for (name, input) in &transform.inputs {
        match of(&input.source, &input.feature) {
            Some(of) => types.push(of),
            None => unknown.push(format!("input {name}: there is no {input}")),
        }
    }
    if unknown.is_empty() { Ok(types) } else { Err(unknown) }
}

/// An error with everything that caused it, for the operator.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
