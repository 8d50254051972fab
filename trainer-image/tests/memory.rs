//! A process that keeps its memory asks the kernel for it once. A program of its own: the C library decides where a thread's
//! memory comes from when the thread first asks for some.

use nix::sys::resource::{UsageWho, getrusage};
use tch::{Device, Kind, Tensor};
use trainer::torch::keep_memory;

fn main() {
    keep_memory();
    tch::set_num_threads(1);
    let first = pages();
    let (_, again) = std::thread::spawn(|| (pages(), pages())).join().expect("no panic");
    // Pages of 4 KiB or, where the kernel is set so, of 2 MiB.
    assert!(first >= 48 && again * 10 < first, "what is given back is taken again: {first} pages, then {again}");
}

/// Pages that the kernel brings in for this thread while a tensor of 96 MiB is made and given back.
fn pages() -> i64 {
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).expect("Linux tells it").minor_page_faults();
    let before = faults();
    drop(Tensor::ones([24 << 20], (Kind::Float, Device::Cpu)));
    faults() - before
}
