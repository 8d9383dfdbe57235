//! On-demand views: Python inside Feast, which cannot run here. What they take and give is known, so what is written is
//! the beginning of a Wasm transform that takes their place, as a comment.

use std::sync::Arc;

use super::names::{Names, weir_name};
use super::text::{Toml, commented};
use super::views::Views;
use super::{Chunk, File, LeftOut, column_of, described, head, owned};
use crate::lookup::Lookup;
use crate::registry::{Field, OnDemand, Registry, View};

pub(super) fn file(
    registry: &Registry,
    computed: &[Arc<View>],
    views: &Views,
    sources: &Names,
    left_out: &mut Vec<LeftOut>,
) -> File {
    let mut chunks = Vec::with_capacity(computed.len());
    for view in computed {
        let Some(on_demand) = view.computed() else { continue };
        let name = sources.of(&view.name);
        let why = LeftOut {
            what: format!("on-demand view {:?}", view.name),
            why: format!("it is computed by Python inside Feast; a transform named {name:?} takes its place"),
        };
        let mut toml = Toml::default();
        toml.comment(&format!("Left out: {why}, here and on Feast's own endpoints: write it as Wasm (see plugins/README.md), then uncomment this."));
        toml.text.push_str(&commented(&skeleton(registry, view, on_demand, &name, views)));
        chunks.push(Chunk { what: None, text: toml.text });
        left_out.push(why);
    }
    File { name: "transforms.toml", head: head(registry, "Transforms"), chunks }
}

fn skeleton(registry: &Registry, view: &View, on_demand: &OnDemand, name: &str, views: &Views) -> String {
    let mut toml = Toml::default();
    toml.line("[[transform]]");
    toml.string("name", name);
    toml.plain("version", 1);
    toml.string("owner", &owned(&view.owner, registry));
    let or = || format!("From Feast's on-demand view {} of project {}.", view.name, registry.project);
    toml.string("description", &described(&view.description, or));
    toml.string("component", &format!("plugins/{name}.wasm"));
    toml.table("[transform.inputs]");
    let mut parameters = Names::default();
    for input in &on_demand.inputs {
        let source = views.all.iter().find(|v| v.draft.view.name == input.view);
        for field in &input.features {
            match source.and_then(|view| Some((view, view.features.iter().find(|f| f.feast == field.name)?))) {
                Some((view, feature)) => {
                    let parameter = parameters.unique(&feature.name);
                    toml.string(&parameter, &format!("{}:{}", view.name, feature.name));
                }
                None => toml.comment(&format!("{}:{} is not in this catalog", input.view, field.name)),
            }
        }
    }
    for field in &on_demand.request {
        let parameter = parameters.unique(&field.name);
        toml.string(&parameter, &format!("request:{}", weir_name(&field.name)));
    }
    for field in &view.features {
        toml.table("[[transform.output]]");
        feature(&mut toml, field, || format!("Feature {} of Feast's on-demand view {}.", field.name, view.name));
    }
    toml.text
}

fn feature(toml: &mut Toml, field: &Field, or: impl FnOnce() -> String) {
    toml.string("name", &weir_name(&field.name));
    match column_of(field.of) {
        Some(of) => toml.string("type", &of.to_string()),
        None => toml.comment(&format!("type: no column holds {}", field.of.as_str_name())),
    }
    toml.string("description", &described(&field.description, or));
}

/// What callers of a service must send once its on-demand views are transforms.
pub(super) fn request(lookup: &Lookup) -> String {
    let views = lookup.computed.iter().map(|computed| &computed.view);
    let mut out = String::new();
    for (view, field) in
        views.flat_map(|view| view.computed().into_iter().flat_map(move |o| o.request.iter().map(move |f| (view, f))))
    {
        let mut toml = Toml::default();
        toml.line("[[service.request]]");
        feature(&mut toml, field, || format!("Sent for Feast's on-demand view {}.", view.name));
        toml.string("scope", "item");
        out.push('\n');
        out.push_str(&commented(&toml.text));
    }
    out
}
