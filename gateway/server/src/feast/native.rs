//! The registry as a native catalog, so that `weir.v1` serves a Feast repository's services too, and as files for
//! `weir import feast`. Both are the same text, read by the catalog's own reader.

use weir_domain::catalog::{self, Catalog, Mistake};
use weir_feast::{Imported, import};

use super::Feast;

/// So much of what was left out is told in the log; all of it is in what `weir import feast` writes.
const LEFT_OUT_TOLD_MAX: usize = 20;

impl Feast {
    /// What of the registry a catalog can say.
    pub(crate) fn import(&self) -> Imported {
        let current = self.current();
        import(&current.registry, &current.options, &current.naming, self.config.budget)
    }

    /// The catalog that the registry amounts to. What it cannot have is told and keeps nobody from starting.
    pub(crate) fn catalog(&self) -> Result<Catalog, Vec<Mistake>> {
        let imported = self.import();
        if !imported.left_out.is_empty() {
            let told: Vec<String> = imported.left_out.iter().take(LEFT_OUT_TOLD_MAX).map(ToString::to_string).collect();
            tracing::warn!(
                left_out = imported.left_out.len(),
                "some of the Feast registry is not in the native catalog (weir.v1), and is served through Feast's \
                 endpoints alone: {}",
                told.join("; ")
            );
        }
        let repo = self.config.repo.display();
        let files: Vec<_> =
            imported.files.into_iter().map(|(name, text)| (format!("{repo} (imported)/{name}"), text)).collect();
        catalog::read(&files)
    }
}
