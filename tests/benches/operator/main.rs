//! How fast the operator makes and restarts pods, beside plain POSTs of the same pods, batch/v1 Indexed Jobs, JobSet and
//! Kubeflow Trainer, on a real control plane. No scheduler takes the pods of the first figures, so that only the making
//! counts. `cargo bench -p tests --bench operator`; writes `target/bench/operator.json`.
//!
//! ```text
//! load      jobs of ours and of batch/v1 in numbers, and the time until their pods are there
//! peer_load the same of JobSet and Kubeflow Trainer
//! peers     how those two are built, installed and started
//! process   child processes
//! ```

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../../../trainer-image/benches/common/figures.rs"]
mod figures;
mod load;
mod peer_load;
mod peers;
mod process;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use figures::{Figures, Goal, median};
use load::{Load, Shape};
use peers::Peers;
use process::{Operator, Running};
use tests::cluster::Cluster;

/// Rounds, each of which every side takes once.
const ROUNDS: usize = 3;
/// Restarts of a gang, ours and JobSet's, which takes seconds for each.
const RESTARTS: u32 = 50;
const PEER_RESTARTS: u32 = 10;

const ONE_BIG: Shape = Shape { jobs: 1, pods: 2000 };
const MANY_SMALL: Shape = Shape { jobs: 200, pods: 10 };
const LARGE: Shape = Shape { jobs: 2000, pods: 5 };
/// What a side makes for nothing, so that its connections are made and its caches filled.
const WARM_UP: Shape = Shape { jobs: 4, pods: 4 };

const JOB_SET: &str = "JobSet 0.12.0 with its webhooks, its limit of requests lifted";
const TRAINER: &str = "Kubeflow Trainer 2.0.0, which fixes 20 requests a second, on JobSet 0.12.0";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let cluster = Cluster::start().await?;
    cluster.definitions().await;
    let peers = Peers::install(&cluster).await?;
    let mut figures = Figures::new("operator");
    let operator = Operator::start(root, cluster.kubeconfig())?;
    let load = Load::new(&cluster);
    load.training(WARM_UP).await?;

    let small = creation(&load, &peers, &mut figures).await?;
    large(&load, &peers, &operator, small, &mut figures).await?;
    restarts(&load, &peers, &mut figures).await?;
    figures.write(root)
}

/// The first figures, of 2,000 pods each. Returns the median of ours of many small jobs.
async fn creation(load: &Load<'_>, peers: &Peers, figures: &mut Figures) -> Result<f64, Box<dyn Error>> {
    let (mut big, mut small, mut ceilings) = (Sides::default(), Sides::default(), Vec::new());
    for _ in 0..ROUNDS {
        let ceiling = load.posts(2000).await?;
        ceilings.push(ceiling);
        for (shape, sides) in [(ONE_BIG, &mut big), (MANY_SMALL, &mut small)] {
            let ours = load.training(shape).await?;
            sides.ceiling.push((ours, ceiling));
            sides.batch.push((ours, load.batch(shape).await?));
            let _jobset = warm_jobset(load, peers).await?;
            sides.jobset.push((ours, load.jobsets(shape).await?));
            if shape.jobs > 1 {
                let _trainer = peers.trainer().await?;
                load.trainjobs(WARM_UP).await?;
                sides.trainer.push((ours, load.trainjobs(shape).await?));
            }
        }
    }
    let method = format!("medians of {ROUNDS} rounds, in turns; from the first POST to the last pod's ADDED event");
    let (jobset, trainer) = (format!("{method}; {JOB_SET}"), format!("{method}; {TRAINER}"));
    let ceiling = 2000.0 / median(ceilings.into_iter());
    figures.alone("ceiling: plain POSTs of the same pods, 32 connections", "pods/s", ceiling, Goal::None, &method);
    for (figure, pairs, goal, method) in [
        ("1 TrainingJob of 2,000 pods, by the ceiling", &big.ceiling, Goal::Ratio(0.8), &method),
        ("1 x 2,000, by a batch/v1 Indexed Job", &big.batch, Goal::Ratio(2.0), &method),
        ("1 x 2,000, by a JobSet", &big.jobset, Goal::Ratio(4.0), &jobset),
        ("200 TrainingJobs of 10 pods, by the ceiling", &small.ceiling, Goal::Ratio(0.6), &method),
        ("200 x 10, by batch/v1 Indexed Jobs", &small.batch, Goal::Ratio(1.1), &method),
        ("200 x 10, by JobSets", &small.jobset, Goal::None, &jobset),
        ("200 x 10, by Kubeflow Trainer", &small.trainer, Goal::Ratio(5.0), &trainer),
    ] {
        let rates: Vec<_> = pairs.iter().map(|(ours, peer)| (2000.0 / ours, 2000.0 / peer)).collect();
        figures.pairs(figure, "pods/s", &rates, goal, method);
    }
    Ok(median(small.ceiling.iter().map(|pair| pair.0)))
}

/// Seconds for 2,000 pods: ours, and a side's of the same round.
#[derive(Default)]
struct Sides {
    ceiling: Vec<(f64, f64)>,
    batch: Vec<(f64, f64)>,
    jobset: Vec<(f64, f64)>,
    trainer: Vec<(f64, f64)>,
}

/// Time, memory and rest of 10,000 pods; `small` is the time of 2,000.
async fn large(
    load: &Load<'_>,
    peers: &Peers,
    operator: &Operator,
    small: f64,
    figures: &mut Figures,
) -> Result<(), Box<dyn Error>> {
    let (seconds, writes) = load.resting(LARGE, operator).await?;
    let memory = operator.process.peak_mib()?;
    let jobset = warm_jobset(load, peers).await?;
    let peer = load.jobsets(LARGE).await?;
    let method = "10,000 pods against 2,000, the median of the latter";
    figures.alone("2,000 x 5 by 200 x 10", "x the time", seconds / small, Goal::AtMost(5.0), method);
    let rates = [(10_000.0 / seconds, 10_000.0 / peer)];
    figures.pairs("2,000 x 5, by JobSets", "pods/s", &rates, Goal::None, &format!("once; {JOB_SET}"));
    let method = "peak resident memory, 2,000 jobs and 10,000 pods; JobSet's manager made nothing else";
    figures.pairs("memory of the operator", "MiB", &[(memory, jobset.peak_mib()?)], Goal::AtMost(64.0), method);
    let method = "2,000 jobs whose pods wait and nothing moves, over 30 s";
    figures.alone("writes of the operator at rest", "writes/min", writes * 2.0, Goal::AtMost(0.0), method);
    Ok(())
}

/// How long a gang takes from a failure to the last pod of its next attempt.
async fn restarts(load: &Load<'_>, peers: &Peers, figures: &mut Figures) -> Result<(), Box<dyn Error>> {
    let (mut ours, mut jobset) = (Vec::new(), Vec::new());
    load.restarts(256, RESTARTS, |took| ours.push(took)).await?;
    let _jobset = warm_jobset(load, peers).await?;
    load.jobset_restarts(256, PEER_RESTARTS, |took| jobset.push(took)).await?;
    let (middle, slowest) = (median(ours.iter().copied()), ours.iter().copied().fold(0.0, f64::max));
    let method = format!("256 running pods on played nodes; the slowest of {RESTARTS}; median {middle:.2} s");
    let figure = "a rank fails in a gang of 256 to the last pod of the next attempt";
    figures.alone(figure, "s", slowest, Goal::AtMost(2.0), &method);
    let method = format!("medians of {RESTARTS} and of {PEER_RESTARTS}; {JOB_SET}");
    figures.pairs("the same, by a JobSet", "s", &[(middle, median(jobset.into_iter()))], Goal::None, &method);
    Ok(())
}

/// Starts JobSet's manager and lets it make something.
async fn warm_jobset(load: &Load<'_>, peers: &Peers) -> Result<Running, Box<dyn Error>> {
    let manager = peers.jobset().await?;
    load.jobsets(WARM_UP).await?;
    Ok(manager)
}

/// Seconds that something takes.
async fn timed<T>(work: impl Future<Output = Result<T, Box<dyn Error>>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let patience = Duration::from_secs(600);
    tokio::time::timeout(patience, work).await.map_err(|_| "it took more than 600 s")??;
    Ok(start.elapsed().as_secs_f64())
}
