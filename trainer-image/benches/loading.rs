//! How many images one core loads for training, beside torchvision's recipe in Python, in turns on the same files:
//! `cargo bench -p trainer --bench loading`. Prints a table and writes `target/bench/loading.json`.
//!
//! Both sides are measured by their CPU time, so that what else runs on the machine counts for neither.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "common/figures.rs"]
mod figures;
#[path = "common/photos.rs"]
mod photos;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use figures::{Figures, Goal};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;
use trainer::data::{
    Augmentation, Images, Labels, Loader, Options, Preprocessing, RandomCrop, Request, Source, View, open,
};

/// Turns that each side takes.
const TURNS: usize = 7;
const BATCH: usize = 16;

/// Something to be measured.
struct Figure {
    name: &'static str,
    /// A folder of class folders.
    folder: PathBuf,
    /// Width and height of the model's input.
    size: u32,
    /// Times that the folder is gone through in a turn of ours, and in one of the peer's.
    epochs: (usize, usize),
    /// Images a second that we are to load on one core.
    goal: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let bench = root.join("target/bench");
    let folder = bench.join("loading");
    fs::create_dir_all(&folder)?;
    let figures = [
        Figure {
            name: "500x375 JPEG to RandomResizedCrop 224",
            folder: photos::folder(&folder, 500, 375, 96)?,
            size: 224,
            epochs: (6, 3),
            goal: 500.0,
        },
        Figure {
            name: "4000x3000 JPEG to RandomResizedCrop 224",
            folder: photos::folder(&folder, 4000, 3000, 6)?,
            size: 224,
            epochs: (10, 2),
            goal: 40.0,
        },
        Figure {
            name: "8x8 PNG digit to RandomResizedCrop 32",
            folder: digits(&folder)?,
            size: 32,
            epochs: (20, 2),
            goal: 10_000.0,
        },
    ];
    let mut peer = Peer::start(root)?;
    let mut table = Figures::new("loading");
    for figure in figures {
        let images = images(&figure)?;
        // A turn for nothing: caches are filled, libraries loaded.
        ours(&images, 1)?;
        peer.measure(&figure, 1)?;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push((ours(&images, figure.epochs.0)?, peer.measure(&figure, figure.epochs.1)?));
        }
        let method = format!(
            "one thread, flip, floats normalised; medians of {TURNS} turns by CPU time; peer: torchvision, PIL"
        );
        table.pairs(figure.name, "images/s per core", &turns, Goal::AtLeast(figure.goal), &method);
    }
    table.write(root)
}

/// The training part of the handwritten digits.
fn digits(parent: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let folder = parent.join("digits");
    if folder.exists() {
        return Ok(folder.join("train"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let arguments = ["run", "--quiet", "-p", "tests", "--bin", "digits", "--"];
    let status = Command::new(cargo).args(arguments).arg(&folder).status()?;
    if status.success() { Ok(folder.join("train")) } else { Err("the digits were not made".into()) }
}

/// The folder's images as training sees them.
fn images(figure: &Figure) -> Result<Arc<Images>, Box<dyn Error>> {
    let dataset = open(&Source::new(&figure.folder), Labels::Discover)?;
    let augmentation =
        Augmentation { crop: Some(RandomCrop::default()), horizontal_flip: 0.5, ..Augmentation::default() };
    let preprocessing = Preprocessing { resize_size: figure.size, ..Preprocessing::for_size(figure.size) };
    let images = Images::new(Arc::new(dataset), View::training(preprocessing, augmentation, 1));
    // Photos are decoded each time: a data set worth the name doesn't fit into memory.
    Ok(Arc::new(if figure.size == 32 { images } else { images.cache(0) }))
}

/// Images a second of CPU time, by one thread; what the training thread does to turn bytes into floats included.
fn ours(images: &Arc<Images>, epochs: usize) -> Result<f64, Box<dyn Error>> {
    let count = images.dataset().samples.len();
    let preprocessing = images.view().preprocessing().clone();
    let samples: Vec<usize> = (0..count).collect();
    let batches = (0..epochs as u64).flat_map(move |epoch| {
        let batches: Vec<Request> =
            samples.chunks(BATCH).map(|chunk| Request { epoch, samples: chunk.to_vec() }).collect();
        batches
    });
    let mut floats = vec![0.0_f32; BATCH * preprocessing.image_bytes()];
    let before = cpu_seconds()?;
    let mut loader = Loader::start(images.clone(), batches, Options::new(1))?;
    while let Some(batch) = loader.next() {
        let batch = batch?;
        for (floats, pixels) in floats.chunks_exact_mut(3).zip(batch.pixels.chunks_exact(3)) {
            for channel in 0..3 {
                let value = f32::from(pixels[channel]) / 255.0;
                floats[channel] = (value - preprocessing.mean[channel]) / preprocessing.standard_deviation[channel];
            }
        }
        std::hint::black_box(&floats);
        loader.recycle(batch);
    }
    Ok((count * epochs) as f64 / (cpu_seconds()? - before))
}

/// CPU time that this process has used.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// torchvision, in a Python process that waits for its turns.
struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(root: &Path) -> Result<Self, Box<dyn Error>> {
        let python = Command::new(root.join("tests/python.sh")).stderr(Stdio::inherit()).output()?;
        let python = String::from_utf8(python.stdout)?;
        let mut process = Command::new(python.trim())
            .arg(root.join("tests/bench_loading.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(ask), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("no pipes".into());
        };
        Ok(Self { process, ask, answers: BufReader::new(answers) })
    }

    /// Images a second of CPU time.
    fn measure(&mut self, figure: &Figure, epochs: usize) -> Result<f64, Box<dyn Error>> {
        writeln!(self.ask, "{}", json!({"folder": figure.folder, "size": figure.size, "epochs": epochs}))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim().parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
