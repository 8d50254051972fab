//! Trains and scores from an S3 server and to it, and from Google's storage and web servers, with the real program in real
//! processes: the same bytes as on files, through kills of the job and of the server; and what can't be done is said with its
//! cause.
//!
//! With the arguments `launch` or `worker` this program is the trainer; with `ghost` or `rows` it plays a part of it.

mod bench;
mod clouds;
mod contents;
mod faults;
mod formats;
mod outputs;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|mode| mode == "launch" || mode == "worker") {
        return trainer::cli::run();
    }
    if let [_, mode, path] = std::env::args().collect::<Vec<_>>().as_slice() {
        let play = match mode.as_str() {
            "ghost" => Some(outputs::play_ghost as fn(&Path) -> Result<(), Failed>),
            "rows" => Some(outputs::play_rows as fn(&Path) -> Result<(), Failed>),
            _ => None,
        };
        if let Some(play) = play {
            return match play(Path::new(path)) {
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
    let tests: [(&str, fn() -> Result<(), Failed>); 13] = [
        ("a job on a store that is killed ends with the bytes of one on files", outputs::same_bytes_as_on_files),
        ("of two jobs with one output the second names the first", outputs::one_owner),
        ("a server that is away for a moment costs nothing but time", outputs::short_outage),
        ("a store that stays away ends the job, which trained on meanwhile", outputs::long_outage),
        ("a ghost of an older attempt wins nothing", outputs::ghost),
        ("many rows go in parts, and those that break off leave none", outputs::many_rows),
        ("what a store refuses is said with its cause", faults::said_with_their_cause),
        ("tables and tar files give what folders give", formats::same_as_folders),
        ("a cache changes nothing but the way, and knows what has changed", contents::cached),
        ("what is wrong with images is in the report", contents::reported),
        ("what is wrong with tables and tar files is named", formats::faults_are_named),
        ("folders, tables, tar files and models come from Google's storage", clouds::google),
        ("tables, tar files and weights come from a web server", clouds::web),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
