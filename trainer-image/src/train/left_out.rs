//! Images that a training leaves out because they can't be used: each rank meets some, rank 0 keeps the list of all.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::contract::Cause;

use crate::data::TOO_MANY_BROKEN;
use crate::ddp::Group;
use crate::fault::Fault;

/// How long rank 0 waits for what another rank has met.
const WAIT: Duration = Duration::from_secs(60);
/// Most bytes that a rank sends at once: the names of some hundred images.
const SENT_BYTES: usize = 64 << 10;

/// What this rank has met.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// What is said of each.
    met: BTreeSet<String>,
    /// Those of them that rank 0 does not know yet.
    fresh: BTreeSet<String>,
    /// How often all ranks have gathered.
    rounds: u64,
}

impl LeftOut {
    /// Adds an image that can't be used, by what is said of it.
    pub(super) fn add(&mut self, said: String) {
        if self.met.insert(said.clone()) {
            tracing::warn!("left out: {said}");
            self.fresh.insert(said);
        }
    }

    /// How many are new since the last gathering.
    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Adds what all ranks have met to rank 0's list, of which so many may be. All ranks call it, or none.
    pub(super) fn gather(&mut self, group: &Group, all: &mut BTreeSet<String>, at_most: usize) -> Result<(), Fault> {
        self.rounds += 1;
        let key = |rank: u32| format!("left-out/{}/{rank}", self.rounds);
        if group.rank() != 0 {
            let mut sent: Vec<&String> = Vec::new();
            let mut room = SENT_BYTES;
            for said in &self.fresh {
                match room.checked_sub(said.len()) {
                    Some(rest) => room = rest,
                    None => break,
                }
                sent.push(said);
            }
            group.set(&key(group.rank()), &serde_json::to_vec(&sent).expect("plain data"))?;
        } else {
            all.append(&mut self.fresh);
            for rank in 1..group.world_size() {
                let met: Vec<String> =
                    serde_json::from_slice(&group.get(&key(rank), WAIT)?).expect("written by the same program");
                all.extend(met);
            }
        }
        self.fresh.clear();
        if all.len() > at_most {
            let last = all.last().cloned().unwrap_or_default();
            let message = format!("{} images can't be used, {at_most} are allowed; one is {last}", all.len());
            return Err(Fault::new(Cause::BadData, message).hint(TOO_MANY_BROKEN));
        }
        Ok(())
    }
}
