//! The one operator that may write: who holds the Lease leads, and writes only while it can be sure that it still does.
//!
//! Every write of the lease carries the resource version that was seen, so that of two who want it one gets it. A holder
//! counts its time from the moment it *sent* its last renewal, on a clock that nobody sets; another one takes the lease when
//! it has seen no renewal for the lease's whole duration, on its own such clock. So the time of the holder is always over
//! first, however far apart their clocks are. [`Fence::left`] is asked before each write, and a write that is not answered
//! when that time is over is given up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use nix::time::{ClockId, clock_gettime};

use super::context::lock;
use super::health::{Health, Part};

/// Name of the Lease.
pub(crate) const NAME: &str = "trainyard-operator";

/// Fifths of its duration that a lease counts as held after its last renewal. The last fifth is for a write that was given
/// up and is still on its way.
const HELD: u32 = 4;

/// Longest time between two looks at the lease.
const PAUSE: Duration = Duration::from_secs(2);

/// How an operator takes part in who leads.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of this operator among all: it must not be that of another one.
    pub identity: String,
    /// Seconds without a renewal after which another operator takes over.
    pub seconds: u32,
}

impl Leadership {
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// What keeps an operator that no longer leads from writing.
#[derive(Debug)]
pub(super) struct Fence {
    /// On the clock of [`elapsed`]; `None` without a lease: there is one operator then, and whoever started it vouches for it.
    until: Option<Mutex<Duration>>,
    stands_by: AtomicBool,
}

impl Fence {
    /// For an operator that has no lease.
    pub(super) fn open() -> Fence {
        Fence { until: None, stands_by: AtomicBool::new(false) }
    }

    /// Closed until the lease is held.
    pub(super) fn closed() -> Fence {
        Fence { until: Some(Mutex::new(Duration::ZERO)), stands_by: AtomicBool::new(false) }
    }

    /// How long it is certain that this operator leads; `None` if it is not.
    pub(super) fn left(&self) -> Option<Duration> {
        let Some(until) = &self.until else { return Some(Duration::MAX) };
        lock(until).checked_sub(elapsed()).filter(|left| !left.is_zero())
    }

    /// Whether another operator was seen to lead.
    pub(super) fn stands_by(&self) -> bool {
        self.stands_by.load(Ordering::Relaxed)
    }

    fn set(&self, until: Duration) {
        if let Some(own) = &self.until {
            *lock(own) = until;
        }
    }
}

/// Time on a clock that nobody sets, and that goes on while a machine sleeps.
pub(super) fn elapsed() -> Duration {
    // Linux has had this clock since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The lease as it was seen last.
struct Seen {
    lease: Lease,
    /// When it changed last, as far as this operator knows.
    since: Duration,
}

/// An operator's part in the lease.
pub(super) struct Candidate<'a> {
    client: Client,
    api: Api<Lease>,
    /// The service account that this operator is, if that lives beside the lease: with it the lease goes.
    account: Option<OwnerReference>,
    leadership: &'a Leadership,
    fence: &'a Fence,
    health: &'a Health,
    seen: Option<Seen>,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(
        client: &Client,
        leadership: &'a Leadership,
        fence: &'a Fence,
        health: &'a Health,
    ) -> Candidate<'a> {
        let api = Api::namespaced(client.clone(), &leadership.namespace);
        Candidate { client: client.clone(), api, account: None, leadership, fence, health, seen: None }
    }

    /// Waits until this operator leads.
    pub(super) async fn lead(&mut self) {
        self.account = match bounded(self.patience(), self.account()).await {
            Ok(account) => account,
            Err(error) => {
                tracing::warn!(%error, "who this operator is can't be asked: its lease will stay when it is uninstalled");
                None
            }
        };
        let mut told = None;
        loop {
            match self.turn().await {
                Ok(None) => break,
                Ok(holder) => {
                    if holder != told {
                        tracing::info!(?holder, "another operator leads: this one stands by");
                        told = holder;
                    }
                    self.fence.stands_by.store(true, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "the lease can't be read or written: will try again"),
            }
            tokio::time::sleep(self.pause()).await;
        }
        tracing::info!(identity = self.leadership.identity, "this operator leads");
        self.fence.stands_by.store(false, Ordering::Relaxed);
    }

    /// Whom the API server takes this operator for: `None` for a person, or an account of another namespace.
    async fn account(&self) -> kube::Result<Option<OwnerReference>> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
        let user = review.status.and_then(|status| status.user_info).unwrap_or_default();
        let prefix = format!("system:serviceaccount:{}:", self.leadership.namespace);
        let name = user.username.as_deref().and_then(|name| name.strip_prefix(&prefix));
        Ok(name.zip(user.uid).map(|(name, uid)| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            uid,
            ..OwnerReference::default()
        }))
    }

    /// Renews the lease until it is lost.
    pub(super) async fn keep(&mut self) {
        while let Some(left) = self.fence.left() {
            let pause = self.pause();
            let turn = async {
                tokio::time::sleep(pause).await;
                self.turn().await
            };
            match tokio::time::timeout(left, turn).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(holder))) => {
                    tracing::error!(holder, "another operator has taken the lease");
                    self.fence.set(Duration::ZERO);
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed: will try again"),
                Err(_) => tracing::error!("the lease was not renewed in time"),
            }
        }
    }

    /// Gives the lease back, so that another one need not wait for its end. Nothing may be written any more.
    pub(super) async fn release(&mut self) {
        let was_held = self.fence.left().is_some();
        self.fence.set(Duration::ZERO);
        let (true, Some(seen)) = (was_held, &self.seen) else { return };
        let mut lease = seen.lease.clone();
        if let Some(spec) = &mut lease.spec {
            (spec.holder_identity, spec.lease_duration_seconds) = (None, Some(1));
        }
        // If it fails, the lease runs out.
        if let Err(error) = self.replace(&lease).await {
            tracing::warn!(%error, "the lease was not given back: it runs out by itself");
        }
    }

    /// Takes or renews the lease if it may; otherwise tells who holds it.
    async fn turn(&mut self) -> Result<Option<String>, TurnError> {
        self.health.stamp(Part::Lease, Instant::now());
        if self.seen.is_none() {
            self.look().await?;
        }
        let Some(seen) = &self.seen else {
            let (sent, lease, parameters) = (elapsed(), self.wanted(None), PostParams::default());
            let created = bounded(self.patience(), self.api.create(&parameters, &lease)).await;
            return self.took(sent, created).await;
        };
        let seconds = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let sent = elapsed();
        let is_over = sent.saturating_sub(seen.since) > duration;
        match self.holder() {
            Some(holder) if holder != self.leadership.identity && !is_over => {
                self.look().await?;
                Ok(Some(self.holder().unwrap_or(holder)))
            }
            _ => {
                let written = self.replace(&self.wanted(Some(&seen.lease))).await;
                self.took(sent, written).await
            }
        }
    }

    /// Takes in what came of a write of the lease that was sent at that time.
    async fn took(&mut self, sent: Duration, written: Result<Lease, TurnError>) -> Result<Option<String>, TurnError> {
        match written {
            Ok(lease) => {
                self.seen = Some(Seen { lease, since: sent });
                self.fence.set(sent + self.leadership.duration() * HELD / 5);
                Ok(None)
            }
            // Somebody else was faster, or an earlier write of our own got through after all.
            Err(TurnError::Api(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                self.look().await?;
                match self.holder() {
                    Some(holder) if holder != self.leadership.identity => Ok(Some(holder)),
                    _ => Err(TurnError::Api(kube::Error::Api(status))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the lease; one that has not changed keeps the time since when.
    async fn look(&mut self) -> Result<(), TurnError> {
        let read = bounded(self.patience(), self.api.get_opt(NAME)).await?;
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        self.seen = read.map(|lease| match self.seen.take() {
            Some(seen) if version(&seen.lease) == version(&lease) => seen,
            _ => Seen { lease, since: elapsed() },
        });
        Ok(())
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, TurnError> {
        bounded(self.patience(), self.api.replace(NAME, &PostParams::default(), lease)).await
    }

    fn holder(&self) -> Option<String> {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty())
    }

    /// The lease as this operator's.
    fn wanted(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_own = spec.holder_identity.as_ref() == Some(&self.leadership.identity);
        let transitions = spec.lease_transitions.unwrap_or_default() + i32::from(!is_own && before.is_some());
        let mut metadata = before.map_or_else(
            || ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        // The owner that a lease still has from an earlier installation is no longer there.
        metadata.owner_references = self.account.clone().map(|account| vec![account]);
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                acquire_time: spec.acquire_time.filter(|_| is_own).or_else(|| Some(now.clone())),
                holder_identity: Some(self.leadership.identity.clone()),
                lease_duration_seconds: Some(self.leadership.seconds.try_into().unwrap_or(i32::MAX)),
                lease_transitions: Some(transitions),
                renew_time: Some(now),
                ..spec
            }),
        }
    }

    /// Time between two looks at the lease.
    fn pause(&self) -> Duration {
        (self.leadership.duration() / 5).min(PAUSE)
    }

    /// Longest time that one call may take.
    fn patience(&self) -> Duration {
        self.leadership.duration() / 3
    }
}

/// Why a turn at the lease came to nothing.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

async fn bounded<T>(most: Duration, call: impl Future<Output = kube::Result<T>>) -> Result<T, TurnError> {
    Ok(tokio::time::timeout(most, call).await.map_err(|_| TurnError::Timeout(most))??)
}

/// An identity that no other operator has: the name of its pod or machine, and what no second process there shares.
pub fn identity(host: &str) -> String {
    format!("{host}_{}", uuid::Uuid::new_v4())
}
