//! The work of one process: reads its assignment, checks the machine, and does what the resource's kind says.

use std::env;

use crds::contract::{self, Assignment, Cause, JobResult, TerminationMessage};
use crds::infrastructure::Infrastructure;
use crds::training::Precision;
use crds::{ScoringJobSpec, TrainingJobSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::Device;

use crate::affinity::Seat;
use crate::fault::{Fault, end_with, guard};
use crate::place::Place;
use crate::preflight::Requirements;
use crate::progress::{ProgressHandle, ProgressServer};
use crate::torch::driver::{self, GpuInfo};
use crate::xids::Xids;
use crate::{affinity, preflight, score, train};

/// What this version can be assigned.
#[derive(Debug, PartialEq)]
pub(crate) enum Work {
    Training(Box<Assignment<TrainingJobSpec>>),
    Scoring(Box<Assignment<ScoringJobSpec>>),
}

/// Does the assigned work and writes the termination message of a success.
///
/// # Errors
/// What ended the work; the caller writes its termination message.
pub fn run() -> Result<(), Fault> {
    let work = read_assignment()?;
    let place = Place::from_env()?;
    let result = match work {
        Work::Training(job) => {
            let precision = job.spec.training.as_ref().map_or(Precision::default(), |training| training.precision);
            let (device, gpus) = device(&job.spec.infrastructure, precision, &place)?;
            affinity::bind(&seat(device, &place));
            let xids = gpus.get(place.gpu()).and_then(Xids::of);
            // What tch's functions panic with is explained as well.
            let trained = guard(|| train::run(&job, &place, device, &gpus, serve_progress(&place, job.attempt)));
            trained.map_err(|fault| match &xids {
                Some(xids) => xids.explain(fault),
                None => fault,
            })?
        }
        Work::Scoring(job) => {
            let (device, _) = device(&job.spec.infrastructure, job.spec.precision, &place)?;
            score::run(&job, &place, device, serve_progress(&place, job.attempt).as_ref())?
        }
    };
    if let Some(result) = result {
        end_with(&completed(result, place.rank));
    }
    Ok(())
}

fn completed(result: JobResult, rank: u32) -> TerminationMessage {
    TerminationMessage {
        contract_version: contract::CONTRACT_VERSION,
        cause: Cause::Completed,
        rank: Some(rank),
        node: None,
        step: None,
        message: "completed".to_owned(),
        hint: String::new(),
        result: Some(result),
    }
}

fn read_assignment() -> Result<Work, Fault> {
    const NAME: &str = contract::env::ASSIGNMENT;
    let text = env::var(NAME).map_err(|_| {
        Fault::new(Cause::BadSpec, format!("the environment variable {NAME} is missing"))
            .hint("start a job by kubectl apply or trainyard run, which set it")
    })?;
    assigned(&text)
}

/// The work that an assignment means, if it can be done.
///
/// # Errors
/// [`Cause::BadSpec`]: it can't be read, or asks for what this version can't carry out.
pub(crate) fn assigned(text: &str) -> Result<Work, Fault> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Kind { kind } = parse(text)?;
    let (work, faults) = match kind.as_str() {
        "TrainingJob" => {
            let job: Box<Assignment<TrainingJobSpec>> = parse(text)?;
            let faults = job.spec.meaning();
            (Work::Training(job), faults)
        }
        "ScoringJob" => {
            let job: Box<Assignment<ScoringJobSpec>> = parse(text)?;
            let faults = job.spec.meaning();
            (Work::Scoring(job), faults)
        }
        other => {
            let text = format!("{}: this trainer knows no kind {other}", contract::env::ASSIGNMENT);
            return Err(Fault::new(Cause::BadSpec, text));
        }
    };
    check(faults)?;
    Ok(work)
}

/// Refuses what this version can't carry out, by the same table as `trainyard validate`.
pub(crate) fn check(faults: Vec<crds::fault::Fault>) -> Result<(), Fault> {
    match faults.into_iter().find(crds::fault::Fault::is_error) {
        Some(fault) => Err(Fault::new(Cause::BadSpec, format!("{}: {}", fault.path, fault.message)).hint(fault.hint)),
        None => Ok(()),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        Fault::new(Cause::BadSpec, format!("the assignment can't be read: {error}"))
            .hint("operator and trainer may be of versions that don't go together")
    })
}

/// The device that the manifest asks for, checked, and the GPUs of all processes of this pod. The precision is the manifest's
/// own: one that a retrained model brings is checked once that model is read.
fn device(
    infrastructure: &Infrastructure,
    precision: Precision,
    place: &Place,
) -> Result<(Device, Vec<GpuInfo>), Fault> {
    let gpus = preflight::choose_device(&Requirements::of_job(infrastructure, place.gpus_needed()), precision)?;
    if gpus.is_empty() {
        return Ok((Device::Cpu, gpus));
    }
    let device = crate::torch::use_gpu(&preflight::plugin(), place.gpu())?;
    preflight::try_out(device)?;
    Ok((device, gpus))
}

/// Where this process computes, for its CPUs to be near.
fn seat(device: Device, place: &Place) -> Seat {
    let (local_rank, local_world_size) = (place.local_rank, place.local_world_size);
    match device {
        Device::Cuda(index) => Seat::Gpu { pci: driver::pci_address(driver::LIBCUDA, index) },
        _ => Seat::Cpu { local_rank, local_world_size },
    }
}

/// Rank 0's progress server. A port that is taken is no reason not to work.
fn serve_progress(place: &Place, attempt: u32) -> Option<ProgressHandle> {
    if !place.is_first() {
        return None;
    }
    match ProgressServer::start(attempt) {
        Ok(handle) => handle,
        Err(error) => {
            tracing::warn!(%error, "progress can't be served");
            None
        }
    }
}
