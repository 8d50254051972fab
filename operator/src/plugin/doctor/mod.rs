//! `trainyard doctor`: is what a person needs there, on this machine and in the cluster? Each thing that was looked at with
//! what was seen, and what to do where something is missing.

mod cluster;
mod machine;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::access::{Access, Format};
use super::paint::Paint;
use crate::placement::Table;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Look at this machine alone.
    #[arg(long)]
    local: bool,
    /// The trainer's executable. If absent: the one beside this executable, or on the PATH.
    #[arg(long, value_name = "PATH", env = "TRAINYARD_TRAINER")]
    trainer: Option<PathBuf>,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is as it should be.
    Good,
    /// Something works less well, or not for everybody.
    Noted,
    /// Something does not work.
    Bad,
    /// It was not looked at.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    seen: String,
    /// What to do; empty where nothing is to be done.
    cure: String,
}

impl Finding {
    fn good(what: &'static str, seen: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Good, seen: seen.into(), cure: String::new() }
    }

    fn skipped(what: &'static str, why: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Skipped, seen: why.into(), cure: String::new() }
    }

    fn noted(what: &'static str, seen: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Noted, seen: seen.into(), cure: cure.into() }
    }

    fn bad(what: &'static str, seen: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Bad, seen: seen.into(), cure: cure.into() }
    }
}

impl Doctor {
    /// Prints what was found; the exit code: 1 if something does not work.
    pub(crate) fn run(&self) -> u8 {
        let mut findings = machine::look(self.trainer.as_deref());
        if !self.local {
            findings.extend(cluster::look(&self.access));
        }
        self.output.print(&value(&findings), || text(&findings, Paint::of_stdout()));
        u8::from(findings.iter().any(|finding| finding.verdict == Verdict::Bad))
    }
}

fn value(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let mut one = json!({"check": finding.what, "result": format!("{:?}", finding.verdict), "seen": finding.seen});
        if !finding.cure.is_empty() {
            one["cure"] = json!(finding.cure);
        }
        one
    };
    findings.iter().map(one).collect()
}

/// A table, and below it what is to be done.
fn text(findings: &[Finding], paint: Paint) -> String {
    let mark = |verdict: Verdict| match verdict {
        Verdict::Good => "good",
        Verdict::Noted => "note",
        Verdict::Bad => "bad",
        Verdict::Skipped => "skipped",
    };
    let row = |one: &Finding| vec![one.what.to_owned(), mark(one.verdict).to_owned(), one.seen.clone()];
    let head = ["CHECK", "RESULT", "SEEN"].map(str::to_owned).to_vec();
    let mut text = Table { head, rows: findings.iter().map(row).collect() }.to_string();
    for one in findings.iter().filter(|one| !one.cure.is_empty()) {
        let what = if one.verdict == Verdict::Bad { paint.bad(one.what) } else { paint.odd(one.what) };
        text += &format!("\n{what}: {}\n", one.cure);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_look_and_the_cures_below() {
        let findings = [
            Finding::good("trainer", "/opt/trainer"),
            Finding::noted("GPU", "none", "run on CPUs"),
            Finding::bad("definitions", "they are missing", "trainyard crds | kubectl apply -f -"),
            Finding::skipped("rights", "the cluster can't be reached"),
        ];
        let expected = "\
CHECK         RESULT    SEEN
trainer       good      /opt/trainer
GPU           note      none
definitions   bad       they are missing
rights        skipped   the cluster can't be reached

GPU: run on CPUs

definitions: trainyard crds | kubectl apply -f -
";
        assert_eq!(text(&findings, Paint::PLAIN), expected);
        let told = value(&findings);
        assert_eq!(told[0], json!({"check": "trainer", "result": "Good", "seen": "/opt/trainer"}));
        assert_eq!(told[2]["cure"], "trainyard crds | kubectl apply -f -");
    }
}
