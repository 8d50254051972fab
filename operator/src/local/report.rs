//! What is said at the end of a run, and the exit code.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crds::contract::JobResult;
use crds::status::Phase;

use super::folder::{JobFolder, Memory};
use crate::observe::{FinalReason, MemberId};

/// Lines of a failed member's log that are shown.
const LINES: usize = 20;
/// Bytes of it that are looked at.
const BYTES: u64 = 16 * 1024;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code: 0 if the job is done, the cause's if it failed, 130 (143) if it was stopped by Ctrl-C (SIGTERM).
    pub exit_code: u8,
    /// What to print.
    pub text: String,
    /// Whether the job is done, so that the next one may begin.
    pub done: bool,
}

/// How a run ended, from what its job remembers. `stopped_by` is the signal that stopped it; `again` the command that goes on.
pub(crate) fn outcome(
    title: &str,
    memory: &Memory,
    folder: &JobFolder,
    stopped_by: Option<i32>,
    again: &str,
) -> Outcome {
    let ledger = &memory.ledger;
    match (ledger.phase, &ledger.failure) {
        (Phase::Succeeded, _) => Outcome { exit_code: 0, text: done(title, ledger.result.as_ref()), done: true },
        (Phase::Failed, Some((reason, failure))) => {
            let ended = ledger.attempts.iter().rfind(|attempt| attempt.failure.member == failure.member);
            let attempt = ended.map_or(ledger.attempt, |attempt| attempt.number);
            let log = folder.log(MemberId { attempt, index: failure.member });
            let mut text = format!("{title} failed: {}\n", ledger.message);
            let tail = if *reason == FinalReason::DeadlineExceeded { String::new() } else { tail(&log) };
            if !tail.is_empty() {
                let _ = write!(text, "The end of its log ({}):\n{tail}", log.display());
            }
            let exit_code = u8::try_from(failure.cause.exit_code()).unwrap_or(1);
            Outcome { exit_code, text: text.trim_end().to_owned(), done: false }
        }
        _ => {
            let mut text = format!("{title}: {}", ledger.message);
            if stopped_by.is_some() {
                let _ = write!(text, "\nGo on with:\n  {again}");
            }
            let exit_code = stopped_by.map_or(0, |signal| u8::try_from(128 + signal).unwrap_or(130));
            Outcome { exit_code, text, done: false }
        }
    }
}

/// What a job that is done has left behind.
fn done(title: &str, result: Option<&JobResult>) -> String {
    let mut text = format!("{title} is done");
    let Some(result) = result else { return text };
    let folder = result.uri.strip_prefix("file://").unwrap_or(&result.uri);
    let mut line = |name: &str, value: String| {
        let _ = write!(text, "\n  {name:<10} {value}");
    };
    if let Some(metric) = result.metric {
        line(result.metric_name.as_deref().unwrap_or("metric"), format!("{metric:.4}"));
    }
    for (name, rows) in [("rows in", result.rows_in), ("rows out", result.rows_out), ("failed", result.rows_failed)] {
        if let Some(rows) = rows {
            line(name, rows.to_string());
        }
    }
    line(if result.rows_in.is_some() { "rows" } else { "model" }, folder.to_owned());
    let report = Path::new(folder).join("report.html");
    if report.is_file() {
        line("report", report.display().to_string());
    }
    if let Some(note) = &result.note {
        line("note", note.clone());
    }
    text
}

/// The last lines of a log, indented.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().fold(String::new(), |text, line| text + "  " + line + "\n")
}
