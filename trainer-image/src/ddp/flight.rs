//! Which collective did not end, as libtorch's flight recorder has it for NCCL, and the shim for Gloo in the same form:
//! that of `FlightRecorder::dump_json` in libtorch's FlightRecorderDetail.hpp, version 2.10.

use std::fmt;

use serde::Deserialize;

/// A collective that began and did not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// What it is: `gloo:all_reduce`, `nccl:broadcast`.
    pub name: String,
    /// Its number among the collectives of the run, from 1: the same on all ranks.
    pub sequence: u64,
    /// Shapes of what it carries.
    pub sizes: Vec<Vec<i64>>,
}

impl fmt::Display for Flight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} number {}", self.name, self.sequence)?;
        match self.sizes.as_slice() {
            [] => Ok(()),
            [one] => write!(formatter, " of {one:?}"),
            [first, rest @ ..] => write!(formatter, " of {first:?} and {} more", rest.len()),
        }
    }
}

#[derive(Deserialize)]
struct Dump {
    #[serde(default)]
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    profiling_name: String,
    collective_seq_id: u64,
    #[serde(default)]
    input_sizes: Vec<Vec<i64>>,
    /// `scheduled`, `started` or `completed`.
    state: String,
}

impl Flight {
    /// The first collective of a dump that did not end; `None` where all did, or where the dump can't be read.
    pub(super) fn open(dump: &[u8]) -> Option<Flight> {
        let dump: Dump = serde_json::from_slice(dump).ok()?;
        let open = dump.entries.into_iter().filter(|entry| entry.state != "completed");
        let first = open.min_by_key(|entry| entry.collective_seq_id)?;
        Some(Flight { name: first.profiling_name, sequence: first.collective_seq_id, sizes: first.input_sizes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(entries: &str) -> String {
        format!(r#"{{"comm_lib_version":"","entries":[{entries}],"nccl_comm_state":{{}},"version":"2.10"}}"#)
    }

    fn entry(name: &str, number: u64, state: &str, retired: bool) -> String {
        format!(
            r#"{{"collective_seq_id":{number},"input_dtypes":["Float"],"input_sizes":[[4,2]],"is_p2p":false,"op_id":1,
            "profiling_name":"{name}","record_id":0,"retired":{retired},"state":"{state}",
            "time_created_ns":1795491442398436509,"timeout_ms":1800000}}"#
        )
    }

    #[test]
    fn the_first_collective_that_did_not_end_is_found() {
        let nccl = [
            entry("nccl:all_reduce", 3, "completed", true),
            // Timed out: NCCL's watchdog has done with it, and it did not end.
            entry("nccl:broadcast", 4, "started", true),
            entry("nccl:all_reduce", 5, "scheduled", false),
        ];
        let found = Flight::open(dump(&nccl.join(",")).as_bytes()).unwrap();
        assert_eq!(found.to_string(), "nccl:broadcast number 4 of [4, 2]");
    }

    #[test]
    fn where_all_ended_or_nothing_can_be_read_there_is_none() {
        assert_eq!(Flight::open(dump(&entry("nccl:all_reduce", 3, "completed", true)).as_bytes()), None);
        // libtorch leaves the list out where it is empty.
        assert_eq!(Flight::open(br#"{"version":"2.10"}"#), None);
        assert_eq!(Flight::open(b""), None);
    }
}
