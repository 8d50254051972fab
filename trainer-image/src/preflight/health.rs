//! How the GPUs are, by what their management library and the kernel's log say: memory errors, slowed clocks, others who use
//! them, Xids. A GPU that can't be relied on is the node's fault; the rest a person should know.

use crds::contract::Cause;
use crds::xid::{Remedy, Xid};

use super::host::Host;
use super::verdict::{Outcome, Verdict};
use crate::torch::driver::GpuInfo;
use crate::torch::nvml::{GpuState, throttle};

/// Less free memory than that, in bytes, and no training fits.
const LEAST_FREE: u64 = 1 << 30;
/// How old an Xid may be to be told, in seconds: a job that broke a GPU a day ago was somebody's.
const RECENT: f64 = 3600.0;

/// Why clocks are low, with what to do.
const SLOW: [(u64, &str); 5] = [
    (throttle::HARDWARE_HEAT, "its hardware slows it down for heat"),
    (throttle::HEAT, "the driver slows it down for heat"),
    (throttle::POWER_BRAKE, "the machine's power supply slows it down"),
    (throttle::HARDWARE, "its hardware slows it down for heat or power"),
    (throttle::POWER_CAP, "its power limit is reached"),
];

/// Adds the checks to a verdict whose earlier ones have passed.
pub(super) fn add(verdict: &mut Verdict, host: &Host) {
    // Asked once, by the first check that is made at all.
    let mut states = None;
    verdict.check("memory errors", |gpus| match states.insert(host.states()) {
        Ok(states) => memory_errors(&of(gpus, states)),
        Err(error) => Outcome::Skipped(unasked(error)),
    });
    let states = match states {
        Some(Ok(states)) => states,
        _ => Vec::new(),
    };
    let known = |gpus: &[GpuInfo], judge: fn(&[(&GpuInfo, &GpuState)]) -> Outcome| match of(gpus, &states) {
        found if found.is_empty() => Outcome::Skipped("the management library does not know these GPUs".to_owned()),
        found => judge(&found),
    };
    verdict.check("clocks", |gpus| known(gpus, clocks));
    verdict.check("sharing", |gpus| known(gpus, sharing));
    verdict.check("Xids", |gpus| match host.kernel_log() {
        Ok(log) => xids(&log, host.uptime(), &of(gpus, &states)),
        Err(error) => Outcome::Skipped(format!("the kernel's log can't be read here: {error}")),
    });
}

fn unasked(error: &crate::torch::driver::DriverError) -> String {
    format!("{error}; the NVIDIA container toolkit mounts it where NVIDIA_DRIVER_CAPABILITIES has utility")
}

/// Each GPU that this process sees with what is known of it.
fn of<'a>(gpus: &'a [GpuInfo], states: &'a [GpuState]) -> Vec<(&'a GpuInfo, &'a GpuState)> {
    let state = |gpu: &GpuInfo| states.iter().find(|state| state.is_of(gpu));
    gpus.iter().filter_map(|gpu| Some((gpu, state(gpu)?))).collect()
}

fn name(gpu: &GpuInfo, state: &GpuState) -> String {
    format!("{} at {}", gpu.name, state.pci)
}

fn memory_errors(gpus: &[(&GpuInfo, &GpuState)]) -> Outcome {
    let rows = |state: &GpuState| state.rows.unwrap_or_default();
    if let Some((gpu, state)) = gpus.iter().find(|(_, state)| rows(state).failed) {
        return Outcome::Failed {
            cause: Cause::NodeFault,
            message: format!("{} has a broken row of memory that no spare row could replace", name(gpu, state)),
            hint: "take this GPU out of service and have it replaced".to_owned(),
        };
    }
    if let Some((gpu, state)) = gpus.iter().find(|(_, state)| rows(state).pending) {
        return Outcome::Noted {
            message: format!("{} has a broken row of memory that the next reset replaces", name(gpu, state)),
            hint: "reset the GPU when no job runs on it".to_owned(),
        };
    }
    if let Some((gpu, state)) = gpus.iter().find(|(_, state)| state.uncorrected.is_some_and(|count| count > 0)) {
        let count = state.uncorrected.unwrap_or_default();
        return Outcome::Noted {
            message: format!(
                "{} has had {count} uncorrected memory errors since its driver was loaded",
                name(gpu, state)
            ),
            hint: "look for Xids 48, 63, 64, 94 and 95 in the node's kernel log; reset the GPU if they come again"
                .to_owned(),
        };
    }
    if gpus.iter().all(|(_, state)| state.uncorrected.is_none() && state.rows.is_none()) {
        return Outcome::Skipped("these GPUs don't count memory errors".to_owned());
    }
    let remapped: u32 = gpus.iter().map(|(_, state)| rows(state).remapped).sum();
    Outcome::Passed(match remapped {
        0 => "none that was not corrected".to_owned(),
        rows => format!("none that was not corrected; {rows} rows of memory have been replaced"),
    })
}

fn clocks(gpus: &[(&GpuInfo, &GpuState)]) -> Outcome {
    let why = |state: &GpuState| {
        SLOW.iter().find(|(bit, _)| state.throttle.unwrap_or_default() & bit != 0).map(|(_, why)| *why)
    };
    let temperature = |state: &GpuState| state.celsius.map_or_else(String::new, |celsius| format!(" at {celsius} °C"));
    if let Some((gpu, state, why)) = gpus.iter().find_map(|(gpu, state)| Some((gpu, state, why(state)?))) {
        return Outcome::Noted {
            message: format!("{}{}: {why}", name(gpu, state), temperature(state)),
            hint: "look at the node's cooling and power, and at what else runs on it: one slow GPU slows all ranks"
                .to_owned(),
        };
    }
    let seen: Vec<String> = gpus.iter().map(|(_, state)| format!("not slowed{}", temperature(state))).collect();
    Outcome::Passed(seen.join(", "))
}

fn sharing(gpus: &[(&GpuInfo, &GpuState)]) -> Outcome {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    // Of a slice, its GPU's memory and processes say nothing.
    let whole: Vec<_> = gpus.iter().filter(|(gpu, state)| gpu.uuid == state.uuid).collect();
    let Some((gpu, state)) = whole.iter().min_by_key(|(_, state)| state.free.unwrap_or(u64::MAX)) else {
        return Outcome::Passed("slices of a GPU, each with memory of its own".to_owned());
    };
    let (others, free) = (state.processes.unwrap_or_default(), state.free);
    if let Some(free) = free.filter(|free| *free < LEAST_FREE) {
        return Outcome::Failed {
            cause: Cause::NodeFault,
            message: format!("{} has {} of memory left, and {others} processes on it", name(gpu, state), gib(free)),
            hint: "end what else runs on this GPU, or place the job on GPUs that are not shared".to_owned(),
        };
    }
    match whole.iter().find(|(_, state)| state.processes.is_some_and(|count| count > 0)) {
        Some((gpu, state)) => Outcome::Noted {
            message: format!(
                "{} is used by {} other processes; {} of memory are free",
                name(gpu, state),
                state.processes.unwrap_or_default(),
                state.free.map_or_else(|| "an unknown amount".to_owned(), gib)
            ),
            hint: "both get slower, and either may run out of memory: give jobs GPUs that are not shared".to_owned(),
        },
        None => Outcome::Passed(match free {
            Some(free) => format!("nobody else; {} of memory are free", gib(free)),
            None => "nobody else".to_owned(),
        }),
    }
}

/// Xids of these GPUs in the kernel's log, whose lines are `priority,number,microseconds,flags;text`.
fn xids(log: &str, uptime: Option<f64>, gpus: &[(&GpuInfo, &GpuState)]) -> Outcome {
    let recent = |line: &&str| {
        let at = line.split(',').nth(2).and_then(|time| time.parse::<f64>().ok());
        at.zip(uptime).is_none_or(|(at, now)| now - at / 1e6 < RECENT)
    };
    let ours = |line: &&str| gpus.is_empty() || gpus.iter().any(|(_, state)| line.contains(&state.pci));
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("NVRM: Xid")).filter(recent).filter(ours).collect();
    let gravest = lines.iter().filter_map(|line| Some((Xid::named_in(line)?, line))).max_by_key(|(xid, _)| xid.remedy);
    match gravest {
        Some((Xid { remedy: Remedy::None, .. }, _)) | None => {
            Outcome::Passed(format!("none in the last hour that asks for anything, {} lines in all", lines.len()))
        }
        Some((xid, line)) => Outcome::Noted {
            message: format!(
                "Xid {} within the last hour: {}",
                xid.number,
                line.split_once(';').map_or(*line, |(_, text)| text)
            ),
            hint: xid.remedy.advice().to_owned(),
        },
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
