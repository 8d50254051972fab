//! NVIDIA's Xid errors: what the driver says of a GPU, and what follows for a job whose process ended on it.
//!
//! The numbers and what to do about each are those of NVIDIA's Xid catalogue
//! (<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>, "Immediate Action").

use crds::contract::Cause;

use super::End;

/// What NVIDIA says to do about an Xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Remedy {
    /// Nothing: it tells of something that was dealt with, or that goes with another one.
    None,
    /// Start the application anew; the GPU is as good as before.
    RestartApplication,
    /// Follow one of NVIDIA's workflows for this error.
    Workflow,
    /// Reset the GPU.
    ResetGpu,
    /// Restart the machine.
    RestartMachine,
}

/// Each Xid that the catalogue has a remedy for. One that is not here is none of this table's business.
const CATALOGUE: [(Remedy, &[u16]); 5] = [
    (Remedy::None, &[38, 43, 44, 63, 92, 93, 137, 154, 157]),
    (Remedy::RestartApplication, &[11, 13, 25, 31, 32, 69, 94]),
    (Remedy::Workflow, &[48, 74, 144, 145, 146, 147, 148, 149, 150]),
    (Remedy::ResetGpu, &[46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158]),
    (Remedy::RestartMachine, &[79]),
];

/// An Xid of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    number: u16,
    remedy: Remedy,
}

impl Xid {
    /// The Xid that a text names, the gravest if it names several: the driver's `NVRM: Xid (PCI:0000:3b:00): 79, ...`, NVSentinel's
    /// `ErrorCode:79`, or just `Xid 79`.
    pub fn named_in(text: &str) -> Option<Xid> {
        let text = text.to_ascii_lowercase();
        let after = |mark: &'static str| text.match_indices(mark).map(move |(at, _)| at + mark.len());
        let numbers = after("xid").chain(after("errorcode")).filter_map(|at| number(&text[at..]));
        numbers.filter_map(Xid::known).max_by_key(|xid| xid.remedy)
    }

    fn known(number: u16) -> Option<Xid> {
        let remedy = CATALOGUE.iter().find(|(_, numbers)| numbers.contains(&number)).map(|(remedy, _)| *remedy)?;
        Some(Xid { number, remedy })
    }
}

/// The number after `xid`: behind what stands in parentheses, colons, signs of equality and blanks.
fn number(text: &str) -> Option<u16> {
    let text = text.trim_start();
    let text = match text.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => text,
    };
    let text = text.trim_start_matches([':', '=', ' ', '#']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Lays the end of a process to the Xid that its own message names, or else to the one that its node reports.
///
/// A GPU that has to be reset, or a machine that has to be restarted, is at fault whatever the process made of it: the node
/// is left out of the next attempts. Whose error is the application's is told, and changes nothing. Ends that nothing of a
/// GPU can have brought about stay as they are.
pub fn blame(end: End, reported: Option<Xid>) -> End {
    let can_be_the_gpu = match end.cause {
        Cause::Bug | Cause::NotFinite | Cause::OtherPermanent => true,
        Cause::Completed | Cause::Preempted | Cause::Storage => false,
        cause => cause.is_retryable(),
    };
    let Some(xid) = Xid::named_in(&end.message).or(reported).filter(|_| can_be_the_gpu) else { return end };
    let Xid { number, remedy } = xid;
    let hint = match remedy {
        Remedy::None => return end,
        Remedy::RestartApplication => "the application is at fault, not the GPU",
        Remedy::Workflow => "follow NVIDIA's workflow for this Xid before the node is used again",
        Remedy::ResetGpu => "reset the GPU of this node",
        Remedy::RestartMachine => "restart this node; if it comes back, have the GPU replaced",
    };
    let cause = if remedy > Remedy::RestartApplication { Cause::NodeFault } else { end.cause };
    let message = match end.message.as_str() {
        "" => format!("the driver reports Xid {number}"),
        said => format!("the driver reports Xid {number}: {said}"),
    };
    End { cause, message, hint: hint.to_owned(), ..end }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn named(text: &str) -> Option<u16> {
        Xid::named_in(text).map(|xid| xid.number)
    }

    #[test]
    fn an_xid_is_found_in_what_drivers_and_monitors_write() {
        let driver = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.";
        let sentinel = "ErrorCode:119 PCI:0002:00:00 Timeout after 6s Recommended Action=COMPONENT_RESET;";
        let several = "Xid 31, then XID: 48";
        let texts = [(driver, Some(79)), (sentinel, Some(119)), (several, Some(48)), ("xid=13", Some(13))];
        for (text, number) in texts {
            assert_eq!(named(text), number, "{text}");
        }
        for text in
            ["", "look for Xid errors in the log", "Xid 9999999", "Xid (PCI", "Xid 500", "maxid 79ers: (", "xid"]
        {
            assert!(named(text).is_none_or(|number| number == 79), "{text}");
        }
        assert_eq!(named("Xid errors: 79"), None, "a number that is not said of it");
    }

    #[test]
    fn what_has_to_be_reset_is_at_fault_and_what_the_application_did_is_not() {
        let ended = |code, message: &str| {
            let end = End::from_exit(code, None, Timestamp::UNIX_EPOCH);
            End { message: message.to_owned(), ..end }
        };
        let gone = Xid::known(79);
        let cases = [
            // A custom image ends with 1, whatever happened to its GPU.
            (ended(1, ""), gone, Cause::NodeFault),
            (ended(161, ""), gone, Cause::NodeFault),
            (ended(73, ""), Xid::known(95), Cause::NodeFault),
            (ended(1, "NVRM: Xid (PCI:0000:3b:00): 79"), None, Cause::NodeFault),
            (ended(161, ""), Xid::known(31), Cause::PeerLost),
            (ended(161, ""), Xid::known(63), Cause::PeerLost),
            (ended(65, ""), gone, Cause::BadData),
            (ended(143, ""), gone, Cause::Preempted),
            (ended(0, ""), gone, Cause::Completed),
            (ended(162, ""), gone, Cause::Storage),
        ];
        for (end, reported, cause) in cases {
            let before = end.clone();
            let after = blame(end, reported);
            assert_eq!(after.cause, cause, "{before:?}");
            assert_eq!(after.message.contains("Xid"), cause == Cause::NodeFault || reported == Xid::known(31));
        }
    }
}
