//! The page around the sections: head, navigation, facts of the run.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{FactGroup, Report, calibration, classes, curves, figures, findings, roc, text, time, wrong};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
/// Facts of a group, and groups, at most.
const MOST_FACTS: usize = 100;

#[derive(Template)]
#[template(path = "report/page.html")]
struct Page {
    kind: String,
    title: String,
    lead: String,
    finished: String,
    version: &'static str,
    style: &'static str,
    script: &'static str,
    /// The policy names the script by its digest: nothing else that got into the page would run.
    script_digest: String,
    navigation: Vec<(&'static str, &'static str)>,
    sections: Vec<String>,
    facts: Vec<FactGroup>,
}

/// See [`super::render`].
pub(super) fn render(report: &Report<'_>) -> Result<String, askama::Error> {
    let names = report.classes;
    let mut summary = report.evaluation.and_then(|evaluation| evaluation.summary());
    if let Some(summary) = &mut summary {
        summary.threshold = report.threshold.or(summary.threshold);
    }
    let evaluated = report.evaluation.zip(summary.as_ref());
    let all = [
        ("figures", "", figures::render(report, summary.as_ref())?),
        ("findings", "Data", findings::render(&report.findings)?),
        (
            "curves",
            "Course",
            report.history.map(|history| curves::render(history, &report.learning_rates)).transpose()?.flatten(),
        ),
        (
            "confusion",
            "Confusion",
            evaluated.map(|(evaluation, summary)| classes::confusion(evaluation, summary, names)).transpose()?,
        ),
        ("wrong", "Wrong images", wrong::render(&report.wrong, names)?),
        ("classes", "Classes", evaluated.map(|(_, summary)| classes::figures(summary, names)).transpose()?),
        (
            "roc",
            "ROC",
            evaluated.map(|(evaluation, summary)| roc::render(evaluation, summary, names)).transpose()?.flatten(),
        ),
        ("calibration", "Calibration", summary.as_ref().map(calibration::render).transpose()?.flatten()),
        ("time", "Time", report.history.map(time::render).transpose()?.flatten()),
    ];
    let facts: Vec<FactGroup> =
        report.facts.iter().filter(|group| !group.facts.is_empty()).take(MOST_FACTS).map(shown).collect();
    let mut navigation: Vec<_> = all
        .iter()
        .filter(|(_, name, section)| section.is_some() && !name.is_empty())
        .map(|(id, name, _)| (*id, *name))
        .collect();
    if !facts.is_empty() {
        navigation.push(("facts", "Facts"));
    }
    let page = Page {
        kind: text::clean(report.kind),
        title: text::clean(report.title),
        lead: text::long(report.lead),
        finished: text::clean(report.finished),
        version: env!("CARGO_PKG_VERSION"),
        style: STYLE,
        script: SCRIPT,
        script_digest: STANDARD.encode(Sha256::digest(SCRIPT)),
        navigation,
        sections: all.into_iter().filter_map(|(_, _, section)| section).collect(),
        facts,
    };
    page.render()
}

fn shown(group: &FactGroup) -> FactGroup {
    FactGroup {
        title: text::clean(&group.title),
        facts: group
            .facts
            .iter()
            .take(MOST_FACTS)
            .map(|(name, value)| (text::clean(name), text::long(value)))
            .collect(),
    }
}
