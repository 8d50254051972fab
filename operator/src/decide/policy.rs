//! What is done about each cause: a table, and how telling a cause is when members of one gang give different ones.

use crds::contract::Cause;

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

#[cfg(test)]
mod tests {
    use super::*;

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
