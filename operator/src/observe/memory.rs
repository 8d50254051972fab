//! A ledger out of a status, and the part of it that a status has no field of its own for.
//!
//! A status is what people read; the ledger is rebuilt from it after a restart of the operator. What the fields don't
//! hold stands in `status.memory`. A ledger that was written and read again decides the same.

use std::collections::{BTreeMap, BTreeSet};

use crds::contract::{JobResult, Progress};
use crds::status::{AttemptRecord, JobStatus, MEMORY_CHARACTERS};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::{Attempt, Failure, FinalReason, Gang, Ledger, Obstacle, Origin, Stage};

/// What a status has no field for.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gangs: BTreeMap<u32, Gang>,
    /// Ranges, such as `0-3,7`: a job of thousands of shards has a short memory.
    #[serde(skip_serializing_if = "String::is_empty")]
    done: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stalled: bool,
    #[serde(skip_serializing_if = "is_zero")]
    waits_told: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<JobResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<(FinalReason, Failure)>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    excluded: BTreeMap<String, Option<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<Obstacle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle_told: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reworded: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gathered: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unplaced: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    warnings: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Origin>,
}

impl Ledger {
    /// What `status.memory` holds of this ledger.
    pub fn memory(&self) -> String {
        let mut memory = Memory {
            gangs: self.gangs.clone(),
            done: ranges(&self.done),
            progress: self.progress.clone(),
            stalled: self.stalled,
            waits_told: self.waits_told,
            result: self.result.clone(),
            failure: self.failure.clone(),
            excluded: self.excluded.clone(),
            obstacle: self.obstacle.clone(),
            obstacle_told: self.obstacle_told,
            reworded: self.reworded,
            gathered: self.gathered,
            unplaced: self.unplaced,
            warnings: self.warnings.clone(),
            model: self.model.clone(),
        };
        // Plain data with text keys can always be written as JSON.
        let text = |memory: &Memory| serde_json::to_string(memory).unwrap_or_default();
        let whole = text(&memory);
        if whole.len() <= MEMORY_CHARACTERS {
            return whole;
        }
        // What thousands of shards that fail at the same time say is told of the first ones to end.
        for gang in memory.gangs.values_mut() {
            if let Stage::Failing { failure } = &mut gang.stage {
                failure.message.clear();
                failure.hint.clear();
                (gang.ran_since, gang.mark, gang.moved_at) = (None, None, None);
            }
        }
        text(&memory)
    }

    /// The ledger that a job's status was written from. A memory that somebody has damaged counts as empty: pods of a newer
    /// attempt are then adopted, and the counts of the status stand.
    pub fn of(status: &JobStatus) -> Ledger {
        let memory: Memory = serde_json::from_str(&status.memory).unwrap_or_default();
        Ledger {
            phase: status.phase,
            message: status.message.clone(),
            observed_generation: status.observed_generation,
            attempt: status.attempt,
            restarts: status.restarts,
            failures: status.failures,
            start_time: time(status.start_time.as_ref()),
            completion_time: time(status.completion_time.as_ref()),
            active_seconds: status.active_seconds.unsigned_abs(),
            active_since: time(status.active_since.as_ref()),
            gangs: memory.gangs,
            done: numbers(&memory.done),
            attempts: status.attempts.iter().map(attempt).collect(),
            progress: memory.progress,
            stalled: memory.stalled,
            waits_told: memory.waits_told,
            progress_at: status.progress.as_ref().and_then(|progress| time(progress.updated_at.as_ref())),
            result: memory.result,
            failure: memory.failure,
            excluded: memory.excluded,
            obstacle: memory.obstacle,
            obstacle_told: memory.obstacle_told,
            reworded: memory.reworded,
            gathered: memory.gathered,
            placement: status.placement.clone(),
            unplaced: memory.unplaced,
            warnings: memory.warnings,
            model: memory.model,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn time(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

fn attempt(record: &AttemptRecord) -> Attempt {
    Attempt {
        number: record.number,
        shard: record.shard,
        start: time(record.start.as_ref()),
        end: time(record.end.as_ref()).unwrap_or_default(),
        failure: Failure {
            cause: record.cause,
            exit_code: record.exit_code,
            rank: record.rank,
            node: record.node.clone(),
            step: record.step.map(i64::unsigned_abs),
            message: record.message.clone(),
            ..Failure::of_job()
        },
    }
}

/// `0-3,7` for 0, 1, 2, 3 and 7.
fn ranges(numbers: &BTreeSet<u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, end)) if *end + 1 == *number => *end = *number,
            _ => spans.push((*number, *number)),
        }
    }
    let text = |(start, end): (u32, u32)| if start == end { start.to_string() } else { format!("{start}-{end}") };
    spans.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The numbers of `0-3,7`; what is no range is left out.
fn numbers(ranges: &str) -> BTreeSet<u32> {
    let span = |text: &str| {
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        Some(start.parse::<u32>().ok()?..=end.parse::<u32>().ok()?)
    };
    ranges.split(',').filter_map(span).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Mark;

    #[test]
    fn numbers_are_written_as_ranges_and_read_back() {
        for (list, text) in [(vec![], ""), (vec![5], "5"), (vec![0, 1, 2, 3, 7], "0-3,7"), (vec![1, 3, 4], "1,3-4")] {
            let list: BTreeSet<u32> = list.into_iter().collect();
            assert_eq!((ranges(&list).as_str(), numbers(text)), (text, list));
        }
        assert!(numbers("a,-,3-").is_empty());
    }

    #[test]
    fn as_many_shards_as_there_can_be_fit_whatever_they_do() {
        let since = Timestamp::from_second(1_800_000_000).unwrap();
        let failure = Failure {
            member: 4095,
            node: Some("gpu-pool-a100-80gb-7f9c-x2k4.example.internal".to_owned()),
            message: "m".repeat(1000),
            ..Failure::of_job()
        };
        for stage in [Stage::Running, Stage::Waiting { not_before: since }, Stage::Failing { failure }] {
            // Of an attempt that has ended no more is remembered.
            let lives = !matches!(stage, Stage::Waiting { .. });
            let mark = Mark { attempt: 7, step: 1 << 40, stage: u32::MAX };
            let gang = Gang {
                ran_since: lives.then_some(since),
                stage: stage.clone(),
                mark: lives.then_some(mark),
                moved_at: lives.then_some(since),
                failures: 6,
                streak: 6,
                streak_step: 1 << 40,
                stalled: true,
                ..Gang::new(7, since)
            };
            let gangs = (0..4096).map(|number| (number, gang.clone())).collect();
            let memory = Ledger { gangs, ..Ledger::default() }.memory();
            assert!(memory.len() <= MEMORY_CHARACTERS, "{stage:?}: {}", memory.len());
            let read = Ledger::of(&JobStatus { memory, ..JobStatus::default() });
            assert_eq!(read.gangs.len(), 4096);
            assert_eq!(std::mem::discriminant(&read.gangs[&4095].stage), std::mem::discriminant(&stage));
        }
    }

    #[test]
    fn a_damaged_memory_counts_as_empty_and_the_counts_stand() {
        let status = JobStatus { attempt: 3, restarts: 2, memory: "{\"gangs\":".into(), ..JobStatus::default() };
        let ledger = Ledger::of(&status);
        assert_eq!((ledger.attempt, ledger.restarts, ledger.gangs.len()), (3, 2, 0));
    }
}
