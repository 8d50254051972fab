//! What was found in the data before training: what to read before the figures are believed.

use askama::Template;

use super::text;

/// Findings at most.
const MOST: usize = 20;

#[derive(Template)]
#[template(path = "report/findings.html")]
struct Findings {
    /// What was looked at, what was found.
    rows: Vec<(String, String)>,
}

/// The section; `None` if nothing was found.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn render(findings: &[(String, String)]) -> Result<Option<String>, askama::Error> {
    let rows: Vec<(String, String)> =
        findings.iter().take(MOST).map(|(check, said)| (text::clean(check), text::long(said))).collect();
    if rows.is_empty() { Ok(None) } else { Findings { rows }.render().map(Some) }
}
