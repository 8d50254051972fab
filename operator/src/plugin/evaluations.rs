//! `trainyard evaluations`: how a model has done over time, from the history in its folder on this machine. `scored` has what a cluster
//! knows of a model of its own.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use crds::evaluation::{EvaluationRecord, FOLDER, is_record};
use crds::uri::{Scheme, Uri};
use serde_json::json;

use super::access::{Access, Format};
use super::error::PluginError;
use super::{job, scored};
use crate::placement::Table;

/// Lines of the plot.
const LINES: u32 = 6;
/// Evaluations that the plot shows at most: the last ones.
const COLUMNS: usize = 60;

/// Evaluations of a model.
#[derive(Debug, Args)]
pub(crate) struct Evaluations {
    /// The model's folder on this machine: a path, file:///path or pvc://CLAIM/path. tj/NAME and sj/NAME are jobs of the cluster: the
    /// figures of the ScoringJobs that judged the job's model.
    model: String,
    /// Folder of the state of jobs, and of claims, as trainyard run has it.
    #[arg(long, value_name = "DIR", default_value = ".trainyard")]
    state: PathBuf,
    /// Folder that pvc://CLAIM is on this machine.
    #[arg(long = "volume", value_name = "CLAIM=DIR", value_parser = crate::shell::volume)]
    volumes: Vec<(String, PathBuf)>,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Evaluations {
    /// Prints them; the exit code: 1 if there is no such model.
    pub(crate) fn run(&self) -> u8 {
        if job::is_named_by_kind(&self.model) {
            return self.access.with_job(&self.model, async |cluster| {
                let (model, judges) = scored::of(&cluster, &self.model).await?;
                let wide = self.output == Format::Wide;
                let people = || scored::text(&model, &judges, &cluster.namespace, wide);
                Ok(self.output.print(&scored::value(&model, &judges), people))
            });
        }
        match self.folder().and_then(|folder| read(&folder)) {
            Ok(records) => self.output.print(&json!(records), || text(&records, self.output == Format::Wide)),
            Err(error) => {
                eprintln!("{error}");
                error.exit_code()
            }
        }
    }

    /// The model's folder on this machine.
    fn folder(&self) -> Result<PathBuf, PluginError> {
        let refused = |text: String| Err(PluginError::Refused(text));
        if !self.model.contains("://") {
            return Ok(PathBuf::from(&self.model));
        }
        let uri = Uri::parse(&self.model).map_err(|fault| PluginError::Refused(fault.to_string()))?;
        let at = uri.authority();
        match uri.scheme() {
            Scheme::File => Ok(PathBuf::from(uri.path())),
            Scheme::Pvc => {
                let given = self.volumes.iter().find(|(claim, _)| claim == at).map(|(_, folder)| folder.clone());
                let claim = given.unwrap_or_else(|| self.state.join("volumes").join(at));
                Ok(claim.join(uri.path().trim_start_matches('/')))
            }
            Scheme::S3 | Scheme::Gs | Scheme::Az => refused(format!(
                "a bucket is not read from here. Fetch the history, then name the folder:\n{}",
                fetching(&uri)
            )),
            Scheme::Https => refused(format!(
                "https:// is not read from here: fetch the folder {FOLDER} of the model, and name the folder it is in"
            )),
        }
    }
}

/// The commands that fetch the history of a model in a store, and show it.
pub(super) fn fetching(model: &Uri) -> String {
    let (at, path) = (model.authority(), model.path().trim_matches('/'));
    let history = if path.is_empty() { FOLDER.to_owned() } else { format!("{path}/{FOLDER}") };
    let (fetch, folder) = match model.scheme() {
        Scheme::Gs => (format!("mkdir -p model\n  gcloud storage cp --recursive gs://{at}/{history} model"), "model"),
        // A batch keeps the names of the blobs.
        Scheme::Az => (
            format!(
                "mkdir -p model\n  az storage blob download-batch --account-name ... --source {at} --pattern \
                 '{history}/*' --destination model"
            ),
            &*format!("model/{path}"),
        ),
        _ => (format!("aws s3 cp --recursive s3://{at}/{history} model/{FOLDER}"), "model"),
    };
    format!("  {fetch}\n  trainyard evaluations {}", folder.trim_end_matches('/'))
}

/// The history in a model's folder, the oldest first. What is no record is told on the standard error and left out.
fn read(model: &Path) -> Result<Vec<EvaluationRecord>, PluginError> {
    let folder = model.join(FOLDER);
    let failed = |path: &Path, fault: &dyn std::fmt::Display| format!("can't read {}: {fault}", path.display());
    if !folder.exists() && model.join("model.json").exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).map_err(|fault| PluginError::Refused(failed(&folder, &fault)))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| is_record(&name.to_string_lossy())));
    let mut records = Vec::new();
    for path in paths {
        let record = fs::read(&path).map_err(|fault| failed(&path, &fault));
        match record.and_then(|text| serde_json::from_slice(&text).map_err(|fault| failed(&path, &fault))) {
            Ok(record) => records.push(record),
            Err(fault) => eprintln!("{fault}"),
        }
    }
    records.sort_by(|a: &EvaluationRecord, b| (&a.evaluated, &a.uid).cmp(&(&b.evaluated, &b.uid)));
    Ok(records)
}

fn text(records: &[EvaluationRecord], wide: bool) -> String {
    if records.is_empty() {
        return "No evaluation yet: a ScoringJob with evaluate adds one\n".to_owned();
    }
    let accuracies: Vec<f64> = records.iter().map(|record| record.figures.accuracy).collect();
    let span = match (records.first(), records.last()) {
        (Some(first), Some(last)) if records.len() > 1 => {
            format!("\nAccuracy from {} to {}\n{}", day(&first.evaluated), day(&last.evaluated), plot(&accuracies))
        }
        _ => String::new(),
    };
    format!("{}{span}", table(records, wide))
}

fn table(records: &[EvaluationRecord], wide: bool) -> Table {
    let mut head = vec!["EVALUATED", "JOB", "IMAGES", "ACCURACY", "CHANGE", "MACRO F1", "CALIBRATION", "SHIFT"];
    if wide {
        head.extend(["UNREADABLE", "LABEL SHIFT", "MODEL", "DATA"]);
    }
    let row = |record: &EvaluationRecord| {
        let (figures, drift) = (&record.figures, record.drift.as_ref());
        let of_drift = |show: fn(&crds::evaluation::Drift) -> String| drift.map(show).unwrap_or_default();
        let mut row = vec![
            record.evaluated.clone(),
            record.job.clone(),
            figures.count.to_string(),
            format!("{:.4}", figures.accuracy),
            of_drift(|drift| format!("{:+.4}", drift.accuracy)),
            format!("{:.4}", figures.macro_f1),
            format!("{:.4}", figures.calibration_error),
            of_drift(|drift| format!("{:.3}", drift.prediction_shift)),
        ];
        if wide {
            row.extend([
                record.unreadable.to_string(),
                of_drift(|drift| format!("{:.3}", drift.label_shift)),
                record.model_digest.chars().take("sha256:".len() + 12).collect(),
                record.data.clone(),
            ]);
        }
        row
    };
    Table { head: head.into_iter().map(str::to_owned).collect(), rows: records.iter().map(row).collect() }
}

/// Values as dots from left to right between the least and the largest, which stand at the left.
fn plot(values: &[f64]) -> String {
    let shown = &values[values.len().saturating_sub(COLUMNS)..];
    let least = shown.iter().copied().fold(f64::INFINITY, f64::min);
    let most = shown.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let height = |value: f64| least + (most - least) * value / f64::from(LINES - 1);
    // The line that is nearest; equal values lie on the lowest.
    let line_of =
        |value: f64| (1..LINES).filter(|line| most > least && value >= height(f64::from(*line) - 0.5)).count();
    let mut text = String::new();
    for (at, line) in (0..LINES).map(|line| (height(f64::from(line)), line)).rev() {
        let label = match line {
            0 => format!("{least:.4} ┤"),
            line if line == LINES - 1 && most > least => format!("{at:.4} ┤"),
            _ => "       │".to_owned(),
        };
        let dot = |value: &f64| if u32::try_from(line_of(*value)) == Ok(line) { '●' } else { ' ' };
        let dots: String = shown.iter().map(dot).collect();
        text.push_str(format!("{label} {dots}").trim_end());
        text.push('\n');
    }
    text
}

fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use crds::evaluation::{Drift, EvaluationFigures};

    use super::*;

    fn record(day: u32, accuracy: f64) -> EvaluationRecord {
        let figures = EvaluationFigures { count: 40, accuracy, macro_f1: 0.5, ..EvaluationFigures::default() };
        EvaluationRecord {
            version: 1,
            evaluated: format!("2026-11-{day:02}T08:00:00Z"),
            job: "ScoringJob default/new".to_owned(),
            uid: format!("uid-{day}"),
            model_digest: "sha256:0123456789abcdef".to_owned(),
            data: "file:///new".to_owned(),
            inputs_digest: "sha256:1".to_owned(),
            output: "file:///out".to_owned(),
            images: 41,
            unreadable: 1,
            figures,
            drift: Some(Drift {
                at_training: EvaluationFigures { accuracy: 0.9, ..figures },
                accuracy: accuracy - 0.9,
                macro_f1: 0.0,
                loss: 0.0,
                calibration_error: 0.0,
                prediction_shift: 0.125,
                label_shift: 0.5,
                classes: Vec::new(),
            }),
        }
    }

    fn typed(model: &str) -> Evaluations {
        Evaluations {
            model: model.to_owned(),
            state: PathBuf::from(".trainyard"),
            volumes: vec![("models".to_owned(), PathBuf::from("/mnt/models"))],
            output: Format::Table,
            access: Access::default(),
        }
    }

    #[test]
    fn a_model_is_found_as_trainyard_run_finds_it() {
        for (model, folder) in [
            ("models/flowers", "models/flowers"),
            ("file:///models/flowers", "/models/flowers"),
            ("pvc://models/flowers", "/mnt/models/flowers"),
            ("pvc://other/flowers/", ".trainyard/volumes/other/flowers/"),
        ] {
            assert_eq!(typed(model).folder().expect(model), PathBuf::from(folder));
        }
        for (model, command, shown) in [
            ("s3://bucket/a/b/", "aws s3 cp --recursive s3://bucket/a/b/evaluations model/evaluations", "model"),
            ("gs://bucket/a/b", "gcloud storage cp --recursive gs://bucket/a/b/evaluations model", "model"),
            ("az://box/a/b", "--source box --pattern 'a/b/evaluations/*' --destination model", "model/a/b"),
            ("az://box", "--source box --pattern 'evaluations/*' --destination model", "model"),
        ] {
            let fault = typed(model).folder().expect_err("a bucket").to_string();
            assert!(fault.contains(command), "{fault}");
            assert!(fault.ends_with(&format!("\n  trainyard evaluations {shown}")), "{fault}");
        }
    }

    #[test]
    fn the_history_is_read_in_the_order_of_time_and_what_is_no_record_is_left_out() {
        let model = tempfile::tempdir().expect("a folder");
        assert!(read(model.path()).is_err(), "no model is there");
        fs::write(model.path().join("model.json"), "{}").expect("a file");
        assert_eq!(read(model.path()).expect("a model without a history"), []);
        let folder = model.path().join(FOLDER);
        fs::create_dir(&folder).expect("a folder");
        let records = [record(1, 0.9), record(2, 0.7)];
        for record in records.iter().rev() {
            fs::write(folder.join(record.file_name()), json!(record).to_string()).expect("a file");
        }
        fs::write(folder.join(".torn.json.staged-1"), "{").expect("a file");
        fs::write(folder.join("torn.json"), "{").expect("a file");
        assert_eq!(read(model.path()).expect("a history"), records);
    }

    #[test]
    fn people_see_a_table_and_a_plot() {
        let shown = text(&[record(1, 0.9), record(2, 0.8), record(3, 0.4)], false);
        let expected = "\
EVALUATED              JOB                      IMAGES   ACCURACY   CHANGE    MACRO F1   CALIBRATION   SHIFT
2026-11-01T08:00:00Z   ScoringJob default/new   40       0.9000     +0.0000   0.5000     0.0000        0.125
2026-11-02T08:00:00Z   ScoringJob default/new   40       0.8000     -0.1000   0.5000     0.0000        0.125
2026-11-03T08:00:00Z   ScoringJob default/new   40       0.4000     -0.5000   0.5000     0.0000        0.125

Accuracy from 2026-11-01 to 2026-11-03
0.9000 ┤ ●
       │  ●
       │
       │
       │
0.4000 ┤   ●
";
        assert_eq!(shown, expected);
        assert_eq!(text(&[], false), "No evaluation yet: a ScoringJob with evaluate adds one\n");
        let wide = text(&[record(1, 0.9)], true);
        assert!(wide.ends_with("1            0.500         sha256:0123456789ab   file:///new\n"), "{wide}");
    }

    #[test]
    fn equal_values_lie_on_one_line() {
        assert_eq!(plot(&[0.5, 0.5]).lines().last(), Some("0.5000 ┤ ●●"));
        assert_eq!(plot(&[0.5; 100]).lines().last().map(|line| line.chars().count()), Some(69));
    }
}
