//! What TensorBoard makes of the file is in `tests/parity`; here is what holds without it.

use super::*;
use crate::folder::{Folder, Owner};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// The events in a file, after checking every checksum.
fn records(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let mut part = |length: usize| {
            let (part, rest) = bytes.split_at(length);
            let (check, rest) = rest.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*check), masked(part));
            bytes = rest;
            part
        };
        let length = u64::from_le_bytes(part(8).try_into().unwrap());
        events.push(Event::decode(part(length as usize)).unwrap());
    }
    events
}

fn scalars(event: &Event) -> Vec<(&str, f32)> {
    let values = event.summary.as_ref().map_or(&[][..], |summary| &summary.values);
    values.iter().map(|value| (value.tag.as_str(), value.simple_value.unwrap())).collect()
}

#[test]
fn a_checksum_is_that_of_the_published_vector() {
    // CRC-32C of 32 zeroes is 0x8a9136aa (RFC 3720, B.4).
    assert_eq!(masked(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
}

#[test]
fn each_step_of_a_short_training_is_a_point_and_of_a_long_one_a_part_of_a_mean() {
    let mut short = Events::begin("a", 1, 0, 100, at(0));
    short.steps_begin(at(10));
    short.step(1, 2.5, 0.5, 64.0, at(12));
    let events = records(short.bytes());
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    assert_eq!(
        scalars(&events[1]),
        [("step/loss", 2.5), ("step/learning_rate", 0.5), ("step/images_per_second", 32.0)]
    );
    assert_eq!((events.len(), events[1].step, events[1].wall_time), (2, 1, 12.0));

    let mut long = Events::begin("a", 1, 0, 5 * MOST_POINTS, at(0));
    let before = long.bytes().to_vec();
    for step in 1..=4 {
        long.step(step, 1.0, 0.5, 10.0, at(step as i64));
    }
    assert_eq!(long.bytes(), before, "a point is made of 5 steps here");
    long.step(5, 6.0, 0.25, 10.0, at(5));
    assert!(long.bytes().starts_with(&before), "what was written stays where it was");
    assert_eq!(
        scalars(&records(long.bytes())[1]),
        [("step/loss", 2.0), ("step/learning_rate", 0.25), ("step/images_per_second", 10.0)]
    );
}

#[test]
fn an_attempt_that_resumes_marks_the_step_from_which_earlier_ones_no_longer_count() {
    let events = Events::begin("flowers", 2, 10, 100, at(7));
    assert_eq!(events.name(), "tensorboard/events.out.tfevents.0000000007.flowers.attempt-2");
    let mark = &records(events.bytes())[1];
    assert_eq!((mark.step, mark.session_log.as_ref().map(|log| log.status)), (11, Some(START)));
}

#[test]
fn an_epoch_has_its_figures_at_its_last_step_and_none_that_it_lacks() {
    let mut events = Events::begin("a", 1, 0, 10, at(0));
    events.epoch(&Epoch { steps: 10, train_loss: 1.5, seconds: 2.0, ..Epoch::default() }, at(1));
    let event = records(events.bytes()).remove(1);
    assert_eq!(event.step, 10);
    assert_eq!(scalars(&event), [("loss/train", 1.5), ("epoch/images_per_second", 0.0), ("epoch/seconds", 2.0)]);
}

#[test]
fn the_whole_file_is_there_in_the_end_and_nothing_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let owner = Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt: 1, created: None };
    let folder = Folder::claim(root.path(), &owner).unwrap();
    let mut publisher = Publisher::start(folder, Events::begin("a", 1, 0, 100, at(0)));
    for step in 1..=50 {
        publisher.events().step(step, 1.0, 0.1, 32.0, at(step as i64));
        publisher.publish();
    }
    publisher.events().epoch(&Epoch::default(), at(60));
    let (name, expected) = (publisher.events().name().to_owned(), publisher.events().bytes().to_vec());
    drop(publisher);
    assert_eq!(std::fs::read(root.path().join(&name)).unwrap(), expected);
    assert_eq!(std::fs::read_dir(root.path().join(FOLDER)).unwrap().count(), 1);
}

#[test]
fn a_folder_that_can_not_be_written_ends_nothing() {
    let root = tempfile::tempdir().unwrap();
    let owner = Owner { uid: "a".into(), name: "TrainingJob default/a".into(), attempt: 1, created: None };
    let folder = Folder::claim(root.path(), &owner).unwrap();
    std::fs::write(root.path().join(FOLDER), b"a file where the folder should be").unwrap();
    let mut publisher = Publisher::start(folder, Events::begin("a", 1, 0, 100, at(0)));
    publisher.publish();
    publisher.events().step(1, 1.0, 0.1, 32.0, at(1));
    drop(publisher);
}
