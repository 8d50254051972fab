//! A million decisions in random histories. The API server's watch lags behind, tells twice or leaves out what was overtaken;
//! writes fail, or take effect without an answer; the operator dies between any two of them and starts anew from an old list;
//! pods end, get stuck, vanish, are cut off and come back between two acts of one plan; the clock jumps; the job is changed, its
//! spec until the first status is written, suspended, and deleted and made again under its name.
//!
//! ```text
//! mod      the million; a history that breaks a promise is made as short as it can be
//! history  what happens, and the operator that looks in between
//! server   pods and status as the API server has them, and the promises that each write is held to
//! dice     random numbers
//! ```
//!
//! Each step of a history follows from the seed and the step's number alone, so that steps can be left out:
//! `TRAINYARD_HISTORY=17:3,8,20` plays these steps of history 17 again.

mod dice;
mod history;
mod server;

use dice::Dice;
use history::History;
use server::Broken;

use super::builders::{at, pending};
use crate::decide::How;
use crate::observe::{End, Job, Ledger, Member, MemberId, MemberState};

/// Decisions of the whole test, unless TRAINYARD_DECISIONS says how many.
const DECISIONS: u64 = 1_000_000;
/// Steps of a history.
const STEPS: u64 = 150;

/// What a history was made of.
#[derive(Default)]
struct Lived {
    decisions: u64,
    /// Decisions about a job that had not come to its end.
    open: u64,
}

/// Lives these steps of one history, and lets it come to rest.
fn live(seed: u64, steps: &[u64]) -> Result<Lived, Broken> {
    let mut history = History::new(Dice::of_step(seed, 0));
    for step in steps {
        history.dice = Dice::of_step(seed, *step);
        history.step().map_err(|broken| format!("at step {step}: {broken}"))?;
    }
    history.dice = Dice::of_step(seed, STEPS + 1);
    if history.dice.one_in(2) {
        history.come_to_rest(true).map_err(|broken| format!("suspended at the end: {broken}"))?;
    }
    history.come_to_rest(false).map_err(|broken| format!("at the end: {broken}"))?;
    Ok(history.lived)
}

/// Leaves out steps for as long as what is left is still broken; tells what is left, and what it breaks.
fn shorten(mut steps: Vec<u64>, mut broken: Broken, live: impl Fn(&[u64]) -> Result<(), Broken>) -> (Vec<u64>, Broken) {
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut first = 0;
        while first < steps.len() {
            let end = (first + chunk).min(steps.len());
            let rest: Vec<u64> = steps[..first].iter().chain(&steps[end..]).copied().collect();
            match live(&rest) {
                Err(still) => (steps, broken) = (rest, still),
                Ok(()) => first = end,
            }
        }
        chunk /= 2;
    }
    (steps, broken)
}

fn joined(steps: &[u64]) -> String {
    steps.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn a_million_decisions_keep_what_was_promised() {
    if let Ok(history) = std::env::var("TRAINYARD_HISTORY") {
        let (seed, steps) = history.split_once(':').expect("TRAINYARD_HISTORY is SEED:STEP,STEP...");
        let steps: Vec<u64> = steps.split(',').filter(|step| !step.is_empty()).flat_map(str::parse).collect();
        let lived = live(seed.parse().expect("a seed"), &steps);
        return assert_eq!(lived.err(), None);
    }
    let asked = std::env::var("TRAINYARD_DECISIONS");
    let decisions = asked.map_or(DECISIONS, |count| count.parse().expect("a number of decisions"));
    let (mut all, mut seed) = (Lived::default(), 0);
    while all.decisions < decisions {
        let steps: Vec<u64> = (1..=STEPS).collect();
        match live(seed, &steps) {
            Ok(lived) => {
                all.decisions += lived.decisions;
                all.open += lived.open;
            }
            Err(broken) => {
                let (steps, broken) = shorten(steps, broken, |steps| live(seed, steps).map(drop));
                panic!("{broken}\nTRAINYARD_HISTORY={seed}:{}", joined(&steps));
            }
        }
        seed += 1;
    }
    assert!(all.open * 10 > all.decisions * 8, "{} of {} decisions were about open jobs", all.open, all.decisions);
}

#[test]
fn a_broken_history_is_cut_down_to_the_steps_that_break_it() {
    let live = |steps: &[u64]| match steps.contains(&40) && steps.contains(&91) {
        true => Err(format!("{} steps", steps.len())),
        false => Ok(()),
    };
    let (steps, broken) = shorten((1..=STEPS).collect(), String::new(), live);
    assert_eq!((joined(&steps), broken), ("40,91".to_owned(), "2 steps".to_owned()));
}
