//! Where a job of this machine has left its traces: for whoever asks a cluster for it.

use std::path::Path;

use serde_json::Value;

use super::folder;

/// Where status, events, logs and report lie of the jobs of this name that were run here; empty if none was.
pub fn traces(state: &Path, name: &str) -> String {
    let jobs = folder::of_name(state, name).into_iter();
    jobs.map(|(kind, path)| {
        let status: Value = folder::read_status(&path).ok().flatten().unwrap_or_default();
        let folder = ["/model/uri", "/output/uri"].iter().find_map(|uri| status.pointer(uri)?.as_str());
        let report = folder.and_then(|uri| uri.strip_prefix("file://")).map(|path| Path::new(path).join("report.html"));
        let report = report.filter(|report| report.is_file());
        let report = report.map_or(String::new(), |report| format!("; its report is {}", report.display()));
        let path = path.display();
        format!("The {kind} {name} was run on this machine: {path} has status.json, events.log and its logs in attempts/{report}\n")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_job_that_was_run_here_is_found_by_its_name() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(traces(state.path(), "a"), "");
        let model = state.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("report.html"), "").unwrap();
        let jobs = state.path().join("jobs");
        for name in ["local.TrainingJob.a", "local.TrainingJob.a.old-1", "local.TrainingJob.b", "n.ScoringJob.a"] {
            fs::create_dir_all(jobs.join(name)).unwrap();
        }
        let status = serde_json::json!({"model": {"uri": format!("file://{}", model.display())}});
        fs::write(jobs.join("local.TrainingJob.a/status.json"), status.to_string()).unwrap();
        let (jobs, model) = (jobs.display(), model.display());
        let has = "has status.json, events.log and its logs in attempts/";
        let expected = format!(
            "The ScoringJob a was run on this machine: {jobs}/n.ScoringJob.a {has}\n\
             The TrainingJob a was run on this machine: {jobs}/local.TrainingJob.a {has}; its report is {model}/report.html\n"
        );
        assert_eq!(traces(state.path(), "a"), expected);
    }
}
