//! Colours, bars and spans of time: what makes a text easier to read on a terminal.

use std::io::IsTerminal;

/// Whether texts are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(bool);

/// Cells of a bar.
const CELLS: usize = 20;

impl Paint {
    /// Without colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Paint = Paint(false);

    /// Colours if the standard output is a terminal and nobody objects (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Paint {
        let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Paint::of(std::io::stdout().is_terminal(), objects)
    }

    fn of(is_terminal: bool, objects: bool) -> Paint {
        Paint(is_terminal && !objects)
    }

    /// What is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What needs a look.
    pub(crate) fn odd(self, text: &str) -> String {
        self.with("33", text)
    }

    /// What went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// What stands out.
    pub(crate) fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A phase in the colour of what it means.
    pub(crate) fn phase(self, phase: &str) -> String {
        match phase {
            "Succeeded" | "Running" | "Ready" => self.good(phase),
            "Failed" => self.bad(phase),
            _ => self.odd(phase),
        }
    }
}

/// A bar of `percent`, such as `[#####...............]`.
pub(crate) fn bar(percent: u32) -> String {
    let full = usize::try_from(percent.min(100)).unwrap_or(0) * CELLS / 100;
    format!("[{}{}]", "#".repeat(full), ".".repeat(CELLS - full))
}

/// A span of time in its two largest units, as kubectl writes ages.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_owner_does_not_object() {
        for (is_terminal, objects, coloured) in [(true, false, true), (true, true, false), (false, false, false)] {
            assert_eq!(Paint::of(is_terminal, objects), Paint(coloured));
        }
        assert_eq!(Paint(true).phase("Failed"), "\x1b[31mFailed\x1b[0m");
        assert_eq!(Paint::PLAIN.phase("Failed"), "Failed");
    }

    #[test]
    fn a_span_has_its_two_largest_units() {
        let spans = [(-5, "0s"), (59, "59s"), (200, "3m20s"), (7500, "2h5m"), (273_700, "3d4h")];
        assert_eq!(spans.map(|(seconds, _)| span(seconds)), spans.map(|(_, text)| text.to_owned()));
    }

    #[test]
    fn a_bar_fills_with_the_share_that_is_done() {
        let bars = [(0, "[....................]"), (47, "[#########...........]"), (250, "[####################]")];
        assert_eq!(bars.map(|(percent, _)| bar(percent)), bars.map(|(_, text)| text.to_owned()));
    }
}
