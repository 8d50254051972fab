//! Scoring beside Python's, in turns on the same machine: the network alone, whole jobs from JPEGs, and jobs that are
//! killed. `cargo bench -p trainer --bench scoring`; writes `target/bench/scoring.json`.
//!
//! With `TRAINYARD_BENCH_TINY=1` everything is done once, in small: to see that it works.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../common/figures.rs"]
mod figures;
mod job;
mod made;
mod peer;
#[path = "../common/photos.rs"]
mod photos;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crds::model::Architecture;
use crds::training::Precision;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use trainer::inference::{Classifier, Settings};
use trainer::torch::{keep_memory, to_channels_last};

use figures::{Figures, Goal};
use job::Job;
use peer::Peer;

const ARCHITECTURES: [Architecture; 3] = [Architecture::Resnet18, Architecture::Resnet50, Architecture::EfficientnetB0];
const SIZE: u32 = 224;

/// How much is done.
struct Extent {
    turns: usize,
    batch: usize,
    /// Batches in a turn.
    batches: usize,
    /// Different photos, and how often each is listed.
    photos: usize,
    times: usize,
    /// Whole jobs of each side.
    jobs: usize,
    kills: usize,
    /// Rows of a job that is killed: several parts.
    rows: usize,
}

const WHOLE: Extent = Extent { turns: 9, batch: 16, batches: 6, photos: 96, times: 8, jobs: 5, kills: 50, rows: 2_500 };
const TINY: Extent = Extent { turns: 1, batch: 2, batches: 1, photos: 4, times: 2, jobs: 1, kills: 2, rows: 1_100 };

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let extent = if std::env::var_os("TRAINYARD_BENCH_TINY").is_some() { TINY } else { WHOLE };
    let folder = root.join(if extent.turns == 1 { "target/bench/scoring-tiny" } else { "target/bench/scoring" });
    fs::create_dir_all(&folder)?;
    keep_memory();
    let mut peer = Peer::start(root)?;
    let mut figures = Figures::new("scoring");
    for architecture in ARCHITECTURES {
        networks(&mut figures, &mut peer, architecture, &extent)?;
    }
    files(&mut figures, &mut peer, &folder, &extent)?;
    kills(&mut figures, &folder, &extent)?;
    figures.write(root)
}

/// Images a second through the network, beside each of the peer's ways.
fn networks(
    figures: &mut Figures,
    peer: &mut Peer,
    architecture: Architecture,
    extent: &Extent,
) -> Result<(), Box<dyn Error>> {
    let &Extent { turns, batch, batches, .. } = extent;
    let (name, threads) = (architecture.name(), tch::get_num_threads());
    let settings = Settings { device: Device::Cpu, precision: Precision::Float32, batch_size: batch, exact: false };
    let classifier = Classifier::prepare(&made::model(architecture, SIZE, 1000)?, settings)?;
    let size = i64::from(SIZE);
    let images = to_channels_last(&Tensor::rand([batch as i64, 3, size, size], (Kind::Float, Device::Cpu)))?;
    let ours = |batches: usize| -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        for _ in 0..batches {
            let _ = std::hint::black_box(classifier.logits(&images)?);
        }
        Ok((batch * batches) as f64 / start.elapsed().as_secs_f64())
    };
    let sides = [("folded", 1.05), ("torchscript", 1.0), ("torchscript-channels-last", 1.0)];
    let order = |side: &str, batches: usize| {
        json!({"what": "network", "architecture": name, "side": side, "batch": batch, "batches": batches, "size": SIZE,
               "threads": threads})
    };
    // A turn for nothing: memory is touched, code is optimised.
    ours(1)?;
    for (side, _) in sides {
        peer.ask(&order(side, 1))?;
    }
    let mut pairs = [const { Vec::new() }; 3];
    for _ in 0..turns {
        for ((side, _), pairs) in sides.iter().zip(&mut pairs) {
            pairs.push((ours(batches)?, peer.ask(&order(side, batches))?));
        }
    }
    for ((side, goal), pairs) in sides.iter().zip(&pairs) {
        let method = format!(
            "float32, {SIZE} px, batch {batch}, {threads} threads, {}; medians of {turns} turns of {batches} batches, in turns",
            classifier.how()
        );
        figures.pairs(&format!("{name}; peer {side}"), "images/s", pairs, Goal::Ratio(*goal), &method);
    }
    Ok(())
}

/// Whole jobs from JPEGs: ours from exec to exit, the peer's without its imports and the building of its network.
fn files(figures: &mut Figures, peer: &mut Peer, folder: &Path, extent: &Extent) -> Result<(), Box<dyn Error>> {
    let photos = photos::folder(folder, 500, 375, extent.photos)?;
    let list = made::list(&photos, extent.times)?;
    let model = made::folder(&folder.join("resnet18"), Architecture::Resnet18, SIZE, 1000)?;
    let threads = tch::get_num_threads();
    let rows = extent.photos * extent.times;
    let order = |side: &str| {
        json!({"what": "files", "architecture": "resnet18", "side": side, "list": list, "batch": 32, "threads": threads,
               "workers": threads, "output": folder.join("peer.csv")})
    };
    let (mut plain, mut folded) = (Vec::new(), Vec::new());
    for number in 0..extent.jobs {
        let job = Job::new(folder, &format!("files-{number}"), &model, &list, 32)?;
        let start = Instant::now();
        job.start(1)?.succeed()?;
        let ours = rows as f64 / start.elapsed().as_secs_f64();
        if job.rows()?.len() != rows {
            return Err("a job has not as many rows as images".into());
        }
        plain.push((ours, peer.ask(&order("plain"))?));
        folded.push((ours, peer.ask(&order("folded"))?));
    }
    let method = format!(
        "ResNet-18, {rows} JPEGs of 500x375 to 1000 probabilities each in CSV, batch 32; the whole trainer from exec to exit; \
         peer torchvision, DataLoader of {threads} workers, imports not counted; medians of {} jobs, in turns",
        extent.jobs
    );
    figures.pairs("from JPEGs to rows; peer as torchvision gives it", "images/s", &plain, Goal::Ratio(1.5), &method);
    figures.pairs("from JPEGs to rows; peer folded, channels last", "images/s", &folded, Goal::None, &method);
    Ok(())
}

/// Jobs that are killed at some moment and started again: how many have each row once, in the order of the list.
fn kills(figures: &mut Figures, folder: &Path, extent: &Extent) -> Result<(), Box<dyn Error>> {
    let digits = photos::folder(folder, 16, 16, 20)?;
    let list = made::list(&digits, extent.rows / 20)?;
    let model = made::folder(&folder.join("mobilenet"), Architecture::MobilenetV3Small, 32, 10)?;
    let calm = Job::new(folder, "calm", &model, &list, 64)?;
    let start = Instant::now();
    calm.start(1)?.succeed()?;
    let (takes, expected) = (start.elapsed(), calm.rows()?);
    let mut right = 0;
    for number in 0..extent.kills {
        let job = Job::new(folder, &format!("killed-{number}"), &model, &list, 64)?;
        let running = job.start(1)?;
        // Spread over the time that a whole job takes, in an order that has nothing to do with it.
        let share = (number * 31 % extent.kills) as f64 + 0.5;
        std::thread::sleep(takes.mul_f64(share / extent.kills as f64));
        running.kill()?;
        job.start(2)?.succeed()?;
        right += u32::from(job.rows()? == expected);
    }
    let method = format!("{} rows in parts of 1024; SIGKILL of the whole job, then the next attempt", expected.len());
    let name = format!("killed jobs with each row exactly once, of {}", extent.kills);
    figures.alone(&name, "jobs", f64::from(right), Goal::AtLeast(extent.kills as f64), &method);
    Ok(())
}
