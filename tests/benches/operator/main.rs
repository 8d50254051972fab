//! How fast the operator makes and restarts pods, beside batch/v1 Indexed Jobs and beside plain POSTs of the same pods, on a
//! real control plane. No scheduler takes the pods of the first figures, so that only the making counts. `cargo bench -p
//! tests --bench operator`; writes `target/bench/operator.json`.

#[allow(dead_code, reason = "each benchmark needs a part of it")]
#[path = "../../../trainer-image/benches/common/figures.rs"]
mod figures;
mod load;
mod process;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use figures::{Figures, Goal, median};
use load::{Load, Shape};
use process::Operator;
use tests::cluster::Cluster;

/// Rounds, each of which every side takes once.
const ROUNDS: usize = 3;
/// Restarts of a gang.
const RESTARTS: u32 = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a package in a workspace")?;
    let cluster = Cluster::start().await?;
    cluster.definitions().await;
    let mut figures = Figures::new("operator");
    let operator = Operator::start(root, cluster.kubeconfig())?;
    let one_big = Shape { jobs: 1, pods: 2000 };
    let many_small = Shape { jobs: 200, pods: 10 };

    let load = Load::new(&cluster);
    // One for nothing: connections are made, caches filled.
    load.training(Shape { jobs: 4, pods: 4 }).await?;
    let mut ceilings = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let ceiling = 2000.0 / load.posts(2000).await?;
        ceilings.push(ceiling);
        for (index, shape) in [one_big, many_small].into_iter().enumerate() {
            let ours = load.training(shape).await?;
            let peer = load.batch(shape).await?;
            times[index].push((ours, peer));
            rates[index].push((2000.0 / ours, ceiling));
        }
    }
    let method = format!("medians of {ROUNDS} rounds, in turns; from the first POST to the last pod's ADDED event");
    let ceiling = median(ceilings.iter().copied());
    figures.alone("ceiling: plain POSTs of the same pods, 32 connections", "pods/s", ceiling, Goal::None, &method);
    figures.pairs("1 TrainingJob of 2,000 pods, by the ceiling", "pods/s", &rates[0], Goal::Ratio(0.8), &method);
    let faster = |pairs: &[(f64, f64)]| -> Vec<(f64, f64)> {
        pairs.iter().map(|(ours, peer)| (2000.0 / ours, 2000.0 / peer)).collect()
    };
    figures.pairs("1 x 2,000, by a batch/v1 Indexed Job", "pods/s", &faster(&times[0]), Goal::Ratio(2.0), &method);
    figures.pairs("200 TrainingJobs of 10 pods, by the ceiling", "pods/s", &rates[1], Goal::Ratio(0.6), &method);
    figures.pairs("200 x 10, by batch/v1 Indexed Jobs", "pods/s", &faster(&times[1]), Goal::Ratio(1.1), &method);

    let small = median(times[1].iter().map(|pair| pair.0));
    let (large, writes) = load.resting(Shape { jobs: 2000, pods: 5 }, &operator).await?;
    let method = "10,000 pods against 2,000, the median of the latter";
    figures.alone("2,000 x 5 by 200 x 10", "x the time", large / small, Goal::AtMost(5.0), method);
    let method = "peak resident memory, 2,000 jobs and 10,000 pods";
    figures.alone("memory of the operator", "MiB", operator.peak_mib()?, Goal::AtMost(64.0), method);
    let method = "2,000 jobs whose pods wait and nothing moves, over 30 s";
    figures.alone("writes of the operator at rest", "writes/min", writes * 2.0, Goal::AtMost(0.0), method);

    let mut seconds = Vec::new();
    load.restarts(256, RESTARTS, |took| seconds.push(took)).await?;
    seconds.sort_by(f64::total_cmp);
    let method = format!(
        "256 running pods on played nodes; the slowest of {RESTARTS}; median {:.2} s",
        median(seconds.iter().copied())
    );
    let slowest = seconds.last().copied().unwrap_or(f64::NAN);
    figures.alone(
        "a rank fails in a gang of 256 to the last pod of the next attempt",
        "s",
        slowest,
        Goal::AtMost(2.0),
        &method,
    );
    figures.write(root)
}

/// Seconds that something takes.
async fn timed<T>(work: impl Future<Output = Result<T, Box<dyn Error>>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let patience = Duration::from_secs(300);
    tokio::time::timeout(patience, work).await.map_err(|_| "it took more than 300 s")??;
    Ok(start.elapsed().as_secs_f64())
}
