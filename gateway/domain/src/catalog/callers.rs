//! Callers that are known by name: how dear their requests are when there is not room for all.

use std::sync::Arc;

use super::read::{doc, unique};
use super::{Doc, Keys, Mistakes};

/// Who asks: what stands in the header `x-weir-caller`.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Name and papers.
    pub doc: Doc,
    /// What becomes of its requests under load.
    pub priority: Priority,
}

/// How dear a request is when there is not room for all: the words of Google's SRE book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Served in full while others are degraded, and refused after them.
    Critical,
    /// What everybody is who says nothing else.
    #[default]
    Normal,
    /// Work that can be done later or not at all: degraded and refused first.
    Sheddable,
}

impl Priority {
    /// Every priority, the dearest first; `as usize` is its place.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Normal, Self::Sheddable];

    /// The name used in catalogs and as metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Sheddable => "sheddable",
        }
    }
}

pub(super) fn read(tables: Vec<Keys<'_, '_>>, mistakes: &Mistakes) -> Vec<Arc<Caller>> {
    let mut callers: Vec<_> = tables.into_iter().filter_map(caller).map(Arc::new).collect();
    unique(callers.iter().map(|c| (&c.doc, c.doc.name.to_string())), "caller", mistakes);
    callers.sort_by(|a, b| a.doc.name.cmp(&b.doc.name));
    callers
}

fn caller(mut keys: Keys<'_, '_>) -> Option<Caller> {
    let doc = doc(&mut keys);
    let text = keys.text("priority");
    let text = keys.required("priority", text);
    let priority = text.and_then(|text| {
        let priority = Priority::ALL.into_iter().find(|p| p.name() == text);
        if priority.is_none() {
            keys.mistake("priority", format!("{text:?} is none of \"critical\", \"normal\", \"sheddable\""));
        }
        priority
    });
    keys.finish();
    Some(Caller { doc: doc?, priority: priority? })
}
