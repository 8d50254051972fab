//! Every target over its seeds, and over thousands of files made from them by damage.

use std::env;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::damage::damaged;
use super::{TARGETS, Target};
use crate::data::{Random, Use};

/// Names another seed of the damage than the usual one.
const SEED: &str = "STRANGERS_SEED";
/// Says how many files each target gets, as a multiple of the usual number.
const TIMES: &str = "STRANGERS_TIMES";

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, no number")))
}

/// Lets a target read its seeds and `count` damaged ones.
fn withstand(name: &str, count: u64) {
    let (target, seed) = (Target::named(name), number(SEED, 1));
    let seeds = target.seeds();
    for seed in &seeds {
        check(target, &format!("the seed {:?}", seed.name), &seed.bytes);
    }
    for index in 0..count * number(TIMES, 1) {
        let bytes = damaged(&seeds, &mut Random::new(Use::Order, seed, index, name.len() as u64));
        check(target, &format!("damage {index} of {SEED}={seed}"), &bytes);
    }
}

fn check(target: Target, what: &str, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.check(bytes))) {
        let folder = target.folder();
        let hexadecimal = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        eprintln!("{}: {what}. Mend it, and keep it in {}: xxd -r -p <<< {hexadecimal}", target.name, folder.display());
        resume_unwind(panic);
    }
}

/// A test for each target, with the number of damaged files: what a second or two allow.
macro_rules! withstand {
    ($($name:ident: $count:expr),* $(,)?) => {
        $(#[test]
        fn $name() {
            withstand(stringify!($name), $count);
        })*

        #[test]
        fn each_target_has_a_test() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

withstand! {
    image: 2000,
    rest: 3000,
    grpc: 3000,
    safetensors: 3000,
    pth: 3000,
    pickle: 3000,
    csv: 1500,
    json_lines: 1500,
    parquet: 2000,
    shard: 1500,
    card: 1500,
    assignment: 3000,
}

#[test]
fn what_is_made_here_is_read_and_not_refused() {
    // Refusals alone would test little.
    for target in TARGETS {
        for seed in (target.made)() {
            assert!(target.check(&seed.bytes), "{}: {} is refused", target.name, seed.name);
        }
    }
}

#[test]
fn what_is_sent_small_does_not_become_large() {
    for size in [1 << 14, 1 << 20] {
        for (index, (name, bytes)) in crate::serve::strangers::swollen(size).iter().enumerate() {
            check(Target::named(name), &format!("request {index} of {size} bytes"), bytes);
        }
    }
}
