//! Trains and scores from S3, Google's storage and Azure and to them, and from web servers, with the real program in real processes:
//! the same bytes as on files, through kills of the job and of the server; and what can't be done is said with its cause.
//!
//! With the arguments `launch` or `worker` this program is the trainer; with `ghost` or `rows` it plays a part of it.

mod bench;
mod clouds;
mod contents;
mod faults;
mod formats;
mod outputs;
mod store;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::storage::{AzureServer, GoogleServer, Server};

type Test = fn() -> Result<(), Failed>;

/// A test on each of the stores that are written to.
macro_rules! on_each {
    ($($test:ident)::+) => {
        [$($test)::+::<Server>, $($test)::+::<GoogleServer>, $($test)::+::<AzureServer>]
    };
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|mode| mode == "launch" || mode == "worker") {
        return trainer::cli::run();
    }
    if let [_, mode, scheme] = std::env::args().collect::<Vec<_>>().as_slice() {
        let play = match mode.as_str() {
            "ghost" => Some(outputs::play_ghost as fn(&str) -> Result<(), Failed>),
            "rows" => Some(outputs::play_rows as fn(&str) -> Result<(), Failed>),
            _ => None,
        };
        if let Some(play) = play {
            return match play(scheme) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failed) => {
                    eprintln!("{}", failed.message().unwrap_or_default());
                    ExitCode::FAILURE
                }
            };
        }
    }
    let mut arguments = Arguments::from_args();
    // Each test has processes enough already.
    arguments.test_threads = Some(1);
    let tests: [(&str, Test); 7] = [
        ("a server that is away for a moment costs nothing but time", outputs::short_outage),
        ("a store that stays away ends the job, which trained on meanwhile", outputs::long_outage),
        ("a table of images that are not there names its line", faults::a_row_without_an_image),
        ("tables and tar files give what folders give", formats::same_as_folders),
        ("what is wrong with images is in the report", contents::reported),
        ("what is wrong with tables and tar files is named", formats::faults_are_named),
        ("tables, tar files and weights come from a web server", clouds::web),
    ];
    let everywhere: [(&str, [Test; 3]); 8] = [
        ("a job that is killed ends with the bytes of one on files", on_each!(outputs::same_bytes_as_on_files)),
        ("of two jobs with one output the second names the first", on_each!(outputs::one_owner)),
        ("two shards write at the same time, and the manifest last", on_each!(outputs::two_shards)),
        ("a ghost of an older attempt wins nothing", on_each!(outputs::ghost)),
        ("many rows go in parts, and those that break off leave none", on_each!(outputs::many_rows)),
        ("what is refused is said with its cause", on_each!(faults::said_with_their_cause)),
        ("a cache changes nothing but the way, and knows what has changed", on_each!(contents::cached)),
        ("folders, tables, tar files and models give what files give", on_each!(clouds::read)),
    ];
    let everywhere = everywhere.into_iter().flat_map(|(name, tests)| {
        ["S3", "Google", "Azure"].into_iter().zip(tests).map(move |(store, test)| (format!("{store}: {name}"), test))
    });
    let tests = tests.into_iter().map(|(name, test)| (name.to_owned(), test)).chain(everywhere);
    let trials = tests.map(|(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
