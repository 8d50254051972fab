//! Jobs that read from a store and write to it: to the end, through kills of the job and of the server.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crds::contract::{Cause, env};
use crds::scoring_job::RowFormat;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use tch::Tensor;
use trainer::checkpoint::{Checkpoint, commit, list, newest};
use trainer::folder::{Folder, Owner, digest};
use trainer::score::output::{Input, Layout, Listing, Output, Request, Row, Share, Writer};

use crate::bench::{Bench, check, has_checkpoint, s3, scoring, training, uri, wait_until};
use crate::store::{Client, Store};

/// Trains and scores on files, and again from bucket to bucket, where the training is killed on its way.
pub(crate) fn same_bytes_as_on_files<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    let client = bench.client()?;
    bench.draw(&bench.path("images"), 20)?;
    bench.draw_there("images", 20)?;
    let calm = training(&bench.file_uri("images"), &bench.file_uri("model"));
    bench.start("TrainingJob", "calm", &calm, 1)?.succeed()?;

    let spec = training(&bench.uri("images"), &bench.uri("models/a"));
    let mut pod = bench.start("TrainingJob", "stormy", &spec, 1)?;
    wait_until(&mut pod, "checkpoint in the bucket", || has_checkpoint(&client, "models/a", 3))?;
    pod.kill()?;
    let second = bench.start("TrainingJob", "stormy", &spec, 2)?;
    let log = bench.path("stormy-2.log");
    let result = second.succeed()?.result.ok_or("no result")?;
    let log = fs::read_to_string(log)?;
    check(log.contains("resumed from a checkpoint"), || log)?;
    check(result.uri == bench.uri("models/a"), || format!("{result:?}"))?;
    let names = client.names("models/a")?;
    for file in ["model.json", "metrics.json", "report.html", "claim.json"] {
        check(names.iter().any(|name| name == file), || format!("{file} is missing of {names:?}"))?;
    }
    let (ours, theirs) = (fs::read(bench.path("model/model.safetensors"))?, client.get("models/a/model.safetensors")?);
    check(ours == theirs, || "the weights differ".into())?;
    let records = names.iter().filter_map(|name| name.strip_prefix("checkpoints/")?.strip_suffix("/checkpoint.json"));
    let kept: Vec<_> = records.collect();
    check(kept == ["step-000000009", "step-000000012"], || format!("{kept:?}"))?;

    bench.draw_there("unseen", 6)?;
    client.put("unseen/left/000.png", "not an image")?;
    let spec = scoring(&bench.uri("models/a"), &bench.uri("unseen"), &bench.uri("scores"));
    let scored = bench.start("ScoringJob", "scores", &spec, 1)?.succeed()?.result.ok_or("no result")?;
    check((scored.rows_in, scored.rows_out, scored.rows_failed) == (Some(12), Some(12), Some(1)), || {
        format!("{scored:?}")
    })?;
    let rows = client.text("scores/predictions.csv")?;
    check(rows.lines().count() == 13, || rows.clone())?;
    let again = bench.start("ScoringJob", "scores", &spec, 2)?.succeed()?.result;
    check(again.as_ref() == Some(&scored), || format!("a finished output is left as it is, and not {again:?}"))
}

/// A second job can't write where a first one has, and an older attempt not where a newer one has come.
pub(crate) fn one_owner<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    bench.draw_there("images", 4)?;
    let spec = training(&bench.uri("images"), &bench.uri("shared"));
    bench.start("TrainingJob", "first", &spec, 2)?.succeed()?;
    bench.start("TrainingJob", "second", &spec, 1)?.fail(Cause::BadSpec, "TrainingJob default/first")?;
    bench.start("TrainingJob", "first", &spec, 1)?.fail(Cause::Bug, "superseded by attempt 2").map(drop)
}

/// Two shards score at the same time: the manifest comes last, and nothing of their work is left.
pub(crate) fn two_shards<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    let client = bench.client()?;
    bench.draw_there("images", 8)?;
    let mut spec = training(&bench.uri("images"), &bench.uri("model"));
    spec["training"]["epochs"] = json!(1);
    bench.start("TrainingJob", "model", &spec, 1)?.succeed()?;
    let mut spec = scoring(&bench.uri("model"), &bench.uri("images"), &bench.uri("scores"));
    spec["infrastructure"]["processesPerNode"] = json!(2);
    bench.start("ScoringJob", "scores", &spec, 1)?.succeed()?;
    let found = client.list("scores")?;
    let manifest: Value = serde_json::from_slice(&client.get("scores/manifest.json")?)?;
    let files: Vec<_> = manifest["files"].as_array().into_iter().flatten().collect();
    check(files.len() == 2, || manifest.to_string())?;
    for file in files {
        let name = file["path"].as_str().ok_or_else(|| manifest.to_string())?;
        let bytes = client.get(&format!("scores/{name}"))?;
        check(file["digest"] == digest(&bytes), || format!("{name} is not what the manifest says"))?;
    }
    let written = |name: &str| found.iter().find(|(path, _)| path == name).map(|(_, meta)| meta.last_modified);
    for shard in ["predictions/shard-00000-of-00002.csv", "predictions/shard-00001-of-00002.csv"] {
        check(written(shard).is_some() && written(shard) <= written("manifest.json"), || {
            format!("the manifest is not the last: {found:?}")
        })?;
    }
    check(!found.iter().any(|(path, _)| path.starts_with("_work/")), || format!("left are {found:?}"))
}

/// The server dies in the midst of a training and comes back: the same bytes, in the same attempt.
pub(crate) fn short_outage() -> Result<(), Failed> {
    let mut bench = Bench::new()?;
    let client = bench.client()?;
    bench.draw(&bench.object("images"), 20)?;
    let calm = training(&s3("images"), &s3("calm"));
    bench.start("TrainingJob", "calm", &calm, 1)?.succeed()?;
    let mut pod = bench.start("TrainingJob", "stormy", &training(&s3("images"), &s3("stormy")), 1)?;
    wait_until(&mut pod, "checkpoint in the bucket", || has_checkpoint(&client, "stormy", 3))?;
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
    let client = bench.client()?;
    bench.draw(&bench.path("images"), 20)?;
    let mut spec = training(&bench.file_uri("images"), &s3("model"));
    spec["training"]["epochs"] = json!(8);
    spec["output"]["checkpoint"]["everySteps"] = json!(1);
    let retries = [(env::STORAGE_RETRY_SECONDS, "2")];
    let mut pod = bench.start_with("TrainingJob", "lost", &spec, 1, &retries)?;
    wait_until(&mut pod, "checkpoint in the bucket", || has_checkpoint(&client, "model", 1))?;
    bench.server.kill();
    let log = bench.path("lost-1.log");
    pod.fail(Cause::Storage, "s3://yard/model")?;
    let log = fs::read_to_string(log)?;
    check(log.contains("a checkpoint could not be saved"), || log.clone())?;
    let (_, after) = log.split_once("could not be saved").ok_or("it was said")?;
    check(after.contains("epoch done"), || format!("the training did not go on:\n{log}"))
}

/// An attempt commits checkpoints after a newer one has begun, as one does that looked at the claim just before.
pub(crate) fn ghost<S: Store>() -> Result<(), Failed> {
    play(&Bench::<S>::on()?, "ghost")
}

/// Plays a part in a process of its own that knows the server.
fn play<S: Store>(bench: &Bench<S>, mode: &str) -> Result<(), Failed> {
    let mut play = std::process::Command::new(std::env::current_exe()?);
    let ended = play.envs(bench.server.environment()).arg(mode).arg(S::SCHEME).output()?;
    check(ended.status.success(), || String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// What [`ghost`] plays, in the store with this scheme.
pub(crate) fn play_ghost(scheme: &str) -> Result<(), Failed> {
    const CLAIM: &str = "model/claim.json";
    let client = Client::open(scheme, Vec::new())?;
    let output = PathBuf::from(uri(scheme, "model"));
    let attempt = |attempt: u32| {
        let owner = Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt, created: None };
        Folder::claim(&output, &owner)
    };
    let checkpoint = |step: u64, writer: &str, value: f32| Checkpoint {
        step,
        position: writer.to_owned(),
        tensors: vec![("a".into(), Tensor::from_slice(&[value]))],
    };
    let expect = |step: u64, writer: &str| -> Result<(), Failed> {
        let newest = newest::<String>(&output)?.checkpoint.ok_or("no checkpoint")?;
        check((newest.step, newest.position.as_str()) == (step, writer), || {
            format!("{} of {:?} and not {step} of {writer:?}", newest.step, newest.position)
        })
    };
    let first = attempt(1)?;
    let before = client.get(CLAIM)?;
    let behind_the_claim = |act: &dyn Fn(&Folder) -> Result<(), Failed>| -> Result<(), Failed> {
        let now = client.get(CLAIM)?;
        client.put(CLAIM, before.clone())?;
        act(&attempt(1)?)?;
        client.put(CLAIM, now)
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
pub(crate) fn many_rows<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    play(&bench, "rows")?;
    let left = bench.server.unfinished()?;
    check(left.is_empty(), || format!("left are {left:?}"))
}

/// What [`many_rows`] plays, in the store with this scheme.
pub(crate) fn play_rows(scheme: &str) -> Result<(), Failed> {
    const INPUTS: usize = 2 * 1024 + 1;
    const PLACED: &str = "scores/predictions.csv";
    let client = Client::open(scheme, Vec::new())?;
    let folder = PathBuf::from(uri(scheme, "scores"));
    let owner = Owner { uid: "a".into(), name: "ScoringJob default/a".into(), attempt: 1, created: None };
    let input = |index| Input { path: format!("{index}.png").into(), label: None, stranger: None };
    let listing = Listing { inputs: (0..INPUTS).map(input).collect(), ..Listing::default() };
    let request = Request {
        folder: &folder,
        job: &owner,
        format: RowFormat::Csv,
        classes: &["left".into(), "right".into()],
        layout: Layout { all_classes: false, top_k: 0 },
        model_digest: "sha256:0",
        listing: Some(&listing),
        share: Share { member: 0, members: 1, process: 0, processes: 1 },
    };
    let fill = || -> Result<Writer, Failed> {
        let Output::Resume(mut writers) = Output::open(&request)? else { return Err("it is finished".into()) };
        let mut writer = writers.pop().ok_or("it has no shard")?;
        while let Some(range) = writer.next_missing() {
            // 40 MB in all.
            let rows: Vec<Row> = range.clone().map(|_| Err("unreadable ".repeat(1800))).collect();
            writer.commit(range, &rows)?;
        }
        Ok(writer)
    };
    let writer = fill()?;
    client.delete("scores/_work/shard-00000/part-00002.attempt-1")?;
    let error = writer.finish().err().ok_or("rows are missing, and it ended well")?;
    check(error.to_string().contains("it is gone"), || error.to_string())?;
    let names = client.names("scores")?;
    check(!names.iter().any(|name| PLACED.ends_with(name)), || {
        format!("there are rows that are not whole: {names:?}")
    })?;

    let finish = fill()?.finish()?;
    let bytes = client.get(PLACED)?;
    check(finish.file.rows == INPUTS as u64 && finish.file.bytes == bytes.len() as u64, || format!("{finish:?}"))?;
    check(finish.file.digest == digest(&bytes), || "the rows are not those that were written".into())?;
    // The tag of what came to S3 in parts tells their number.
    let found = client.list("scores")?;
    let tag = found.into_iter().find(|(path, _)| PLACED.ends_with(path)).and_then(|(_, meta)| meta.e_tag);
    check(scheme != "s3" || tag.as_ref().is_some_and(|tag| tag.contains("-3")), || format!("{tag:?}"))
}
