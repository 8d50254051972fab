//! How well classes are told from all others at every threshold.

use askama::Template;
use crds::training::ThresholdBy;

use super::plot::{Axis, Chart, Line, Unit};
use super::text;
use crate::metrics::{Evaluation, Summary, Threshold};

/// Curves in the chart at most: more can't be told apart.
const MOST_CURVES: usize = 5;
/// Points of a curve at most.
const MOST_POINTS: usize = 200;

struct Area {
    name: String,
    style: usize,
    value: String,
}

/// The threshold, for people.
struct Decision {
    name: String,
    probability: String,
    found: String,
    mistaken: String,
    precision: String,
    f1: String,
    by: &'static str,
}

#[derive(Template)]
#[template(path = "report/roc.html")]
struct Roc {
    chart: String,
    areas: Vec<Area>,
    chosen: Option<usize>,
    mean: Option<String>,
    threshold: Option<Decision>,
}

/// The section; `None` if no class has a curve.
///
/// # Errors
/// If a template can't be rendered.
pub(super) fn render(
    evaluation: &Evaluation,
    summary: &Summary,
    names: &[String],
) -> Result<Option<String>, askama::Error> {
    // With two classes one curve says it all: the other one is its mirror image.
    let candidates = if evaluation.classes() == 2 { 1..2 } else { 0..evaluation.classes() };
    let mut areas: Vec<(usize, f64)> =
        candidates.filter_map(|class| Some((class, summary.classes[class].auc?))).collect();
    let curves = areas.len();
    areas.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    areas.truncate(MOST_CURVES);
    let points = |class: usize| {
        let points = evaluation.curve(class).roc(MOST_POINTS);
        points.into_iter().map(|point| (point.false_positive_rate, point.true_positive_rate)).collect()
    };
    let mistaken = |threshold: &Threshold| (threshold.recall - threshold.youden).max(0.0);
    let lines = areas.iter().zip(1..).map(|((class, _), style)| Line {
        name: text::class_name(names, *class),
        style,
        points: points(*class),
    });
    let chart = Chart {
        title: "ROC".into(),
        lines: lines.collect(),
        x: Axis { name: "false positive rate", unit: Unit::Share, include: &[0.0, 1.0] },
        y: Axis { name: "", unit: Unit::Share, include: &[0.0, 1.0] },
        mark: summary
            .threshold
            .as_ref()
            .map(|threshold| (mistaken(threshold), threshold.recall, format!("p ≥ {:.3}", threshold.probability))),
        square: true,
    };
    let Some(chart) = chart.render()? else { return Ok(None) };
    let section = Roc {
        chart,
        areas: areas
            .iter()
            .zip(1..)
            .map(|((class, area), style)| Area {
                name: text::class_name(names, *class),
                style,
                value: format!("{area:.4}"),
            })
            .collect(),
        chosen: (curves > MOST_CURVES).then_some(curves),
        mean: summary.macro_auc.filter(|_| evaluation.classes() > 2).map(|mean| format!("{mean:.4}")),
        threshold: summary.threshold.map(|threshold| Decision {
            name: text::class_name(names, 1),
            probability: format!("{:.3}", threshold.probability),
            found: text::percent(threshold.recall),
            mistaken: text::percent(mistaken(&threshold)),
            precision: text::percent(threshold.precision),
            f1: text::percent(threshold.f1),
            by: match threshold.by {
                ThresholdBy::Youden => "the difference of the first two (Youden’s J)",
                ThresholdBy::F1 => "F1",
                ThresholdBy::Precision => "precision, with the recall that was asked for",
                ThresholdBy::Recall => "recall, with the precision that was asked for",
            },
        }),
    };
    section.render().map(Some)
}
