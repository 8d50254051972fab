//! What happened while nobody looked.

use std::collections::BTreeMap;

use super::builders::*;
use crate::observe::World;

#[test]
fn what_moved_while_nobody_was_there_to_hear_of_it_does_not_stand_still() {
    let world = training(1).running_attempt(1).member(0, running()).at_step(7);
    let world = world.wishing(|job| job.stall_deadline_seconds = Some(60));
    let told = world.clone().then(&world.decided(0));
    // The operator was away for longer than the deadline, and has not asked yet.
    let back = World { heard: BTreeMap::new(), progress: None, since: at(500), ..told };
    let plan = back.decided(500);
    assert_eq!((plan.ledger, plan.wake), (None, Some(at(560))));
    let moved = back.clone().at_step(90);
    assert!(!moved.clone().then(&moved.decided(560)).ledger.stalled);
    assert_eq!(stops(&back.decided_twice(560).1), ["1/0 gracefully"], "nothing was heard of it since");
}
