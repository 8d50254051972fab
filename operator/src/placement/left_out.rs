//! Nodes that the next attempt leaves out, because a GPU or the node itself failed there, for a while.

use crds::contract::Cause;
use crds::status::{AttemptRecord, NODES_KEPT};
use jiff::{SignedDuration, Timestamp};

/// Seconds that a node is left out after a fault of it: time for a reset, a restart or a repair.
pub(super) const AFTER_A_FAULT_SECONDS: i64 = 4 * 60 * 60;
/// Seconds that a node is left out whose driver or GPU did not fit: time for an upgrade.
pub(super) const AFTER_A_MISFIT_SECONDS: i64 = 24 * 60 * 60;

/// The nodes that are left out at `now`, sorted; and when the first of them is tried again, if there is one.
///
/// They follow from the attempts that the status keeps (the first one and the last nine), so that nothing else needs to be
/// remembered: a node comes back by itself when its time is over.
pub fn left_out(attempts: &[AttemptRecord], now: Timestamp) -> (Vec<String>, Option<Timestamp>) {
    let mut nodes: std::collections::BTreeMap<&str, Timestamp> = std::collections::BTreeMap::new();
    for attempt in attempts {
        let seconds = match attempt.cause {
            Cause::NodeFault => AFTER_A_FAULT_SECONDS,
            Cause::GpuUnsupported => AFTER_A_MISFIT_SECONDS,
            _ => continue,
        };
        let (Some(node), Some(end)) = (&attempt.node, &attempt.end) else { continue };
        let until = end.0.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if until > now {
            let latest = nodes.entry(node).or_insert(until);
            *latest = until.max(*latest);
        }
    }
    let next = nodes.values().min().copied();
    (nodes.into_keys().take(NODES_KEPT).map(str::to_owned).collect(), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn attempt(cause: Cause, node: Option<&str>, ended: i64) -> AttemptRecord {
        AttemptRecord {
            number: 1,
            start: None,
            end: Some(Time(Timestamp::from_second(ended).unwrap())),
            cause,
            exit_code: None,
            node: node.map(str::to_owned),
            rank: None,
            step: None,
            message: String::new(),
        }
    }

    #[test]
    fn a_node_at_fault_is_left_out_until_its_time_is_over() {
        let attempts = [
            attempt(Cause::NodeFault, Some("b"), 0),
            attempt(Cause::GpuUnsupported, Some("a"), 60),
            attempt(Cause::PeerLost, Some("c"), 60),
            attempt(Cause::NodeFault, None, 60),
            attempt(Cause::NodeFault, Some("b"), 3600),
        ];
        for (hours, nodes, next) in
            [(1, vec!["a", "b"], Some(5 * 3600)), (5, vec!["a"], Some(24 * 3600 + 60)), (25, vec![], None)]
        {
            let (left, again) = left_out(&attempts, Timestamp::from_second(hours * 3600).unwrap());
            assert_eq!(
                (left, again.map(Timestamp::as_second)),
                (nodes.iter().map(|n| (*n).to_owned()).collect(), next)
            );
        }
    }
}
