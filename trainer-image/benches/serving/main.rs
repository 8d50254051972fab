//! The server under load: what it makes of the machine, how long clients wait, what batching costs one client, how fast it is
//! ready, and whether it holds out. `cargo bench -p trainer --bench serving`; writes `target/bench/serving.json`.
//!
//! Clients are threads of this program, on the machine of the server, each with a connection that it keeps. With the
//! argument `tiny` everything runs once, short and with a small network, to see that it runs: the figures are worth nothing.
//! With names of parts (`make bench-serving PART="throughput endurance"`) these alone run. Either way nothing is written.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/photos.rs"]
mod photos;

mod clients;
mod server;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::model::Architecture;
use crds::training::Precision;
use figures::{Figures, Goal, median};
use tch::Device;
use trainer::data::{Images, Labels, Loader, Options, Request, Source, default_threads, open};
use trainer::inference::{Classifier, Settings};
use trainer::torch::keep_memory;

use clients::{Photos, at_rate, closed, leaving};
use server::{Server, model};

/// How much of everything.
struct Amount {
    architecture: Architecture,
    started: Architecture,
    /// Images a second are taken over so long.
    turn: Duration,
    turns: usize,
    endurance: Duration,
    starts: usize,
}

const BATCH: usize = 16;
const CLIENTS: usize = 16;
const PARTS: [&str; 4] = ["throughput", "alone", "start", "endurance"];

fn main() -> Result<(), Box<dyn Error>> {
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    if let Some(name) = named.iter().find(|name| !PARTS.contains(&name.as_str()) && *name != "tiny") {
        return Err(format!("there is no part {name}: say {}, or tiny", PARTS.join(", ")).into());
    }
    let is_tiny = named.iter().any(|name| name == "tiny");
    let is_wanted = |part: &str| named.iter().all(|name| name == "tiny") || named.iter().any(|name| name == part);
    let amount = if is_tiny {
        let architecture = Architecture::MobilenetV3Small;
        let turn = Duration::from_secs(2);
        Amount { architecture, started: architecture, turn, turns: 1, endurance: turn, starts: 1 }
    } else {
        Amount {
            architecture: Architecture::Resnet18,
            started: Architecture::Resnet50,
            turn: Duration::from_secs(20),
            turns: 5,
            endurance: Duration::from_secs(600),
            starts: 5,
        }
    };
    keep_memory();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let folder = root.join("target/bench");
    fs::create_dir_all(folder.join("photos"))?;
    let photos = photos::folder(&folder.join("photos"), 500, 375, 96)?;
    let models = tempfile::tempdir()?;
    let folder_of = |architecture: Architecture| model(&models.path().join(architecture.name()), architecture, &photos);
    let served = folder_of(amount.architecture)?;
    let mut figures = Figures::new("serving");
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        match part {
            "throughput" => throughput(&mut figures, &amount, &served, &photos)?,
            "alone" => alone(&mut figures, &amount, &served, &photos)?,
            "start" => start(&mut figures, &amount, &folder_of(amount.started)?)?,
            _ => endurance(&mut figures, &amount, &served, &photos)?,
        }
    }
    if named.is_empty() { figures.write(root) } else { Ok(()) }
}

/// Sixteen clients against the loop that scores, in turns; then the wait at 80 % of the rate.
fn throughput(figures: &mut Figures, amount: &Amount, model: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let name = amount.architecture.name();
    let photos = Photos::read(folder)?;
    let offline = Offline::new(model, folder)?;
    let server = Server::start(model, &["--max-batch-size", "16"])?;
    let mut turns = Vec::new();
    for _ in 0..amount.turns {
        turns.push((closed(server.address, &photos, CLIENTS, amount.turn)?.rate(), offline.rate(amount.turn)?));
    }
    let method = format!(
        "{name}, JPEGs of 500x375; peer: the loop that scores, prepared alike, batch {BATCH}, in one process; medians of {} turns of {} s",
        amount.turns,
        amount.turn.as_secs()
    );
    figures.pairs(
        &format!("images served to {CLIENTS} clients, {name}"),
        "images/s",
        &turns,
        Goal::Ratio(0.95),
        &method,
    );

    let rate = 0.8 * median(turns.iter().map(|(served, _)| *served));
    let batch = server.seconds_of_a_batch(BATCH)?;
    let waits: Vec<f64> = (0..amount.turns)
        .map(|turn| Ok(at_rate(server.address, &photos, rate, amount.turn, turn)?.percentile(0.99) * 1e3))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let method = format!(
        "{rate:.1} requests/s, exponential gaps, the wait counts from when a request was due; a batch of {BATCH} takes {:.0} ms; \
         median of {} turns",
        batch * 1e3,
        amount.turns
    );
    figures.alone("p99 at 80 % of the rate", "ms", median(waits.into_iter()), Goal::AtMost(2e3 * batch), &method);
    Ok(())
}

/// What the wait for others costs a client that is alone.
fn alone(figures: &mut Figures, amount: &Amount, model: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let photos = Photos::read(folder)?;
    let batching = Server::start(model, &[])?;
    let single = Server::start(model, &["--max-batch-size", "1", "--max-delay-milliseconds", "0"])?;
    let mut costs = Vec::new();
    for _ in 0..amount.turns {
        let p50 = |server: &Server| -> Result<f64, Box<dyn Error>> {
            Ok(closed(server.address, &photos, 1, amount.turn / 4)?.percentile(0.5) * 1e3)
        };
        costs.push((p50(&batching)?, p50(&single)?));
    }
    let method = format!("one client; peer: the same server without batching; medians of {} turns", amount.turns);
    figures.pairs("p50 of one client", "ms", &costs, Goal::None, &method);
    let cost = median(costs.iter().map(|(batching, single)| batching - single));
    figures.alone("batching's cost at one client, p50", "ms", cost, Goal::AtMost(1.0), &method);
    Ok(())
}

/// From exec to ready, and memory beyond the weights, with the files in the page cache.
fn start(figures: &mut Figures, amount: &Amount, model: &Path) -> Result<(), Box<dyn Error>> {
    let weights = fs::metadata(model.join("model.safetensors"))?.len() as f64 / 1e6;
    let (mut seconds, mut memory) = (Vec::new(), Vec::new());
    // One for nothing.
    for index in 0..=amount.starts {
        let began = Instant::now();
        let server = Server::start(model, &[])?;
        if index > 0 {
            seconds.push(began.elapsed().as_secs_f64());
            memory.push(server.resident()? / 1e6 - weights);
        }
    }
    let name = amount.started.name();
    let method = format!("{name}, warm page cache, medians of {} starts", amount.starts);
    figures.alone(&format!("exec to ready, {name}"), "s", median(seconds.into_iter()), Goal::AtMost(2.0), &method);
    let method = format!("{method}; resident memory when ready, less {weights:.0} MB of weights");
    figures.alone(
        &format!("memory beyond the weights, {name}"),
        "MB",
        median(memory.into_iter()),
        Goal::AtMost(300.0),
        &method,
    );
    Ok(())
}

/// Full load while clients leave at random.
fn endurance(figures: &mut Figures, amount: &Amount, model: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let photos = Photos::read(folder)?;
    let server = Server::start(model, &[])?;
    // Buffers and pools grow to what the load needs.
    leaving(server.address, &photos, CLIENTS, amount.endurance / 10)?;
    let before = server.resident()?;
    let end = leaving(server.address, &photos, CLIENTS, amount.endurance)?;
    let grown = (server.resident()? - before) / 1e6;
    let method = format!(
        "{CLIENTS} clients for {} s, of whose {} requests {} were left before the answer",
        amount.endurance.as_secs(),
        end.asked,
        end.left
    );
    figures.alone(
        "requests lost under load with clients leaving",
        "requests",
        end.lost as f64,
        Goal::AtMost(0.0),
        &method,
    );
    // What an allocator keeps for itself is no leak.
    figures.alone("memory grown meanwhile", "MB", grown, Goal::AtMost(16.0), &method);
    Ok(())
}

/// The loop that scores, over and over.
struct Offline {
    images: Arc<Images>,
    classifier: Classifier,
}

impl Offline {
    fn new(folder: &Path, photos: &Path) -> Result<Offline, Box<dyn Error>> {
        let settings = Settings::new(Device::Cpu, Precision::Float32, BATCH);
        let classifier = Classifier::open(folder, settings).map_err(|fault| fault.to_string())?;
        let dataset = open(&Source::new(photos), Labels::Optional(classifier.classes()))?;
        let images = Arc::new(Images::new(Arc::new(dataset), classifier.view().clone()));
        Ok(Offline { images, classifier })
    }

    /// Images a second.
    fn rate(&self, time: Duration) -> Result<f64, Box<dyn Error>> {
        let count = self.images.dataset().samples.len();
        let batch =
            move |first: usize| Request { epoch: 0, samples: (first..first + BATCH).map(|one| one % count).collect() };
        let requests = (0..).step_by(BATCH).map(batch);
        let mut loader = Loader::start(self.images.clone(), requests, Options::new(default_threads(1)))?;
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < time
            && let Some(batch) = loader.next()
        {
            let batch = batch?;
            std::hint::black_box(self.classifier.probabilities(&batch.pixels).map_err(|fault| fault.to_string())?);
            done += batch.labels.len();
            loader.recycle(batch);
        }
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }
}
