//! A table of GPUs in good health and bad, and what is said of each.

use super::*;
use crate::torch::nvml::Rows;

const GIB: u64 = 1 << 30;

fn gpu(uuid: &str) -> GpuInfo {
    let architecture = "9.0".parse().unwrap();
    GpuInfo { name: "NVIDIA H200".to_owned(), uuid: uuid.to_owned(), memory: 141 * GIB, architecture }
}

/// A GPU that nothing is wrong with.
fn healthy() -> GpuState {
    GpuState {
        uuid: "a".to_owned(),
        pci: "0000:3b:00".to_owned(),
        memory: Some(141 * GIB),
        free: Some(140 * GIB),
        uncorrected: Some(0),
        rows: Some(Rows::default()),
        throttle: Some(0x1),
        processes: Some(0),
        mig: Some(false),
        celsius: Some(41),
        ..GpuState::default()
    }
}

type Judge = fn(&[(&GpuInfo, &GpuState)]) -> Outcome;

fn said(judge: Judge, state: &GpuState) -> (&'static str, String) {
    match judge(&of(&[gpu("a")], std::slice::from_ref(state))) {
        Outcome::Passed(text) => ("passed", text),
        Outcome::Skipped(text) => ("skipped", text),
        Outcome::Noted { message, hint } => {
            assert!(!hint.is_empty(), "{message}");
            ("noted", message)
        }
        Outcome::Failed { cause, message, hint } => {
            assert_eq!((cause, hint.is_empty()), (Cause::NodeFault, false), "{message}");
            ("failed", message)
        }
    }
}

#[test]
fn each_state_of_a_gpu_is_judged_by_what_it_means_for_a_training() {
    let at = "NVIDIA H200 at 0000:3b:00";
    let rows = |remapped, pending, failed| Some(Rows { remapped, pending, failed });
    let table: [(Judge, GpuState, &str, String); 13] = [
        (memory_errors, healthy(), "passed", "none that was not corrected".into()),
        (
            memory_errors,
            GpuState { rows: rows(3, false, false), ..healthy() },
            "passed",
            "none that was not corrected; 3 rows of memory have been replaced".into(),
        ),
        (
            memory_errors,
            GpuState { rows: rows(3, true, false), uncorrected: Some(1), ..healthy() },
            "noted",
            format!("{at} has a broken row of memory that the next reset replaces"),
        ),
        (
            memory_errors,
            GpuState { uncorrected: Some(2), ..healthy() },
            "noted",
            format!("{at} has had 2 uncorrected memory errors since its driver was loaded"),
        ),
        (
            memory_errors,
            GpuState { rows: rows(8, true, true), ..healthy() },
            "failed",
            format!("{at} has a broken row of memory that no spare row could replace"),
        ),
        (
            memory_errors,
            GpuState { rows: None, uncorrected: None, ..healthy() },
            "skipped",
            "these GPUs don't count memory errors".into(),
        ),
        (clocks, healthy(), "passed", "not slowed at 41 °C".into()),
        (
            clocks,
            GpuState { throttle: Some(0x48), celsius: Some(93), ..healthy() },
            "noted",
            format!("{at} at 93 °C: its hardware slows it down for heat"),
        ),
        (
            clocks,
            GpuState { throttle: Some(0x4), celsius: None, ..healthy() },
            "noted",
            format!("{at}: its power limit is reached"),
        ),
        (sharing, healthy(), "passed", "nobody else; 140.0 GiB of memory are free".into()),
        (
            sharing,
            GpuState { processes: Some(2), free: Some(60 * GIB), ..healthy() },
            "noted",
            format!("{at} is used by 2 other processes; 60.0 GiB of memory are free"),
        ),
        (
            sharing,
            GpuState { processes: Some(1), free: Some(GIB / 2), ..healthy() },
            "failed",
            format!("{at} has 0.5 GiB of memory left, and 1 processes on it"),
        ),
        (
            sharing,
            GpuState { uuid: "b".into(), slices: vec!["a".into()], processes: Some(5), ..healthy() },
            "passed",
            "slices of a GPU, each with memory of its own".into(),
        ),
    ];
    for (judge, state, result, text) in table {
        assert_eq!(said(judge, &state), (result, text), "{state:?}");
    }
}

#[test]
fn xids_of_this_gpu_within_the_hour_are_told_with_what_to_do() {
    let state = healthy();
    let gpus = [gpu("a")];
    let gpus = of(&gpus, std::slice::from_ref(&state));
    // The machine is up for 10,000 s.
    let line = |seconds: u64, pci: &str, xid: u32| {
        format!("4,1301,{},-;NVRM: Xid (PCI:{pci}): {xid}, pid=7, name=python\n SUBSYSTEM=pci\n", seconds * 1_000_000)
    };
    let judged = |log: &str| xids(log, Some(10_000.0), &gpus);
    let none =
        |lines: u32| Outcome::Passed(format!("none in the last hour that asks for anything, {lines} lines in all"));
    assert_eq!(judged("6,1,5,-;usb 1-1: new device\n"), none(0));
    assert_eq!(judged(&line(9_000, "0000:5e:00", 79)), none(0), "another GPU's");
    assert_eq!(judged(&line(900, "0000:3b:00", 79)), none(0), "long ago");
    assert_eq!(judged(&line(9_000, "0000:3b:00", 63)), none(1), "dealt with");
    let log = line(8_000, "0000:3b:00", 31) + &line(9_000, "0000:3b:00", 95) + &line(9_500, "0000:3b:00", 13);
    let told = Outcome::Noted {
        message: "Xid 95 within the last hour: NVRM: Xid (PCI:0000:3b:00): 95, pid=7, name=python".into(),
        hint: "reset the GPU of this node".into(),
    };
    assert_eq!(judged(&log), told);
}
