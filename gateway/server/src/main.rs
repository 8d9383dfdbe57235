//! The `weir` binary: arguments → command → exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use weir::cli::{Cli, Command, Import};
use weir::cores::TASKS_PER_LOOK;
use weir::telemetry::Telemetry;
use weir::{commands, demo, import};

/// A third more requests a second than with the system's allocator, where replies are large.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(TASKS_PER_LOOK).build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run());
            // Everything has ended in order; what still reads from a disk that does not answer is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            commands::complain(&format!("weir: cannot start its threads: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    let telemetry = match Telemetry::install(log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            commands::complain(&format!("weir: cannot start telemetry: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = match command {
        Command::Serve(args) => commands::serve(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Check(args) => commands::check(&args).await,
        Command::Load(args) => commands::load(args).await,
        Command::Import(Import::Feast(args)) => import::feast(&args).await,
        Command::Assign(args) => commands::assign_unit(&args),
        Command::Plugin(command) => commands::plugin(&command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    };
    telemetry.flush();
    code
}
