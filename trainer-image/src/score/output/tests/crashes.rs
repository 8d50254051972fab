//! Killed at every step, at random steps, and by a real signal: the end is that of a run that was left alone.

use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Three parts, the last one short.
const INPUTS: usize = 40;
const CHILD_FOLDER: &str = "TRAINYARD_TEST_OUTPUT";

#[test]
fn killed_at_any_step_and_run_again_the_output_is_that_of_an_undisturbed_run() {
    for format in FORMATS {
        for shards in [1, 2] {
            let undisturbed = job(INPUTS).format(format).shards(shards);
            undisturbed.run_all(1);
            let expected = undisturbed.tree();
            let mut steps = 0;
            loop {
                let job = job(INPUTS).format(format).shards(shards);
                let disk = dying_after(steps);
                let died = (0..shards).try_for_each(|shard| job.run(&disk, shard, 1).map(drop)).is_err();
                // As a newer attempt, or as the same one when the process was restarted in its place.
                let attempt = 1 + (steps % 2) as u32;
                job.run_all(attempt);
                assert_eq!(job.tree(), expected, "{format:?}, {shards} shards, killed after {steps} steps");
                if !died {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 25, "{steps} steps are too few to be all");
        }
    }
}

#[test]
fn what_was_committed_before_a_kill_is_not_scored_again() {
    let job = job(INPUTS);
    let mut writer = job.writer(1);
    assert_eq!(writer.next_missing(), Some(0..16));
    writer.commit(0..16, &rows(0..16)).unwrap();
    drop(writer);
    let writer = job.writer(2);
    assert_eq!((writer.next_missing(), writer.rows_done(), writer.rows_failed()), (Some(16..32), 16, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn killed_any_number_of_times_at_any_steps_every_input_has_its_row_once(
        lives in prop::collection::vec((0_i64..45, any::<bool>()), 0..8),
        shards in 1_u32..4,
        count in prop::sample::select(vec![0_usize, 1, 16, 17, 40]),
    ) {
        let undisturbed = job(count).shards(shards).format(RowFormat::JsonLines);
        undisturbed.run_all(1);
        let mut job = job(count).shards(shards).format(RowFormat::JsonLines);
        let frozen = job.inputs.clone();
        let mut attempt = 1;
        for (steps, restarted_in_place) in lives {
            let disk = dying_after(steps);
            for shard in 0..shards {
                let _ = job.run(&disk, shard, attempt);
            }
            attempt += u32::from(!restarted_in_place);
            // A folder that changes while it is scored changes no row, once the inputs are frozen.
            let is_frozen = job.folder().join(WORK).join("inputs.jsonl").exists() || job.folder().join("manifest.json").exists();
            job.inputs = if is_frozen { frozen[..count / 2].to_vec() } else { frozen.clone() };
        }
        job.run_all(attempt);
        prop_assert_eq!(job.tree(), undisturbed.tree());
    }
}

/// Scores in a process of its own that the test below kills.
#[test]
#[ignore = "a part of killed_by_a_signal_at_any_time"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(CHILD_FOLDER).unwrap());
    let mut job = job(100 * 16);
    job.root = tempfile::Builder::new().disable_cleanup(true).tempdir_in(&folder).unwrap();
    let link = job.root.path().join("out");
    std::os::unix::fs::symlink(&folder, link).unwrap();
    let attempt = std::env::var("TRAINYARD_TEST_ATTEMPT").unwrap().parse().unwrap();
    let _ = job.run(&Disk::default(), 0, attempt);
}

#[test]
fn killed_by_a_signal_at_any_time_the_output_is_that_of_an_undisturbed_run() {
    let undisturbed = job(100 * 16);
    undisturbed.run_all(1);
    let job = job(100 * 16);
    std::fs::create_dir_all(job.root.path().join("out")).unwrap();
    let child = format!("{}::child", module_path!().split_once("::").unwrap().1);
    let entries = |job: &Job| std::fs::read_dir(job.folder().join("_work/shard-00000")).map_or(0, Iterator::count);
    for attempt in 1..=25_u32 {
        let before = entries(&job);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([&child, "--exact", "--ignored"])
            .env(CHILD_FOLDER, job.root.path().join("out"))
            .env("TRAINYARD_TEST_ATTEMPT", attempt.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each life ends after it has got somewhere.
        while entries(&job) == before && process.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(u64::from(attempt) * 370 % 4000));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert!(entries(&job) > 25 || job.folder().join("manifest.json").exists());
    job.run_all(26);
    assert_eq!(job.tree(), undisturbed.tree());
}
