//! `weir-loadtest`: the load and the other ends of a benchmark that Python would be too slow for.

use std::process::ExitCode;

/// The same as in `weir`, so that the floor stands on the same ground.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weir_loadtest::cli::main()
}
