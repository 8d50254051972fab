//! Training by the trainer's DDP beside PyTorch's, in turns on the same machine: steps a second, time to the first step,
//! memory; what checkpoints cost, how fast a training stops, and whether it comes to the same bits when it is killed.
//! `cargo bench -p trainer --bench training`; writes `target/bench/training.json`.
//!
//! ResNet-18, 128 px, batch 16 per rank, two Gloo ranks of one thread each, where nothing else is said. Step rates are of
//! ranks that hold their images in memory (`../common/steps.rs` and `bench_training.py` do the same); the rest is of the
//! trainer as a pod runs it. With the arguments `rank ORDER` this program is one of our ranks. `TRAINYARD_BENCH=tiny` takes
//! everything a few times only: to see that it runs, not to measure.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../common/figures.rs"]
mod figures;
mod lives;
#[path = "../common/photos.rs"]
mod photos;
mod product;
mod ranks;
#[path = "../common/steps.rs"]
mod steps;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use figures::{Figures, Goal, median};
use product::Product;
use ranks::{Job, Side, Sides};

/// How often everything is done.
struct Times {
    /// Turns that each side takes, and steps in each.
    turns: usize,
    steps: usize,
    /// Times that each side is started.
    starts: usize,
    /// Times that a training is told to stop.
    stops: u32,
    /// Steps of the training whose checkpoints are timed.
    saved: u32,
    /// Trainings that are killed, and times that each is.
    killed: (u32, u32),
    /// Times that a process of a training stands still.
    stopped: u32,
}

const FULL: Times = Times { turns: 9, steps: 3, starts: 5, stops: 100, saved: 150, killed: (20, 10), stopped: 3 };
const TINY: Times = Times { turns: 2, steps: 1, starts: 1, stops: 2, saved: 6, killed: (1, 2), stopped: 1 };

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, order] = arguments.as_slice()
        && mode == "rank"
    {
        return steps::serve(&serde_json::from_str(order)?);
    }
    let times = if std::env::var("TRAINYARD_BENCH").is_ok_and(|size| size == "tiny") { TINY } else { FULL };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let photos = root.join("target/bench/photos");
    fs::create_dir_all(&photos)?;
    let mut product = Product::new(&photos::folder(&photos, 500, 375, 96)?)?;
    let sides = Sides::new(root)?;
    let mut figures = Figures::new("training");
    let step = step_rates(&mut figures, &sides, &times)?;
    two_ranks(&mut figures, &sides, &times)?;
    starts(&mut figures, &sides, &mut product, &times)?;
    stops(&mut figures, &mut product, step, &times)?;
    lives::checkpoints(&mut figures, &mut product, times.saved)?;
    lives::kills(&mut figures, &mut product, times.killed)?;
    lives::stands_still(&mut figures, &mut product, times.stopped)?;
    figures.write(root)
}

/// Steps a second beside PyTorch's. Gives our seconds a step.
fn step_rates(figures: &mut Figures, sides: &Sides, times: &Times) -> Result<f64, Box<dyn Error>> {
    let (resnet, like) = (Job::RESNET, Side::Python("channels-last"));
    let name = "ResNet-18, float32; peer channels-last, bucket views, fused";
    let step = rates(figures, sides, times, (name, resnet, like), 1.0)?;
    let efficientnet = Job { architecture: "efficientnet_b0", ..resnet };
    let name = "EfficientNet-B0, float32; peer channels-last, bucket views, fused";
    rates(figures, sides, times, (name, efficientnet, like), 1.0)?;
    let defaults = Side::Python("default");
    rates(figures, sides, times, ("ResNet-18, float32; peer PyTorch's defaults, NCHW", resnet, defaults), 1.1)?;
    if fs::read_to_string("/proc/cpuinfo")?.contains("avx512_bf16") {
        let job = Job { precision: "bfloat16", ..resnet };
        rates(figures, sides, times, ("ResNet-18, bfloat16; peer PyTorch's defaults", job, defaults), 1.8)?;
    } else {
        println!("bfloat16 is left out: this CPU has no avx512_bf16");
    }
    Ok(step)
}

/// Steps a second of two sides that take turns, by the wall clock and by CPU time. Gives our seconds a step.
fn rates(
    figures: &mut Figures,
    sides: &Sides,
    times: &Times,
    (name, job, peer): (&str, Job, Side),
    goal: f64,
) -> Result<f64, Box<dyn Error>> {
    let (mut ours, mut peer) = (sides.start(Side::Ours, job)?, sides.start(peer, job)?);
    // A turn for nothing: buckets are rebuilt, memory is touched.
    ours.steps(2)?;
    peer.steps(2)?;
    let mut turns = Vec::new();
    for _ in 0..times.turns {
        turns.push((ours.steps(times.steps)?, peer.steps(times.steps)?));
    }
    let steps = times.steps as f64;
    let by_wall: Vec<_> = turns.iter().map(|(ours, peer)| (steps / ours.wall, steps / peer.wall)).collect();
    let by_cpu: Vec<_> = turns.iter().map(|(ours, peer)| (steps / ours.cpu, steps / peer.cpu)).collect();
    let method = format!(
        "{} px, batch {} a rank, {} Gloo ranks of 1 thread; medians of {} turns of {} steps, in turns",
        job.image, job.batch, job.ranks, times.turns, times.steps
    );
    figures.pairs(&format!("step rate, {name}"), "steps/s", &by_wall, Goal::Ratio(goal), &method);
    figures.pairs(&format!("steps by CPU time, {name}"), "steps/CPU s", &by_cpu, Goal::None, &method);
    Ok(median(turns.iter().map(|(ours, _)| ours.wall / steps)))
}

/// Images a second of two ranks: against twice those of one that has the machine to itself, and against those of two that have
/// nobody to wait for but share the machine as well.
fn two_ranks(figures: &mut Figures, sides: &Sides, times: &Times) -> Result<(), Box<dyn Error>> {
    let (two, one) = (Job::RESNET, Job { ranks: 1, ..Job::RESNET });
    let (mut both, mut alone) = (sides.start(Side::Ours, two)?, sides.start(Side::Ours, one)?);
    let mut apart = sides.start(Side::Ours, one)?.beside(sides.start(Side::Ours, one)?);
    for ranks in [&mut both, &mut alone, &mut apart] {
        ranks.steps(2)?;
    }
    let (mut by_one, mut by_two) = (Vec::new(), Vec::new());
    for _ in 0..times.turns {
        let images = 2.0 * (times.steps * Job::RESNET.batch as usize) as f64;
        let ours = images / both.steps(times.steps)?.wall;
        by_one.push((ours, images / alone.steps(times.steps)?.wall));
        by_two.push((ours, images / apart.steps(times.steps)?.wall));
    }
    let method = format!(
        "ResNet-18, 128 px, batch 16 a rank of 1 thread; the peer is one rank of ours without DDP, twice; {} turns of {} \
         steps, in turns; two ranks share the memory of one machine",
        times.turns, times.steps
    );
    figures.pairs("two ranks, against twice one rank", "images/s", &by_one, Goal::Ratio(0.97), &method);
    let method = format!("{method}; here the peer is two of them at the same time: what DDP costs");
    figures.pairs("two ranks, against two without DDP", "images/s", &by_two, Goal::None, &method);
    Ok(())
}

/// Seconds from exec to the end of the first optimizer step, warm, and the memory of a rank after some more.
fn starts(figures: &mut Figures, sides: &Sides, product: &mut Product, times: &Times) -> Result<(), Box<dyn Error>> {
    // One for nothing: files come into the page cache.
    product.start()?;
    let (mut bare, mut whole, mut memory, mut memory_whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times.starts {
        let mut peer = sides.start(Side::Python("channels-last"), Job::RESNET)?;
        let peer_gb = peer.steps(5)?.peak_gb;
        let peer_seconds = peer.seconds_to_first_step;
        drop(peer);
        let mut ours = sides.start(Side::Ours, Job::RESNET)?;
        memory.push((ours.steps(5)?.peak_gb, peer_gb));
        bare.push((ours.seconds_to_first_step, peer_seconds));
        drop(ours);
        let mut trainer = product.start()?;
        whole.push((trainer.seconds_to_first_step, peer_seconds));
        trainer.wait_for_step(6)?;
        memory_whole.push((trainer.peak_gb()?, peer_gb));
    }
    let method = format!("2 ranks, the first step computed in full; medians of {} warm starts, in turns", times.starts);
    figures.pairs("exec to first optimizer step", "s", &bare, Goal::AtMost(0.6), &method);
    let method = format!("{method}; ours with launcher, preflight, reading and decoding, which the peer does not do");
    figures.pairs("exec to first optimizer step, the whole trainer", "s", &whole, Goal::None, &method);
    let method = format!("peak resident memory after 6 steps; medians of {}", times.starts);
    figures.pairs("memory of a rank", "GB", &memory, Goal::AtMost(0.45), &method);
    figures.pairs("memory of a rank, the whole trainer", "GB", &memory_whole, Goal::None, &method);
    Ok(())
}

/// The slowest of a hundred stops at moments all over a step, and how many ended as promised.
fn stops(figures: &mut Figures, product: &mut Product, step: f64, times: &Times) -> Result<(), Box<dyn Error>> {
    let (mut slowest, mut promised) = (0.0_f64, 0);
    let began = Instant::now();
    for index in 0..times.stops {
        let trainer = product.start()?;
        std::thread::sleep(Duration::from_secs_f64(2.0 * step * f64::from(index) / f64::from(times.stops)));
        let stop = trainer.stop()?;
        slowest = slowest.max(stop.seconds);
        promised += u32::from(stop.is_as_promised);
    }
    let method = format!(
        "{} stops at moments spread over two steps, {:.0} s; a step takes {step:.2} s here",
        times.stops,
        began.elapsed().as_secs_f64()
    );
    figures.alone("slowest SIGTERM to exit", "s", slowest, Goal::AtMost(step + 2.0), &method);
    let name = format!("exits with 143 and the checkpoint committed, of {}", times.stops);
    figures.alone(&name, "stops", f64::from(promised), Goal::AtLeast(f64::from(times.stops)), &method);
    Ok(())
}
