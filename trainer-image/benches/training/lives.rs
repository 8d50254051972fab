//! What trainings live through: checkpoints, kills, a process that stands still.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crds::contract::Cause;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::figures::{Figures, Goal};
use crate::product::Product;

/// Steps between two checkpoints.
const EVERY: u32 = 50;
/// Seconds that a collective may take, the least that a job can say, and those after which every rank has to have ended.
const COLLECTIVE: u32 = 10;
const AFTER: f64 = 5.0;

/// The share of the time of steps that checkpoints take, one at every so many steps.
pub(crate) fn checkpoints(figures: &mut Figures, product: &mut Product, steps: u32) -> Result<(), Box<dyn Error>> {
    let every = EVERY.min(steps.div_ceil(3));
    let trainer = product.start_with("saved", 1, |spec| {
        // Three steps in an epoch of the photos.
        spec["training"]["epochs"] = json!(steps.div_ceil(3));
        spec["output"]["checkpoint"] = json!({"everySteps": every, "keep": 2});
    })?;
    let output = trainer.finish()?;
    let metrics: Value = serde_json::from_slice(&fs::read(output.join("metrics.json"))?)?;
    let seconds = |phases: &[&str]| -> f64 {
        let epochs = metrics["epochs"].as_array().map(Vec::as_slice).unwrap_or_default();
        epochs.iter().flat_map(|epoch| phases.iter().map(|phase| epoch["phases"][phase].as_f64().unwrap_or(0.0))).sum()
    };
    let stall =
        seconds(&["checkpoint"]) / seconds(&["data", "forward", "backward", "device", "optimizer", "checkpoint"]);
    let method =
        format!("ResNet-18 as a pod trains it, {steps} steps, one checkpoint at every {every}; rank 0's clock");
    figures.alone("time of steps that checkpoints take", "%", 100.0 * stall, Goal::AtMost(1.0), &method);
    fs::remove_dir_all(output)?;
    Ok(())
}

/// Trainings that are killed at random moments, each again and again, and how many kills ended in the same bytes.
pub(crate) fn kills(
    figures: &mut Figures,
    product: &mut Product,
    (trainings, kills): (u32, u32),
) -> Result<(), Box<dyn Error>> {
    let small = |spec: &mut Value| {
        spec["data"]["imageSize"] = json!(64);
        // Three steps in each, so that every kill has five steps to fall into.
        spec["training"]["epochs"] = json!(2 * kills.max(2));
        spec["output"]["checkpoint"] = json!({"everySteps": 1, "keep": 2});
    };
    let weights = |output: &Path| fs::read(output.join("model.safetensors"));
    let calm = weights(&product.start_with("calm", 1, small)?.finish()?)?;
    let mut equal = 0;
    for training in 0..trainings {
        let name = format!("stormy-{training}");
        for kill in 0..kills {
            let mut trainer = product.start_with(&name, kill + 1, small)?;
            // A step and a moment after it, spread evenly by the golden ratio; what the processes do then is random enough.
            let part = (f64::from(training * kills + kill) * 0.618_034).fract();
            trainer.wait_for_step(u64::from(1 + 5 * kill) + (part * 5.0) as u64)?;
            std::thread::sleep(Duration::from_secs_f64((part * 1000.0).fract() / 5.0));
            trainer.kill()?;
        }
        let output = product.start_with(&name, kills + 1, small)?.finish()?;
        equal += if weights(&output)? == calm { kills } else { 0 };
        fs::remove_dir_all(output)?;
    }
    let done = trainings * kills;
    let method = format!("{trainings} trainings of two ranks, each killed with SIGKILL {kills} times on its way");
    let name = format!("kills after which a training came to the same bits, of {done}");
    figures.alone(&name, "kills", f64::from(equal), Goal::AtLeast(f64::from(done)), &method);
    Ok(())
}

/// How long after a rank stopped the other has ended, and whether it said who and where.
pub(crate) fn stands_still(figures: &mut Figures, product: &mut Product, times: u32) -> Result<(), Box<dyn Error>> {
    let (mut slowest, mut named) = (0.0_f64, 0);
    for index in 0..times {
        let mut trainer = product.start_with(&format!("still-{index}"), 1, |spec| {
            spec["training"]["collectiveTimeoutSeconds"] = json!(COLLECTIVE);
        })?;
        trainer.wait_for_step(1)?;
        let (still, other) = (trainer.rank(1)?, trainer.rank(0)?);
        nix::sys::signal::kill(still, Signal::SIGSTOP)?;
        let began = Instant::now();
        while Path::new(&format!("/proc/{other}")).exists() {
            if began.elapsed() > Duration::from_secs(300) {
                return Err("the other rank does not end".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        slowest = slowest.max(began.elapsed().as_secs_f64());
        // Otherwise the launcher waits out the time that processes have to stop.
        nix::sys::signal::kill(still, Signal::SIGCONT)?;
        let (code, message) = trainer.end()?;
        let says = message.message.contains("1 of 2 ranks did not come: 1;") && message.message.contains("(gloo:");
        named += u32::from(code == Cause::PeerLost.exit_code() && says);
    }
    let method =
        format!("{times} times; collectiveTimeoutSeconds {COLLECTIVE}; from SIGSTOP of rank 1 to the end of rank 0");
    let goal = Goal::AtMost(f64::from(COLLECTIVE) + AFTER);
    figures.alone("a rank stands still: the other has ended after", "s", slowest, goal, &method);
    let name = format!("with 161, the rank and the collective, of {times}");
    figures.alone(&name, "ends", f64::from(named), Goal::AtLeast(f64::from(times)), &method);
    Ok(())
}
