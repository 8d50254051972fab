//! This machine: the trainer, and what its own preflight says of driver, CUDA and GPUs.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Finding;
use crate::local::find_trainer;

/// How long the preflight may take: some seconds with GPUs, which are made to compute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks at this machine.
pub(super) fn look(trainer: Option<&Path>) -> Vec<Finding> {
    let path = match find_trainer(trainer) {
        Ok(path) => path,
        Err(error) => {
            let cure = "jobs of a cluster don't need it here; to run them on this machine, build it (make build) or name it by --trainer";
            return vec![
                Finding::noted("trainer", error.to_string(), cure),
                Finding::skipped("GPU", "the trainer would look for one"),
            ];
        }
    };
    match preflight(&path) {
        Ok(report) => {
            let mut findings = vec![Finding::good("trainer", path.display().to_string())];
            findings.extend(of_report(&report));
            findings
        }
        Err(why) => {
            let cure = match why.contains("shared libraries") {
                // What the dynamic linker says.
                true => "lay libtorch's libraries into ../lib beside the trainer, as make build does, or name their folder in LD_LIBRARY_PATH".to_owned(),
                false => format!("see what {} preflight says", path.display()),
            };
            vec![Finding::bad("trainer", format!("{}: {why}", path.display()), cure)]
        }
    }
}

/// What the trainer's preflight says, as JSON.
fn preflight(trainer: &Path) -> Result<Value, String> {
    let mut command = Command::new(trainer);
    command.args(["preflight", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let output = reading(child.stdout.take().ok_or("it has no output")?);
    let errors = reading(child.stderr.take().ok_or("it has no standard error")?);
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("its preflight takes more than {} s", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = output.join().map_err(|_| "its output can't be read")?.map_err(|error| error.to_string())?;
    // A broken GPU ends it with a code of its own, and the report all the same.
    serde_json::from_str(&text).map_err(|_| {
        let said = errors.join().ok().and_then(Result::ok).unwrap_or_default();
        let last = said.lines().next_back().map(|line| format!(": {line}")).unwrap_or_default();
        format!("its preflight ends with {status} and no report{last}")
    })
}

/// Reads a pipe to its end, so that who writes into it never waits.
fn reading(mut pipe: impl Read + Send + 'static) -> JoinHandle<io::Result<String>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// The device that jobs get here, and each check that failed or that a person should know of.
fn of_report(report: &Value) -> Vec<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = checks.iter().find(|check| check["result"] == "Failed");
    let cure = failed.map(|check| text(&check["hint"])).unwrap_or_default();
    let reason = text(&report["reason"]);
    let device = match report["device"].as_str() {
        Some("Gpu") => Finding::good("GPU", reason),
        Some(_) => Finding::noted("GPU", format!("jobs run on CPUs here: {reason}"), cure),
        None => Finding::bad("GPU", reason, cure),
    };
    let noted = checks.iter().filter(|check| check["result"] == "Noted");
    let noted = noted.map(|check| Finding::noted("GPU", text(&check["message"]), text(&check["hint"])));
    let known = ["driver version", "driver library"];
    let passed =
        checks.iter().filter(|check| check["result"] == "Passed" && known.iter().any(|one| check["name"] == *one));
    let driver: Vec<String> = passed.map(|check| text(&check["message"])).collect();
    let driver = (!driver.is_empty()).then(|| Finding::good("driver", driver.join("; ")));
    driver.into_iter().chain([device]).chain(noted).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    fn check(name: &str, result: &str, message: &str) -> Value {
        json!({"name": name, "result": result, "message": message, "hint": if result == "Passed" { "" } else { "cure" }})
    }

    #[test]
    fn the_preflight_s_report_becomes_what_a_person_needs_of_it() {
        let good = json!({"device": "Gpu", "reason": "NVIDIA H200 can be used", "checks": [
            check("driver version", "Passed", "580.65.06; CUDA 13.0 needs 580.65.06 or newer"),
            check("driver library", "Passed", "libcuda for CUDA 13.0"), check("clocks", "Noted", "slowed down for heat"),
        ]});
        assert_eq!(
            of_report(&good),
            [
                Finding::good("driver", "580.65.06; CUDA 13.0 needs 580.65.06 or newer; libcuda for CUDA 13.0"),
                Finding::good("GPU", "NVIDIA H200 can be used"),
                Finding::noted("GPU", "slowed down for heat", "cure"),
            ]
        );
        let none = json!({"device": "Cpu", "reason": "there is none", "checks": [check("device files", "Failed", "there is none")]});
        assert_eq!(of_report(&none), [Finding::noted("GPU", "jobs run on CPUs here: there is none", "cure")]);
        let broken = json!({"device": null, "reason": "it is broken", "checks": [check("driver library", "Failed", "it is broken")]});
        assert_eq!(of_report(&broken), [Finding::bad("GPU", "it is broken", "cure")]);
    }

    #[test]
    fn a_trainer_that_is_missing_is_noted_and_one_that_breaks_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let trainer = folder.path().join("trainer");
        assert_eq!(look(Some(&trainer))[0].verdict, Verdict::Noted);
        fs::write(&trainer, "#!/bin/sh\necho not JSON\nexit 70\n").unwrap();
        fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755)).unwrap();
        let found = look(Some(&trainer));
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Bad));
        assert!(found[0].seen.ends_with("its preflight ends with exit status: 70 and no report"), "{found:?}");
        let said = "trainer: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file";
        fs::write(&trainer, format!("#!/bin/sh\necho '{said}' >&2\nexit 127\n")).unwrap();
        let found = look(Some(&trainer)).remove(0);
        assert!(found.seen.ends_with(&format!("exit status: 127 and no report: {said}")), "{found:?}");
        assert!(found.cure.starts_with("lay libtorch's libraries into ../lib"), "{found:?}");
    }
}
