//! One line chart. The lines are an SVG that stretches to any width without thickening; the labels are HTML, so that
//! they are as legible on a phone as on a desktop. A script shows values at the pointer; without it nothing is missing but that.

use askama::Template;
use serde::Serialize;

/// Points of a line at most.
const MOST_POINTS: usize = 400;

/// How the values of an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number.
    Number,
    /// A share, as a percentage.
    Share,
    /// A whole number.
    Whole,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Unit::Share => super::text::percent(value),
            Unit::Number => super::text::number(value),
            Unit::Whole => format!("{value:.0}"),
        }
    }

    /// A value on an axis whose steps are `step` wide.
    fn tick(self, value: f64, step: f64) -> String {
        let decimals = |step: f64| (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        match self {
            Unit::Whole => format!("{value:.0}"),
            Unit::Share => format!("{:.*}\u{a0}%", decimals(step * 100.0), value * 100.0),
            Unit::Number if !(1e-4..1e6).contains(&step) => super::text::number(value),
            Unit::Number => format!("{value:.*}", decimals(step)),
        }
    }
}

/// A line to draw.
pub(super) struct Line {
    /// What it is, in the legend.
    pub(super) name: String,
    /// Its style: 1 to 5, in `report.css`.
    pub(super) style: u8,
    /// Its points, by rising x.
    pub(super) points: Vec<(f64, f64)>,
}

/// What an axis shows.
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// Values that are always on it.
    pub(super) include: &'static [f64],
}

/// A chart to draw.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// A point to mark, and what to call it.
    pub(super) mark: Option<(f64, f64, String)>,
    /// Draws the diagonal (chance, in a ROC curve) and makes the chart square.
    pub(super) square: bool,
}

struct Tick {
    at: String,
    text: String,
}

struct DrawnLine {
    name: String,
    style: u8,
    path: String,
    last: String,
}

/// What the script needs to show values at the pointer.
#[derive(Serialize)]
struct Values {
    x: String,
    lines: Vec<LineValues>,
}

#[derive(Serialize)]
struct LineValues {
    name: String,
    style: u8,
    /// For each point: position (percent from the left, percent from the top), text of x, text of y.
    points: Vec<(f64, f64, String, String)>,
}

#[derive(Template)]
#[template(path = "report/plot.html")]
struct Drawn {
    title: String,
    description: String,
    x_name: &'static str,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    lines: Vec<DrawnLine>,
    mark: Option<(String, String, String)>,
    /// The name of the mark stands at the lower end: the lines are up there.
    mark_below: bool,
    square: bool,
    values: String,
}

/// The smallest range of round steps that holds every value, and the step: 1, 2 or 5 times a power of ten.
fn scale(values: impl Iterator<Item = f64>, whole: bool) -> (f64, f64, f64) {
    let (mut low, mut high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    if low == high {
        // One value alone stands in the middle.
        let margin = if whole { 0.5 } else { (low.abs() / 10.0).max(1e-9) };
        (low, high) = (low - margin, high + margin);
    }
    let rough = (high - low) / if whole { 6.0 } else { 5.0 };
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    if whole {
        return (low, high, step.max(1.0).round());
    }
    ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step, step)
}

fn ticks(low: f64, high: f64, step: f64, unit: Unit) -> Vec<Tick> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last)
        .map(|index| index as f64 * step)
        .map(|value| Tick { at: percentage((value - low) / (high - low)), text: unit.tick(value, step) })
        .collect()
}

/// A share of the width or height as CSS and SVG want it.
fn percentage(share: f64) -> String {
    super::text::number((share * 1e4).round() / 100.0)
}

/// At most [`MOST_POINTS`] of the points, evenly spread, with the first and the last.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    if finite.len() <= MOST_POINTS {
        return finite;
    }
    (0..MOST_POINTS).map(|index| finite[index * (finite.len() - 1) / (MOST_POINTS - 1)]).collect()
}

impl Chart {
    /// The chart as HTML; `None` if no line has a point.
    ///
    /// # Errors
    /// If the template can't be rendered.
    pub(super) fn render(self) -> Result<Option<String>, askama::Error> {
        let lines: Vec<Line> = self
            .lines
            .into_iter()
            .map(|line| Line { points: thin(&line.points), ..line })
            .filter(|line| !line.points.is_empty())
            .collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let points = || lines.iter().flat_map(|line| &line.points);
        let whole = self.x.unit == Unit::Whole;
        let (left, right, x_step) = scale(points().map(|(x, _)| *x).chain(self.x.include.iter().copied()), whole);
        let (bottom, top, y_step) = scale(points().map(|(_, y)| *y).chain(self.y.include.iter().copied()), false);
        let across = |x: f64| (x - left) / (right - left);
        let down = |y: f64| (top - y) / (top - bottom);

        let summary = |line: &Line| {
            let (first, last) = (line.points[0].1, line.points[line.points.len() - 1].1);
            format!("{} from {} to {}", line.name, self.y.unit.text(first), self.y.unit.text(last))
        };
        let description = match self.square {
            true => lines.iter().map(|line| line.name.clone()).collect::<Vec<_>>().join(", "),
            false => lines.iter().map(summary).collect::<Vec<_>>().join(", "),
        };
        let values = Values {
            x: self.x.name.to_string(),
            lines: lines
                .iter()
                .map(|line| LineValues {
                    name: line.name.clone(),
                    style: line.style,
                    points: line
                        .points
                        .iter()
                        .map(|(x, y)| {
                            let round = |share: f64| (share * 1e4).round() / 100.0;
                            (round(across(*x)), round(down(*y)), self.x.unit.text(*x), self.y.unit.text(*y))
                        })
                        .collect(),
                })
                .collect(),
        };
        let path = |line: &Line| {
            let mut path = String::new();
            for (index, (x, y)) in line.points.iter().enumerate() {
                let letter = if index == 0 { 'M' } else { 'L' };
                path += &format!("{letter}{} {}", percentage(across(*x)), percentage(down(*y)));
            }
            // A line of no length, with round ends, is a dot.
            if line.points.len() == 1 {
                path += "h0";
            }
            path
        };
        let mark_below = self.mark.as_ref().is_some_and(|(_, y, _)| down(*y) < 0.5);
        let drawn = Drawn {
            x_ticks: ticks(left, right, x_step, self.x.unit),
            y_ticks: ticks(bottom, top, y_step, self.y.unit),
            lines: lines
                .iter()
                .map(|line| DrawnLine {
                    name: line.name.clone(),
                    style: line.style,
                    path: path(line),
                    last: self.y.unit.text(line.points[line.points.len() - 1].1),
                })
                .collect(),
            mark: self.mark.map(|(x, y, name)| (percentage(across(x)), percentage(down(y)), name)),
            mark_below,
            square: self.square,
            values: serde_json::to_string(&values).map_err(askama::Error::custom)?,
            description: format!("{}: {description}", self.title),
            title: self.title,
            x_name: self.x.name,
        };
        drawn.render().map(Some)
    }
}
