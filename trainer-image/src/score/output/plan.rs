//! Which inputs belong to which shard and part, and what is missing. Pure: names and numbers in, ranges out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Share;

/// Fewest rows of a part: what a kill can cost, and the least row group of a Parquet file. Tests have several parts with few inputs.
const FEWEST_ROWS: usize = if cfg!(test) { 16 } else { 1024 };
/// Parts of a job up to which they stay that small; beyond they grow, so that listing them stays cheap.
const MOST_PARTS: usize = 4096;

/// Rows of each part when there are this many inputs.
pub(super) fn part_rows(inputs: usize) -> usize {
    inputs.div_ceil(MOST_PARTS).max(FEWEST_ROWS)
}

/// The inputs of a shard: contiguous, and the sizes of any two shards differ by one at most.
pub(super) fn shard_range(inputs: usize, shard: u32, shards: u32) -> Range<usize> {
    let edge = |shard: u32| (inputs as u128 * u128::from(shard) / u128::from(shards.max(1))) as usize;
    edge(shard)..edge(shard + 1)
}

/// The shards of a process. An output keeps the number of shards that it was begun with, whatever number of processes goes on
/// with it: each member has shards that follow one another, and its processes take turns at them.
pub(super) fn own_shards(shards: u32, share: Share) -> impl Iterator<Item = u32> {
    let own = shard_range(shards as usize, share.member, share.members);
    own.skip(share.process as usize).step_by(share.processes.max(1) as usize).map(|shard| shard as u32)
}

/// The inputs of a part of a shard; `None` if the shard has no such part.
pub(super) fn part_range(shard: &Range<usize>, part_rows: usize, number: usize) -> Option<Range<usize>> {
    let start = shard.start.checked_add(number.checked_mul(part_rows)?)?;
    (start < shard.end).then(|| start..shard.end.min(start + part_rows))
}

/// The number of the part that begins with an input.
pub(super) fn part_number(shard: &Range<usize>, part_rows: usize, start: usize) -> usize {
    (start - shard.start) / part_rows
}

/// The parts of a shard that are not there, in their order.
pub(super) fn missing(
    shard: &Range<usize>,
    part_rows: usize,
    is_there: impl Fn(usize) -> bool,
) -> impl Iterator<Item = Range<usize>> {
    (0..shard.len().div_ceil(part_rows))
        .filter(move |number| !is_there(*number))
        .filter_map(move |number| part_range(shard, part_rows, number))
}

/// The file that says which attempt writes a shard.
pub(super) fn claim_name(shard: u32) -> String {
    format!("{}.claim.json", shard_name(shard))
}

/// The folder of a shard's parts, and the beginning of its file's name.
pub(super) fn shard_name(shard: u32) -> String {
    format!("shard-{shard:05}")
}

/// The file of a part, as an attempt writes it.
pub(super) fn part_name(number: usize, attempt: u32) -> String {
    format!("part-{number:05}.attempt-{attempt}")
}

/// Name, number and attempt of each part in a folder; of a part that several attempts have written, the newest.
pub(super) fn newest_parts(names: &[String]) -> Vec<(String, usize, u32)> {
    let mut newest: BTreeMap<usize, u32> = BTreeMap::new();
    for name in names {
        let parsed = name.strip_prefix("part-").and_then(|rest| rest.split_once(".attempt-"));
        let Some((Ok(number), Ok(attempt))) = parsed.map(|(number, attempt)| (number.parse(), attempt.parse())) else {
            continue;
        };
        // Only names of our own making: another spelling of a number would be another file.
        if *name == part_name(number, attempt) {
            let seen = newest.entry(number).or_insert(attempt);
            *seen = attempt.max(*seen);
        }
    }
    newest.into_iter().map(|(number, attempt)| (part_name(number, attempt), number, attempt)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_parts_cover_every_input_once_in_order() {
        for (inputs, shards, rows) in [(0, 1, 7), (1, 3, 7), (10, 3, 2), (100, 7, 7), (4096, 4, 1024), (5, 8, 1)] {
            let mut covered = Vec::new();
            for shard in 0..shards {
                let range = shard_range(inputs, shard, shards);
                assert!(range.len().abs_diff(inputs / shards as usize) <= 1);
                for number in 0.. {
                    let Some(part) = part_range(&range, rows, number) else { break };
                    assert_eq!(part_number(&range, rows, part.start), number);
                    assert_eq!(missing(&range, rows, |there| there < number).next(), Some(part.clone()));
                    covered.extend(part);
                }
            }
            assert_eq!(covered, (0..inputs).collect::<Vec<_>>(), "{inputs} inputs, {shards} shards, {rows} rows");
        }
    }

    #[test]
    fn each_shard_has_one_process_whatever_number_of_processes_there_is() {
        for shards in 1..9 {
            for members in 1..5 {
                // A member whose pod was made again may have found another number of GPUs than the others.
                for processes in [[1, 1, 1, 1], [2, 2, 2, 2], [1, 4, 2, 3]] {
                    let mut dealt: Vec<u32> = (0..members)
                        .zip(processes)
                        .flat_map(|(member, processes)| {
                            let share = move |process| Share { member, members, process, processes };
                            (0..processes).flat_map(move |process| own_shards(shards, share(process)))
                        })
                        .collect();
                    dealt.sort_unstable();
                    assert!(dealt.into_iter().eq(0..shards), "{shards} shards, {members} members of {processes:?}");
                }
            }
        }
        let begun_with = Share { member: 1, members: 2, process: 1, processes: 2 };
        assert_eq!(own_shards(4, begun_with).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_is_missing_comes_in_order_and_nothing_is_missing_when_all_parts_are_there() {
        let missing = |there: &[usize]| -> Vec<(usize, usize)> {
            missing(&(10..35), 10, |number| there.contains(&number)).map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(missing(&[]), [(10, 20), (20, 30), (30, 35)]);
        assert_eq!(missing(&[0, 2]), [(20, 30)]);
        assert_eq!(missing(&[0, 1]), [(30, 35)]);
        assert_eq!(missing(&[0, 1, 2]), Vec::new());
        assert_eq!(super::missing(&(3..3), 10, |_| false).count(), 0);
    }

    #[test]
    fn of_a_part_that_several_attempts_wrote_the_newest_counts_and_other_names_do_not() {
        let names = [
            "part-00000.attempt-1",
            "part-00000.attempt-12",
            "part-00000.attempt-9",
            "part-00003.attempt-2",
            "part-3.attempt-7",
            "part-00004.attempt-",
            ".part-00005.attempt-1.staged-1",
            "part-00006.attempt-+1",
            "other",
        ];
        let names = names.map(String::from);
        let expected = [("part-00000.attempt-12", 0, 12), ("part-00003.attempt-2", 3, 2)];
        assert_eq!(newest_parts(&names), expected.map(|(name, number, attempt)| (name.to_string(), number, attempt)));
    }

    #[test]
    fn parts_grow_with_the_job_and_stay_few() {
        assert_eq!([0, 1, 65_536, 65_537, 10_000_000].map(part_rows), [16, 16, 16, 17, 2442]);
    }
}
