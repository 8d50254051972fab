//! How fast the operator makes and restarts pods, beside plain POSTs of the same pods, batch/v1 Indexed Jobs, JobSet and
//! Kubeflow Trainer, on a real control plane. No scheduler takes the pods of the first figures, so that only the making
//! counts. `cargo bench -p tests --bench operator`; writes `target/bench/operator.json`. With names of parts (`creation`,
//! `large`, `restarts`, `life`) it runs these alone and writes nothing.
//!
//! ```text
//! load      jobs of ours and of batch/v1 in numbers, and the time until their pods are there
//! life      what jobs cost until they end, and while they run
//! peer_load the same of JobSet and Kubeflow Trainer
//! peers     how those two are built, installed and started
//! process   child processes
//! ```

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../../../trainer-image/benches/common/figures.rs"]
mod figures;
mod life;
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

    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if is_wanted("creation") {
        creation(&load, &peers, &mut figures).await?;
    }
    if is_wanted("large") {
        large(&load, &peers, &operator, &mut figures).await?;
    }
    if is_wanted("restarts") {
        restarts(&load, &peers, &mut figures).await?;
    }
    if is_wanted("life") {
        life(&load, &operator, &mut figures).await?;
    }
    if named.is_empty() { figures.write(root) } else { Ok(()) }
}

/// The first figures, of 2,000 pods each.
async fn creation(load: &Load<'_>, peers: &Peers, figures: &mut Figures) -> Result<(), Box<dyn Error>> {
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
    Ok(())
}

/// Seconds for 2,000 pods: ours, and a side's of the same round.
#[derive(Default)]
struct Sides {
    ceiling: Vec<(f64, f64)>,
    batch: Vec<(f64, f64)>,
    jobset: Vec<(f64, f64)>,
    trainer: Vec<(f64, f64)>,
}

/// Time and memory of 10,000 pods.
async fn large(
    load: &Load<'_>,
    peers: &Peers,
    operator: &Operator,
    figures: &mut Figures,
) -> Result<(), Box<dyn Error>> {
    let small = load.training(MANY_SMALL).await?;
    let seconds = load.training(LARGE).await?;
    let memory = operator.process.peak_mib()?;
    let method =
        format!("10,000 pods in {seconds:.0} s against 2,000 in {small:.0} s, once each; {memory:.0} MiB at most");
    figures.alone("2,000 x 5 by 200 x 10", "x the time", seconds / small, Goal::AtMost(5.0), &method);
    let jobset = warm_jobset(load, peers).await?;
    let peer = load.jobsets(LARGE).await?;
    let rates = [(10_000.0 / seconds, 10_000.0 / peer)];
    figures.pairs("2,000 x 5, by JobSets", "pods/s", &rates, Goal::None, &format!("once; {JOB_SET}"));
    let method = "peak resident memory, 2,000 jobs and 10,000 pods; JobSet's manager made nothing else";
    figures.pairs("memory of the operator", "MiB", &[(memory, jobset.peak_mib()?)], Goal::AtMost(64.0), method);
    Ok(())
}

/// How long a gang takes from a failure to the last pod of its next attempt.
async fn restarts(load: &Load<'_>, peers: &Peers, figures: &mut Figures) -> Result<(), Box<dyn Error>> {
    let (mut ours, mut jobset) = (Vec::new(), Vec::new());
    load.restarts(256, RESTARTS, |took| ours.push(took)).await?;
    let (middle, slowest) = (median(ours.iter().copied()), ours.iter().copied().fold(0.0, f64::max));
    let method = format!("256 running pods on played nodes; the slowest of {RESTARTS}; median {middle:.2} s");
    let figure = "a rank fails in a gang of 256 to the last pod of the next attempt";
    figures.alone(figure, "s", slowest, Goal::AtMost(2.0), &method);
    let _jobset = warm_jobset(load, peers).await?;
    load.jobset_restarts(256, PEER_RESTARTS, |took| jobset.push(took)).await?;
    let method = format!("medians of {RESTARTS} and of {PEER_RESTARTS}; {JOB_SET}");
    figures.pairs("the same, by a JobSet", "s", &[(middle, median(jobset.into_iter()))], Goal::None, &method);
    Ok(())
}

/// What jobs cost over their life, and what the objects of others cost.
async fn life(load: &Load<'_>, operator: &Operator, figures: &mut Figures) -> Result<(), Box<dyn Error>> {
    let (seconds, writes) = load.scoring(1000, operator).await?;
    let method =
        format!("on played nodes, from the first POST to the last one Succeeded in {seconds:.1} s; events count");
    figures.alone("1,000 ScoringJobs of one pod", "writes/job", writes, Goal::AtMost(6.0), &method);
    let rest = load.running(2000, operator).await?;
    let method = "2,000 running jobs whose leaders say the same, over 60 s";
    figures.alone("writes while progress stands still", "writes/min", rest.still, Goal::AtMost(0.0), method);
    let method = "2,000 running jobs whose leaders say another step each time, over 60 s";
    figures.alone("writes while progress moves", "writes/job/min", rest.moving, Goal::AtMost(2.0), method);
    let method = "the second with the most, by the mean of 60 s";
    figures.alone("questions to 2,000 leaders", "x the mean", rest.peak, Goal::None, method);
    let growth = load.foreign([50_000, 30_000, 10_000], operator).await?;
    let method = "resident memory after 50,000 pods, 30,000 Secrets and 10,000 ConfigMaps of others, less before";
    figures.alone("growth by the objects of others", "MiB", growth, Goal::AtMost(1.0), method);
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
