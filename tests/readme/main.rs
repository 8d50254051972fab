//! Every command of the README is executed as it stands there: on this machine with a model that is really trained, and on a
//! control plane with an operator, where the nodes and the pods' lives are played.

mod cluster;
mod here;
mod story;

use std::collections::BTreeSet;

use crate::story::commands;

/// What runs these tests, and what comes to the same as the commands that `here` runs.
const MAKE: [&str; 2] = ["make run", "make test"];
/// A played node has no logs.
const NEEDS_A_KUBELET: [&str; 1] = ["trainyard logs flowers -f"];

#[test]
fn no_command_is_left_out() {
    let told: BTreeSet<String> = commands().into_iter().collect();
    let all = [&MAKE[..], &NEEDS_A_KUBELET, &here::COMMANDS, &cluster::COMMANDS].concat();
    let executed: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
    let difference: Vec<&String> = told.symmetric_difference(&executed).collect();
    assert!(difference.is_empty(), "in the README and not executed, or the other way round: {difference:#?}");
}
