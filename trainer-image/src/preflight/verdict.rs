//! The checks as data: what was looked at, what came of it, how long it took, and what follows for the device.

use std::time::{Duration, Instant};

use crds::contract::Cause;
use crds::infrastructure::Device;

use crate::fault::Fault;
use crate::torch::driver::GpuInfo;

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds; what was seen.
    Passed(String),
    /// It holds, and a person should know something all the same.
    Noted {
        /// What was seen.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// It was not looked at; why.
    Skipped(String),
    /// It does not hold.
    Failed {
        /// What a process that needs it ends with.
        cause: Cause,
        /// What was seen.
        message: String,
        /// What to do about it.
        hint: String,
    },
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name; the same on every machine.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// All checks, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was asked for.
    pub wanted: Device,
    /// Why the device is what it is.
    pub reason: String,
    /// The GPUs that this process sees.
    pub gpus: Vec<GpuInfo>,
    /// The checks in the order in which they were made.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// No check made yet.
    pub(super) fn new(wanted: Device) -> Verdict {
        Verdict { wanted, reason: String::new(), gpus: Vec::new(), checks: Vec::new() }
    }

    /// Makes another check, unless one has failed before: then it is skipped. Checks that need libtorch come in this way.
    pub fn check(&mut self, name: &'static str, look: impl FnOnce(&[GpuInfo]) -> Outcome) {
        let start = Instant::now();
        let outcome = match (self.wanted, self.failed()) {
            (Device::Cpu, _) => Outcome::Skipped("the manifest asks for CPUs".to_owned()),
            (_, Some(failed)) => Outcome::Skipped(format!("{} failed", failed.name)),
            _ => look(&self.gpus),
        };
        self.checks.push(Check { name, outcome, took: start.elapsed() });
        self.reason = self.why();
    }

    /// What a person should know of a machine that is used all the same: what was seen, and what to do.
    pub fn notes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.checks.iter().filter_map(|check| match &check.outcome {
            Outcome::Noted { message, hint } => Some((message.as_str(), hint.as_str())),
            _ => None,
        })
    }

    /// The check that failed, if one did.
    pub fn failed(&self) -> Option<&Check> {
        self.checks.iter().find(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// The device to work on, [`Device::Gpu`] or [`Device::Cpu`].
    ///
    /// # Errors
    /// The failure, if a GPU was asked for, or if there is one and it is broken: [`Device::Auto`] must not hide that, or
    /// the ranks of one job would end up on different devices.
    pub fn device(&self) -> Result<Device, Fault> {
        match (self.wanted, self.failed().map(|check| &check.outcome)) {
            (Device::Cpu, _) => Ok(Device::Cpu),
            (_, None | Some(Outcome::Passed(_) | Outcome::Noted { .. } | Outcome::Skipped(_))) => Ok(Device::Gpu),
            (Device::Auto, Some(Outcome::Failed { cause: Cause::GpuUnsupported, .. })) => Ok(Device::Cpu),
            (_, Some(Outcome::Failed { cause, message, hint })) => {
                Err(Fault::new(*cause, format!("no GPU can be used here: {message}")).hint(hint))
            }
        }
    }

    fn why(&self) -> String {
        match (self.wanted, self.failed().map(|check| &check.outcome)) {
            (Device::Cpu, _) => "the manifest asks for CPUs".to_owned(),
            (_, Some(Outcome::Failed { message, .. })) => message.clone(),
            _ => {
                let names: Vec<_> = self.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
                format!("{} can be used", names.join(", "))
            }
        }
    }
}
