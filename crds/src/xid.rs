//! NVIDIA's Xid errors: what the driver says of a GPU in the kernel's log, and what NVIDIA says to do about it.
//!
//! The numbers and what to do about each are those of NVIDIA's Xid catalogue
//! (<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>, "Immediate Action").

/// What NVIDIA says to do about an Xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
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
    /// Its number.
    pub number: u16,
    /// What to do about it.
    pub remedy: Remedy,
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

    /// The Xid of a number, if the catalogue has a remedy for it.
    pub fn known(number: u16) -> Option<Xid> {
        let remedy = CATALOGUE.iter().find(|(_, numbers)| numbers.contains(&number)).map(|(remedy, _)| *remedy)?;
        Some(Xid { number, remedy })
    }
}

impl Remedy {
    /// What to do, as a sentence; empty if there is nothing to do.
    pub fn advice(self) -> &'static str {
        match self {
            Remedy::None => "",
            Remedy::RestartApplication => "the application is at fault, not the GPU",
            Remedy::Workflow => "follow NVIDIA's workflow for this Xid before the node is used again",
            Remedy::ResetGpu => "reset the GPU of this node",
            Remedy::RestartMachine => "restart this node; if it comes back, have the GPU replaced",
        }
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

#[cfg(test)]
mod tests {
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
}
