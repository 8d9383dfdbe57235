//! Other people's tools, in the virtual environment that `make setup-python` makes: readers of Parquet and a gRPC
//! client that share no line with the gateway.

use std::process::{Command, Stdio};

use crate::harness::repo;

/// Runs Python (a file with its arguments, or `-c` and a script) beside the gateway under test; the JSON it prints.
pub(crate) async fn python<T: ToString>(args: &[T]) -> serde_json::Value {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let ran = tokio::task::spawn_blocking(move || run(&args)).await;
    ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn run(args: &[String]) -> serde_json::Value {
    let python = repo().join("target/py/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup-python`", python.display());
    let ran = Command::new(python).args(args).current_dir(repo()).stdin(Stdio::null()).output().expect("run Python");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "Python failed; if a package is missing, `make setup-python` installs it\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{err}"))
}
