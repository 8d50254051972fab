//! The table of a benchmark: printed line by line, and written to `target/bench/NAME.json` for machines.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// The figures of one benchmark.
pub(crate) struct Figures {
    name: &'static str,
    lines: Vec<Value>,
}

/// What a figure is to reach.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Ours, at least.
    AtLeast(f64),
    /// Ours, at most.
    AtMost(f64),
    /// Ours by the peer's, at least.
    Ratio(f64),
    /// For information.
    None,
}

impl Figures {
    /// Prints the head of the table.
    pub(crate) fn new(name: &'static str) -> Figures {
        println!(
            "{:<66} {:>9} {:>9} {:>7} {:>7} {:>9}  unit",
            format!("{name} (medians)"),
            "ours",
            "peer",
            "ratio",
            "worst",
            "goal"
        );
        Figures { name, lines: Vec::new() }
    }

    /// A figure by pairs of (ours, peer's) that were taken in turns. The worst pair is the one that speaks most against us.
    pub(crate) fn pairs(&mut self, figure: &str, unit: &str, pairs: &[(f64, f64)], goal: Goal, method: &str) {
        let (ours, peer) = (median(pairs.iter().map(|pair| pair.0)), median(pairs.iter().map(|pair| pair.1)));
        let ratios = || pairs.iter().map(|pair| pair.0 / pair.1);
        let worst = match goal {
            Goal::AtMost(_) => ratios().fold(0.0, f64::max),
            _ => ratios().fold(f64::INFINITY, f64::min),
        };
        self.line(figure, unit, ours, Some((peer, median(ratios()), worst)), goal, method);
    }

    /// A figure that no peer has.
    pub(crate) fn alone(&mut self, figure: &str, unit: &str, ours: f64, goal: Goal, method: &str) {
        self.line(figure, unit, ours, None, goal, method);
    }

    fn line(&mut self, figure: &str, unit: &str, ours: f64, peer: Option<(f64, f64, f64)>, goal: Goal, method: &str) {
        let (value, holds) = match (goal, peer) {
            (Goal::AtLeast(least), _) => (Some(least), ours >= least),
            (Goal::AtMost(most), _) => (Some(most), ours <= most),
            (Goal::Ratio(least), Some((_, ratio, _))) => (Some(least), ratio >= least),
            (Goal::Ratio(least), None) => (Some(least), false),
            (Goal::None, _) => (None, true),
        };
        let shown = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        let (other, ratio, worst) = (peer.map(|peer| peer.0), peer.map(|peer| peer.1), peer.map(|peer| peer.2));
        let goal = match (goal, value) {
            (Goal::Ratio(_), Some(value)) => format!("{value:.2} x"),
            (_, value) => value.map_or("-".into(), |value| value.to_string()),
        };
        let mark = if holds { "" } else { "  MISSED" };
        let (other_shown, ratio_shown, worst_shown) = (shown(other, 3), shown(ratio, 2), shown(worst, 2));
        println!("{figure:<66} {ours:>9.3} {other_shown:>9} {ratio_shown:>7} {worst_shown:>7} {goal:>9}  {unit}{mark}");
        let worst = worst.map_or(String::new(), |worst| format!("; worst ratio of a pair {worst:.2}"));
        self.lines.push(json!({
            "figure": figure, "ours": ours, "peer": other, "ratio": ratio, "goal": value, "holds": holds, "unit": unit,
            "method": format!("{method}{worst}"),
        }));
    }

    /// Writes `target/bench/NAME.json`.
    pub(crate) fn write(self, root: &Path) -> Result<(), Box<dyn Error>> {
        let folder = root.join("target/bench");
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(format!("{}.json", self.name)), serde_json::to_string_pretty(&self.lines)?)?)
    }
}

/// The middle one of some values; of two in the middle the upper.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
