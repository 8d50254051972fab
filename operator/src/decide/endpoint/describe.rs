//! Where an endpoint stands: counts, the revision that answers and its model, phase, message, conditions, and what is worth
//! telling of the change.

use crds::infrastructure::Device;
use crds::model_endpoint::ServiceType;
use crds::reasons::reason;
use crds::status::{EndpointPhase, ModelEndpointStatus, ModelStatus, Placement, bounded};
use jiff::Timestamp;

use super::Draft;
use crate::build::conditions::{Wished, written};
use crate::build::{endpoint as build, names};
use crate::observe::endpoint::{Record, Rollout, Server};

impl Draft<'_> {
    /// Writes down where the endpoint stands, if that is not what was written last.
    pub(super) fn describe(&mut self, now: Timestamp) {
        let (world, before) = (self.world, &self.world.status);
        let rollout = world.rollout.clone().unwrap_or_default();
        let revision = self.answering();
        let phase = self.phase(&rollout, revision);
        let message = bounded(&self.message(phase, &rollout, revision));
        let mut status = ModelEndpointStatus {
            phase,
            message,
            conditions: Vec::new(),
            observed_generation: world.endpoint.generation,
            replicas: rollout.replicas,
            ready_replicas: rollout.ready,
            selector: build::selector(&world.endpoint.name),
            url: self.url(),
            placement: self.placement(),
            model: self.model_of(revision),
            training_job: self.training_job_of(revision),
            revision,
            template: self.template(),
            latest_revision: self.newest().map_or(0, |newest| newest.number).max(before.latest_revision),
        };
        let wished = self.conditions(&status, &rollout);
        status.conditions = written(wished, &status.message, status.observed_generation, &before.conditions, now);
        self.tell_of(&status, &rollout);
        match status == *before {
            true => self.plan.events.clear(),
            false => self.plan.status = Some(status),
        }
    }

    /// Whether all pods are of the newest revision and answer.
    fn is_complete(&self) -> bool {
        let wished = self.world.endpoint.wished();
        self.plan.resize.is_none() && self.standing().is_some_and(|rollout| rollout.is_complete(wished))
    }

    /// Number of the revision that answers: the oldest one that does.
    fn answering(&self) -> u32 {
        let ready = self.world.servers.iter().filter(|server| server.is_ready).map(|server| server.revision);
        match self.newest() {
            Some(newest) if self.is_complete() && self.world.endpoint.wished() > 0 => newest.number,
            _ => ready.min().unwrap_or(self.world.status.revision),
        }
    }

    fn record_of(&self, revision: u32) -> Option<&Record> {
        let of_pods = self.world.servers.iter().filter_map(|server| server.record.as_ref());
        self.newest().into_iter().chain(of_pods).find(|record| record.number == revision)
    }

    /// The model of a revision.
    fn model_of(&self, revision: u32) -> Option<ModelStatus> {
        let before = self.world.status.model.clone().filter(|_| self.world.status.revision == revision);
        let mut model = self.record_of(revision).map(|record| record.model.clone()).or_else(|| before.clone())?;
        let said = self.world.serving.as_ref().filter(|serving| serving.revision == revision);
        let said = said.and_then(|serving| serving.digest.clone());
        model.digest = said.or(model.digest).or_else(|| before.and_then(|before| before.digest));
        Some(model)
    }

    /// Name of the TrainingJob that the model of a revision is from.
    fn training_job_of(&self, revision: u32) -> Option<String> {
        match self.record_of(revision) {
            Some(record) => record.training_job.clone(),
            None => self.world.status.training_job.clone().filter(|_| self.world.status.revision == revision),
        }
    }

    /// The fingerprint of what the pods of the newest revision were made from: what is applied now is seen at the next look.
    fn template(&self) -> Option<String> {
        let standing = self.standing()?;
        Some(self.noted_template().unwrap_or(&standing.template).clone())
    }

    /// Where the pods of the newest revision run; on CPUs, if a pod says that its GPU can't be used.
    fn placement(&self) -> Option<Placement> {
        let newest = self.newest()?;
        let place = &newest.place;
        let said = self.world.serving.as_ref().filter(|serving| serving.revision == newest.number);
        let before = self.world.status.placement.clone().filter(|_| self.world.status.latest_revision == newest.number);
        let runtime = place.runtime.clone();
        let gpus = place.gpus * self.world.endpoint.wished();
        Some(match said {
            Some(said) if said.device == "Cpu" && place.device == Device::Gpu => {
                let why = if said.device_reason.is_empty() { "its GPU can't be used" } else { &said.device_reason };
                let reason = bounded(&format!("a pod with a GPU computes on CPUs: {why}"));
                Placement { device: Device::Cpu, gpus, runtime, node: None, reason }
            }
            // Until a pod is heard, what was heard last stands.
            None if before.as_ref().is_some_and(|before| before.device != place.device) => {
                Placement { gpus, ..before.unwrap_or_default() }
            }
            _ => Placement { device: place.device, gpus, runtime, node: None, reason: bounded(&place.reason) },
        })
    }

    fn url(&self) -> Option<String> {
        let endpoint = &self.world.endpoint;
        let within = format!("{}.{}.svc", names::of_endpoint(&endpoint.name), endpoint.namespace);
        let host = match endpoint.service {
            ServiceType::LoadBalancer => self.world.balancer.clone().unwrap_or(within),
            ServiceType::ClusterIp | ServiceType::NodePort => within,
        };
        Some(format!("http://{host}:{}", endpoint.port))
    }

    fn phase(&self, rollout: &Rollout, revision: u32) -> EndpointPhase {
        let before = self.world.status.phase;
        let is_overdue = self.standing().is_some_and(|rollout| rollout.is_overdue);
        let is_refused = self.obstacle.as_ref().is_some_and(|obstacle| obstacle.fails_by.is_some());
        let is_updating = self.newest().is_some_and(|newest| newest.number != revision);
        if self.newest().is_none() && self.world.endpoint.suspend {
            EndpointPhase::Suspended
        } else if self.newest().is_none() {
            match is_refused {
                true => EndpointPhase::Failed,
                // Its Deployment was taken away, and it can't be made anew now.
                false if revision > 0 && self.world.endpoint.wished() > 0 => EndpointPhase::Degraded,
                false => EndpointPhase::Pending,
            }
        } else if self.world.endpoint.wished() == 0 {
            let is_quiet = self.is_complete() || rollout.replicas == 0 && self.plan.resize.is_none();
            if is_quiet || before == EndpointPhase::Suspended { EndpointPhase::Suspended } else { before }
        } else if rollout.ready == 0 {
            match (is_overdue || is_refused, before) {
                (true, _) => EndpointPhase::Failed,
                // What has answered once and does not any more.
                (_, EndpointPhase::Ready | EndpointPhase::Updating | EndpointPhase::Held | EndpointPhase::Degraded) => {
                    EndpointPhase::Degraded
                }
                _ => EndpointPhase::Starting,
            }
        } else if self.obstacle.is_some() || is_overdue && is_updating {
            EndpointPhase::Held
        } else if self.is_complete() {
            EndpointPhase::Ready
        } else if is_updating {
            EndpointPhase::Updating
        } else if before == EndpointPhase::Starting && rollout.ready >= self.world.status.ready_replicas {
            EndpointPhase::Starting
        } else {
            EndpointPhase::Degraded
        }
    }

    fn message(&self, phase: EndpointPhase, rollout: &Rollout, revision: u32) -> String {
        let (endpoint, newest) = (&self.world.endpoint, self.newest().map_or(0, |newest| newest.number));
        let (ready, wished) = (rollout.ready, endpoint.wished());
        let why = self.why(rollout);
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        let obstacle = self.obstacle.as_ref().map(|obstacle| obstacle.message.trim_end_matches('.').to_owned());
        if wished == 0 && phase != EndpointPhase::Suspended && newest > 0 {
            return format!("Stops: {} pods are left", rollout.replicas);
        }
        let late = || format!("revision {newest} did not get ready within {} s{because}", endpoint.deadline_seconds);
        match phase {
            EndpointPhase::Pending => obstacle.unwrap_or_else(|| "Waits to be started".to_owned()),
            EndpointPhase::Failed if obstacle.is_some() => obstacle.unwrap_or_default(),
            EndpointPhase::Failed => {
                format!("{}. Nothing answers: see to it, or change the spec", capital(&late()))
            }
            EndpointPhase::Starting => format!("Revision {newest} starts{because}"),
            EndpointPhase::Ready => format!("{} by revision {newest}", answers(ready, wished)),
            EndpointPhase::Updating => {
                format!("Revision {newest} takes the place of revision {revision}, which answers meanwhile{because}")
            }
            EndpointPhase::Held => {
                let what = capital(&obstacle.unwrap_or_else(late));
                format!("{what}. Revision {revision} goes on answering: see to it, or set the spec back to what it was")
            }
            EndpointPhase::Degraded if newest == 0 => {
                format!("Nothing answers, its Deployment is gone: {}", obstacle.unwrap_or_default())
            }
            EndpointPhase::Degraded => format!("{}{because}", answers(ready, wished)),
            EndpointPhase::Suspended if endpoint.suspend => "Suspended: nothing answers".to_owned(),
            EndpointPhase::Suspended => "Scaled to no replicas: nothing answers".to_owned(),
        }
    }

    /// Why the newest revision does not answer.
    fn why(&self, rollout: &Rollout) -> String {
        let newest = self.newest().map_or(0, |newest| newest.number);
        let is_due = |server: &&Server| server.revision == newest && !server.is_going && !server.why.is_empty();
        match self.world.servers.iter().find(is_due) {
            Some(server) => server.why.trim_end_matches('.').to_owned(),
            None => rollout.refused.trim_end_matches('.').to_owned(),
        }
    }

    fn conditions(&self, status: &ModelEndpointStatus, rollout: &Rollout) -> Vec<Wished> {
        use crds::reasons::condition::{PROGRESSING, READY, SCHEDULABLE, SUSPENDED, VALID};
        let obstacle = self.obstacle.as_ref();
        let is_valid = obstacle.is_none_or(|obstacle| obstacle.fails_by.is_none());
        let mut wished = vec![(VALID, is_valid, if is_valid { reason::ACCEPTED } else { reason::BAD_SPEC }.to_owned())];
        match obstacle {
            Some(obstacle) => wished.push((SCHEDULABLE, false, obstacle.reason.clone())),
            None if self.newest().is_some() => wished.push((SCHEDULABLE, true, reason::PODS_CREATED.to_owned())),
            None => {}
        }
        // What answers is ready, whether or not something newer comes.
        let is_ready = rollout.ready > 0 && (rollout.ready >= self.world.endpoint.wished() || self.is_held(status));
        let ready = if is_ready { reason::REPLICAS_READY } else { reason::REPLICAS_UNAVAILABLE };
        wished.push((READY, is_ready, ready.to_owned()));
        let is_overdue = self.standing().is_some_and(|rollout| rollout.is_overdue);
        if let Some(newest) = self.newest() {
            let (progresses, why) = match is_overdue {
                true => (false, reason::PROGRESS_DEADLINE_EXCEEDED),
                false if newest.number == status.revision => (false, reason::REPLICAS_READY),
                false => (status.phase != EndpointPhase::Suspended, reason::NEW_REVISION),
            };
            wished.push((PROGRESSING, progresses, why.to_owned()));
        }
        let is_suspended = status.phase == EndpointPhase::Suspended;
        let was_suspended = self.world.status.conditions.iter().any(|condition| condition.type_ == SUSPENDED);
        if is_suspended || was_suspended {
            let why = if is_suspended { reason::SUSPENDED } else { reason::RESUMED };
            wished.push((SUSPENDED, is_suspended, why.to_owned()));
        }
        wished
    }

    fn is_held(&self, status: &ModelEndpointStatus) -> bool {
        matches!(status.phase, EndpointPhase::Held | EndpointPhase::Updating)
    }

    /// What a person wants to hear of.
    fn tell_of(&mut self, status: &ModelEndpointStatus, rollout: &Rollout) {
        let before = &self.world.status;
        let stood = self.world.rollout.as_ref().and_then(|rollout| rollout.record.as_ref()).map(|record| record.number);
        if let Some(Record { number, model, place, .. }) = self.plan.roll.clone() {
            if stood == Some(number) {
                let text = format!(
                    "The Deployment's pods were changed by somebody: they are those of revision {number} again"
                );
                self.tell(true, reason::TEMPLATE_CHANGED, text);
            } else {
                let text = format!(
                    "Revision {number} starts with the model {} on {:?}: {}",
                    model.uri, place.device, place.reason
                );
                self.tell(false, reason::NEW_REVISION, text);
            }
        }
        if let Some(obstacle) = self.obstacle.clone() {
            // The start of it, without its first letter: the message may have it capital, and cut.
            let start: String = obstacle.message.trim_end_matches('.').chars().skip(1).take(200).collect();
            if !before.message.contains(&start) {
                self.tell(true, &obstacle.reason, obstacle.message);
            }
        }
        let device = |placement: &Option<Placement>| placement.as_ref().map(|placement| placement.device);
        let fell_back = self.newest().is_some_and(|newest| newest.place.device == Device::Gpu)
            && device(&status.placement) == Some(Device::Cpu)
            && device(&before.placement) != Some(Device::Cpu);
        if fell_back {
            let text = status.placement.as_ref().map(|placement| placement.reason.clone()).unwrap_or_default();
            self.tell(true, reason::NO_GPU, text);
        }
        let has_lost = rollout.ready < before.ready_replicas;
        let (phase, message) = (status.phase, status.message.clone());
        if phase == before.phase {
            return;
        }
        if before.phase == EndpointPhase::Suspended && before.latest_revision > 0 {
            self.tell(false, reason::RESUMED, "The endpoint goes on");
        }
        match phase {
            EndpointPhase::Ready => self.tell(false, reason::REPLICAS_READY, message),
            EndpointPhase::Suspended => self.tell(false, reason::SUSPENDED, message),
            EndpointPhase::Degraded if has_lost => self.tell(true, reason::REPLICAS_UNAVAILABLE, message),
            EndpointPhase::Held | EndpointPhase::Failed if self.obstacle.is_none() => {
                self.tell(true, reason::PROGRESS_DEADLINE_EXCEEDED, message);
            }
            _ => {}
        }
    }
}

/// How many of how many replicas answer.
fn answers(ready: u32, wished: u32) -> String {
    match (ready, wished) {
        (1, 1) => "The replica answers".to_owned(),
        (ready, wished) if ready == wished => format!("All {wished} replicas answer"),
        (0, _) => format!("None of {wished} replicas answers"),
        (1, _) => format!("1 of {wished} replicas answers"),
        (ready, _) => format!("{ready} of {wished} replicas answer"),
    }
}

/// A sentence that begins with a capital.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
