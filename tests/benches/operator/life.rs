//! What jobs cost over their life: ScoringJobs from their start to their end, running jobs whose progress stands still or
//! moves, and the objects of others that lie beside them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::{Duration, Instant};

use crds::contract::PROGRESS_PORT;
use crds::status::Phase;
use crds::{ScoringJob, TrainingJob};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tests::cluster::Leader;

use crate::load::{CONNECTIONS, Load, create_all, job, pattern};
use crate::process::Operator;
use crate::timed;

/// Pods that a played node of the kind `cpu` takes.
const PODS_OF_A_NODE: u32 = 110;
/// Time that running jobs are watched for.
const WATCHED: Duration = Duration::from_secs(60);

/// What running jobs cost in a minute.
pub(crate) struct Rest {
    /// Writes of the operator while their progress stands still.
    pub(crate) still: f64,
    /// Writes of the operator for each job while it moves.
    pub(crate) moving: f64,
    /// Questions to leaders: those of the second with the most, by the mean of all seconds.
    pub(crate) peak: f64,
}

impl Load<'_> {
    /// Single-pod ScoringJobs, from the first POST until all have succeeded: seconds, and the operator's writes for each
    /// job besides its pod.
    pub(crate) async fn scoring(&self, jobs: u32, operator: &Operator) -> Result<(f64, f64), Box<dyn Error>> {
        let namespace = self.cluster.namespace("scoring").await;
        namespace.nodes(&vec!["cpu"; jobs.div_ceil(PODS_OF_A_NODE) as usize]).await;
        let pod = json!({"nodeSelector": namespace.selector()});
        let before = operator.writes()?;
        let create = create_all(namespace.api::<ScoringJob>(), jobs, |index| {
            json!({
                "apiVersion": "trainyard.dev/v1alpha1", "kind": "ScoringJob", "metadata": {"name": format!("j-{index}")},
                "spec": {
                    "model": {"uri": "file:///model"}, "data": {"uri": "file:///data"},
                    "infrastructure": {"device": "Cpu", "pod": pod},
                    "output": {"uri": format!("file:///out/{index}")},
                },
            })
        });
        let pods = namespace.pods();
        let finish = async {
            stream::iter(0..jobs)
                .for_each_concurrent(CONNECTIONS, |index| {
                    let pods = &pods;
                    async move { pods.finish(&format!("j-{index}-s1-0"), 0, "").await }
                })
                .await;
            Ok(())
        };
        let done = all(namespace.api::<ScoringJob>(), jobs, |job| {
            job.status.as_ref().is_some_and(|status| status.job.phase == Phase::Succeeded)
        });
        let seconds = timed(async {
            futures::try_join!(create, finish, done)?;
            Ok(())
        })
        .await?;
        // Events follow the last status.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let writes = operator.writes()? - before - f64::from(jobs);
        self.clear(&namespace).await?;
        Ok((seconds, writes / f64::from(jobs)))
    }

    /// Running TrainingJobs of one pod, whose leaders answer.
    pub(crate) async fn running(&self, jobs: u32, operator: &Operator) -> Result<Rest, Box<dyn Error>> {
        const LEADER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 7, 1, 1), PROGRESS_PORT);
        let namespace = self.cluster.namespace("running").await;
        namespace.nodes(&vec!["cpu"; jobs.div_ceil(PODS_OF_A_NODE) as usize]).await;
        let pod = json!({"nodeSelector": namespace.selector()});
        let step = |step: usize| {
            json!({
                "contractVersion": 1, "attempt": 1, "stage": "Training", "epoch": 1, "epochs": 1, "step": step,
                "totalSteps": 10_000_000, "imagesPerSecond": 1.0,
            })
        };
        let still = Leader::start(LEADER, move |_| step(7)).await;
        create_all(namespace.api::<TrainingJob>(), jobs, |index| job(index, 1, &pod)).await?;
        let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        all(namespace.api::<Pod>(), jobs, runs).await?;
        let pods = namespace.pods();
        stream::iter(0..jobs)
            .for_each_concurrent(CONNECTIONS, |index| {
                let (pods, still) = (&pods, &still);
                async move {
                    let pod = format!("j-{index}-t1-0");
                    still.lead(pods, &pod).await;
                }
            })
            .await;
        all(namespace.api::<TrainingJob>(), jobs, |job| {
            job.status.as_ref().is_some_and(|status| status.job.progress.is_some())
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        let at_rest = writes_in(WATCHED, operator).await?;
        drop(still);
        // The address is free once the task of the one before has ended.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let moving = Leader::start(LEADER, move |asked| step(8 + asked)).await;
        // The first is written at once, for the half minute before was quiet.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let start = Instant::now();
        let writes = writes_in(WATCHED, operator).await?;
        let mut seconds: BTreeMap<u64, u32> = BTreeMap::new();
        for asked in moving.asked().into_iter().filter_map(|at| at.checked_duration_since(start)) {
            *seconds.entry(asked.as_secs()).or_default() += 1;
        }
        seconds.retain(|second, _| *second < WATCHED.as_secs());
        let mean = f64::from(seconds.values().sum::<u32>()) / WATCHED.as_secs_f64();
        let most = seconds.values().max().copied().unwrap_or_default();
        self.clear(&namespace).await?;
        Ok(Rest { still: at_rest, moving: writes / f64::from(jobs), peak: f64::from(most) / mean })
    }

    /// How much the operator's resident memory grows, in MiB, when others make so many pods, Secrets and ConfigMaps.
    pub(crate) async fn foreign(&self, counts: [u32; 3], operator: &Operator) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("foreign").await;
        let pod = pattern(&namespace).await?;
        let before = operator.process.resident_mib()?;
        let named = |index: u32| json!({"name": format!("f-{index}"), "labels": {"app": "theirs"}});
        create_all(namespace.api::<Pod>(), counts[0], |index| json!({"metadata": named(index), "spec": pod.spec}))
            .await?;
        let content = json!({"content": "x".repeat(512)});
        let with = |index| json!({"metadata": named(index), "stringData": content});
        create_all(namespace.api::<Secret>(), counts[1], with).await?;
        create_all(namespace.api::<ConfigMap>(), counts[2], |index| json!({"metadata": named(index), "data": content}))
            .await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(operator.process.resident_mib()? - before)
    }
}

async fn writes_in(time: Duration, operator: &Operator) -> Result<f64, Box<dyn Error>> {
    let before = operator.writes()?;
    tokio::time::sleep(time).await;
    Ok(operator.writes()? - before)
}

/// Waits until so many objects of a kind are as wished.
async fn all<K>(api: Api<K>, count: u32, holds: impl Fn(&K) -> bool) -> Result<(), Box<dyn Error>>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut seen = std::collections::BTreeSet::new();
    let mut objects = pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while seen.len() < count as usize {
        match objects.try_next().await {
            Ok(Some(object)) if holds(&object) => drop(seen.insert(object.name_any())),
            Ok(Some(_)) => {}
            Ok(None) => return Err("the watch ended".into()),
            // It begins anew by itself.
            Err(_) => {}
        }
    }
    Ok(())
}
