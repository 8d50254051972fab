//! Log lines of several pods as one text: marked by attempt and member, in the order of their times.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// A line of a pod's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// When the container runtime took it in.
    pub(crate) at: Timestamp,
    /// Attempt and member of the pod: `2-0`.
    pub(crate) mark: String,
    pub(crate) text: String,
}

impl Line {
    /// A line as the API server gives it when it is asked for times. One without a time has that of the line before it.
    pub(crate) fn parse(mark: &str, raw: &str, before: Timestamp) -> Line {
        let (at, text) = match raw.split_once(' ').map(|(at, text)| (at.parse(), text)) {
            Some((Ok(at), text)) => (at, text),
            // An empty line has a time and nothing after it.
            _ => raw.parse().map_or((before, raw), |at| (at, "")),
        };
        Line { at, mark: mark.to_owned(), text: text.to_owned() }
    }

    /// The line as it is printed.
    pub(crate) fn text(&self) -> String {
        format!("[{}] {}\n", self.mark, self.text)
    }

    /// Whether it is of this rank: the launcher of a pod with several processes marks each line of theirs. A pod with one
    /// process has lines of its rank alone.
    pub(crate) fn is_of(&self, rank: u32, processes: u32) -> bool {
        processes <= 1 || self.text.starts_with(&format!("[rank {rank}] "))
    }
}

/// The lines of all pods by time. Those of one pod keep their order, whatever its clock did.
pub(crate) fn merge(pods: Vec<Vec<Line>>) -> Vec<Line> {
    let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut keyed: Vec<(Timestamp, Line)> = Vec::new();
    for line in pods.into_iter().flatten() {
        let at = newest.entry(line.mark.clone()).or_insert(line.at);
        *at = line.at.max(*at);
        keyed.push((*at, line));
    }
    // The sort is stable.
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(mark: &str, lines: &[(&str, &str)]) -> Vec<Line> {
        let raw = |(second, text): &(&str, &str)| format!("2026-01-01T00:00:{second}Z {text}");
        lines.iter().map(|line| Line::parse(mark, &raw(line), Timestamp::UNIX_EPOCH)).collect()
    }

    #[test]
    fn lines_of_all_members_are_merged_by_time_across_attempts() {
        let pods = vec![
            pod("1-0", &[("01", "starts"), ("05", "peer lost")]),
            pod("1-1", &[("02.5", "starts"), ("04", "out of memory")]),
            pod("2-0", &[("09", "resumes")]),
        ];
        let text: String = merge(pods).iter().map(Line::text).collect();
        assert_eq!(text, "[1-0] starts\n[1-1] starts\n[1-1] out of memory\n[1-0] peer lost\n[2-0] resumes\n");
    }

    #[test]
    fn a_clock_that_goes_back_does_not_turn_a_pods_lines_around() {
        let pods = vec![pod("1-0", &[("05", "first"), ("03", "second")]), pod("1-1", &[("04", "other")])];
        let text: String = merge(pods).iter().map(Line::text).collect();
        assert_eq!(text, "[1-1] other\n[1-0] first\n[1-0] second\n");
    }

    #[test]
    fn a_line_without_a_time_stays_after_the_one_before_it() {
        let before = "2026-01-01T00:00:05Z".parse().expect("a time");
        let torn = Line::parse("1-0", "no time here", before);
        assert_eq!((torn.at, torn.text.as_str()), (before, "no time here"));
        assert_eq!(Line::parse("1-0", "2026-01-01T00:00:06Z ", before).text, "");
        assert_eq!(Line::parse("1-0", "2026-01-01T00:00:06Z", before).text, "");
    }

    #[test]
    fn a_rank_is_picked_by_the_mark_of_the_launcher() {
        let lines = pod("1-0", &[("01", "[rank 3] here"), ("02", "[rank 30] not"), ("03", "the launcher")]);
        assert_eq!(lines.iter().filter(|line| line.is_of(3, 8)).count(), 1);
        assert_eq!(lines.iter().filter(|line| line.is_of(0, 1)).count(), 3);
    }
}
