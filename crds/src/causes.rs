//! What each cause means and what to do, for people: `CAUSES.md`, section by section.

use crate::contract::Cause;

/// The whole page, in Markdown.
pub const PAGE: &str = include_str!("../CAUSES.md");

/// What begins a section.
const HEADING: &str = "\n## ";

/// The sections of [`PAGE`], each with its heading in the first line.
pub fn sections() -> impl Iterator<Item = &'static str> {
    PAGE.split(HEADING).skip(1).map(str::trim_end)
}

/// The section about a cause.
pub fn section(cause: Cause) -> &'static str {
    let code = cause.exit_code();
    let own = Cause::CODES.iter().any(|(_, known)| *known == cause).then(|| format!("{code} {cause:?}"));
    let heading = own.unwrap_or_else(|| "Other codes".to_owned());
    // A test holds that there is one for each.
    sections().find(|section| section.lines().next() == Some(&heading)).unwrap_or(PAGE)
}

/// The cause that somebody means by an exit code or a name.
pub fn parse(text: &str) -> Option<Cause> {
    if let Ok(code) = text.parse::<i32>() {
        return (0..=255).contains(&code).then(|| Cause::from_exit_code(code));
    }
    let all = Cause::CODES.iter().map(|(_, cause)| *cause).chain([Cause::OtherPermanent, Cause::OtherRetryable]);
    all.into_iter().find(|cause| format!("{cause:?}").eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_section_which_says_what_the_operator_does() {
        let causes = Cause::CODES.iter().map(|(_, cause)| *cause).chain([Cause::OtherPermanent, Cause::OtherRetryable]);
        for cause in causes {
            let section = section(cause);
            assert!(section.contains(&format!("{cause:?}")), "{cause:?}");
            if cause.exit_code() < 2 || cause.exit_code() == 255 {
                continue;
            }
            let (_, operator) = section.split_once("- The operator: ").expect("what the operator does");
            let does = operator.split("\n- ").next().unwrap_or_default();
            assert_eq!(does.contains("the job fails at once"), !cause.is_retryable(), "{cause:?}: {does}");
            assert_eq!(does.contains("costs no restart"), !cause.costs_budget(), "{cause:?}: {does}");
            assert!(section.contains("\n- To do: "), "{cause:?}");
        }
        assert_eq!(sections().count(), Cause::CODES.len() + 1);
    }

    #[test]
    fn a_cause_is_found_by_its_code_or_its_name() {
        let table = [
            ("161", Some(Cause::PeerLost)),
            ("peerlost", Some(Cause::PeerLost)),
            ("0", Some(Cause::Completed)),
            ("139", Some(Cause::OtherRetryable)),
            ("3", Some(Cause::OtherPermanent)),
            ("256", None),
            ("flowers", None),
        ];
        for (text, cause) in table {
            assert_eq!(parse(text), cause, "{text}");
        }
    }
}
