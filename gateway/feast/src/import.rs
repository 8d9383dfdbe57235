//! A Feast registry as a catalog of Weir's: entities, views whose rows lie in Feast's hashes, and feature services, as
//! TOML that people go on to edit. Promises: the catalog's own reader takes all of it, a service answers what Feast's
//! answers, and what cannot be said in a catalog is left out, with the reason beside it.

mod names;
mod on_demand;
mod services;
mod text;
mod views;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use weir_domain::catalog::{self, FeatureRef, Mistake};
use weir_domain::{FeatureType, Kind, plan};
use weir_proto::feast::types::value_type::Enum as ValueType;

use crate::encode::loaded_as;
use crate::lookup::{Lookup, Options, Wanted};
use crate::raised::Raised;
use crate::registry::{Registry, Service, View};
use crate::rows::Naming;

use names::Names;
pub use names::weir_name;
use text::Toml;
pub use text::quoted;
use views::{Draft, Entities, Views};

/// A registry, imported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// The files of the catalog: name and text.
    pub files: Vec<(String, String)>,
    /// How much is in them.
    pub counts: Counts,
    /// What is not, with comments in the files that say so.
    pub left_out: Vec<LeftOut>,
}

/// How much was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entities.
    pub entities: usize,
    /// Views.
    pub views: usize,
    /// Feature services.
    pub services: usize,
}

/// Something of Feast's that the catalog does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Kind and name in Feast.
    pub what: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Imports everything of the registry's project. `budget` is what the services get.
pub fn import(registry: &Registry, options: &Options, naming: &Naming, budget: Duration) -> Imported {
    let mut left_out = Vec::new();
    let (mut drafts, computed) = drafts(registry, options, &mut left_out);
    let services = services(registry, options, &mut drafts, &mut left_out);

    let mut keys = Names::default();
    let columns = services.iter().flat_map(|(_, lookup)| &lookup.reads).flat_map(|read| read.renamed.keys());
    keys.add(drafts.iter().flat_map(|draft| &draft.join_keys).chain(columns).map(String::as_str));
    // Transforms share the names of views; "request" is what features of the request are named by.
    let mut sources = Names::without(&[FeatureRef::REQUEST]);
    let stored = drafts.iter().map(|draft| draft.stored.as_str());
    sources.add(stored.chain(computed.iter().map(|view| view.name.as_str())));

    let mut entities = Entities::default();
    let views = Views::of(registry, drafts, &sources, &keys, &mut entities, &mut left_out);
    let mut files = [
        entities.file(registry),
        views.file(registry, options, naming, &entities),
        services::file(registry, &services, &views, &sources, &keys, budget, &mut left_out),
        on_demand::file(registry, &computed, &views, &sources, &mut left_out),
    ];
    let texts = settle(&mut files, &mut left_out);
    let count = |file: &File| file.chunks.iter().filter(|chunk| chunk.what.is_some()).count();
    let counts = Counts { entities: count(&files[0]), views: count(&files[1]), services: count(&files[2]) };
    Imported { files: texts, counts, left_out }
}

/// Every view that Feast would answer from the store, as it is now, and the on-demand views.
fn drafts(registry: &Registry, options: &Options, left_out: &mut Vec<LeftOut>) -> (Vec<Draft>, Vec<Arc<View>>) {
    let mut views: Vec<&Arc<View>> = registry.views.values().collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut drafts, mut computed) = (Vec::new(), Vec::new());
    for view in views {
        let what = || format!("view {:?}", view.name);
        let Some(first) = view.features.first() else {
            left_out.push(LeftOut { what: what(), why: "it has no feature".to_owned() });
            continue;
        };
        // Feast itself would say what keeps a view from being served.
        let reference = [format!("{}:{}", view.name, first.name)];
        match Lookup::compile(registry, Wanted::Features(&reference), true, options) {
            Err(raised) => left_out.push(LeftOut { what: what(), why: refused(&raised) }),
            Ok(lookup) => match lookup.reads.iter().find(|read| Arc::ptr_eq(&read.view, view)) {
                Some(read) => drafts.push(Draft::of(registry, options, read)),
                None => computed.push(Arc::clone(view)),
            },
        }
    }
    (drafts, computed)
}

fn refused(raised: &Raised) -> String {
    format!("Feast does not serve it: {}", raised.message)
}

/// Every service that Feast would answer; the versions of views that they are pinned to become drafts too.
fn services(
    registry: &Registry,
    options: &Options,
    drafts: &mut Vec<Draft>,
    left_out: &mut Vec<LeftOut>,
) -> Vec<(Arc<Service>, Lookup)> {
    let mut services: Vec<&Arc<Service>> = registry.services.values().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut found = Vec::with_capacity(services.len());
    for service in services {
        match Lookup::compile(registry, Wanted::Service(&service.name), true, options) {
            Err(raised) => {
                left_out.push(LeftOut { what: format!("service {:?}", service.name), why: refused(&raised) })
            }
            Ok(lookup) => {
                for read in lookup.reads.iter().filter(|read| read.columns.iter().any(Option::is_some)) {
                    let draft = Draft::of(registry, options, read);
                    match drafts.iter_mut().find(|other| other.is(&draft)) {
                        Some(known) => known.take_in(draft),
                        None => drafts.push(draft),
                    }
                }
                found.push((Arc::clone(service), lookup));
            }
        }
    }
    found
}

/// One file of the catalog, being written.
#[derive(Debug)]
struct File {
    name: &'static str,
    head: String,
    chunks: Vec<Chunk>,
}

/// Something in a file that can be taken out again.
#[derive(Debug)]
struct Chunk {
    /// Kind and name; `None` for what is only a comment.
    what: Option<String>,
    text: String,
}

impl Chunk {
    fn left_out(left_out: &LeftOut) -> Self {
        let mut toml = Toml::default();
        toml.comment(&format!("Left out: {left_out}"));
        Self { what: None, text: toml.text }
    }
}

impl File {
    fn text(&self) -> String {
        let chunks: Vec<&str> = std::iter::once(&self.head)
            .chain(self.chunks.iter().map(|chunk| &chunk.text))
            .map(String::as_str)
            .collect();
        chunks.join("\n")
    }

    /// The chunk that this line, from 1, belongs to.
    fn chunk_at(&mut self, line: usize) -> Option<&mut Chunk> {
        let lines = |text: &str| text.lines().count() + 1;
        let mut before = lines(&self.head);
        self.chunks.iter_mut().find(|chunk| {
            before += lines(&chunk.text);
            line < before
        })
    }
}

/// Reads the files as a catalog and takes out what has a mistake, until nothing has. What is written above fits what is
/// read; this is for what only all of it together shows, such as a column that two views of a service type differently.
fn settle(files: &mut [File], left_out: &mut Vec<LeftOut>) -> Vec<(String, String)> {
    loop {
        let written = || files.iter().filter(|file| !file.chunks.is_empty());
        let texts: Vec<_> = written().map(|file| (file.name.to_owned(), file.text())).collect();
        let read = catalog::read(&texts).and_then(|catalog| plan::compile(&catalog).map(drop));
        let Err(mistakes) = read else { return texts };
        let mut is_smaller = false;
        for mistake in &mistakes {
            is_smaller |= take_out(files, mistake, left_out);
        }
        if !is_smaller {
            let why = mistakes.first().map(|mistake| mistake.message.clone()).unwrap_or_default();
            left_out.push(LeftOut { what: "the whole registry".to_owned(), why });
            files.iter_mut().for_each(|file| file.chunks.clear());
            return Vec::new();
        }
    }
}

fn take_out(files: &mut [File], mistake: &Mistake, left_out: &mut Vec<LeftOut>) -> bool {
    let file = files.iter_mut().find(|file| *file.name == *mistake.at.file);
    let Some(chunk) = file.and_then(|file| file.chunk_at(mistake.at.line)) else { return false };
    let Some(what) = chunk.what.take() else { return false };
    let why = LeftOut { what, why: mistake.message.clone() };
    *chunk = Chunk::left_out(&why);
    left_out.push(why);
    true
}

/// The type of column that holds values of a Feast type.
pub fn column_of(of: ValueType) -> Option<FeatureType> {
    match of {
        ValueType::JsonList
        | ValueType::UuidList
        | ValueType::TimeUuidList
        | ValueType::UuidSet
        | ValueType::TimeUuidSet
        | ValueType::DecimalList
        | ValueType::DecimalSet => Some(FeatureType::List(Kind::String)),
        of => loaded_as(of),
    }
}

/// Why a feature of this type is left out.
fn no_column(of: ValueType) -> String {
    match of {
        ValueType::Invalid => "its type is none that Weir knows".to_owned(),
        of => format!("no column holds {}", of.as_str_name()),
    }
}

/// What Feast says, or a plain sentence where it says nothing: the catalog wants everything described.
fn described(feast: &str, or: impl FnOnce() -> String) -> String {
    if feast.trim().is_empty() { or() } else { feast.to_owned() }
}

/// Whom to ask, where Feast does not say.
fn owned(feast: &str, registry: &Registry) -> String {
    described(feast, || format!("Feast project {}", registry.project))
}

fn head(registry: &Registry, what: &str) -> String {
    let mut toml = Toml::default();
    toml.comment(&format!("{what} of the Feast project {}, written by `weir import feast`.", registry.project));
    toml.text
}
