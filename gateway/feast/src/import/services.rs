//! Feature services: the features in Feast's order, views under the names and columns they are read by, all join keys as
//! items.

use std::sync::Arc;
use std::time::Duration;

use super::names::{Names, weir_name};
use super::on_demand;
use super::text::{Toml, commented, quoted};
use super::views::{ViewOut, Views};
use super::{Chunk, File, LeftOut, described, head, owned};
use crate::lookup::{Lookup, ViewRead};
use crate::registry::{Projection, Registry, Service};

pub(super) fn file(
    registry: &Registry,
    services: &[(Arc<Service>, Lookup)],
    views: &Views,
    sources: &Names,
    keys: &Names,
    budget: Duration,
    left_out: &mut Vec<LeftOut>,
) -> File {
    let mut names = Names::default();
    names.add(services.iter().map(|(service, _)| service.name.as_str()));
    let mut chunks: Vec<Chunk> =
        left_out.iter().filter(|left_out| left_out.what.starts_with("service ")).map(Chunk::left_out).collect();
    for (service, lookup) in services {
        let what = format!("service {:?}", service.name);
        let mut gathered =
            Gathered { views, sources, keys, aliases: sources.clone(), reads: Vec::new(), lines: Vec::new() };
        service.projections.iter().for_each(|projection| gathered.add(projection, lookup));
        if gathered.reads.is_empty() {
            let why = LeftOut { what, why: "none of its features can be imported".to_owned() };
            chunks.push(Chunk::left_out(&why));
            left_out.push(why);
            continue;
        }
        let text = gathered.text(registry, service, lookup, &names.of(&service.name), budget);
        chunks.push(Chunk { what: Some(what), text });
    }
    File { name: "services.toml", head: head(registry, "Feature services"), chunks }
}

/// What one service reads.
struct Gathered<'a> {
    views: &'a Views,
    sources: &'a Names,
    keys: &'a Names,
    aliases: Names,
    reads: Vec<Read<'a>>,
    lines: Vec<Line>,
}

/// A line of `features`.
#[derive(PartialEq)]
enum Line {
    Feature(String),
    /// What stands there once a transform computes it.
    Computed(String),
    LeftOut(String),
}

struct Read<'a> {
    lookup: &'a ViewRead,
    view: &'a ViewOut,
    /// The name that features use.
    source: String,
    /// Join key → column, where they differ.
    renamed: Vec<(String, String)>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, projection: &Projection, lookup: &'a Lookup) {
        let key = projection.name_to_use();
        for field in &projection.features {
            let column = format!("{key}__{}", field.name);
            let has = |read: &&ViewRead| {
                let mut features = read.features.iter().zip(&read.columns);
                features.any(|(name, asked)| *name == field.name && asked.as_ref() == Some(&column))
            };
            let line = match lookup.reads.iter().find(has) {
                Some(read) => match self.reference(projection, read, &field.name) {
                    Ok(reference) => Line::Feature(reference),
                    Err(why) => Line::LeftOut(format!("Left out: {key}:{}: {why}", field.name)),
                },
                None => Line::Computed(format!("{}:{}", self.sources.of(&projection.view), weir_name(&field.name))),
            };
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
    }

    /// `source:feature` as the catalog names them.
    fn reference(&mut self, projection: &Projection, lookup: &'a ViewRead, feature: &str) -> Result<String, String> {
        let view = self.views.of_read(lookup).ok_or("its view is left out")?;
        let found = view.features.iter().find(|f| f.feast == feature);
        let feature = found.ok_or_else(|| view.why_not(feature))?;
        let known = self.reads.iter().find(|read| std::ptr::eq(read.lookup, lookup));
        let source = match known {
            Some(read) => read.source.clone(),
            None => {
                let is_read_already = self.reads.iter().any(|read| read.view.name == view.name);
                let alias = projection.alias.clone().or_else(|| is_read_already.then(|| projection.name_to_use()));
                let source = alias.map_or_else(|| view.name.clone(), |alias| self.aliases.unique(&alias));
                let column = |key: &str| lookup.renamed.iter().find(|(_, own)| *own == key).map(|(column, _)| column);
                let renamed = view.keys.iter().filter_map(|(own, feast, _)| {
                    let column = self.keys.of(column(feast)?);
                    (column != *own).then(|| (own.clone(), column))
                });
                let renamed = renamed.collect();
                self.reads.push(Read { lookup, view, source: source.clone(), renamed });
                source
            }
        };
        Ok(format!("{source}:{}", feature.name))
    }

    fn text(&self, registry: &Registry, service: &Service, lookup: &Lookup, name: &str, budget: Duration) -> String {
        let mut items: Vec<String> = Vec::new();
        for read in &self.reads {
            for (own, ..) in &read.view.keys {
                let renamed = read.renamed.iter().find(|(key, _)| key == own).map(|(_, column)| column);
                let column = renamed.unwrap_or(own);
                if !items.contains(column) {
                    items.push(column.clone());
                }
            }
        }
        let mut toml = Toml::default();
        if name != service.name {
            toml.comment(&format!("Feast calls it {:?}.", service.name));
        }
        toml.line("[[service]]");
        toml.string("name", name);
        toml.string("owner", &owned(&service.owner, registry));
        let or = || format!("From Feast's feature service {} of project {}.", service.name, registry.project);
        toml.string("description", &described(&service.description, or));
        toml.strings("items", &items);
        toml.plain("budget_ms", budget.as_millis());
        toml.line("features = [");
        for line in &self.lines {
            let text = match line {
                Line::Feature(feature) => format!("{},\n", quoted(feature)),
                Line::Computed(feature) => commented(&format!("{},  # once there is the transform", quoted(feature))),
                Line::LeftOut(why) => commented(why),
            };
            text.lines().for_each(|line| toml.line(&format!("  {line}")));
        }
        toml.line("]");
        for read in self.reads.iter().filter(|read| read.source != read.view.name || !read.renamed.is_empty()) {
            toml.table("[[service.read]]");
            toml.string("view", &read.view.name);
            if read.source != read.view.name {
                toml.string("as", &read.source);
            }
            toml.map("keys", &read.renamed);
        }
        toml.text.push_str(&on_demand::request(lookup));
        toml.text
    }
}
