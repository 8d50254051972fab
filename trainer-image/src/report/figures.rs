//! The figures at the top of the page, and how they compare with those of the model before.

use askama::Template;

use super::text;
use super::{Previous, Relation, Report};
use crate::metrics::Summary;

struct Tile {
    name: &'static str,
    value: String,
    note: String,
    main: bool,
}

struct Change {
    name: &'static str,
    before: String,
    now: String,
    difference: String,
    /// `better`, `worse` or `same`: a class in `report.css` and a word for those who see no colour.
    verdict: &'static str,
}

struct Comparison {
    title: &'static str,
    /// A sentence before the name, which ends it.
    lead: &'static str,
    name: String,
    same_images: bool,
    changes: Vec<Change>,
}

#[derive(Template)]
#[template(path = "report/figures.html")]
struct Figures {
    tiles: Vec<Tile>,
    comparison: Option<Comparison>,
}

/// The section; `None` if nothing is known.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn render(report: &Report<'_>, summary: Option<&Summary>) -> Result<Option<String>, askama::Error> {
    let mut tiles = summary.map(|summary| evaluation_tiles(summary, report.evaluated_on)).unwrap_or_default();
    if let Some(history) = report.history.filter(|history| !history.epochs.is_empty()) {
        let images: f64 = history.epochs.iter().map(|epoch| epoch.images_per_second).sum();
        let rate = images / history.epochs.len() as f64;
        let epochs = history.epochs.len();
        tiles.push(Tile {
            name: "Training",
            value: text::duration(history.seconds()),
            note: format!(
                "{epochs} epoch{}, {} images/s",
                if epochs == 1 { "" } else { "s" },
                text::count(rate as u64)
            ),
            main: false,
        });
    }
    let comparison = report.previous.zip(summary).map(|(previous, summary)| compare(&previous, summary));
    if tiles.is_empty() { Ok(None) } else { Figures { tiles, comparison }.render().map(Some) }
}

fn evaluation_tiles(summary: &Summary, evaluated_on: &str) -> Vec<Tile> {
    let (low, high) = wilson(summary.accuracy, summary.count);
    let tile = |name, value, note: &str| Tile { name, value, note: note.into(), main: false };
    let mut tiles = vec![Tile {
        name: "Accuracy",
        value: text::percent(summary.accuracy),
        note: format!(
            "of {} {}; 95 % interval {} to {}",
            text::count(summary.count),
            text::clean(evaluated_on),
            text::percent(low),
            text::percent(high)
        ),
        main: true,
    }];
    if let Some(top5) = summary.top5_accuracy {
        tiles.push(tile("Top 5", text::percent(top5), "right class among the five most probable"));
    }
    tiles.push(tile("Macro F1", text::percent(summary.macro_average.f1), "every class counts the same"));
    if let Some(auc) = summary.macro_auc {
        tiles.push(tile("ROC AUC", format!("{auc:.4}"), "mean area under the curves"));
    }
    if let Some(precision) = summary.macro_average_precision {
        tiles.push(tile("Average precision", format!("{precision:.4}"), "mean of the classes"));
    }
    tiles.push(tile(
        "Calibration error",
        text::percent(summary.calibration_error),
        "between how sure and how often right",
    ));
    tiles.push(tile("Loss", text::number(summary.loss), "mean negative log-likelihood"));
    tiles
}

/// The 95 % score interval of a share (Wilson 1927, <https://doi.org/10.1080/01621459.1927.10502953>): unlike the normal
/// approximation it holds near 1 and for few images.
fn wilson(share: f64, count: u64) -> (f64, f64) {
    const Z: f64 = 1.959963984540054;
    let count = count as f64;
    let centre = share + Z * Z / (2.0 * count);
    let margin = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 1.0 + Z * Z / count;
    (((centre - margin) / scale).max(0.0), ((centre + margin) / scale).min(1.0))
}

fn compare(previous: &Previous<'_>, now: &Summary) -> Comparison {
    let before = previous.summary;
    let share = |name, before: f64, now: f64| {
        let points = (now - before) * 100.0;
        let difference = format!("{points:+.2}");
        (name, text::percent(before), text::percent(now), difference, points)
    };
    let mut rows = vec![share("Accuracy", before.accuracy, now.accuracy)];
    if let (Some(before), Some(now)) = (before.top5_accuracy, now.top5_accuracy) {
        rows.push(share("Top 5", before, now));
    }
    rows.push(share("Macro F1", before.macro_average.f1, now.macro_average.f1));
    if let (Some(before), Some(now)) = (before.macro_auc, now.macro_auc) {
        rows.push((
            "ROC AUC",
            format!("{before:.4}"),
            format!("{now:.4}"),
            format!("{:+.4}", now - before),
            now - before,
        ));
    }
    if let (Some(before), Some(now)) = (before.macro_average_precision, now.macro_average_precision) {
        rows.push((
            "Average precision",
            format!("{before:.4}"),
            format!("{now:.4}"),
            format!("{:+.4}", now - before),
            now - before,
        ));
    }
    for (name, before, now) in [("Brier score", before.brier_score, now.brier_score), ("Loss", before.loss, now.loss)] {
        let more = now - before;
        rows.push((name, text::number(before), text::number(now), format!("{more:+.4}"), -more));
    }
    let (error_before, error) = (before.calibration_error, now.calibration_error);
    let points = (error - error_before) * 100.0;
    rows.push((
        "Calibration error",
        text::percent(error_before),
        text::percent(error),
        format!("{points:+.2}"),
        -points,
    ));
    let changes = rows.into_iter().map(|(name, before, now, difference, gain)| Change {
        name,
        before,
        now,
        difference,
        verdict: if gain.abs() < 5e-5 {
            "same"
        } else if gain > 0.0 {
            "better"
        } else {
            "worse"
        },
    });
    let (title, lead) = match previous.relation {
        Relation::Parent => ("Compared with the model before", "Retrained from"),
        Relation::Training => ("Compared with its training", "Trained by"),
    };
    let (name, same_images) = (text::clean(previous.name), previous.same_images);
    Comparison { title, lead, name, same_images, changes: changes.collect() }
}
