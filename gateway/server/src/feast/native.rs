//! The registry as a native catalog, so that `weir.v1` serves a Feast repository's services too, and as files for
//! `weir import feast`. Both are the same text, read by the catalog's own reader.

use std::time::Duration;

use weir_domain::catalog::{self, Catalog, Mistake};
use weir_feast::{Imported, LeftOut, import};

use super::{Current, Feast};

/// So much of what was left out is told in the log; all of it is in what `weir import feast` writes.
const LEFT_OUT_TOLD_MAX: usize = 20;

impl Feast {
    /// What of the registry a catalog can say.
    pub(crate) fn import(&self) -> Imported {
        self.current().import(self.config.budget)
    }

    /// The catalog that the registry amounts to. What it cannot have is told and keeps nobody from starting.
    pub(crate) fn catalog(&self) -> Result<Catalog, Vec<Mistake>> {
        let current = self.current();
        let imported = current.import(self.config.budget);
        current.told.call_once(|| tell(&imported.left_out));
        let repo = self.config.repo.display();
        let files: Vec<_> =
            imported.files.into_iter().map(|(name, text)| (format!("{repo} (imported)/{name}"), text)).collect();
        catalog::read(&files)
    }
}

impl Current {
    fn import(&self, budget: Duration) -> Imported {
        import(&self.registry, &self.options, &self.naming, budget)
    }
}

fn tell(left_out: &[LeftOut]) {
    if !left_out.is_empty() {
        let told: Vec<String> = left_out.iter().take(LEFT_OUT_TOLD_MAX).map(ToString::to_string).collect();
        tracing::warn!(
            left_out = left_out.len(),
            "some of the Feast registry is not in the native catalog (weir.v1): {}",
            told.join("; ")
        );
    }
}
