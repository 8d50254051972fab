//! Which of several ends tells why a pod ended: a pure function over how its processes ended.
//!
//! | weight | class | why |
//! |---|---|---|
//! | 5 | it failed by itself: an exit code, a signal that the launcher did not send, the kernel's out-of-memory killer | the first of these is where it began |
//! | 4 | it lost a peer (161) | mostly the echo of a failure elsewhere: in this pod, or in another one |
//! | 3 | it did not stop in time and the launcher killed it | it left no checkpoint, so nobody may take it for a clean stop |
//! | 2 | it was stopped (143) | the end that was asked for |
//! | 1 | it completed | only if all did |
//!
//! The greatest weight wins, and within a weight the end that came first.

use crds::contract::Cause;

/// What a shell adds to a signal's number to make an exit code of it.
const SIGNAL_BASE: i32 = 128;
/// Numbers of the signals that are told apart here.
const SIGINT: i32 = nix::sys::signal::Signal::SIGINT as i32;
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
const SIGTERM: i32 = nix::sys::signal::Signal::SIGTERM as i32;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an exit code.
    Code(i32),
    /// By a signal, named by its number.
    Signal(i32),
}

/// The end of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildEnd {
    /// Its rank among all processes.
    pub rank: u32,
    /// How it ended.
    pub ending: Ending,
    /// Whether it ended after the launcher had passed a request to stop on to it.
    pub asked_to_stop: bool,
    /// Whether the launcher had sent it SIGKILL.
    pub killed: bool,
    /// Whether the kernel's out-of-memory killer was at work when it ended by SIGKILL.
    pub out_of_memory: bool,
}

/// What an end means beside the others, in rising weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Done.
    Completed,
    /// Stopped as asked.
    Stopped,
    /// Killed by the launcher because it did not stop.
    Killed,
    /// Ended because a peer did.
    PeerLost,
    /// Failed by itself.
    Failed,
}

impl ChildEnd {
    /// What it means beside the others.
    pub fn class(&self) -> Class {
        match self.ending {
            Ending::Code(0) => Class::Completed,
            _ if self.exit_code() == Cause::Preempted.exit_code() => Class::Stopped,
            // Ctrl-C, passed on to a program that has no handler for it.
            Ending::Signal(SIGINT) if self.asked_to_stop => Class::Stopped,
            Ending::Code(code) if code == SIGNAL_BASE + SIGINT && self.asked_to_stop => Class::Stopped,
            Ending::Code(code) if code == Cause::PeerLost.exit_code() => Class::PeerLost,
            Ending::Signal(SIGKILL) if self.killed => Class::Killed,
            _ => Class::Failed,
        }
    }

    /// The exit code that stands for this end: its own, or 128 and the signal's number, or 71 if memory ran out.
    pub fn exit_code(&self) -> i32 {
        match self.ending {
            Ending::Signal(SIGKILL) if self.out_of_memory && !self.killed => Cause::HostMemory.exit_code(),
            Ending::Signal(signal) => SIGNAL_BASE + signal,
            Ending::Code(code) => code,
        }
    }

    /// What happened, as a sentence without a full stop.
    pub fn describe(&self) -> String {
        let rank = self.rank;
        match self.ending {
            Ending::Signal(SIGKILL) if self.killed => {
                format!("rank {rank} did not stop when it was asked to, and was killed")
            }
            Ending::Signal(SIGKILL) if self.out_of_memory => {
                format!("rank {rank} was killed by the kernel because memory ran out")
            }
            Ending::Signal(SIGTERM) => {
                format!("rank {rank} was stopped by SIGTERM before it could commit a checkpoint")
            }
            Ending::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => format!("rank {rank} was killed by signal {number} ({signal})"),
                Err(_) => format!("rank {rank} was killed by signal {number}"),
            },
            Ending::Code(0) => format!("rank {rank} is done"),
            Ending::Code(code) => format!("rank {rank} ended with exit code {code}"),
        }
    }

    /// What to do about it, or nothing.
    pub fn hint(&self) -> &'static str {
        match self.ending {
            Ending::Signal(SIGKILL) if self.killed => {
                "if a checkpoint takes longer than the time to stop, raise the pod's grace period"
            }
            Ending::Signal(SIGKILL) if self.out_of_memory => {
                "raise the pod's memory limit, or lower batchSize or the number of processes"
            }
            _ => "",
        }
    }
}

/// The most telling of the ends, which are in order of time. None only if there are none.
pub fn verdict(ends: &[ChildEnd]) -> Option<&ChildEnd> {
    // max_by_key would give the last of equals.
    ends.iter().rev().max_by_key(|end| end.class())
}

#[cfg(test)]
mod tests {
    use super::Ending::{Code, Signal};
    use super::*;

    #[derive(Clone, Copy)]
    enum By {
        Itself,
        Stop,
        Kill,
        Oom,
    }
    use By::{Itself, Kill, Oom, Stop};

    fn ends(ends: &[(u32, Ending, By)]) -> Vec<ChildEnd> {
        let end = |&(rank, ending, by): &(u32, Ending, By)| ChildEnd {
            rank,
            ending,
            asked_to_stop: matches!(by, Stop | Kill),
            killed: matches!(by, Kill),
            out_of_memory: matches!(by, Oom),
        };
        ends.iter().map(end).collect()
    }

    #[test]
    fn the_most_telling_end_wins() {
        /// What happened, in order of time; then the rank that wins and the pod's exit code.
        type Row = (&'static str, &'static [(u32, Ending, By)], (u32, i32));
        let table: [Row; 18] = [
            ("all done", &[(1, Code(0), Itself), (0, Code(0), Itself)], (1, 0)),
            ("one failed, one done", &[(0, Code(0), Itself), (1, Code(65), Itself)], (1, 65)),
            ("one lost the peer that ran out of GPU memory", &[(0, Code(161), Itself), (1, Code(72), Itself)], (1, 72)),
            ("the echo came after its cause", &[(1, Code(72), Itself), (0, Code(161), Stop)], (1, 72)),
            ("the cause is in another pod", &[(2, Code(161), Itself), (3, Code(161), Stop)], (2, 161)),
            ("of two failures the first", &[(1, Code(65), Itself), (0, Code(70), Stop)], (1, 65)),
            ("a crash and its echoes", &[(0, Code(161), Itself), (1, Signal(11), Itself)], (1, 139)),
            ("killed by somebody", &[(1, Signal(9), Itself), (0, Code(161), Stop)], (1, 137)),
            ("killed by the kernel for memory", &[(1, Signal(9), Oom), (0, Code(161), Stop)], (1, 71)),
            ("all stopped", &[(0, Code(143), Stop), (1, Code(143), Stop)], (0, 143)),
            ("stopped without a handler", &[(0, Signal(15), Stop), (1, Signal(15), Stop)], (0, 143)),
            ("one failed while stopping", &[(0, Code(143), Stop), (1, Code(162), Stop)], (1, 162)),
            ("one hung while stopping", &[(0, Code(143), Stop), (1, Signal(9), Kill)], (1, 137)),
            ("one done, one stopped", &[(0, Code(0), Itself), (1, Code(143), Stop)], (1, 143)),
            ("a hung peer of a failed one", &[(0, Code(73), Itself), (1, Signal(9), Kill)], (0, 73)),
            ("a hung peer of a lost one", &[(0, Code(161), Itself), (1, Signal(9), Kill)], (0, 161)),
            ("Ctrl-C without a handler", &[(0, Signal(2), Stop), (1, Code(130), Stop)], (0, 130)),
            ("a failure while others take Ctrl-C", &[(0, Signal(2), Stop), (1, Code(66), Stop)], (1, 66)),
        ];
        for (case, given, expected) in table {
            let ends = ends(given);
            let winner = verdict(&ends).unwrap();
            assert_eq!((winner.rank, winner.exit_code()), expected, "{case}");
        }
    }

    #[test]
    fn without_an_end_there_is_no_verdict() {
        assert_eq!(verdict(&[]), None);
    }

    #[test]
    fn an_end_is_told_in_words() {
        let table = [
            ((3, Code(7), Itself), "rank 3 ended with exit code 7"),
            ((3, Signal(11), Itself), "rank 3 was killed by signal 11 (SIGSEGV)"),
            ((3, Signal(40), Itself), "rank 3 was killed by signal 40"),
            ((3, Signal(9), Oom), "rank 3 was killed by the kernel because memory ran out"),
            ((3, Signal(9), Kill), "rank 3 did not stop when it was asked to, and was killed"),
        ];
        for (given, text) in table {
            assert_eq!(ends(&[given])[0].describe(), text);
        }
    }
}
