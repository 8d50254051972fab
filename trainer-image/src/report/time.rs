//! Where the time went.

use askama::Template;

use super::text;
use crate::metrics::{History, Phase};

/// Share of waiting for data from which on more threads are worth a try.
const STARVED: f64 = 0.2;

struct Row {
    name: &'static str,
    time: String,
    share: String,
    /// Length of the bar behind it, 0 to 100.
    bar: u32,
}

#[derive(Template)]
#[template(path = "report/time.html")]
struct Time {
    rows: Vec<Row>,
    starved: bool,
}

/// The section; `None` if it was not measured.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn render(history: &History) -> Result<Option<String>, askama::Error> {
    let (Some(phases), seconds) = (history.phases(), history.seconds()) else { return Ok(None) };
    let named: f64 = Phase::ALL.iter().map(|phase| phases.of(*phase)).sum();
    // What was measured in parts by other clocks may be a hair more than the whole.
    let whole = seconds.max(named);
    if whole <= 0.0 {
        return Ok(None);
    }
    let row = |name, seconds: f64| Row {
        name,
        time: text::duration(seconds),
        share: text::percent(seconds / whole),
        bar: (seconds / whole * 100.0).round() as u32,
    };
    let mut rows: Vec<Row> = Phase::ALL.iter().map(|phase| row(phase.name(), phases.of(*phase))).collect();
    rows.push(row("everything else", whole - named));
    Time { rows, starved: phases.data / whole >= STARVED }.render().map(Some)
}
