//! What was typed, and what it comes to. Exit codes: 0 done, 2 mistyped, otherwise those of the contract; the commands for a
//! cluster have those that [`EXIT_CODES`] tells.

mod cluster;
mod log;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crds::causes;
use crds::contract::Cause;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::cluster::{Operator, Why};
use crate::local::{self, Options, RunError};
use crate::manifest::{File, LocatedFault, Manifest, Setting};
use crate::plugin::about::{self, Nodes, Version};
use crate::plugin::bundle::SupportBundle;
use crate::plugin::change::Suspend;
use crate::plugin::doctor::Doctor;
use crate::plugin::evaluations::Evaluations;
use crate::plugin::events::Events;
use crate::plugin::logs::Logs;
use crate::plugin::report::Report;
use crate::plugin::retrain::Retrain;
use crate::plugin::status::Status;
use crate::plugin::top::Top;
use crate::plugin::wait::Wait;
use crate::shell::{Device, print, volume};

/// What scripts need to know of the commands.
const EXIT_CODES: &str = "\
Exit codes of the commands for a cluster: 0 done; 1 the job failed, is not there, or can't have what was asked for it; \
2 mistyped; 3 the cluster can't be reached or doesn't take your credentials; 124 the time of a wait is over.
run and validate end with the cause's code: 64 for a bad manifest, and so on.
Jobs are named flowers, tj/flowers or trainingjob/flowers, endpoints me/flowers. NO_COLOR turns colours off.";

/// Trains and scores vision models, here or on a cluster, from the same manifests.
#[derive(Debug, Parser)]
#[command(name = "trainyard", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the jobs of a manifest on this machine, one after the other, or serve its endpoint.
    ///
    /// Ctrl-C commits a checkpoint and stops; the same command goes on from there. The state is in .trainyard. An endpoint
    /// answers on 127.0.0.1, at the ports of spec.service, until Ctrl-C.
    Run(Run),
    /// Check manifests without a cluster: schema, rules and meaning, each fault at its line and column.
    Validate(Validate),
    /// Print the custom resource definitions, for kubectl apply -f -.
    Crds,
    /// Say what an exit code means, what the operator does about it, and what to do.
    Explain {
        /// The code or its name, such as 161 or PeerLost. If absent: all of them.
        #[arg(value_parser = cause)]
        cause: Option<Cause>,
    },
    /// Run the operator: jobs of a cluster as pods, until it is told to stop.
    Operator(Operator),
    /// Say why a job of the cluster is where it is, or nowhere: what each node has and lacks for it.
    ///
    /// Without the right to list nodes it tells what the job's status says and which right is missing, and ends with 0.
    Why(Why),
    /// List the cluster's nodes as jobs are placed on them: GPUs, driver, CUDA, sharing.
    ///
    /// It needs the right to list nodes; without it ends with 1.
    Nodes(Nodes),
    /// Show the jobs, or one job: attempts, pods, progress, why it doesn't run, and what to do next.
    Status(Status),
    /// Print the logs of all members of a job, in the order of time, across its attempts.
    Logs(Logs),
    /// List what the cluster said of a job and its pods.
    Events(Events),
    /// Stop a job; it keeps its last checkpoint.
    Suspend(Suspend),
    /// Let a suspended job go on.
    Resume(Suspend),
    /// Train on from a job's model, on other hardware if asked.
    Retrain(Retrain),
    /// Wait until a job comes to a phase.
    Wait(Wait),
    /// Show the GPUs that jobs ask for and have.
    Top(Top),
    /// Say where a training's report is, and open it if it is on this machine.
    Report(Report),
    /// Show how a model has done over time: the evaluations in its folder.
    Evaluations(Evaluations),
    /// Gather what somebody else needs to understand a namespace, without anything secret.
    SupportBundle(SupportBundle),
    /// Look for what is missing on this machine and in the cluster: trainer, driver, GPUs, definitions, rights, operator, runtimes.
    ///
    /// It ends with 1 if something does not work, and says what to do about it; what is missing and not needed by all is no fault.
    Doctor(Doctor),
    /// Print the version of this program and of the cluster.
    Version(Version),
    /// Print the completions of a shell.
    #[command(visible_alias = "completion")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The manifest; - is the standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    file: PathBuf,
    /// Change a field before anything is checked, such as spec.training.epochs=3.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
    /// What computes, in the place of spec.infrastructure.device.
    #[arg(long, value_name = "DEVICE", ignore_case = true)]
    device: Option<Device>,
    /// Folder of the state of jobs, and of claims.
    #[arg(long, value_name = "DIR", default_value = local::STATE)]
    state: PathBuf,
    /// Folder that pvc://CLAIM is on this machine.
    #[arg(long = "volume", value_name = "CLAIM=DIR", value_parser = volume)]
    volumes: Vec<(String, PathBuf)>,
    /// The trainer's executable. If absent: the one beside this executable, or on the PATH.
    #[arg(long, value_name = "PATH", env = "TRAINYARD_TRAINER")]
    trainer: Option<PathBuf>,
    /// Write lines instead of a bar, as without a terminal.
    #[arg(long)]
    no_progress: bool,
    /// Start over. State and output of an earlier run are kept aside.
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Args)]
struct Validate {
    /// The manifests; - is the standard input.
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// How to write the faults.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// A list of objects.
    Json,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // As kubectl's plugin it calls itself what was typed.
    let mut grammar = Cli::command();
    if about::is_plugin(std::env::args().next().as_deref()) {
        grammar = grammar.bin_name("kubectl trainyard");
    }
    let typed = Cli::from_arg_matches_mut(&mut grammar.get_matches()).unwrap_or_else(|fault| fault.exit());
    let code = match typed.command {
        Command::Run(typed) => run(&typed).unwrap_or_else(|error| {
            eprintln!("{error}");
            error.exit_code()
        }),
        Command::Validate(typed) => validate(&typed),
        Command::Operator(typed) => typed.run(),
        Command::Why(typed) => typed.run(),
        Command::Nodes(typed) => typed.run(),
        Command::Status(typed) => typed.run(),
        Command::Logs(typed) => typed.run(),
        Command::Events(typed) => typed.run(),
        Command::Suspend(typed) => typed.run(true),
        Command::Resume(typed) => typed.run(false),
        Command::Retrain(typed) => typed.run(),
        Command::Wait(typed) => typed.run(),
        Command::Top(typed) => typed.run(),
        Command::Report(typed) => typed.run(),
        Command::Evaluations(typed) => typed.run(),
        Command::SupportBundle(typed) => typed.run(),
        Command::Doctor(typed) => typed.run(),
        Command::Version(typed) => typed.run(),
        Command::Crds => print(&definitions()),
        Command::Explain { cause } => print(&format!("{}\n", cause.map_or(causes::PAGE.trim_end(), causes::section))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "trainyard", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    ExitCode::from(code)
}

fn run(typed: &Run) -> Result<u8, RunError> {
    // First of all: a Ctrl-C must not end this process in the middle of a write.
    let signals = signals()?;
    let manifests = manifests(typed)?;
    let options = Options {
        state: std::path::absolute(&typed.state).map_err(RunError::io("find", &typed.state))?,
        volumes: typed.volumes.iter().cloned().collect::<BTreeMap<_, _>>(),
        trainer: local::find_trainer(typed.trainer.as_deref())?,
        plain: typed.no_progress || !io::stderr().is_terminal(),
        fresh: typed.fresh,
        again: command_line(std::env::args()),
    };
    for manifest in &manifests {
        for warning in &manifest.warnings {
            eprintln!("{warning}");
        }
        let outcome = local::run(manifest, &options, &signals)?;
        if !outcome.done {
            eprintln!("{}", outcome.text);
            return Ok(outcome.exit_code);
        }
        print(&format!("{}\n", outcome.text));
    }
    Ok(0)
}

fn manifests(typed: &Run) -> Result<Vec<Manifest>, RunError> {
    let device = typed.device.and_then(|device| device.to_possible_value());
    let device = device.map(|device| format!("spec.infrastructure.device={}", device.get_name()));
    let settings: Result<Vec<Setting>, _> =
        typed.settings.iter().chain(&device).map(|text| Setting::parse(text)).collect();
    let settings = settings?;
    let (name, text) = read(&typed.file).map_err(RunError::io("read", &typed.file))?;
    let mut file = File::parse(&name, &text).map_err(|fault| RunError::Manifest(vec![fault]))?;
    file.set(&settings)?;
    file.check().map_err(RunError::Manifest)
}

fn validate(typed: &Validate) -> u8 {
    let mut faults: Vec<LocatedFault> = Vec::new();
    let mut good = 0;
    for path in &typed.files {
        let (name, text) = match read(path) {
            Ok(read) => read,
            Err(fault) => {
                eprintln!("can't read {}: {fault}", path.display());
                return u8::try_from(Cause::DataMissing.exit_code()).unwrap_or(1);
            }
        };
        match File::parse(&name, &text).map_err(|fault| vec![fault]).and_then(|file| file.check()) {
            Ok(manifests) => {
                good += manifests.len();
                faults.extend(manifests.into_iter().flat_map(|manifest| manifest.warnings));
            }
            Err(found) => faults.extend(found),
        }
    }
    let bad = faults.iter().filter(|fault| fault.is_error()).count();
    match typed.output {
        Output::Json => {
            print(&format!("{}\n", serde_json::to_string_pretty(&faults).unwrap_or_default()));
        }
        Output::Text => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            if bad == 0 {
                let plural = if good == 1 { "manifest is" } else { "manifests are" };
                print(&format!("{good} {plural} valid\n"));
            }
        }
    }
    if bad == 0 { 0 } else { u8::try_from(Cause::BadSpec.exit_code()).unwrap_or(1) }
}

fn definitions() -> String {
    crds::manifest::manifests().into_iter().fold(String::new(), |text, manifest| text + "---\n" + &manifest.yaml)
}

fn read(path: &Path) -> io::Result<(String, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(("<stdin>".to_owned(), text));
    }
    fs::read_to_string(path).map(|text| (path.display().to_string(), text))
}

/// Interrupts from now on, instead of the end of this process.
fn signals() -> Result<Receiver<i32>, RunError> {
    let (sender, receiver) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(RunError::io("listen for", "signals"))?;
    thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(signal)));
    Ok(receiver)
}

fn cause(text: &str) -> Result<Cause, String> {
    causes::parse(text).ok_or_else(|| "write an exit code from 0 to 255 or a cause's name: 161, PeerLost".to_owned())
}

/// The command line as a shell reads it, without `--fresh`: it is what goes on with the job.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    arguments.filter(|argument| argument != "--fresh").map(|argument| quoted(&argument)).collect::<Vec<_>>().join(" ")
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_that_goes_on_can_be_pasted_into_a_shell() {
        let typed = ["trainyard", "run", "--fresh", "-f", "my job.yaml", "--set", "metadata.name=it's"];
        assert_eq!(
            command_line(typed.into_iter().map(str::to_owned)),
            r"trainyard run -f 'my job.yaml' --set 'metadata.name=it'\''s'"
        );
    }
}
