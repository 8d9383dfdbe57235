//! `weir import`: a catalog made from what another feature store knows, as files to go on with. Nothing is overwritten
//! unless it is said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use weir_feast::Imported;
use weir_journal::remote::is_remote;

use crate::cli::ImportFeast;
use crate::commands::{complain, say, wrong_config};
use crate::feast::{Feast, FeastConfig};

/// Imports a Feast repository.
pub async fn feast(args: &ImportFeast) -> ExitCode {
    let config = FeastConfig { registry: args.registry.clone(), ..FeastConfig::new(args.path.clone()) };
    let feast = match Feast::open(config).await {
        Ok(feast) => feast,
        Err(mistakes) => return wrong_config(&mistakes),
    };
    let imported = feast.import();
    let Some(out) = &args.out else {
        say(imported.files.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n").trim_end());
        complain(&summary(&imported));
        return ExitCode::SUCCESS;
    };
    match write(out, &settings(args), &imported, args.force) {
        Ok(files) if args.json => {
            let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
            let left_out: Vec<_> = imported
                .left_out
                .iter()
                .map(|left_out| json!({ "what": left_out.what, "why": left_out.why }))
                .collect();
            let counts = imported.counts;
            say(&json!({
                "files": files,
                "entities": counts.entities,
                "views": counts.views,
                "services": counts.services,
                "left_out": left_out,
            })
            .to_string());
            ExitCode::SUCCESS
        }
        Ok(files) => {
            files.iter().for_each(|path| say(&path.display().to_string()));
            say(&summary(&imported));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("weir import: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// `weir.toml` of the folder: where the repository is; the store is what it says.
fn settings(args: &ImportFeast) -> String {
    let mut text =
        String::from("# Feast's own endpoints are served too, and the store is the repository's.\n[feast]\n");
    // Relative paths in weir.toml are relative to its folder.
    let absolute = |path: &Path| match path.to_str().filter(|text| is_remote(text)) {
        Some(url) => PathBuf::from(url),
        None => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    };
    let mut line = |key: &str, path: &Path| {
        let path = weir_feast::quoted(&absolute(path).display().to_string());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{key} = {path}");
    };
    line("repo", &args.path);
    if let Some(registry) = &args.registry {
        line("registry", registry);
    }
    text
}

/// Writes everything or nothing, short of a disk that fails half-way.
fn write(out: &Path, settings: &str, imported: &Imported, force: bool) -> Result<Vec<PathBuf>, String> {
    let catalog = out.join("catalog");
    let weir_toml = std::iter::once((out.join("weir.toml"), settings));
    let files = imported.files.iter().map(|(name, text)| (catalog.join(name), text.as_str()));
    let files: Vec<(PathBuf, &str)> = weir_toml.chain(files).collect();
    let there: Vec<String> =
        files.iter().filter(|(path, _)| path.exists()).map(|(path, _)| path.display().to_string()).collect();
    if !there.is_empty() && !force {
        return Err(format!(
            "{} there already: --force overwrites",
            there.join(", ") + if there.len() == 1 { " is" } else { " are" }
        ));
    }
    std::fs::create_dir_all(&catalog).map_err(|error| format!("{}: {error}", catalog.display()))?;
    for (path, text) in &files {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn summary(imported: &Imported) -> String {
    let counts = imported.counts;
    let mut text = format!("{} entities, {} views, {} services", counts.entities, counts.views, counts.services);
    if !imported.left_out.is_empty() {
        let _ = write!(text, "; {} left out:", imported.left_out.len());
        for left_out in &imported.left_out {
            let _ = write!(text, "\n  {left_out}");
        }
    }
    text
}
