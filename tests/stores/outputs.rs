//! Jobs that read from a store and write to it: to the end, through kills of the job and of the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crds::contract::{Cause, env};
use crds::scoring_job::RowFormat;
use libtest_mimic::Failed;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use serde_json::json;
use tch::Tensor;
use trainer::checkpoint::{Checkpoint, commit, list, newest};
use trainer::folder::{Folder, Owner, digest};
use trainer::score::output::{Input, Layout, Output, Request, Row, Writer};

use crate::bench::{BUCKET, Bench, check, s3, scoring, training, wait_until};

/// Trains and scores on files, and again from bucket to bucket, where the training is killed on its way.
pub(crate) fn same_bytes_as_on_files() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.path("images"), 20)?;
    bench.draw(&bench.object("images"), 20)?;
    let calm = training(&bench.file_uri("images"), &bench.file_uri("model"));
    bench.start("TrainingJob", "calm", &calm, 1)?.succeed()?;

    let spec = training(&s3("images"), &s3("models/a"));
    let mut pod = bench.start("TrainingJob", "stormy", &spec, 1)?;
    wait_until(&mut pod, "checkpoint in the bucket", || bench.has_checkpoint("models/a", 3))?;
    pod.kill()?;
    let second = bench.start("TrainingJob", "stormy", &spec, 2)?;
    let log = bench.path("stormy-2.log");
    let result = second.succeed()?.result.ok_or("no result")?;
    let log = fs::read_to_string(log)?;
    check(log.contains("resumed from a checkpoint"), || log)?;
    check(result.uri == s3("models/a"), || format!("{result:?}"))?;
    for file in ["model.json", "metrics.json", "report.html", "claim.json"] {
        check(bench.object("models/a").join(file).is_file(), || format!("{file} is missing"))?;
    }
    let [ours, theirs] =
        [bench.path("model"), bench.object("models/a")].map(|at| fs::read(at.join("model.safetensors")));
    check(ours? == theirs?, || "the weights differ".into())?;
    let mut kept: Vec<_> =
        fs::read_dir(bench.object("models/a/checkpoints"))?.flatten().map(|e| e.file_name()).collect();
    kept.sort();
    check(kept == ["step-000000009", "step-000000012"], || format!("{kept:?}"))?;

    bench.draw(&bench.object("unseen"), 6)?;
    fs::write(bench.object("unseen/left/000.png"), b"not an image")?;
    let spec = scoring(&s3("models/a"), &s3("unseen"), &s3("scores"));
    let scored = bench.start("ScoringJob", "scores", &spec, 1)?.succeed()?.result.ok_or("no result")?;
    check((scored.rows_in, scored.rows_out, scored.rows_failed) == (Some(12), Some(12), Some(1)), || {
        format!("{scored:?}")
    })?;
    let rows = fs::read_to_string(bench.object("scores/predictions.csv"))?;
    check(rows.lines().count() == 13, || rows.clone())?;
    let again = bench.start("ScoringJob", "scores", &spec, 2)?.succeed()?.result;
    check(again.as_ref() == Some(&scored), || format!("a finished output is left as it is, and not {again:?}"))
}

/// A second job can't write where a first one has, and an older attempt not where a newer one has come.
pub(crate) fn one_owner() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), 4)?;
    let spec = training(&s3("images"), &s3("shared"));
    bench.start("TrainingJob", "first", &spec, 2)?.succeed()?;
    bench.start("TrainingJob", "second", &spec, 1)?.fail(Cause::BadSpec, "TrainingJob default/first")?;
    bench.start("TrainingJob", "first", &spec, 1)?.fail(Cause::Bug, "superseded by attempt 2").map(drop)
}

/// The server dies in the midst of a training and comes back: the same bytes, in the same attempt.
pub(crate) fn short_outage() -> Result<(), Failed> {
    let mut bench = Bench::new()?;
    bench.draw(&bench.object("images"), 20)?;
    let calm = training(&s3("images"), &s3("calm"));
    bench.start("TrainingJob", "calm", &calm, 1)?.succeed()?;
    let mut pod = bench.start("TrainingJob", "stormy", &training(&s3("images"), &s3("stormy")), 1)?;
    wait_until(&mut pod, "checkpoint in the bucket", || bench.has_checkpoint("stormy", 3))?;
    bench.server.kill();
    std::thread::sleep(Duration::from_millis(1500));
    check(!pod.has_ended()?, || "it did not wait for the server".into())?;
    bench.server.restart()?;
    pod.succeed()?;
    let [calm, stormy] = ["calm", "stormy"].map(|name| fs::read(bench.object(name).join("model.safetensors")));
    check(calm? == stormy?, || "the weights differ".into())
}

/// The store of the output goes and does not come back: the training goes on meanwhile, and the job ends as the contract says.
pub(crate) fn long_outage() -> Result<(), Failed> {
    let mut bench = Bench::new()?;
    bench.draw(&bench.path("images"), 20)?;
    let mut spec = training(&bench.file_uri("images"), &s3("model"));
    spec["training"]["epochs"] = json!(8);
    spec["output"]["checkpoint"]["everySteps"] = json!(1);
    let retries = [(env::STORAGE_RETRY_SECONDS, "2")];
    let mut pod = bench.start_with("TrainingJob", "lost", &spec, 1, &retries)?;
    wait_until(&mut pod, "checkpoint in the bucket", || bench.has_checkpoint("model", 1))?;
    bench.server.kill();
    let log = bench.path("lost-1.log");
    pod.fail(Cause::Storage, "s3://yard/model")?;
    let log = fs::read_to_string(log)?;
    check(log.contains("a checkpoint could not be saved"), || log.clone())?;
    let (_, after) = log.split_once("could not be saved").ok_or("it was said")?;
    check(after.contains("epoch done"), || format!("the training did not go on:\n{log}"))
}

/// An attempt commits checkpoints after a newer one has begun, as one does that looked at the claim just before.
pub(crate) fn ghost() -> Result<(), Failed> {
    let bench = Bench::new()?;
    play(&bench, "ghost", &bench.object("model/claim.json"))
}

/// Plays a part in a process of its own that knows the server.
fn play(bench: &Bench, mode: &str, path: &Path) -> Result<(), Failed> {
    let mut play = std::process::Command::new(std::env::current_exe()?);
    let ended = bench.server.known_to(&mut play).arg(mode).arg(path).output()?;
    check(ended.status.success(), || String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// What [`ghost`] plays. `claim` is the claim as the server's file.
pub(crate) fn play_ghost(claim: &Path) -> Result<(), Failed> {
    let output = PathBuf::from(s3("model"));
    let attempt = |attempt: u32| {
        Folder::claim(&output, &Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt })
    };
    let checkpoint = |step: u64, writer: &str, value: f32| Checkpoint {
        step,
        position: writer.to_owned(),
        tensors: vec![("a".into(), Tensor::from_slice(&[value]))],
    };
    let expect = |step: u64, writer: &str| -> Result<(), Failed> {
        let newest = newest::<String>(&output)?.ok_or("no checkpoint")?;
        check((newest.step, newest.position.as_str()) == (step, writer), || {
            format!("{} of {:?} and not {step} of {writer:?}", newest.step, newest.position)
        })
    };
    let first = attempt(1)?;
    let before = fs::read(claim)?;
    let behind_the_claim = |act: &dyn Fn(&Folder) -> Result<(), Failed>| -> Result<(), Failed> {
        let now = fs::read(claim)?;
        fs::write(claim, &before)?;
        act(&attempt(1)?)?;
        Ok(fs::write(claim, now)?)
    };
    commit(&first, 3, &checkpoint(10, "first", 1.0))?;
    let second = attempt(2)?;
    check(commit(&first, 3, &checkpoint(20, "ghost", 2.0)).is_err(), || "a ghost that looks committed".into())?;
    expect(10, "first")?;
    // Its checkpoint is there first, and the newer attempt replaces it.
    behind_the_claim(&|ghost| Ok(commit(ghost, 3, &checkpoint(30, "ghost", 3.0)).map(drop)?))?;
    commit(&second, 3, &checkpoint(30, "second", 4.0))?;
    expect(30, "second")?;
    // It comes later to the same step, and is turned away; a later step of it counts less.
    behind_the_claim(&|ghost| {
        let error = commit(ghost, 3, &checkpoint(30, "ghost", 5.0)).map(drop).err().ok_or("a ghost won")?;
        check(error.to_string().contains("superseded by attempt 2"), || error.to_string())?;
        Ok(commit(ghost, 3, &checkpoint(90, "ghost", 6.0)).map(drop)?)
    })?;
    expect(30, "second")?;
    commit(&second, 2, &checkpoint(40, "second", 7.0))?;
    let left: Vec<u64> = list(&output)?.iter().map(|found| found.step).collect();
    check(left == [30, 40], || format!("left are {left:?}"))
}

/// Rows that take several parts of an upload, first without one of the shard's own parts.
pub(crate) fn many_rows() -> Result<(), Failed> {
    let bench = Bench::new()?;
    play(&bench, "rows", &bench.object(""))
}

/// What [`many_rows`] plays. `bucket` is the bucket as the server's folder.
pub(crate) fn play_rows(bucket: &Path) -> Result<(), Failed> {
    const INPUTS: usize = 2 * 1024 + 1;
    let folder = PathBuf::from(s3("scores"));
    let owner = Owner { uid: "a".into(), name: "ScoringJob default/a".into(), attempt: 1 };
    let inputs: Vec<Input> =
        (0..INPUTS).map(|index| Input { path: format!("{index}.png").into(), label: None }).collect();
    let request = Request {
        folder: &folder,
        job: &owner,
        format: RowFormat::Csv,
        classes: &["left".into(), "right".into()],
        layout: Layout { all_classes: false, top_k: 0 },
        model_digest: "sha256:0",
        inputs: &inputs,
        shard: 0,
        shards: 1,
    };
    let fill = || -> Result<Writer, Failed> {
        let Output::Resume(mut writer) = Output::open(&request)? else { return Err("it is finished".into()) };
        while let Some(range) = writer.next_missing() {
            // 40 MB in all.
            let rows: Vec<Row> = range.clone().map(|_| Err("unreadable ".repeat(1800))).collect();
            writer.commit(range, &rows)?;
        }
        Ok(*writer)
    };
    let (placed, last) = (bucket.join("scores/predictions.csv"), "scores/_work/shard-00000/part-00002.attempt-1");
    let writer = fill()?;
    fs::remove_file(bucket.join(last))?;
    let error = writer.finish().err().ok_or("rows are missing, and it ended well")?;
    check(error.to_string().contains("it is gone"), || error.to_string())?;
    check(!placed.exists(), || "rows are there that are not whole".into())?;
    let left = files_below(&bucket.join(".sgwtmp"))?;
    check(left.is_empty(), || format!("left are {left:?}"))?;

    let finish = fill()?.finish()?;
    let bytes = fs::read(&placed)?;
    check(finish.file.rows == INPUTS as u64 && finish.file.bytes == bytes.len() as u64, || format!("{finish:?}"))?;
    check(finish.file.digest == digest(&bytes), || "the rows are not those that were written".into())?;
    let store = AmazonS3Builder::from_env().with_bucket_name(BUCKET).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(store.head(&"scores/predictions.csv".into()))?;
    // The tag of what came in parts tells their number.
    check(found.e_tag.as_ref().is_some_and(|tag| tag.contains("-3")), || format!("{found:?}"))
}

/// Paths of all files below a folder; none where it is not.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
