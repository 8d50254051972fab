//! Training by the trainer's DDP beside PyTorch's, in turns on the same machine: steps a second, time to the first step,
//! memory, and how fast a training stops. `cargo bench -p trainer --bench training`; writes `target/bench/training.json`.
//!
//! ResNet-18, 128 px, batch 16 per rank, two Gloo ranks of one thread each. Step rates are of ranks that hold their images
//! in memory (`work.rs` and `bench_training.py` do the same); the rest is of the trainer as a pod runs it. With the
//! arguments `rank RANK PORT VARIANT` this program is one of our ranks.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/photos.rs"]
mod photos;
mod product;
mod ranks;
mod work;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use figures::{Figures, Goal, median};
use product::Product;
use ranks::{Side, Sides};

/// Turns that each side takes, and steps in each.
const TURNS: usize = 9;
const STEPS: usize = 3;
/// Times that each side is started.
const STARTS: usize = 5;
/// Times that a training is told to stop.
const STOPS: u32 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, rank, port, variant] = arguments.as_slice()
        && mode == "rank"
    {
        return work::run(rank.parse()?, port.parse()?, variant == "bfloat16");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let photos = root.join("target/bench/photos");
    fs::create_dir_all(&photos)?;
    let mut product = Product::new(&photos::folder(&photos, 500, 375, 96)?)?;
    let sides = Sides::new(root)?;
    let mut figures = Figures::new("training");
    let ours = Side::Ours { bfloat16: false };
    let step = rates(
        &mut figures,
        &sides,
        ("float32; peer channels-last, bucket views, fused", ours, Side::Python("channels-last")),
        1.0,
    )?;
    rates(&mut figures, &sides, ("float32; peer PyTorch's defaults, NCHW", ours, Side::Python("default")), 1.1)?;
    if fs::read_to_string("/proc/cpuinfo")?.contains("avx512_bf16") {
        let pair = ("bfloat16; peer PyTorch's defaults", Side::Ours { bfloat16: true }, Side::Python("default"));
        rates(&mut figures, &sides, pair, 1.8)?;
    } else {
        println!("bfloat16 is left out: this CPU has no avx512_bf16");
    }
    starts(&mut figures, &sides, &mut product)?;
    stops(&mut figures, &mut product, step)?;
    figures.write(root)
}

/// Steps a second of two sides that take turns, by the wall clock and by CPU time. Gives our seconds a step.
fn rates(
    figures: &mut Figures,
    sides: &Sides,
    (name, ours, peer): (&str, Side, Side),
    goal: f64,
) -> Result<f64, Box<dyn Error>> {
    let (mut ours, mut peer) = (sides.start(ours)?, sides.start(peer)?);
    // A turn for nothing: buckets are rebuilt, memory is touched.
    ours.steps(2)?;
    peer.steps(2)?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push((ours.steps(STEPS)?, peer.steps(STEPS)?));
    }
    let steps = STEPS as f64;
    let by_wall: Vec<_> = turns.iter().map(|(ours, peer)| (steps / ours.wall, steps / peer.wall)).collect();
    let by_cpu: Vec<_> = turns.iter().map(|(ours, peer)| (steps / ours.cpu, steps / peer.cpu)).collect();
    let method = format!(
        "ResNet-18, 128 px, batch 16 a rank, 2 Gloo ranks of 1 thread; medians of {TURNS} turns of {STEPS} steps, in turns"
    );
    figures.pairs(&format!("step rate, {name}"), "steps/s", &by_wall, Goal::Ratio(goal), &method);
    figures.pairs(&format!("steps by CPU time, {name}"), "steps/CPU s", &by_cpu, Goal::None, &method);
    Ok(median(turns.iter().map(|(ours, _)| ours.wall / steps)))
}

/// Seconds from exec to the end of the first optimizer step, warm, and the memory of a rank after some more.
fn starts(figures: &mut Figures, sides: &Sides, product: &mut Product) -> Result<(), Box<dyn Error>> {
    // One for nothing: files come into the page cache.
    product.start()?;
    let (mut bare, mut whole, mut memory, mut memory_whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut peer = sides.start(Side::Python("channels-last"))?;
        let peer_gb = peer.steps(5)?.peak_gb;
        let peer_seconds = peer.seconds_to_first_step;
        drop(peer);
        let mut ours = sides.start(Side::Ours { bfloat16: false })?;
        memory.push((ours.steps(5)?.peak_gb, peer_gb));
        bare.push((ours.seconds_to_first_step, peer_seconds));
        drop(ours);
        let mut trainer = product.start()?;
        whole.push((trainer.seconds_to_first_step, peer_seconds));
        trainer.wait_for_step(6)?;
        memory_whole.push((trainer.peak_gb()?, peer_gb));
    }
    let method = format!("2 ranks, the first step computed in full; medians of {STARTS} warm starts, in turns");
    figures.pairs("exec to first optimizer step", "s", &bare, Goal::AtMost(0.6), &method);
    let method = format!("{method}; ours with launcher, preflight, reading and decoding, which the peer does not do");
    figures.pairs("exec to first optimizer step, the whole trainer", "s", &whole, Goal::None, &method);
    let method = format!("peak resident memory after 6 steps; medians of {STARTS}");
    figures.pairs("memory of a rank", "GB", &memory, Goal::AtMost(0.45), &method);
    figures.pairs("memory of a rank, the whole trainer", "GB", &memory_whole, Goal::None, &method);
    Ok(())
}

/// The slowest of a hundred stops at moments all over a step, and how many ended as promised.
fn stops(figures: &mut Figures, product: &mut Product, step: f64) -> Result<(), Box<dyn Error>> {
    let (mut slowest, mut promised) = (0.0_f64, 0);
    let began = Instant::now();
    for index in 0..STOPS {
        let trainer = product.start()?;
        std::thread::sleep(Duration::from_secs_f64(2.0 * step * f64::from(index) / f64::from(STOPS)));
        let stop = trainer.stop()?;
        slowest = slowest.max(stop.seconds);
        promised += u32::from(stop.is_as_promised);
    }
    let method = format!(
        "{STOPS} stops at moments spread over two steps, {:.0} s; a step takes {step:.2} s here",
        began.elapsed().as_secs_f64()
    );
    figures.alone("slowest SIGTERM to exit", "s", slowest, Goal::AtMost(step + 2.0), &method);
    let name = format!("exits with 143 and the checkpoint committed, of {STOPS}");
    figures.alone(&name, "stops", f64::from(promised), Goal::AtLeast(f64::from(STOPS)), &method);
    Ok(())
}
