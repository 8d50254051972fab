//! What an Xid of NVIDIA's driver means for a job whose process ended on its GPU.

use crds::contract::Cause;
use crds::xid::{Remedy, Xid};

use super::End;

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
    if remedy == Remedy::None {
        return end;
    }
    let cause = if remedy > Remedy::RestartApplication { Cause::NodeFault } else { end.cause };
    let message = match end.message.as_str() {
        "" => format!("the driver reports Xid {number}"),
        said => format!("the driver reports Xid {number}: {said}"),
    };
    End { cause, message, hint: remedy.advice().to_owned(), ..end }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

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
