//! How fast the operator makes and restarts pods, beside plain POSTs of the same pods, batch/v1 Indexed Jobs, JobSet and
//! Kubeflow Trainer, on a real control plane. No scheduler takes the pods of the first figures, so that only the making
//! counts. `make bench-operator`; writes `target/bench/operator.json`.
//!
//! With names of parts (`make bench-operator PART="large restarts"`) it runs these alone, and with `tiny` a hundredth of each, to
//! see that it runs; then it writes nothing. Each part has a fresh operator.
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

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rounds, each of which every side takes once.
    rounds: usize,
    one_big: Shape,
    many_small: Shape,
    large: Shape,
    gang: u32,
    /// Restarts of a gang, ours and JobSet's, which takes seconds for each.
    restarts: u32,
    peer_restarts: u32,
    scored: u32,
    running: u32,
    /// Pods, Secrets and ConfigMaps of others.
    foreign: [u32; 3],
}

const WHOLE: Sizes = Sizes {
    rounds: 3,
    one_big: Shape { jobs: 1, pods: 2000 },
    many_small: Shape { jobs: 200, pods: 10 },
    large: Shape { jobs: 2000, pods: 5 },
    gang: 256,
    restarts: 50,
    peer_restarts: 10,
    scored: 1000,
    running: 2000,
    foreign: [50_000, 30_000, 10_000],
};

const TINY: Sizes = Sizes {
    rounds: 1,
    one_big: Shape { jobs: 1, pods: 20 },
    many_small: Shape { jobs: 4, pods: 5 },
    large: Shape { jobs: 20, pods: 5 },
    gang: 12,
    restarts: 2,
    peer_restarts: 1,
    scored: 10,
    running: 20,
    foreign: [500, 300, 100],
};

/// What a side makes for nothing, so that its connections are made and its caches filled.
const WARM_UP: Shape = Shape { jobs: 4, pods: 4 };

const JOB_SET: &str = "JobSet 0.12.0 with its webhooks, its limit of requests lifted";
const TRAINER: &str = "Kubeflow Trainer 2.0.0, which fixes 20 requests a second, on JobSet 0.12.0";

/// What every part is given.
struct Bench<'a> {
    sizes: Sizes,
    load: Load<'a>,
    /// Where a part is wanted that has them.
    peers: Option<Peers>,
    operator: Operator,
    figures: Figures,
}

const PARTS: [&str; 6] = ["creation", "large", "restarts", "scoring", "running", "foreign"];
/// Those with peers beside us.
const COMPARED: [&str; 3] = ["creation", "large", "restarts"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    if let Some(name) = named.iter().find(|name| !PARTS.contains(&name.as_str()) && *name != "tiny") {
        return Err(format!("there is no part {name}: say {}, or tiny", PARTS.join(", ")).into());
    }
    let sizes = if named.iter().any(|name| name == "tiny") { TINY } else { WHOLE };
    let is_wanted = |part: &str| named.iter().all(|name| name == "tiny") || named.iter().any(|name| name == part);
    let cluster = Cluster::start().await?;
    cluster.definitions().await;
    let peers = match COMPARED.into_iter().any(is_wanted) {
        true => Some(Peers::install(&cluster).await?),
        false => None,
    };
    let operator = Operator::start(root, cluster.kubeconfig())?;
    let mut bench = Bench { sizes, load: Load::new(&cluster), peers, operator, figures: Figures::new("operator") };
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        bench.operator.restart(root, cluster.kubeconfig())?;
        bench.load.training(WARM_UP).await?;
        let start = Instant::now();
        match part {
            "creation" => bench.creation().await?,
            "large" => bench.large().await?,
            "restarts" => bench.restarts().await?,
            "scoring" => bench.scoring().await?,
            "running" => bench.running().await?,
            _ => bench.foreign().await?,
        }
        eprintln!("{part} took {:.0} s", start.elapsed().as_secs_f64());
    }
    if named.is_empty() { bench.figures.write(root) } else { Ok(()) }
}

impl Bench<'_> {
    /// The first figures, of 2,000 pods each.
    async fn creation(&mut self) -> Result<(), Box<dyn Error>> {
        let Sizes { rounds, one_big, many_small, .. } = self.sizes;
        let (load, pods) = (&self.load, one_big.pods);
        let (mut big, mut small, mut ceilings) = (Sides::default(), Sides::default(), Vec::new());
        for _ in 0..rounds {
            let ceiling = f64::from(pods) / load.posts(pods).await?;
            ceilings.push(ceiling);
            for (shape, sides) in [(one_big, &mut big), (many_small, &mut small)] {
                let rate = |seconds: f64| f64::from(shape.jobs * shape.pods) / seconds;
                let ours = rate(load.training(shape).await?);
                sides.ceiling.push((ours, ceiling));
                sides.batch.push((ours, rate(load.batch(shape).await?)));
                let _jobset = self.warm_jobset().await?;
                sides.jobset.push((ours, rate(load.jobsets(shape).await?)));
                if shape.jobs > 1 {
                    let _trainer = self.peers()?.trainer().await?;
                    load.trainjobs(WARM_UP).await?;
                    sides.trainer.push((ours, rate(load.trainjobs(shape).await?)));
                }
            }
        }
        let method = format!("medians of {rounds} rounds, in turns; from the first POST to the last pod's ADDED event");
        let (jobset, trainer) = (format!("{method}; {JOB_SET}"), format!("{method}; {TRAINER}"));
        let ceiling = median(ceilings.into_iter());
        let figures = &mut self.figures;
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
            figures.pairs(figure, "pods/s", pairs, goal, method);
        }
        Ok(())
    }

    /// Time and memory of 10,000 pods.
    async fn large(&mut self) -> Result<(), Box<dyn Error>> {
        let Sizes { many_small, large, .. } = self.sizes;
        let small = self.load.training(many_small).await?;
        let seconds = self.load.training(large).await?;
        let memory = self.operator.process.peak_mib()?;
        let method = format!("10,000 pods in {seconds:.1} s against 2,000 in {small:.1} s, once each; {memory:.0} MiB");
        let figure = "2,000 TrainingJobs of 5 pods by 200 of 10";
        self.figures.alone(figure, "x the time", seconds / small, Goal::AtMost(5.0), &method);
        let jobset = self.warm_jobset().await?;
        let peer = self.load.jobsets(large).await?;
        let rates = [seconds, peer].map(|seconds| f64::from(large.jobs * large.pods) / seconds);
        let method = format!("once; {JOB_SET}");
        self.figures.pairs("2,000 x 5, by JobSets", "pods/s", &[(rates[0], rates[1])], Goal::None, &method);
        let method = "peak resident memory, 2,000 jobs and 10,000 pods; JobSet's manager made nothing else";
        let memory = [(memory, jobset.peak_mib()?)];
        self.figures.pairs("memory of the operator", "MiB", &memory, Goal::AtMost(64.0), method);
        Ok(())
    }

    /// How long a gang takes from a failure to the last pod of its next attempt.
    async fn restarts(&mut self) -> Result<(), Box<dyn Error>> {
        let Sizes { gang, restarts, peer_restarts, .. } = self.sizes;
        let (mut ours, mut jobset) = (Vec::new(), Vec::new());
        self.load.restarts(gang, restarts, |took| ours.push(took)).await?;
        let (middle, slowest) = (median(ours.iter().copied()), ours.iter().copied().fold(0.0, f64::max));
        let method = format!("{gang} running pods on played nodes; the slowest of {restarts}; median {middle:.2} s");
        let figure = "a rank fails in a gang of 256 to the last pod of the next attempt";
        self.figures.alone(figure, "s", slowest, Goal::AtMost(2.0), &method);
        let _jobset = self.warm_jobset().await?;
        self.load.jobset_restarts(gang, peer_restarts, |took| jobset.push(took)).await?;
        let method = format!("medians of {restarts} and of {peer_restarts}; {JOB_SET}");
        let medians = [(middle, median(jobset.into_iter()))];
        self.figures.pairs("the same, by a JobSet", "s", &medians, Goal::None, &method);
        Ok(())
    }

    /// What ScoringJobs cost over their life.
    async fn scoring(&mut self) -> Result<(), Box<dyn Error>> {
        let (seconds, writes) = self.load.scoring(self.sizes.scored, &self.operator).await?;
        let method =
            format!("on played nodes, from the first POST to the last one Succeeded in {seconds:.1} s; events count");
        self.figures.alone("1,000 ScoringJobs of one pod", "writes/job", writes, Goal::AtMost(6.0), &method);
        Ok(())
    }

    /// What jobs cost that run.
    async fn running(&mut self) -> Result<(), Box<dyn Error>> {
        let rest = self.load.running(self.sizes.running, &self.operator).await?;
        let figures = &mut self.figures;
        let method = "2,000 running jobs whose leaders say the same, over 60 s";
        figures.alone("writes while progress stands still", "writes/min", rest.still, Goal::AtMost(0.0), method);
        let method = "2,000 running jobs whose leaders say another step each time, over 60 s";
        figures.alone("writes while progress moves", "writes/job/min", rest.moving, Goal::AtMost(2.0), method);
        let method = "the second with the most, by the mean of 60 s";
        figures.alone("questions to 2,000 leaders", "x the mean", rest.peak, Goal::AtMost(1.5), method);
        Ok(())
    }

    /// What the objects of others cost.
    async fn foreign(&mut self) -> Result<(), Box<dyn Error>> {
        let growth = self.load.foreign(self.sizes.foreign, &self.operator).await?;
        let method = "resident memory after 50,000 pods, 30,000 Secrets and 10,000 ConfigMaps of others, less before";
        self.figures.alone("growth by the objects of others", "MiB", growth, Goal::AtMost(1.0), method);
        Ok(())
    }

    fn peers(&self) -> Result<&Peers, Box<dyn Error>> {
        self.peers.as_ref().ok_or_else(|| "the peers are not installed".into())
    }

    /// Starts JobSet's manager and lets it make something.
    async fn warm_jobset(&self) -> Result<Running, Box<dyn Error>> {
        let manager = self.peers()?.jobset().await?;
        self.load.jobsets(WARM_UP).await?;
        Ok(manager)
    }
}

/// Pods a second: ours, and a side's of the same round.
#[derive(Default)]
struct Sides {
    ceiling: Vec<(f64, f64)>,
    batch: Vec<(f64, f64)>,
    jobset: Vec<(f64, f64)>,
    trainer: Vec<(f64, f64)>,
}

/// Seconds that something takes.
async fn timed<T>(work: impl Future<Output = Result<T, Box<dyn Error>>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let patience = Duration::from_secs(600);
    tokio::time::timeout(patience, work).await.map_err(|_| "it took more than 600 s")??;
    Ok(start.elapsed().as_secs_f64())
}
