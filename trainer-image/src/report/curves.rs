//! The course of the training: loss, accuracy, learning rate, speed, and the same as a table.

use askama::Template;

use super::plot::{Axis, Chart, Line, Unit};
use super::text;
use crate::metrics::{Epoch, History};

/// Epochs in the table at most: the last ones.
const MOST_ROWS: usize = 300;

struct Row {
    cells: Vec<String>,
    best: bool,
}

#[derive(Template)]
#[template(path = "report/curves.html")]
struct Curves {
    charts: Vec<String>,
    validated: bool,
    rows: Vec<Row>,
    left_out: usize,
    best: Option<String>,
}

/// The section; `None` before the first epoch has ended.
///
/// # Errors
/// If a template can't be rendered.
pub(super) fn render(history: &History, learning_rates: &[(f64, f64)]) -> Result<Option<String>, askama::Error> {
    let epochs = &history.epochs;
    let Some(best) = history.best() else { return Ok(None) };
    let line = |name: &str, style, value: &dyn Fn(&Epoch) -> Option<f64>| Line {
        name: name.into(),
        style,
        points: epochs.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), value(epoch)?))).collect(),
    };
    let chart = |title: &str, y: Axis, lines: Vec<Line>, mark: Option<f64>| Chart {
        title: title.into(),
        lines,
        x: Axis { name: "epoch", unit: Unit::Whole, include: &[] },
        y,
        mark: mark.map(|value| (f64::from(best.epoch), value, "best".into())),
        square: false,
    };
    let axis = |unit, include| Axis { name: "", unit, include };
    let validated = best.validation_accuracy.is_some();
    let several = epochs.len() > 1;
    let charts = [
        chart(
            "Loss",
            axis(Unit::Number, &[0.0]),
            vec![
                line("training", 1, &|epoch| Some(epoch.train_loss)),
                line("validation", 2, &|epoch| epoch.validation_loss),
            ],
            best.validation_loss.filter(|_| several),
        ),
        chart(
            "Accuracy",
            axis(Unit::Share, &[1.0]),
            vec![
                line("training", 1, &|epoch| epoch.train_accuracy),
                line("validation", 2, &|epoch| epoch.validation_accuracy),
            ],
            best.validation_accuracy.filter(|_| several),
        ),
        chart(
            "Learning rate",
            axis(Unit::Number, &[0.0]),
            vec![match learning_rates {
                [] => line("at the end of the epoch", 3, &|epoch| Some(epoch.learning_rate)),
                steps => Line { name: "by step".into(), style: 3, points: steps.to_vec() },
            }],
            None,
        ),
        chart(
            "Images per second",
            axis(Unit::Number, &[0.0]),
            vec![line("training, all processes", 4, &|epoch| Some(epoch.images_per_second))],
            None,
        ),
    ];
    let mut drawn = Vec::new();
    for chart in charts {
        drawn.extend(chart.render()?);
    }
    let left_out = epochs.len().saturating_sub(MOST_ROWS);
    let share = |value: Option<f64>| value.map_or_else(|| "–".into(), text::percent);
    let rows = epochs[left_out..].iter().map(|epoch| Row {
        best: several && epoch.epoch == best.epoch,
        cells: vec![
            epoch.epoch.to_string(),
            text::count(epoch.steps),
            text::number(epoch.train_loss),
            share(epoch.train_accuracy),
            epoch.validation_loss.map_or_else(|| "–".into(), text::number),
            share(epoch.validation_accuracy),
            text::number(epoch.learning_rate),
            text::number(epoch.images_per_second.round()),
            text::duration(epoch.seconds),
        ],
    });
    let sentence = best.validation_accuracy.filter(|_| several).map(|accuracy| {
        format!(
            "Best after epoch {} of {}: {} of the validation images right.",
            best.epoch,
            epochs.len(),
            text::percent(accuracy)
        )
    });
    let section = Curves { charts: drawn, validated, rows: rows.collect(), left_out, best: sentence };
    section.render().map(Some)
}
