//! What is done about each cause: a table, and how telling a cause is when members of one gang give different ones.

use crds::contract::Cause;
use crds::run_policy::{ExitAction, ExitCode};

use crate::observe::End;

/// Whether and where another attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Never: it would end the same way.
    Never,
    /// Wherever there is a place.
    Anywhere,
    /// On another node; never if there is none.
    Elsewhere,
}

/// What is done about a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether and where another attempt is made.
    pub(crate) retry: Retry,
    /// Whether that counts against `backoffLimit`, and waits.
    pub(crate) costs: bool,
}

const fn policy(retry: Retry, costs: bool) -> Policy {
    Policy { retry, costs }
}

/// Every cause with its policy, the most telling one first.
///
/// When a gang fails, several members end, and most of them only because another did: a lost peer is no news beside a bad
/// image, and neither is a process that was told to stop. The first in this table that a member gave is the gang's cause. An
/// exit code outside the contract comes late: a process of a custom image ends so when its peer's node is lost or drained.
#[rustfmt::skip]
pub(crate) const POLICIES: [(Cause, Policy); 15] = [
    (Cause::BadSpec,        policy(Retry::Never,     true)),
    (Cause::Permission,     policy(Retry::Never,     true)),
    (Cause::DataMissing,    policy(Retry::Never,     true)),
    (Cause::BadData,        policy(Retry::Never,     true)),
    (Cause::GpuMemory,      policy(Retry::Never,     true)),
    (Cause::HostMemory,     policy(Retry::Never,     true)),
    (Cause::NotFinite,      policy(Retry::Never,     true)),
    (Cause::Bug,            policy(Retry::Never,     true)),
    (Cause::GpuUnsupported, policy(Retry::Elsewhere, true)),
    (Cause::NodeFault,      policy(Retry::Elsewhere, true)),
    (Cause::Storage,        policy(Retry::Anywhere,  true)),
    (Cause::Preempted,      policy(Retry::Anywhere,  false)),
    (Cause::OtherPermanent, policy(Retry::Never,     true)),
    (Cause::OtherRetryable, policy(Retry::Anywhere,  true)),
    (Cause::PeerLost,       policy(Retry::Anywhere,  true)),
];

/// The policy for a cause. [`Cause::Completed`] is no cause of an end that needs one; asked for all the same, it is a defect.
pub(crate) fn of(cause: Cause) -> Policy {
    POLICIES.iter().find(|(known, _)| *known == cause).map_or(policy(Retry::Never, true), |(_, policy)| *policy)
}

/// How telling a cause is: the smaller, the more.
pub(crate) fn rank(cause: Cause) -> usize {
    POLICIES.iter().position(|(known, _)| *known == cause).unwrap_or(POLICIES.len())
}

/// Exit codes of a custom image that are worth a retry where nobody has said otherwise: 1 is what Python ends with after any
/// exception, and torchrun after any end of a worker, be it a peer's that was lost or a GPU's that broke.
const WORTH_A_RETRY: std::ops::Range<i32> = 1..64;

/// The cause that an end comes to in a job, and what to do about it: that of the end, unless the codes are a custom image's own.
///
/// What the process says by the contract goes before what its code stands for in the manifest, and so does what the cluster and
/// the driver say.
pub(crate) fn read(exit_codes: Option<&[ExitCode]>, end: &End) -> (Cause, String) {
    let as_it_is = || (end.cause, end.hint.clone());
    let (Some(exit_codes), Some(code)) = (exit_codes, end.exit_code) else { return as_it_is() };
    let is_told_of = match end.cause {
        Cause::Completed | Cause::Preempted => true,
        Cause::NodeFault => code != Cause::NodeFault.exit_code(),
        _ => end.is_explained,
    };
    if is_told_of {
        return as_it_is();
    }
    let by_manifest = |cause| (cause, format!("spec.runPolicy.exitCodes says what is done about {code}"));
    match exit_codes.iter().find(|entry| entry.code == code).map(|entry| entry.action) {
        Some(ExitAction::Fail) => by_manifest(Cause::OtherPermanent),
        Some(ExitAction::Restart) => by_manifest(Cause::OtherRetryable),
        Some(ExitAction::RestartElsewhere) => by_manifest(Cause::NodeFault),
        Some(ExitAction::Ignore) => by_manifest(Cause::Preempted),
        None if end.cause == Cause::OtherPermanent && WORTH_A_RETRY.contains(&code) => {
            (Cause::OtherRetryable, "where another attempt never helps, spec.runPolicy.exitCodes can say so".to_owned())
        }
        None => as_it_is(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_image_says_what_its_exit_codes_come_to_and_ones_that_it_does_not_name_are_tried_again() {
        let codes = [
            (ExitAction::Fail, [2, 65, 143]),
            (ExitAction::Restart, [3, 70, 137]),
            (ExitAction::RestartElsewhere, [4, 160, 255]),
            (ExitAction::Ignore, [5, 6, 7]),
        ];
        let codes = codes.map(|(action, codes)| codes.map(|code| ExitCode { code, action })).concat();
        let ended = |code| End::from_exit(code, None, jiff::Timestamp::UNIX_EPOCH);
        for (code, ours, bare, named) in [
            (0, Cause::Completed, Cause::Completed, Cause::Completed),
            (1, Cause::OtherPermanent, Cause::OtherRetryable, Cause::OtherRetryable),
            (2, Cause::OtherPermanent, Cause::OtherRetryable, Cause::OtherPermanent),
            (3, Cause::OtherPermanent, Cause::OtherRetryable, Cause::OtherRetryable),
            (4, Cause::OtherPermanent, Cause::OtherRetryable, Cause::NodeFault),
            (5, Cause::OtherPermanent, Cause::OtherRetryable, Cause::Preempted),
            (63, Cause::OtherPermanent, Cause::OtherRetryable, Cause::OtherRetryable),
            (65, Cause::BadData, Cause::BadData, Cause::OtherPermanent),
            (70, Cause::Bug, Cause::Bug, Cause::OtherRetryable),
            (101, Cause::OtherPermanent, Cause::OtherPermanent, Cause::OtherPermanent),
            (126, Cause::OtherPermanent, Cause::OtherPermanent, Cause::OtherPermanent),
            (127, Cause::OtherPermanent, Cause::OtherPermanent, Cause::OtherPermanent),
            (137, Cause::OtherRetryable, Cause::OtherRetryable, Cause::OtherRetryable),
            // It was asked to stop.
            (143, Cause::Preempted, Cause::Preempted, Cause::Preempted),
            (160, Cause::NodeFault, Cause::NodeFault, Cause::NodeFault),
        ] {
            let read = |codes| read(codes, &ended(code)).0;
            assert_eq!((read(None), read(Some(&[])), read(Some(&codes))), (ours, bare, named), "exit code {code}");
        }
    }

    #[test]
    fn what_is_known_of_an_end_goes_before_its_exit_code() {
        let fail = [ExitCode { code: 1, action: ExitAction::Fail }];
        let ended = |code| End::from_exit(code, None, jiff::Timestamp::UNIX_EPOCH);
        let by_driver = End { cause: Cause::NodeFault, ..ended(1) };
        assert_eq!(read(Some(&fail), &by_driver).0, Cause::NodeFault);
        let explained = End { cause: Cause::OtherPermanent, is_explained: true, ..ended(1) };
        assert_eq!(read(Some(&[]), &explained).0, Cause::OtherPermanent, "it says itself that it is permanent");
        let never_ran = End { cause: Cause::NodeFault, exit_code: None, ..ended(128) };
        assert_eq!(read(Some(&fail), &never_ran).0, Cause::NodeFault);
    }

    #[test]
    fn every_cause_has_a_policy_that_agrees_with_the_contract() {
        let causes = Cause::CODES.iter().map(|(_, cause)| *cause).chain([Cause::OtherPermanent, Cause::OtherRetryable]);
        for cause in causes.filter(|cause| *cause != Cause::Completed) {
            let (_, policy) = POLICIES.iter().find(|(known, _)| *known == cause).expect("a row for each cause");
            assert_eq!(policy.retry != Retry::Never, cause.is_retryable(), "{cause:?}");
            assert_eq!(policy.costs, cause.costs_budget(), "{cause:?}");
        }
    }
}
