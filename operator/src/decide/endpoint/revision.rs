//! Whether the pods of an endpoint have to be others: its model, its recipe, its place.

use crds::reasons::reason;
use crds::status::{ModelStatus, Phase, bounded};
use serde_json::json;

use super::Draft;
use crate::build::fingerprint::fingerprint;
use crate::observe::Obstacle;
use crate::observe::endpoint::{Choice, Record, Trained};

/// Why it can't be said yet which revision comes next.
#[derive(Debug)]
pub(super) enum Wait {
    /// The place of a new one is not known.
    ForPlace,
    /// A new one is due and can't be made.
    For(Obstacle),
}

impl Draft<'_> {
    /// The revision that has to be made; `None` while the newest one will do.
    pub(super) fn revision(&self) -> Result<Option<Record>, Wait> {
        let (world, endpoint) = (self.world, &self.world.endpoint);
        if endpoint.suspend {
            return Ok(None);
        }
        let newest = world.rollout.as_ref().and_then(|rollout| rollout.record.as_ref());
        let model = self.model(newest).map_err(Wait::For)?;
        let fingerprint = fingerprint(&json!([endpoint.recipe, model.uri, model.digest]));
        let same = newest.filter(|newest| newest.fingerprint == fingerprint);
        // Nothing runs that a change of place could disturb: what was Auto is decided anew.
        let revived = world.rollout.as_ref().is_some_and(|rollout| rollout.wished == 0) && endpoint.wished() > 0;
        let is_changed = self.is_changed();
        if same.is_some() && !revived && !is_changed {
            return Ok(None);
        }
        match (&world.obstacle, same) {
            (Some(obstacle), None) => return Err(Wait::For(obstacle.clone())),
            (Some(_), Some(_)) => return Ok(None),
            (None, _) => {}
        }
        let place = match (&world.place, same) {
            (None, _) => return Err(Wait::ForPlace),
            (Some(Err(_)), Some(_)) => return Ok(None),
            (Some(Err(obstacle)), None) => return Err(Wait::For(obstacle.clone())),
            (Some(Ok(place)), Some(same)) if is_like(place, &same.place) => return Ok(is_changed.then(|| same.clone())),
            (Some(Ok(place)), _) => place.clone(),
        };
        let last = newest.map_or(0, |newest| newest.number).max(world.status.latest_revision);
        let training_job = endpoint.model.training_job.clone();
        Ok(Some(Record { number: last + 1, fingerprint, training_job, model, place }))
    }

    /// The fingerprint of what the pods of the newest revision were made from, if it was written down by an operator of this version:
    /// an upgrade makes no pods anew.
    pub(super) fn noted_template(&self) -> Option<&String> {
        let (status, rollout) = (&self.world.status, self.world.rollout.as_ref()?);
        let newest = rollout.record.as_ref()?;
        let version = |template: &str| template.rsplit_once('-').map(|(version, _)| version.to_owned());
        let is_of_this = |noted: &&String| version(noted) == version(&rollout.template);
        status.template.as_ref().filter(|_| status.latest_revision == newest.number).filter(is_of_this)
    }

    /// Whether somebody has changed what the pods are made from.
    fn is_changed(&self) -> bool {
        let now = self.world.rollout.as_ref().map(|rollout| &rollout.template);
        self.noted_template().is_some_and(|noted| Some(noted) != now)
    }

    /// The model that is to answer. That of a TrainingJob stays once it was taken, unless a newer one is to be followed; the status
    /// has it where neither the TrainingJob nor the Deployment is left.
    fn model(&self, newest: Option<&Record>) -> Result<ModelStatus, Obstacle> {
        let endpoint = &self.world.endpoint;
        let Some(job) = &endpoint.model.training_job else {
            let uri = endpoint.model.uri.clone().unwrap_or_default();
            return Ok(ModelStatus { uri, ..ModelStatus::default() });
        };
        let status = &self.world.status;
        let answered = status.model.as_ref().filter(|_| status.training_job.as_ref() == Some(job));
        let made = newest.filter(|newest| newest.training_job.as_ref() == Some(job)).map(|newest| &newest.model);
        let taken = made.or(answered);
        match (taken, &self.world.trained) {
            (Some(taken), _) if !endpoint.follows => Ok(taken.clone()),
            (_, Some(Trained::Model(model))) => Ok(model.clone()),
            (Some(taken), _) => Ok(taken.clone()),
            (None, trained) => Err(Obstacle {
                reason: reason::WAITING_FOR_MODEL.to_owned(),
                message: bounded(&waits_for(job, trained.as_ref())),
                fails_by: None,
            }),
        }
    }
}

fn waits_for(job: &str, trained: Option<&Trained>) -> String {
    match trained {
        Some(Trained::Without(Phase::Failed)) => {
            format!("waits for the model of the TrainingJob {job}, which has failed: see to it, or name another model")
        }
        Some(Trained::Without(phase)) => format!("waits for the model of the TrainingJob {job}, which is {phase:?}"),
        _ => format!("waits for the TrainingJob {job}: there is none of this name in the namespace"),
    }
}

/// Whether pods of one place are as good in another: the reasons may differ.
fn is_like(one: &Choice, other: &Choice) -> bool {
    (one.device, &one.runtime) == (other.device, &other.runtime)
}
