//! The verdict for people (a table) and for programs (JSON).

use crds::contract::CONTRACT_VERSION;
use crds::infrastructure::Device;
use serde_json::{Value, json};

use super::verdict::{Check, Outcome, Verdict};

/// The checks as a table, then the device and why, then what to do if there is something to do.
pub fn table(verdict: &Verdict) -> String {
    let rows: Vec<_> = verdict.checks.iter().map(row).collect();
    let width = |column: fn(&[String; 4]) -> &String, head: &str| {
        rows.iter().map(|row| column(row).chars().count()).chain([head.len()]).max().unwrap_or(0)
    };
    let (name, result, took) = (width(|r| &r[0], "check"), width(|r| &r[1], "result"), width(|r| &r[2], "took"));
    let line = |cells: [&str; 4]| {
        format!("{:name$}  {:result$}  {:>took$}  {}", cells[0], cells[1], cells[2], cells[3]).trim_end().to_owned()
    };
    let mut lines = vec![line(["check", "result", "took", "what was seen"])];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.push(String::new());
    match verdict.device() {
        Ok(device) => lines.push(format!("device: {device:?}, because {}", verdict.reason)),
        Err(fault) => lines.push(format!("device: none: {fault}")),
    }
    lines.extend(verdict.notes().map(|(message, hint)| format!("note: {message}: {hint}")));
    if let Some(Outcome::Failed { hint, .. }) = verdict.failed().map(|check| &check.outcome) {
        lines.push(format!("to use a GPU: {hint}"));
    }
    lines.join("\n")
}

fn row(check: &Check) -> [String; 4] {
    let (result, seen) = match &check.outcome {
        Outcome::Passed(seen) => ("passed", seen),
        Outcome::Noted { message, .. } => ("noted", message),
        Outcome::Skipped(why) => ("skipped", why),
        Outcome::Failed { message, .. } => ("failed", message),
    };
    let took = format!("{:.1} ms", check.took.as_secs_f64() * 1000.0);
    [check.name.to_owned(), result.to_owned(), took, seen.clone()]
}

/// The verdict as a JSON object.
pub fn to_json(verdict: &Verdict) -> String {
    let device = match verdict.device() {
        Ok(Device::Gpu) => json!("Gpu"),
        Ok(_) => json!("Cpu"),
        Err(_) => Value::Null,
    };
    let gpus: Vec<_> = verdict
        .gpus
        .iter()
        .map(|gpu| {
            json!({"name": gpu.name, "uuid": gpu.uuid, "memoryBytes": gpu.memory,
                   "computeCapability": gpu.architecture.to_string()})
        })
        .collect();
    let checks: Vec<_> = verdict.checks.iter().map(check_as_json).collect();
    let all = json!({"contractVersion": CONTRACT_VERSION, "device": device, "reason": verdict.reason, "gpus": gpus,
                     "checks": checks});
    format!("{all:#}")
}

fn check_as_json(check: &Check) -> Value {
    let milliseconds = check.took.as_secs_f64() * 1000.0;
    match &check.outcome {
        Outcome::Passed(seen) => {
            json!({"name": check.name, "result": "Passed", "milliseconds": milliseconds, "message": seen})
        }
        Outcome::Noted { message, hint } => json!({"name": check.name, "result": "Noted",
            "milliseconds": milliseconds, "message": message, "hint": hint}),
        Outcome::Skipped(why) => {
            json!({"name": check.name, "result": "Skipped", "milliseconds": milliseconds, "message": why})
        }
        Outcome::Failed { cause, message, hint } => json!({"name": check.name, "result": "Failed",
            "milliseconds": milliseconds, "message": message, "hint": hint, "cause": cause}),
    }
}
