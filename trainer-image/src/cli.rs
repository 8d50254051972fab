//! The command line of the trainer.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crds::contract::SERVE_COMMAND;
use tracing_subscriber::EnvFilter;

use crate::fault::{Fault, guard};
use crate::launcher::{self, Launch, die_with_parent};
use crate::torch::keep_memory;
use crate::{preflight, serve, work};

/// Trains, scores and serves vision models with libtorch: the program inside Trainyard's trainer image.
#[derive(Parser)]
#[command(name = "trainer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the processes of a pod, one for each GPU or CPU slot, and end with the most telling of their exit codes
    Launch {
        /// End when the process that started this one ends, however it ends
        #[arg(long)]
        die_with_parent: bool,
    },
    /// Do the work of one process; what `launch` starts
    Worker,
    /// Answer requests with trained models: REST and gRPC by the Open Inference Protocol, plain images, a page for people
    #[command(name = SERVE_COMMAND)]
    Serve(Box<serve::Options>),
    /// Check driver, CUDA runtime and GPUs, and say what was found
    Preflight {
        /// Print JSON in place of a table
        #[arg(long)]
        json: bool,
    },
    /// One of the processes by which `preflight` sees whether GPUs reach each other
    #[command(name = preflight::RANK, hide = true)]
    PreflightRank {
        /// On the GPU of this process's local rank
        #[arg(long)]
        gpu: bool,
    },
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    let result = match cli.command {
        Command::Launch { die_with_parent } => launch(die_with_parent),
        Command::Worker => guard(|| {
            die_with_parent()?;
            keep_memory();
            work::run().map(|()| 0)
        }),
        Command::Serve(options) => guard(|| {
            keep_memory();
            serve::run(&options)
        }),
        Command::Preflight { json } => guard(|| preflight::print(json)),
        Command::PreflightRank { gpu } => guard(|| preflight::rank(gpu)),
    };
    let code = result.unwrap_or_else(|fault| fault.end());
    // Exit codes of the contract are below 256.
    ExitCode::from(code as u8)
}

fn launch(dies_with_parent: bool) -> Result<i32, Fault> {
    if dies_with_parent {
        die_with_parent()?;
    }
    Ok(launcher::launch(&Launch::this_program(["worker"])?))
}

/// Logs go to stderr as text for people, or as JSON where `TRAINYARD_LOG_FORMAT` is `json`; `RUST_LOG` chooses what.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::env::var("TRAINYARD_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
