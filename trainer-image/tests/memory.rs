//! A process that keeps its memory asks the kernel for it once. A program of its own: the C library decides where a thread's
//! memory comes from when the thread first asks for some.

use nix::sys::resource::{UsageWho, getrusage};
use trainer::torch::{give_back_memory, keep_memory};

fn main() {
    keep_memory();
    let first = pages();
    let again = std::thread::spawn(|| (0..8).map(|_| pages()).sum::<i64>()).join().expect("no panic");
    // Pages of 4 KiB or, where the kernel is set so, of 2 MiB.
    assert!(
        first >= 48 && again < 4 * first,
        "what is given back is taken again: {first} pages, then {again} in 8 times"
    );
    give_back_memory();
    let anew = pages();
    assert!(anew > first / 2, "what was kept is given back: {first} pages at first, then {anew}");
}

/// Pages that the kernel brings in for this thread while 96 MiB are filled and given back.
fn pages() -> i64 {
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).expect("Linux tells it").minor_page_faults();
    let before = faults();
    drop(std::hint::black_box(vec![1_u8; 96 << 20]));
    faults() - before
}
