//! The whole product as its users have it: the chart installed by Helm with our images on real nodes, in a namespace that enforces the
//! Pod Security level `restricted`; jobs that train, score and serve the digits; what breaks, and comes back; and nothing that stays.
//!
//! The tests are acts of one play on one cluster, in this order. Where the machine can't have nodes
//! (no root, no cgroup v1, no namespaces), they are left out, and it is said why.

mod faults;
mod follow;
mod gpus;
mod install;
mod jobs;
mod store;
mod yard;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use tests::node::{Entry, enter};

use yard::Yard;

/// An act of the play.
type Act = fn(&mut Yard);

const ACTS: [(&str, Act); 9] = [
    ("helm test finds what helm has installed at work", install::works),
    ("two pods train the digits, and tell how far they are", jobs::two_pods_train),
    ("one pod of two processes trains the digits", jobs::two_processes_train),
    ("held-out digits are scored by the model", jobs::scores),
    ("an endpoint answers an image over its Service", jobs::serves),
    ("data and model may lie in an S3 server", store::trains),
    ("a job outlives its rank, its pod, the operator, a kubelet and a node, and a pause", faults::outlives),
    ("a GPU without a driver ends a job with its cause", gpus::no_driver),
    ("what is deleted and uninstalled leaves nothing behind", install::leaves_nothing),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let impossible = if arguments.list { None } else { Some(enter(yard::prepare)) };
    let impossible = match impossible {
        Some(Entry::Outside(code)) => return code,
        Some(Entry::Impossible(why)) => {
            eprintln!("the tests on real nodes are left out: {why}");
            true
        }
        Some(Entry::Inside) | None => false,
    };
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let trials = ACTS.into_iter().map(|(name, act)| {
        let play = move || {
            // What an act left behind when it failed is there for the next one to see.
            let mut yard = YARD.lock().unwrap_or_else(PoisonError::into_inner);
            let yard = yard.get_or_insert_with(Yard::start);
            yard.play(name, act);
            Ok(())
        };
        Trial::test(name, play).with_ignored_flag(impossible)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(yard) = YARD.lock().unwrap_or_else(PoisonError::into_inner).take() {
        yard.print_figures();
    }
    conclusion.exit_code()
}

static YARD: Mutex<Option<Yard>> = Mutex::new(None);
