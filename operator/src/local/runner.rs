//! Runs a job to its end: observe, decide, act, again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crds::check::Resource;
use crds::contract::env;
use crds::status::Phase;
use jiff::Timestamp;
use serde_json::Value;

use super::children::{Children, free_port};
use super::device::{self, Place};
use super::environment;
use super::error::RunError;
use super::folder::{JobFolder, Memory};
use super::inputs;
use super::job::{self, Beginning, LocalJob};
use super::poll::Polls;
use super::report::{self, Outcome};
use super::serve::serve;
use super::view::View;
use crate::build::assignment;
use crate::build::member::{self, Rendezvous};
use crate::decide::{Plan, decide};
use crate::manifest::Manifest;
use crate::observe::{MemberId, World};

/// Time between two looks at the processes.
const TICK: Duration = Duration::from_millis(50);

/// What `trainyard run` was told besides the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state folder, `.trainyard` unless told otherwise.
    pub state: PathBuf,
    /// The folder of each claim that is not below the state folder.
    pub volumes: BTreeMap<String, PathBuf>,
    /// The trainer's executable.
    pub trainer: PathBuf,
    /// Whether to write lines instead of a bar.
    pub plain: bool,
    /// Whether to put aside what an earlier run left.
    pub fresh: bool,
    /// The command that goes on with a job that was stopped.
    pub again: String,
}

/// Runs a job to its end, or until a signal comes: the first one suspends it, the second one kills it. An endpoint is served
/// until a signal comes.
///
/// # Errors
/// A [`RunError`] if it can't be run, before anything is started, or if the machine fails.
pub fn run(manifest: &Manifest, options: &Options, signals: &Receiver<i32>) -> Result<Outcome, RunError> {
    if let Resource::ModelEndpoint(endpoint) = &manifest.resource {
        return serve(endpoint, manifest, options, signals);
    }
    let job = LocalJob::new(manifest)?;
    let inputs = inputs::find(manifest, job.namespace(), &options.state, &options.volumes)?;
    let wished = job.wishes(&Memory::default(), false);
    let at_a_time = (wished.parallelism * wished.gang_size).min(wished.members());
    let place = device::place(job.infrastructure(), at_a_time, device::gpus(Path::new("/dev")))?;
    let view = View::new(&job.title(), options.plain);
    for fault in environment::left_out(job.infrastructure()) {
        view.say(&manifest.locate(fault).to_string());
    }
    if options.fresh {
        for (from, to) in job::start_over(&job, &options.state, &inputs.mounts)? {
            view.say(&format!("Kept {} as {}", from.display(), to.display()));
        }
    }
    let folder = JobFolder::open(job.folder(&options.state), &job.title())?;
    let now = Timestamp::now();
    let (memory, beginning) = job::take_up(&job, manifest, &folder, now)?;
    let spec = assignment::resolve(&job.spec, place.status.device, &inputs.mounts, &inputs.models);
    match &beginning {
        Beginning::New => {}
        Beginning::Resumed => view.say(&format!("{} goes on after attempt {}", job.title(), memory.ledger.attempt)),
        Beginning::Again { message } => {
            view.say(&format!("{} has failed before ({message}); trying again", job.title()));
        }
        Beginning::Finished => {
            view.end();
            let outcome = report::outcome(&job.title(), &memory, &folder, None, &options.again);
            let before = if job::is_outdated(&spec) {
                "It was scored before, by an older model than is there now: --fresh scores anew"
            } else {
                "It was finished before: --fresh starts over"
            };
            return Ok(Outcome { text: format!("{}\n({before})", outcome.text), ..outcome });
        }
    }
    inputs::make_output(manifest, &inputs.mounts)?;
    let children = Children::left_over(&folder, &wished, &memory.ledger, now);
    let status = folder.status::<Value>()?.unwrap_or_default();
    let mut runner =
        Runner { job, folder, memory, status, children, polls: Polls::default(), place, spec, options, view };
    let stopped_by = runner.until_the_end(signals);
    runner.view.end();
    let title = runner.job.title();
    Ok(report::outcome(&title, &runner.memory, &runner.folder, stopped_by?, &options.again))
}

struct Runner<'a> {
    job: LocalJob,
    folder: JobFolder,
    memory: Memory,
    /// The status as it was written last.
    status: Value,
    children: Children,
    polls: Polls,
    place: Place,
    spec: Value,
    options: &'a Options,
    view: View,
}

impl Runner<'_> {
    /// Looks and acts until there is nothing left to do; the signal that stopped it, if one did.
    fn until_the_end(&mut self, signals: &Receiver<i32>) -> Result<Option<i32>, RunError> {
        let (mut stopped_by, began) = (None, Timestamp::now());
        loop {
            let now = Timestamp::now();
            self.children.reap(&self.folder, now);
            let job = self.job.wishes(&self.memory, stopped_by.is_some());
            let world = World {
                ledger: self.memory.ledger.clone(),
                members: self.children.members(),
                progress: self.polls.newest(job.gangs, &self.memory.ledger.done),
                heard: self.polls.marks(),
                since: began,
                // People have read them when the manifest was.
                warnings: String::new(),
                model: None,
                place: Some(Ok(self.place.status.clone())),
                // There is no other machine.
                gate: None,
                // Processes of one machine find one another without help: plans are not asked about it.
                connected: None,
                job,
            };
            let plan = decide(&world, now);
            let settled = plan.is_empty();
            self.act(plan, &world, now)?;
            let ledger = &self.memory.ledger;
            self.view.show(ledger.phase, &ledger.message, ledger.attempt, world.progress.as_ref());
            if self.has_ended() && settled && !self.children.any_live() {
                return Ok(stopped_by);
            }
            match signals.recv_timeout(TICK) {
                Ok(signal) if stopped_by.is_none() => {
                    stopped_by = Some(signal);
                    let attempt = self.memory.ledger.attempt;
                    self.view.say(&job::stopping(self.job.kind(), attempt, world.progress.as_ref()));
                }
                Ok(_) => self.children.kill(now),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
        }
    }

    /// Whether the job has come to its end, or stands still.
    fn has_ended(&self) -> bool {
        self.memory.ledger.phase.is_terminal() || self.memory.ledger.phase == Phase::Suspended
    }

    /// Carries a plan out: members, then the memory and the status, then what there is to tell.
    fn act(&mut self, plan: Plan, world: &World, now: Timestamp) -> Result<(), RunError> {
        let mut ports = BTreeMap::new();
        for id in plan.start {
            let gang = world.job.gang_of(id.index);
            let port = match ports.get(&(gang, id.attempt)) {
                Some(port) => *port,
                None => free_port()?,
            };
            ports.insert((gang, id.attempt), port);
            self.start(id, world, port)?;
        }
        for stop in plan.stop {
            self.children.stop(stop.id, stop.how, now);
        }
        if let Some(ledger) = plan.ledger {
            self.memory.ledger = ledger;
            self.status = self.job.status(&self.memory.ledger, &self.status, now);
            self.folder.keep(&self.memory, &self.status)?;
        }
        for event in plan.events {
            self.folder.tell(now, &event)?;
            // The end is told by the report.
            if !self.has_ended() {
                self.view.say(&event.note);
            }
        }
        Ok(())
    }

    fn start(&mut self, id: MemberId, world: &World, port: u16) -> Result<(), RunError> {
        if self.children.has(id) {
            return Ok(());
        }
        let job = &world.job;
        let rank = id.index % job.gang_size;
        let rendezvous = Rendezvous { address: "127.0.0.1".to_owned(), port, processes: self.place.processes };
        let mut variables = environment::given(self.job.infrastructure());
        let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
        for (name, value) in member::environment(job, id, &self.spec, &rendezvous) {
            set(name, value);
        }
        let slot = self.children.free_slot();
        let visible = std::env::var(CUDA_VISIBLE_DEVICES).ok();
        set(CUDA_VISIBLE_DEVICES, device::visible_gpus(&self.place, slot, visible.as_deref()));
        set(env::PROGRESS_ADDR, "127.0.0.1".to_owned());
        let progress_port = if rank == 0 { free_port()? } else { 0 };
        set(env::PROGRESS_PORT, progress_port.to_string());
        self.children.start(id, &self.folder, &self.options.trainer, variables, slot)?;
        if rank == 0 {
            self.polls.ask(job.gang_of(id.index), progress_port);
        }
        Ok(())
    }
}

/// What CUDA reads for the GPUs that a process may see; empty for none.
pub(super) const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
