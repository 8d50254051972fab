//! What a pod says when all its processes have ended: the message of the one that tells why, and the exit code.

use std::fs;
use std::path::{Path, PathBuf};

use crds::contract::{Cause, TerminationMessage};

use super::pod::Pod;
use super::stderr::Streams;
use super::verdict::{ChildEnd, Class, verdict};
use crate::fault::{self, Fault};

/// Where a process leaves its message for the launcher.
pub(super) fn message_file(folder: &Path, local_rank: u32) -> PathBuf {
    folder.join(format!("rank-{local_rank}.json"))
}

/// Writes the pod's termination message and gives its exit code.
pub(super) fn conclude(pod: &Pod, ends: &[ChildEnd], messages: Option<&Path>, streams: &Streams) -> i32 {
    // A pod has one process at least, so an end is there.
    let Some(winner) = verdict(ends) else { return Cause::Completed.exit_code() };
    let read = |rank: u32| {
        let text = fs::read(message_file(messages?, rank - pod.rank(0))).ok()?;
        serde_json::from_slice::<TerminationMessage>(&text).ok()
    };
    let last_words = streams.last_words((winner.rank - pod.rank(0)) as usize);
    let message = tell(winner, ends, read, &last_words);
    let code = winner.exit_code();
    if code != 0 {
        tracing::error!(code, cause = ?message.cause, "{}", message.message);
    }
    fault::end_with(&message);
    code
}

/// The message of the winner, or one about it if it left none.
fn tell(
    winner: &ChildEnd,
    ends: &[ChildEnd],
    read: impl Fn(u32) -> Option<TerminationMessage>,
    last_words: &str,
) -> TerminationMessage {
    let cause = Cause::from_exit_code(winner.exit_code());
    let own = match winner.class() {
        // All ended alike, and one of them, mostly the first rank, has the step or the result to tell.
        Class::Completed | Class::Stopped => {
            let mut all: Vec<_> = ends.iter().filter(|end| end.class() == winner.class()).map(|end| end.rank).collect();
            all.sort_unstable();
            let all: Vec<_> = all.into_iter().filter_map(|rank| read(rank).map(|message| (rank, message))).collect();
            let telling = all.iter().find(|(_, message)| message.result.is_some() || message.step.is_some());
            telling.or(all.first()).cloned()
        }
        _ => read(winner.rank).map(|message| (winner.rank, message)),
    };
    match own {
        Some((rank, mut message)) => {
            if message.cause != cause {
                // It said one thing and ended in another way: the end counts, and what it said may explain it.
                message.message = format!("{}; it had said: {}", winner.describe(), message.message);
                message.cause = cause;
                message.result = None;
            }
            message.rank = Some(message.rank.unwrap_or(rank));
            message
        }
        None => {
            let told = match last_words {
                "" => winner.describe(),
                _ if winner.class() == Class::Completed => winner.describe(),
                words => format!("{}; its last lines: {words}", winner.describe()),
            };
            Fault::new(cause, told).hint(winner.hint()).at_rank(winner.rank).to_termination()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Ending;
    use super::*;
    use crds::contract::JobResult;

    fn end(rank: u32, ending: Ending) -> ChildEnd {
        ChildEnd { rank, ending, asked_to_stop: false, killed: false, out_of_memory: false }
    }

    fn said(cause: Cause, text: &str) -> TerminationMessage {
        Fault::new(cause, text).hint("a hint").at_step(7).to_termination()
    }

    #[test]
    fn the_winners_own_words_are_passed_on_with_its_rank() {
        let ends = [end(1, Ending::Code(72)), end(0, Ending::Code(161))];
        let message = tell(&ends[0], &ends, |rank| (rank == 1).then(|| said(Cause::GpuMemory, "no room")), "noise");
        assert_eq!(message, TerminationMessage { rank: Some(1), ..said(Cause::GpuMemory, "no room") });
    }

    #[test]
    fn a_silent_end_is_told_with_the_last_lines() {
        let ends = [end(3, Ending::Signal(11))];
        let message = tell(&ends[0], &ends, |_| None, "a | b");
        assert_eq!((message.cause, message.rank), (Cause::OtherRetryable, Some(3)));
        assert_eq!(message.message, "rank 3 was killed by signal 11 (SIGSEGV); its last lines: a | b");
    }

    #[test]
    fn an_end_that_contradicts_the_words_counts_more() {
        let ends = [end(0, Ending::Signal(6))];
        let mut done = said(Cause::Completed, "done");
        done.result = Some(JobResult::default());
        let message = tell(&ends[0], &ends, |_| Some(done.clone()), "");
        assert_eq!((message.cause, message.result), (Cause::OtherRetryable, None));
        assert_eq!(message.message, "rank 0 was killed by signal 6 (SIGABRT); it had said: done");
    }

    #[test]
    fn the_result_of_a_completed_job_is_found_whichever_rank_ended_first() {
        let ends = [end(2, Ending::Code(0)), end(1, Ending::Code(0)), end(0, Ending::Code(0))];
        let mut done = Fault::new(Cause::Completed, "done").to_termination();
        done.result = Some(JobResult { uri: "file:///m".to_owned(), ..Default::default() });
        let message = tell(&ends[0], &ends, |rank| (rank == 0).then(|| done.clone()), "noise");
        assert_eq!(message, TerminationMessage { rank: Some(0), ..done });
    }
}
