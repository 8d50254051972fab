//! Whether the model is as often right as it is sure.

use askama::Template;

use super::plot::{Axis, Chart, Line, Unit};
use super::text;
use crate::metrics::Summary;

/// Expected calibration error from which on it is said which way the model errs.
const WORTH_A_WORD: f64 = 0.02;

struct Bin {
    confidence: String,
    accuracy: String,
    count: String,
}

#[derive(Template)]
#[template(path = "report/calibration.html")]
struct Calibration {
    chart: String,
    error: String,
    brier: String,
    /// `surer than it is right` or the other way round; none if it is neither.
    verdict: Option<&'static str>,
    bins: Vec<Bin>,
}

/// The section; `None` if nothing was predicted.
///
/// # Errors
/// If a template can't be rendered.
pub(super) fn render(summary: &Summary) -> Result<Option<String>, askama::Error> {
    let points = summary.reliability.iter().map(|bin| (bin.confidence, bin.accuracy)).collect();
    let axis = |name| Axis { name, unit: Unit::Share, include: &[0.0, 1.0] };
    let chart = Chart {
        title: "Right, of those as sure".into(),
        lines: vec![Line { name: "images".into(), style: 1, points }],
        x: axis("how sure"),
        y: axis(""),
        mark: None,
        square: true,
    };
    let Some(chart) = chart.render()? else { return Ok(None) };
    let sure: f64 = summary.reliability.iter().map(|bin| bin.count as f64 * bin.confidence).sum();
    let verdict = match sure / summary.count.max(1) as f64 - summary.accuracy {
        more if more >= WORTH_A_WORD => Some("surer than it is right"),
        less if less <= -WORTH_A_WORD => Some("right more often than it is sure"),
        _ => None,
    };
    let bins = summary.reliability.iter().map(|bin| Bin {
        confidence: text::percent(bin.confidence),
        accuracy: text::percent(bin.accuracy),
        count: text::count(bin.count),
    });
    let section = Calibration {
        chart,
        error: text::percent(summary.calibration_error),
        brier: format!("{:.4}", summary.brier_score),
        verdict,
        bins: bins.collect(),
    };
    section.render().map(Some)
}
