//! Which slice of a GPU (MIG) each process of a pod takes. Whole GPUs need no word: every process sees all of them, and takes the
//! one of its local rank.

use std::path::Path;

use crate::place::{SLICE, VISIBLE_GPUS};
use crate::torch::nvml::{GpuState, LIBNVML, ask};

/// Of which the driver's file tells that there is a GPU at all.
const DRIVER: &str = "/dev/nvidiactl";

/// The UUIDs of the slices that the processes of this pod take, in their order; none unless there are enough of them.
pub(super) fn of_this_pod(processes: u32) -> Vec<String> {
    if processes < 2 || !Path::new(DRIVER).exists() {
        return Vec::new();
    }
    let visible = std::env::var(VISIBLE_GPUS).ok();
    ask(LIBNVML).map_or_else(|_| Vec::new(), |gpus| choose(&gpus, visible.as_deref(), processes))
}

/// Slices named by the environment go before those that there are.
fn choose(gpus: &[GpuState], visible: Option<&str>, processes: u32) -> Vec<String> {
    let there = gpus.iter().flat_map(|gpu| gpu.slices.iter().cloned());
    let mut slices: Vec<String> = match visible {
        None => there.collect(),
        Some(list) => list.split(',').filter_map(|gpu| gpu.trim().strip_prefix(SLICE)).map(str::to_owned).collect(),
    };
    slices.truncate(processes as usize);
    if slices.len() < processes as usize { Vec::new() } else { slices }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_gets_a_slice_where_there_are_enough() {
        let gpu = |slices: &[&str]| GpuState {
            slices: slices.iter().map(|slice| (*slice).to_owned()).collect(),
            ..GpuState::default()
        };
        let (cut, whole) = ([gpu(&["a", "b"]), gpu(&["c"])], [gpu(&[]), gpu(&[])]);
        let table: [(&[GpuState], Option<&str>, u32, &[&str]); 6] = [
            (&cut, None, 2, &["a", "b"]),
            (&cut, None, 3, &["a", "b", "c"]),
            (&cut, None, 4, &[]),
            (&cut, Some("MIG-c, MIG-a"), 2, &["c", "a"]),
            (&cut, Some("0,1"), 2, &[]),
            (&whole, None, 2, &[]),
        ];
        for (gpus, visible, processes, expected) in table {
            assert_eq!(choose(gpus, visible, processes), expected, "{visible:?} for {processes}");
        }
    }
}
