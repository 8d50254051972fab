//! `trainyard`: Trainyard's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    operator::cli::main()
}
