//! The roll-call of ranks that have lost each other: which of them are still there.

use std::time::{Duration, Instant};

use crate::torch::{ProcessGroup, TorchError};

/// How long ranks that have failed in a collective wait for the others to say the same.
const ROLL_CALL: Duration = Duration::from_secs(3);
/// Time in which a store answers whose host is there.
const STORE_ANSWERS: Duration = Duration::from_secs(2);
/// Counts the ranks that have read who is absent.
const READ: &str = "here/read";
/// Longest time for which rank 0 keeps the store open after a meeting or a collective that failed.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);

/// A roll-call after a collective that failed: every rank that is still there has failed in it as well, and says so in the
/// store. Gives those that don't. The store ends with rank 0, which stays until the others have read who they are.
pub(super) fn roll_call(processes: &ProcessGroup) -> Vec<u32> {
    if processes.world_size() == 1 {
        return Vec::new();
    }
    let key = |rank: u32| format!("here/{rank}");
    // A store that is gone, or does not answer, is rank 0's.
    let Some(Ok(())) = processes.ask_within(STORE_ANSWERS, move |store| store.set(&key(store.rank()), b"1")) else {
        return vec![0];
    };
    let called = processes.ask_within(ROLL_CALL + STORE_ANSWERS, move |store| {
        let start = Instant::now();
        loop {
            let mut absent = Vec::new();
            for other in 0..store.world_size() {
                if !store.has(&key(other))? {
                    absent.push(other);
                }
            }
            if absent.is_empty() || start.elapsed() > ROLL_CALL {
                store.add(READ, 1)?;
                return Ok::<_, TorchError>(absent);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let absent = called.and_then(Result::ok).unwrap_or_else(|| vec![0]);
    if processes.rank() == 0 && !absent.contains(&0) {
        let here = i64::from(processes.world_size()) - i64::try_from(absent.len()).unwrap_or(0);
        processes.ask_within(FAREWELL + STORE_ANSWERS, move |store| {
            wait_for(FAREWELL, || store.add(READ, 0).is_ok_and(|now| now >= here));
        });
    }
    absent
}

/// Waits until something holds, or for so long.
pub(super) fn wait_for(most: Duration, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() && start.elapsed() < most {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::Endpoint;

    #[test]
    fn a_rank_that_comes_later_to_the_roll_call_names_the_same_absent_one() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let open = move |rank| {
            let endpoint = Endpoint { host: "127.0.0.1".to_string(), port, is_host: rank == 0, rank, world_size: 3 };
            ProcessGroup::open(&endpoint, Duration::from_secs(60)).unwrap()
        };
        let called = |rank| {
            let store = open(rank);
            // Rank 1 has begun its collective later, and rank 2 never comes.
            std::thread::sleep(Duration::from_secs(u64::from(rank)));
            roll_call(&store)
        };
        let called = &called;
        let absent = std::thread::scope(|scope| {
            let ends = [0, 1].map(|rank| scope.spawn(move || called(rank)));
            let _still = scope.spawn(move || open(2)).join().unwrap();
            ends.map(|end| end.join().unwrap())
        });
        assert_eq!(absent, [[2], [2]]);
    }
}
