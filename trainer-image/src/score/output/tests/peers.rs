//! Two jobs, two attempts, two processes, several shards; and what is refused.

use std::io::{Error, ErrorKind};
use std::sync::Barrier;

use crds::contract::Cause;

use super::*;

#[test]
fn of_two_jobs_that_come_at_the_same_time_one_gets_the_folder_and_the_other_is_told_whose_it_is() {
    for _ in 0..50 {
        let job = job(3);
        let barrier = Barrier::new(2);
        let open = |uid: &str| {
            barrier.wait();
            job.open_as(&Disk::default(), 0, &owner(uid, 1)).map(drop)
        };
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| open("a"));
            let right = open("b");
            (left.join().unwrap(), right)
        });
        let (lost, winner) = if left.is_ok() { (right, "default/a (UID a)") } else { (left, "default/b (UID b)") };
        let error = lost.expect_err("both have the folder");
        assert_eq!((error.cause(), error.cause().exit_code()), (Cause::BadSpec, 64));
        assert!(error.to_string().ends_with(&format!("belongs to ScoringJob {winner}")), "{error}");
    }
}

#[test]
fn a_ghost_of_an_older_attempt_can_neither_commit_nor_finish_nor_come_back() {
    let job = job(24);
    let mut ghost = job.writer(1);
    ghost.commit(0..16, &rows(0..16)).unwrap();
    let mut newer = job.writer(2);
    assert_eq!(newer.next_missing(), Some(16..24));
    let superseded = "attempt 1 was superseded by attempt 2: it stops without writing";
    assert_eq!(ghost.commit(16..24, &rows(16..24)).unwrap_err().to_string(), superseded);
    assert_eq!(job.open(&Disk::default(), 0, 1).unwrap_err().to_string(), superseded);
    newer.commit(16..24, &rows(16..24)).unwrap();
    let manifest = newer.finish().unwrap().manifest.unwrap();
    assert_eq!((manifest.job.attempt, manifest.rows.written), (2, 24));
    assert!(ghost.finish().is_err());
}

#[test]
fn a_ghost_that_was_ready_to_finish_leaves_the_newer_attempt_its_work() {
    let job = job(10);
    let mut ghost = job.writer(1);
    ghost.commit(0..10, &rows(0..10)).unwrap();
    let newer = job.writer(7);
    assert!(matches!(ghost.finish(), Err(OutputError::Folder(FolderError::Superseded { attempt: 1, newer: 7 }))));
    assert_eq!(newer.finish().unwrap().manifest.unwrap().job.attempt, 7);
}

#[test]
fn a_shard_that_starts_again_leaves_the_others_at_work_and_those_to_come_their_turn() {
    let job = job(90).shards(3);
    let mut other = job.writer_of(1, 1);
    let mut ghost = job.writer_of(0, 1);
    assert_eq!(job.run(&Disk::default(), 0, 5).unwrap(), None);
    while let Some(range) = other.next_missing() {
        other.commit(range.clone(), &rows(range)).unwrap();
    }
    assert_eq!(other.finish().unwrap().manifest, None);
    let superseded = "attempt 1 was superseded by attempt 5: it stops without writing";
    assert_eq!(ghost.commit(0..16, &rows(0..16)).unwrap_err().to_string(), superseded);
    let manifest = job.run(&Disk::default(), 2, 1).unwrap().expect("the last shard completes the output");
    assert_eq!(manifest.rows, RowCounts { inputs: 90, written: 90, failed: 9 });
}

#[test]
fn another_number_of_processes_goes_on_with_the_shards_there_are() {
    for (members, processes) in [(1, 1), (1, 3), (2, 1), (3, 2), (9, 1)] {
        let undisturbed = job(200).shards(4);
        undisturbed.run_all(1);
        let mut job = job(200).shards(4);
        assert_eq!(job.run(&Disk::default(), 1, 1).unwrap(), None);
        let mut begun = job.writer_of(2, 1);
        let range = begun.next_missing().unwrap();
        begun.commit(range.clone(), &rows(range)).unwrap();
        let shards = (0..members).flat_map(|member| (0..processes).map(move |process| (member, process)));
        let mut manifest = None;
        for (member, process) in shards {
            job.share = Some(Share { member, members, process, processes });
            manifest = job.run(&Disk::default(), 0, 2).unwrap().or(manifest);
        }
        let manifest = manifest.expect("the output is complete");
        assert_eq!((manifest.rows.written, manifest.files.len()), (200, 4), "{members} members of {processes}");
        assert_eq!(job.tree(), undisturbed.tree(), "{members} members of {processes}");
    }
}

#[test]
fn what_is_told_of_the_rows_is_counted_from_those_in_the_file() {
    let job = job(16);
    let [mut one, mut other] = [job.writer(1), job.writer(1)];
    one.commit(0..16, &rows(0..16)).unwrap();
    // A process of the same attempt that found none of the images has the last word.
    other.commit(0..16, &vec![Err("it can't be read".to_owned()); 16]).unwrap();
    assert_eq!(one.rows_failed(), 1);
    assert_eq!(one.finish().unwrap().manifest.unwrap().rows, RowCounts { inputs: 16, written: 16, failed: 16 });
}

#[test]
fn an_output_with_fewer_rows_than_inputs_is_not_complete() {
    let job = job(40).shards(2);
    assert_eq!(job.run(&Disk::default(), 0, 1).unwrap(), None);
    let record = job.folder().join("_work/shard-00000.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"rows\":20", "\"rows\":19")).unwrap();
    let error = job.run(&Disk::default(), 1, 1).unwrap_err();
    let why = "shard-00000.json is damaged: it tells of 19 rows, and the shard has 20 inputs";
    assert!(error.to_string().ends_with(why), "{error}");
    assert!(!job.folder().join("manifest.json").exists());
}

#[test]
fn rows_that_come_after_a_peer_has_finished_are_not_wanted() {
    let job = job(40);
    let mut late = job.writer(1);
    job.run_all(1);
    let before = job.tree();
    for range in late.missing() {
        late.commit(range.clone(), &rows(range)).unwrap();
    }
    assert!(!late.may_commit().unwrap());
    assert_eq!(late.finish().unwrap().manifest.unwrap().rows.written, 40);
    assert_eq!(job.tree(), before);
}

#[test]
fn two_processes_of_one_attempt_do_not_harm_each_other() {
    for _ in 0..20 {
        let (job, barrier) = (job(40), Barrier::new(2));
        let run = || {
            barrier.wait();
            job.run(&Disk::default(), 0, 1)
        };
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(run);
            let right = run();
            (left.join().unwrap(), right)
        });
        let manifests = [left, right].map(|end| end.unwrap().expect("one shard completes the output"));
        assert_eq!(manifests[0], manifests[1]);
        job.run_all(2);
        let undisturbed = super::job(40);
        undisturbed.run_all(1);
        assert_eq!(job.tree(), undisturbed.tree());
    }
}

#[test]
fn shards_that_run_at_the_same_time_make_one_output() {
    for _ in 0..10 {
        let job = job(80).shards(4).format(RowFormat::JsonLines);
        let ends: Vec<_> = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..4)
                .map(|shard| (&job, shard))
                .map(|(job, shard)| scope.spawn(move || job.run(&Disk::default(), shard, 1)))
                .collect();
            shards.into_iter().map(|shard| shard.join().unwrap().unwrap()).collect()
        });
        let manifest = ends.into_iter().flatten().next().expect("the last shard completes the output");
        assert_eq!(manifest.rows, RowCounts { inputs: 80, written: 80, failed: 8 });
        let names: Vec<String> = job.tree().into_keys().collect();
        let shard = |index: u32| format!("predictions/shard-{index:05}-of-00004.jsonl");
        assert_eq!(names, ["claim.json".into(), "manifest.json".into(), shard(0), shard(1), shard(2), shard(3)]);
        let all: Vec<u8> =
            manifest.files.iter().flat_map(|file| std::fs::read(job.folder().join(&file.path)).unwrap()).collect();
        let single = super::job(80).format(RowFormat::JsonLines);
        single.run_all(1);
        assert!(all == single.tree()["predictions.jsonl"], "four shards have the rows of one, in the same order");
    }
}

#[test]
fn a_finished_output_is_finished_and_says_so() {
    let mut job = job(12);
    let manifest = job.run_all(1);
    assert_eq!(manifest.files[0].digest, crate::folder::digest(&job.tree()["predictions.csv"]));
    assert_eq!(manifest.files[0].bytes, job.tree()["predictions.csv"].len() as u64);
    let before = job.tree();
    for expected in [false, true] {
        let Output::Finished { manifest: again, inputs_changed } = job.open(&Disk::default(), 0, 5).unwrap() else {
            panic!("it is not finished");
        };
        assert_eq!((again, inputs_changed), (manifest.clone(), expected));
        assert_eq!(job.tree(), before);
        job.inputs.pop();
    }
}

#[test]
fn what_one_shard_has_listed_is_what_all_write() {
    let job = job(12).shards(2);
    assert!(!Output::has_listing(&job.folder()).unwrap());
    assert_eq!(job.run(&Disk::default(), 0, 1).unwrap(), None);
    assert!(Output::has_listing(&job.folder()).unwrap());
    let open = || job.open_with(&Disk::default(), 1, &owner("a", 1), None).unwrap();
    let Output::Resume(mut writers) = open() else { panic!("it is finished") };
    let mut writer = writers.swap_remove(0);
    assert_eq!((writer.inputs(), writer.inputs_changed()), (job.inputs.as_slice(), false));
    let done = writer.inputs_done();
    assert_eq!((done.images_digest.as_str(), done.note.as_deref()), ("sha256:i", Some("one is strange")));
    while let Some(range) = writer.next_missing() {
        writer.commit(range.clone(), &rows(range)).unwrap();
    }
    assert_eq!(writer.finish().unwrap().manifest.unwrap().inputs, done);
    // The work is cleared away, and the manifest says the same.
    assert!(Output::has_listing(&job.folder()).unwrap());
    let Output::Finished { manifest, .. } = open() else { panic!("it is not finished") };
    assert_eq!(manifest.inputs, done);
}

#[test]
fn another_model_or_form_is_refused_before_and_after_the_end() {
    let mut job = job(12);
    drop(job.writer(1));
    job.format = RowFormat::Parquet;
    let text = job.open(&Disk::default(), 0, 2).unwrap_err().to_string();
    assert!(text.ends_with("was begun with another format: Csv then, Parquet now"), "{text}");
    job.format = RowFormat::Csv;
    job.layout.top_k = 1;
    assert!(matches!(job.open(&Disk::default(), 0, 2), Err(OutputError::Differs { what: "choice of columns", .. })));
    job.layout.top_k = 2;
    job.run_all(3);
    let folder = job.folder();
    let owner = owner("a", 3);
    let request = Request {
        folder: &folder,
        job: &owner,
        format: job.format,
        classes: &job.classes,
        layout: job.layout,
        model_digest: "sha256:other",
        listing: None,
        share: Share { member: 0, members: 1, process: 0, processes: 1 },
    };
    let error = Output::open(&request).unwrap_err();
    assert!(error.to_string().ends_with("another model: sha256:m then, sha256:other now"), "{error}");
    assert_eq!(error.cause(), Cause::BadSpec);
}

#[test]
fn what_can_not_be_written_unambiguously_is_refused() {
    let mut twice = job(1);
    twice.classes[2] = "cat".into();
    let mut unknown = job(1);
    unknown.inputs[0].label = Some(3);
    let no_such_member = job(1).shards(0);
    let cases = [
        (twice, "has the class \"cat\" twice"),
        (unknown, "is not a class of the model"),
        (no_such_member, "in a member 0 of 0"),
    ];
    for (job, message) in cases {
        let error = job.open(&Disk::default(), 0, 1).unwrap_err();
        assert!(error.to_string().contains(message) && error.cause() == Cause::BadSpec, "{error}");
        assert!(!job.folder().exists());
    }
}

#[test]
fn rows_that_do_not_fit_are_refused_and_nothing_is_written() {
    let job = job(2);
    let mut writer = job.writer(1);
    let good = |probabilities: &[f32]| Ok(Prediction { class: 0, probabilities: probabilities.to_vec() });
    let cases: [(Range<usize>, Vec<Row>, &str); 5] = [
        (0..2, vec![good(&[1.0, 0.0, 0.0])], "1 rows were committed for the inputs 0..2 where Some(0..2) are due"),
        (1..2, vec![good(&[1.0, 0.0, 0.0])], "1 rows were committed for the inputs 1..2"),
        (0..2, vec![good(&[1.0, 0.0]), good(&[1.0, 0.0])], "class 0 of 2 probabilities, for 3 classes"),
        (0..2, vec![good(&[1.0, 0.0, f32::NAN]), good(&[1.0, 0.0, 0.0])], "the probability NaN is no number"),
        (0..2, vec![Ok(Prediction { class: 3, probabilities: vec![0.0; 3] }), good(&[1.0, 0.0, 0.0])], "class 3 of 3"),
    ];
    for (range, rows, message) in cases {
        let error = writer.commit(range, &rows).unwrap_err();
        assert!(error.to_string().contains(message) && error.cause() == Cause::Bug, "{error}");
    }
    assert_eq!(writer.rows_done(), 0);
    assert_eq!(writer.finish().unwrap_err().to_string(), "the rows of the inputs 0..2 are missing");
}

#[test]
fn a_part_that_a_power_cut_damaged_is_scored_again() {
    let job = job(40);
    let mut writer = job.writer(1);
    while let Some(range) = writer.next_missing() {
        writer.commit(range.clone(), &rows(range)).unwrap();
    }
    drop(writer);
    let part = job.folder().join("_work/shard-00000/part-00001.attempt-1");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes.truncate(bytes.len() - 10);
    std::fs::write(&part, bytes).unwrap();
    assert_eq!(job.writer(1).next_missing(), Some(16..32));
    job.run_all(1);
    let undisturbed = super::job(40);
    undisturbed.run_all(1);
    assert_eq!(job.tree(), undisturbed.tree());
}

#[test]
fn frozen_inputs_that_were_tampered_with_are_not_believed() {
    let job = job(3);
    drop(job.writer(1));
    let path = job.folder().join("_work/inputs.jsonl");
    let text = std::fs::read_to_string(&path).unwrap().replace("00001.png", "00002.png");
    std::fs::write(&path, text).unwrap();
    let error = job.open(&Disk::default(), 0, 1).unwrap_err();
    assert!(error.to_string().contains("inputs.jsonl is damaged: its lines don't have the digest"), "{error}");
}

#[test]
fn a_claim_without_content_is_nobodys() {
    let job = job(3);
    std::fs::create_dir_all(job.folder()).unwrap();
    std::fs::write(job.folder().join("claim.json"), "").unwrap();
    job.run_all(1);
    assert!(matches!(
        job.open_as(&Disk::default(), 0, &owner("b", 1)),
        Err(OutputError::Folder(FolderError::Owned { .. }))
    ));
}

#[test]
fn each_trouble_of_the_file_system_ends_the_job_as_the_contract_says() {
    let cases = [
        (ErrorKind::StorageFull, 162, "make room"),
        (ErrorKind::QuotaExceeded, 162, "make room"),
        (ErrorKind::Other, 162, ""),
        (ErrorKind::NotFound, 162, ""),
        (ErrorKind::PermissionDenied, 77, "writable"),
        (ErrorKind::ReadOnlyFilesystem, 77, "writable"),
        (ErrorKind::NotADirectory, 64, ""),
    ];
    for (kind, code, hint) in cases {
        let error = OutputError::from(FolderError::io("write", "/out/a", Error::from(kind)));
        assert_eq!((error.cause().exit_code(), error.category()), (code, "io"), "{error}");
        let fault = crate::fault::Fault::from(error);
        assert!(fault.to_string().starts_with("can't write /out/a: ") && fault.advice().contains(hint), "{fault}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut through_a_file = job(1);
    through_a_file.root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(file.path(), through_a_file.root.path().join("out")).unwrap();
    assert_eq!(through_a_file.open(&Disk::default(), 0, 1).unwrap_err().cause(), Cause::BadSpec);
}
