//! Which checkpoint counts when attempts overlap.

use std::path::Path;

use tch::Tensor;

use super::*;
use crate::folder::Owner;

fn attempt(output: &Path, attempt: u32) -> Folder {
    let owner = Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt, created: None };
    Folder::claim(output, &owner).unwrap()
}

/// A checkpoint whose tensors and position say who wrote it.
fn checkpoint(step: u64, writer: &str, value: f32) -> Checkpoint<String> {
    Checkpoint { step, position: writer.into(), tensors: vec![("a".into(), Tensor::from_slice(&[value]))] }
}

fn newest_writer(output: &Path) -> (u64, String) {
    let newest = newest::<String>(output).unwrap().checkpoint.unwrap();
    (newest.step, newest.position)
}

/// Lets the folder be an older attempt's once more, as one is that has looked at the claim just before a newer one came.
fn behind_the_claim(output: &Path, ghost: impl FnOnce(&Folder)) {
    let claim = output.join("claim.json");
    let now = fs::read(&claim).unwrap();
    fs::remove_file(&claim).unwrap();
    ghost(&attempt(output, 1));
    fs::write(claim, now).unwrap();
}

#[test]
fn a_ghost_that_looks_at_the_claim_commits_nothing() {
    let root = tempfile::tempdir().unwrap();
    let ghost = attempt(root.path(), 1);
    commit(&ghost, 3, &checkpoint(10, "first", 1.0)).unwrap();
    attempt(root.path(), 2);
    assert!(commit(&ghost, 3, &checkpoint(20, "ghost", 2.0)).is_err());
    assert_eq!(newest_writer(root.path()), (10, "first".into()));
}

#[test]
fn a_newer_attempt_counts_more_than_a_later_step_of_a_ghost() {
    let root = tempfile::tempdir().unwrap();
    let second = attempt(root.path(), 2);
    commit(&second, 2, &checkpoint(20, "second", 1.0)).unwrap();
    behind_the_claim(root.path(), |ghost| drop(commit(ghost, 2, &checkpoint(90, "ghost", 2.0)).unwrap()));
    assert_eq!(newest_writer(root.path()), (20, "second".into()));
    commit(&second, 2, &checkpoint(30, "second", 3.0)).unwrap();
    let left: Vec<u64> = list(root.path()).unwrap().iter().map(|found| found.step).collect();
    assert_eq!(left, [20, 30], "of those to be removed the ghost's is the oldest");
}

#[test]
fn of_one_step_the_newer_attempts_stays_whoever_comes_first() {
    let root = tempfile::tempdir().unwrap();
    let second = attempt(root.path(), 2);
    behind_the_claim(root.path(), |ghost| drop(commit(ghost, 2, &checkpoint(20, "ghost", 1.0)).unwrap()));
    // What a process left that ended while it replaced one.
    let litter = root.path().join(FOLDER).join(".step-000000020.stale.attempt-2");
    fs::create_dir(&litter).unwrap();
    fs::write(litter.join(STATE), "").unwrap();
    commit(&second, 2, &checkpoint(20, "second", 2.0)).unwrap();
    assert_eq!(newest_writer(root.path()), (20, "second".into()));
    let left = fs::read_dir(root.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["step-000000020"], "the one that was replaced is gone");
    behind_the_claim(root.path(), |ghost| {
        let error = commit(ghost, 2, &checkpoint(20, "ghost", 3.0)).unwrap_err();
        assert!(error.to_string().contains("superseded by attempt 2"), "{error}");
    });
    assert_eq!(newest_writer(root.path()), (20, "second".into()));
}

#[test]
fn a_job_that_is_created_anew_goes_on_from_the_checkpoints_before_it_and_its_own_count_more_than_a_ghost_s() {
    let anew = |created: i64, attempt| {
        let name = "TrainingJob default/a".into();
        Owner { uid: format!("created-{created}"), name, attempt, created: Some(created) }
    };
    let root = tempfile::tempdir().unwrap();
    let ghost = Folder::claim(root.path(), &anew(10, 7)).unwrap();
    commit(&ghost, 2, &checkpoint(20, "earlier", 1.0)).unwrap();
    let seen = fs::read(root.path().join("claim.json")).unwrap();
    let later = Folder::claim(root.path(), &anew(20, 1)).unwrap();
    assert_eq!(newest_writer(root.path()), (20, "earlier".into()));
    commit(&later, 2, &checkpoint(30, "later", 2.0)).unwrap();
    assert_eq!(newest_writer(root.path()), (30, "later".into()), "it is only at its first attempt");
    // It has looked at the claim just before the later job came.
    let now = fs::read(root.path().join("claim.json")).unwrap();
    fs::write(root.path().join("claim.json"), seen).unwrap();
    commit(&ghost, 2, &checkpoint(90, "ghost", 3.0)).unwrap();
    fs::write(root.path().join("claim.json"), now).unwrap();
    assert!(commit(&ghost, 2, &checkpoint(91, "ghost", 3.0)).is_err());
    assert_eq!(newest_writer(root.path()), (30, "later".into()));
}

/// Two checkpoints, of the steps 10 and 20; the folder of the newer one.
fn two(output: &Path) -> PathBuf {
    let first = attempt(output, 1);
    commit(&first, 3, &checkpoint(10, "first", 1.0)).unwrap();
    commit(&first, 3, &checkpoint(20, "first", 2.0)).unwrap()
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_told() {
    let damages: [(&str, fn(&Path)); 5] = [
        ("digest of state.safetensors differs", |path| fs::write(path.join(STATE), "half").unwrap()),
        ("state.safetensors: ", |path| fs::remove_file(path.join(STATE)).unwrap()),
        ("expected value", |path| fs::write(path.join(RECORD), "garbage").unwrap()),
        ("checkpoint.json: ", |path| fs::remove_file(path.join(RECORD)).unwrap()),
        ("checkpoint.json: ", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, "no folder").unwrap();
        }),
    ];
    for (said, damage) in damages {
        let root = tempfile::tempdir().unwrap();
        damage(&two(root.path()));
        let Newest { checkpoint, passed_over } = newest::<String>(root.path()).unwrap();
        assert_eq!(checkpoint.unwrap().step, 10, "{said}");
        assert!(passed_over.len() == 1 && passed_over[0].contains("step-000000020 is not whole"), "{passed_over:?}");
        assert!(passed_over[0].contains(said), "{passed_over:?}");
    }
}

#[test]
fn a_checkpoint_that_can_not_be_read_now_ends_the_attempt_and_not_the_training() {
    for name in [RECORD, STATE] {
        let root = tempfile::tempdir().unwrap();
        let file = two(root.path()).join(name);
        fs::remove_file(&file).unwrap();
        // Nobody, root neither, can read through a link to itself.
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let fault = newest::<String>(root.path()).unwrap_err();
        assert_eq!(fault.cause(), Cause::Storage, "{fault}");
        assert!(fault.to_string().contains(name), "{fault}");
    }
}
