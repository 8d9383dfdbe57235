//! `weir-pack CORE.wasm -o COMPONENT.wasm`: packs a core module into a component and prints its digest and
//! size. For build scripts that run before there is a `weir`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

const USAGE: &str = "usage: weir-pack CORE.wasm -o COMPONENT.wasm";

/// Exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [core, option, out] = arguments.as_slice() else {
        return fail(USAGE, EXIT_USAGE);
    };
    if option != "-o" {
        return fail(USAGE, EXIT_USAGE);
    }
    match run(Path::new(core), Path::new(out)) {
        Ok(report) => match writeln!(io::stdout(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(message) => fail(&message, 1),
    }
}

fn run(core: &Path, out: &Path) -> Result<String, String> {
    let bytes = fs::read(core).map_err(|error| format!("cannot read {}: {error}", core.display()))?;
    let component = weir_transform::pack(&bytes).map_err(|error| format!("{}: {error}", core.display()))?;
    // Written beside and renamed: whoever watches the folder never sees half a component.
    let mut beside = out.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, &component)
        .and_then(|()| fs::rename(&beside, out))
        .map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    Ok(format!("{} {} bytes {}", weir_transform::digest(&component), component.len(), out.display()))
}

fn fail(message: &str, code: u8) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "weir-pack: {message}");
    ExitCode::from(code)
}
