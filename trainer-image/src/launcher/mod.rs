//! `trainer launch`: runs once per pod, starts one process per GPU or CPU slot, and ends with the most telling of their
//! exit codes and its termination message. Needs no libtorch.
//!
//! ```text
//!  pod (PET_*) ─► one process per slot (RANK, ...) ─► supervise: signals, ends ─► verdict ─► ending: message, exit code
//! ```
//!
//! In a pod it is process 1: it reaps whatever is left to it. Outside, processes that lose their parent come to it as
//! well, and the ranks die with it, whatever kills it ([`die_with_parent`]).

mod ending;
mod memory;
mod parent;
mod pod;
mod slices;
mod stderr;
mod supervise;
mod verdict;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crds::contract::{Cause, STOP_SECONDS, env};
use nix::sys::prctl;
use tempfile::TempDir;

use crate::fault::Fault;
use crate::place::{SLICE, VISIBLE_GPUS};

pub use parent::die_with_parent;
pub use pod::{Pod, PodError};
pub use verdict::{ChildEnd, Class, Ending, verdict};

use stderr::Streams;
use supervise::Supervisor;

/// Threads of libtorch and OpenMP in a process.
const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
/// How long what the processes wrote may take to be passed on after they ended.
const DRAIN: Duration = Duration::from_secs(2);

/// What to start, and how patiently to stop it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program of each process; the trainer itself.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Which pod this is.
    pub pod: Pod,
    /// UUIDs of slices of GPUs, one for each process; empty where GPUs are whole, or where there is none.
    pub slices: Vec<String>,
    /// Time from the request to stop until the processes are killed.
    pub stop_within: Duration,
}

impl Launch {
    /// This program again with other arguments, in the pod that the environment describes.
    ///
    /// # Errors
    /// A fault if the environment is wrong ([`PodError`], or the time to stop is not a number), or if this program can't
    /// tell where it lies.
    pub fn this_program(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Launch, Fault> {
        let program = std::env::current_exe().map_err(|error| Fault::io("find this program's own file", error))?;
        let stop_within = match std::env::var(env::STOP_SECONDS) {
            Err(_) => STOP_SECONDS,
            Ok(text) => text.trim().parse().map_err(|_| {
                Fault::new(Cause::BadSpec, format!("{} is {text:?}, not a number of seconds", env::STOP_SECONDS))
            })?,
        };
        let pod = Pod::from_env()?.with_free_port()?;
        Ok(Launch {
            program,
            args: args.into_iter().map(Into::into).collect(),
            slices: slices::of_this_pod(pod.processes),
            pod,
            stop_within: Duration::from_secs(stop_within),
        })
    }
}

/// Starts the processes of a pod, waits for all of them, writes the pod's termination message, and returns the exit code
/// of the pod. Call it once, from the main thread: the processes die with the thread that started them, and children
/// that others started are reaped here too.
pub fn launch(launch: &Launch) -> i32 {
    match run(launch) {
        Ok(code) => code,
        Err(fault) => fault.end(),
    }
}

fn run(launch: &Launch) -> Result<i32, Fault> {
    let bug =
        |doing: &'static str| move |error: io::Error| Fault::new(Cause::Bug, format!("can't {doing}")).source(error);
    if let Err(error) = prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "can't take in processes that lose their parent");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(bug("start the launcher's event loop"))?;
    // The handlers come before the first process: a signal that arrives in between must not be lost.
    let mut supervisor = runtime
        .block_on(async { Supervisor::new(launch.stop_within, Path::new("/")) })
        .map_err(bug("listen to signals"))?;

    let messages = messages_folder();
    let mut streams = Streams::new();
    for local_rank in 0..launch.pod.processes {
        let started = start(launch, local_rank, messages.as_ref()).and_then(|mut child| {
            supervisor.add(launch.pod.rank(local_rank), &child);
            match child.stderr.take() {
                Some(stderr) => streams.pass_on(launch.pod.rank(local_rank), stderr),
                None => Ok(()),
            }
        });
        if let Err(error) = started {
            // The processes that did start wait for the missing one: they are of no use.
            supervisor.kill_all();
            runtime.block_on(supervisor.run());
            return Err(cannot_start(launch, local_rank, error));
        }
    }
    let ends = runtime.block_on(supervisor.run());
    streams.drain(DRAIN);
    Ok(ending::conclude(&launch.pod, &ends, messages.as_ref().map(TempDir::path), &streams))
}

fn start(launch: &Launch, local_rank: u32, messages: Option<&TempDir>) -> io::Result<Child> {
    let pod = &launch.pod;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .envs(pod.process_env(local_rank))
        .env(env::PARENT_PID, std::process::id().to_string())
        .stdin(Stdio::null())
        // A group of its own: Ctrl-C in a terminal reaches the launcher alone, which passes it on once, and what the
        // process starts can be ended together with it.
        .process_group(0);
    if let Some(slice) = launch.slices.get(local_rank as usize) {
        // CUDA shows a process one slice alone, the first that it may see.
        command.env(VISIBLE_GPUS, format!("{SLICE}{slice}"));
    }
    if std::env::var_os(OMP_NUM_THREADS).is_none() {
        // Respects the control group's quota and the affinity.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        command.env(OMP_NUM_THREADS, pod.threads(cores).to_string());
    }
    match messages {
        Some(folder) => command.env(env::TERMINATION_LOG, ending::message_file(folder.path(), local_rank)),
        None => command.env_remove(env::TERMINATION_LOG),
    };
    if pod.processes > 1 {
        command.stderr(Stdio::piped());
    }
    command.spawn()
}

/// Where the processes leave their messages. Without it their exit codes are still told.
fn messages_folder() -> Option<TempDir> {
    tempfile::Builder::new()
        .prefix("trainyard-")
        .tempdir()
        .inspect_err(|error| tracing::warn!(%error, "no temporary folder: the processes' messages are lost"))
        .ok()
}

fn cannot_start(launch: &Launch, local_rank: u32, error: io::Error) -> Fault {
    let what = format!("can't start process {local_rank} of {}: {}", launch.pod.processes, launch.program.display());
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Fault::new(Cause::HostMemory, what)
            .hint("the pod's limit of processes or memory is reached: raise it, or lower the number of processes"),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Fault::new(Cause::BadSpec, what)
            .hint("check the image and the command: the program must be there and executable"),
        _ => Fault::new(Cause::Bug, what),
    }
    .source(error)
}
