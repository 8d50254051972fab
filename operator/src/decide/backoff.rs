//! How long to wait before the next attempt.

use crate::build::fingerprint::fnv;
use crate::observe::Backoff;

/// Seconds to wait after the `streak`-th failure in a row without progress (from 1), of the job with this UID.
///
/// Exponential, with a jitter of up to a fifth that is the same whenever it is asked for, so that jobs which failed together
/// don't come back together, and a decision taken twice is the same decision.
pub(crate) fn seconds(backoff: Backoff, streak: u32, uid: &str, attempt: u32) -> u64 {
    let doubled = backoff.first_seconds.saturating_mul(1_u64.checked_shl(streak.saturating_sub(1)).unwrap_or(u64::MAX));
    let base = doubled.min(backoff.most_seconds);
    base + base * (hash(uid, attempt) % 21) / 100
}

/// Spreads well and never changes.
fn hash(uid: &str, attempt: u32) -> u64 {
    fnv(uid.bytes().chain(attempt.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_jitters_by_a_fifth_at_most() {
        let backoff = Backoff { first_seconds: 10, most_seconds: 300 };
        for (streak, base) in
            [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (64, 300), (4_000, 300)]
        {
            for attempt in 1..50 {
                let seconds = seconds(backoff, streak, "uid", attempt);
                assert!((base..=base + base / 5).contains(&seconds), "streak {streak}: {seconds}");
                assert_eq!(seconds, super::seconds(backoff, streak, "uid", attempt));
            }
        }
        let spread: std::collections::BTreeSet<u64> = (0..50).map(|n| seconds(backoff, 6, &n.to_string(), 1)).collect();
        assert!(spread.len() > 10, "{spread:?}");
    }
}
