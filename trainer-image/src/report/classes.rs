//! Which classes are recognised and which are taken for which: the confusion matrix while it can be read, the most
//! confused pairs always, and the figures of each class.

use askama::Template;

use super::text;
use crate::metrics::{Averages, Evaluation, Summary};

/// Classes up to which the matrix is drawn: more can't be read, on a phone least of all.
const LARGEST_MATRIX: usize = 24;
/// Confused pairs in the list at most, beside the matrix and without it.
const MOST_PAIRS: [usize; 2] = [8, 25];
/// Classes in the table at most: the weakest.
const MOST_ROWS: usize = 1000;

struct Cell {
    count: String,
    /// How strongly it is coloured, 0 to 100.
    heat: u32,
    right: bool,
    title: String,
}

struct MatrixRow {
    name: String,
    cells: Vec<Cell>,
}

struct Pair {
    label: String,
    predicted: String,
    count: String,
    share: String,
}

#[derive(Template)]
#[template(path = "report/confusion.html")]
struct Matrix {
    names: Vec<String>,
    /// The names are too long to stand side by side.
    upright: bool,
    /// The names are short enough for a narrow first column.
    short: bool,
    rows: Vec<MatrixRow>,
    pairs: Vec<Pair>,
    wrong: String,
    all: String,
    too_large: bool,
}

/// The section with matrix and confused pairs.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn confusion(evaluation: &Evaluation, summary: &Summary, names: &[String]) -> Result<String, askama::Error> {
    let size = evaluation.classes();
    let too_large = size > LARGEST_MATRIX;
    let shown = if too_large { 0 } else { size };
    let names: Vec<String> = (0..size).map(|class| text::class_name(names, class)).collect();
    let cell = |label: usize, predicted: usize| {
        let count = evaluation.confused(label, predicted);
        let support = summary.classes[label].support;
        let share = if support == 0 { 0.0 } else { count as f64 / support as f64 };
        let right = label == predicted;
        // One image of a hundred is worth seeing among the mistakes: the root lifts small shares.
        let heat = if right { share } else { share.sqrt() };
        Cell {
            count: if count == 0 { String::new() } else { text::count(count) },
            heat: (heat * 100.0).round() as u32,
            right,
            title: format!(
                "{} of {} “{}” taken for “{}”",
                text::count(count),
                text::count(support),
                names[label],
                names[predicted]
            ),
        }
    };
    let short = names.iter().all(|name| name.chars().count() <= 3);
    let rows = (0..shown).map(|label| MatrixRow {
        name: names[label].clone(),
        cells: (0..shown).map(|predicted| cell(label, predicted)).collect(),
    });
    let pairs = summary.confusions.iter().take(MOST_PAIRS[usize::from(too_large)]).map(|pair| Pair {
        label: names[pair.label].clone(),
        predicted: names[pair.predicted].clone(),
        count: text::count(pair.count),
        share: text::percent(pair.count as f64 / summary.classes[pair.label].support as f64),
    });
    let right: u64 = (0..size).map(|class| evaluation.confused(class, class)).sum();
    let matrix = Matrix {
        rows: rows.collect(),
        pairs: pairs.collect(),
        upright: !short && size > 4,
        short,
        names,
        wrong: text::count(summary.count - right),
        all: text::count(summary.count),
        too_large,
    };
    matrix.render()
}

struct Figure {
    /// As the script sorts it.
    value: f64,
    text: String,
    /// Length of the bar behind it, 0 to 100.
    bar: u32,
}

struct ClassRow {
    name: String,
    support: u64,
    support_text: String,
    figures: Vec<Figure>,
    /// Areas under the ROC curve and under the curve of precision over recall.
    areas: [Option<Figure>; 2],
}

struct Mean {
    name: &'static str,
    note: &'static str,
    figures: [String; 3],
    areas: [String; 2],
}

#[derive(Template)]
#[template(path = "report/classes.html")]
struct Classes {
    rows: Vec<ClassRow>,
    means: Vec<Mean>,
    left_out: usize,
    weakest_first: bool,
}

/// The section with the figures of each class: in the order of the classes while the matrix is, the weakest first beyond.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn figures(summary: &Summary, names: &[String]) -> Result<String, askama::Error> {
    let mut order: Vec<usize> = (0..summary.classes.len()).collect();
    let weakest_first = order.len() > LARGEST_MATRIX;
    if weakest_first {
        order.sort_by(|a, b| summary.classes[*a].f1.total_cmp(&summary.classes[*b].f1));
    }
    let left_out = order.len().saturating_sub(MOST_ROWS);
    order.truncate(MOST_ROWS);
    let figure = |value: f64, text: String| Figure { value, text, bar: (value * 100.0).round() as u32 };
    let rows = order.into_iter().map(|class| {
        let figures = summary.classes[class];
        ClassRow {
            name: text::class_name(names, class),
            support: figures.support,
            support_text: text::count(figures.support),
            figures: [figures.precision, figures.recall, figures.f1]
                .map(|value| figure(value, text::percent(value).trim_end_matches("\u{a0}%").to_string()))
                .into(),
            areas: [figures.auc, figures.average_precision]
                .map(|area| area.map(|area| figure(area, format!("{area:.3}")))),
        }
    });
    let percent = |value: f64| text::percent(value).trim_end_matches("\u{a0}%").to_string();
    let area = |mean: Option<f64>| mean.map_or_else(|| "–".into(), |mean| format!("{mean:.3}"));
    let mean = |name, note, average: Averages, areas: [String; 2]| Mean {
        name,
        note,
        figures: [average.precision, average.recall, average.f1].map(percent),
        areas,
    };
    let areas = [area(summary.macro_auc), area(summary.macro_average_precision)];
    let means = vec![
        mean("Mean of the classes", "macro: every class counts the same", summary.macro_average, areas),
        mean(
            "Mean of the images",
            "weighted: a class counts as often as it has images",
            summary.weighted_average,
            ["–".into(), "–".into()],
        ),
    ];
    Classes { rows: rows.collect(), means, left_out, weakest_first }.render()
}
