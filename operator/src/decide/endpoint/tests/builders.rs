//! Worlds in a few words: `endpoint(2).placed(Device::Gpu).answers(1, 2)`.

use std::collections::BTreeSet;

use crds::contract::Serving;
use crds::infrastructure::Device;
use crds::model::ModelRef;
use crds::model_endpoint::ServiceType;
use crds::status::{ModelEndpointStatus, ModelStatus};
use jiff::Timestamp;
use serde_json::json;

use crate::decide::endpoint::{Plan, decide};
use crate::observe::Obstacle;
use crate::observe::endpoint::{Choice, Endpoint, Part, Parts, Record, Rollout, Server, Trained, World};

pub(super) fn noon() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().expect("a time")
}

/// An endpoint of that many replicas with a model by URI, of which nothing is there yet, and that may be placed on CPUs.
pub(super) fn endpoint(replicas: u32) -> World {
    World {
        endpoint: Endpoint {
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            uid: "u".to_owned(),
            generation: 1,
            model: ModelRef { uri: Some("pvc://models/a".to_owned()), training_job: None },
            follows: false,
            replicas,
            suspend: false,
            autoscaled: false,
            deadline_seconds: 600,
            service: ServiceType::ClusterIp,
            port: 8080,
            recipe: json!({}),
        },
        status: ModelEndpointStatus::default(),
        rollout: None,
        servers: Vec::new(),
        parts: Parts::default(),
        balancer: None,
        serving: None,
        trained: None,
        obstacle: None,
        place: Some(Ok(choice(Device::Cpu))),
    }
}

pub(super) fn choice(device: Device) -> Choice {
    let gpus = u32::from(device == Device::Gpu);
    Choice { device, runtime: None, gpus, reason: "asked for".to_owned() }
}

pub(super) fn obstacle(reason: &str, message: &str, fails: bool) -> Obstacle {
    let fails_by = fails.then_some(crds::contract::Cause::BadSpec);
    Obstacle { reason: reason.to_owned(), message: message.to_owned(), fails_by }
}

pub(super) fn model(uri: &str) -> ModelStatus {
    ModelStatus { uri: uri.to_owned(), digest: Some(format!("sha256:{uri}")), ..ModelStatus::default() }
}

pub(super) fn server(record: &Record, number: u32, is_ready: bool) -> Server {
    Server {
        name: format!("a-m-{}-{number}", record.number),
        uid: format!("{}-{number}", record.number),
        revision: record.number,
        record: Some(record.clone()),
        is_ready,
        ..Server::default()
    }
}

impl World {
    pub(super) fn decide(&self) -> Plan {
        decide(self, noon())
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Endpoint)) -> World {
        change(&mut self.endpoint);
        self.endpoint.generation += 1;
        self
    }

    pub(super) fn placed(mut self, device: Device) -> World {
        self.place = Some(Ok(choice(device)));
        self
    }

    pub(super) fn unplaced(mut self, why: Obstacle) -> World {
        self.place = Some(Err(why));
        self
    }

    pub(super) fn refused(mut self, why: Obstacle) -> World {
        self.obstacle = Some(why);
        self
    }

    pub(super) fn of_job(mut self, trained: Trained) -> World {
        self.endpoint.model = ModelRef { uri: None, training_job: Some("flowers".to_owned()) };
        self.trained = Some(trained);
        self
    }

    pub(super) fn says(mut self, revision: u32, device: &str) -> World {
        let device_reason = "CUDA driver is too old".to_owned();
        self.serving =
            Some(Serving { revision, ready: true, device: device.to_owned(), device_reason, ..Serving::default() });
        self
    }

    /// Carries a plan out as the API server and the controllers of Deployments would at once, up to pods that don't answer yet.
    pub(super) fn acted(mut self, plan: Plan) -> World {
        assert!(!plan.asks_place, "a place was asked for");
        for name in plan.apply {
            *self.part(name) = Part::AsWished;
        }
        for name in plan.remove {
            *self.part(name) = Part::Missing;
        }
        let deadline_seconds = self.endpoint.deadline_seconds;
        let wished = self.endpoint.wished();
        if let Some(record) = plan.roll {
            let before = self.rollout.take().unwrap_or_default();
            let surge = u32::from(wished > 0);
            self.servers.extend((0..surge).map(|number| server(&record, number, false)));
            self.rollout = Some(Rollout {
                template: format!("0.1.0-{}", record.number),
                record: Some(record),
                wished,
                deadline_seconds,
                is_seen: true,
                updated: surge,
                replicas: before.ready + surge,
                is_overdue: false,
                ..before
            });
        }
        if let (Some(size), Some(rollout)) = (plan.resize, &mut self.rollout) {
            (rollout.wished, rollout.deadline_seconds) = (size.replicas, size.deadline_seconds);
        }
        if let Some(status) = plan.status {
            self.status = status;
        }
        self
    }

    /// Decides and acts until nothing is left to do.
    pub(super) fn settled(mut self) -> World {
        for _ in 0..10 {
            let plan = self.decide();
            if plan.is_empty() {
                return self;
            }
            self = self.acted(plan);
        }
        panic!("it doesn't settle: {:?}", self.decide());
    }

    /// All pods are of the newest revision now, and answer.
    pub(super) fn rolled_out(mut self) -> World {
        if let Some(rollout) = &mut self.rollout {
            let wished = rollout.wished;
            (rollout.replicas, rollout.updated, rollout.ready, rollout.is_overdue) = (wished, wished, wished, false);
            let record = rollout.record.clone();
            self.servers =
                record.iter().flat_map(|record| (0..wished).map(move |number| server(record, number, true))).collect();
        }
        self.settled()
    }

    /// The newest revision did not get ready in time, for this reason.
    pub(super) fn overdue(mut self, why: &str) -> World {
        let newest = self.rollout.as_ref().and_then(|rollout| rollout.record.as_ref()).map(|record| record.number);
        for server in self.servers.iter_mut().filter(|server| Some(server.revision) == newest) {
            server.why = why.to_owned();
        }
        if let Some(rollout) = &mut self.rollout {
            rollout.is_overdue = true;
        }
        self.settled()
    }

    /// Somebody has changed what the pods are made from.
    pub(super) fn tampered(mut self) -> World {
        if let Some(rollout) = &mut self.rollout {
            rollout.template = "0.1.0-somebody".to_owned();
        }
        self
    }

    /// So many of the pods that answered are lost.
    pub(super) fn lost(mut self, pods: usize) -> World {
        self.servers.iter_mut().take(pods).for_each(|server| server.is_ready = false);
        let ready = self.servers.iter().filter(|server| server.is_ready).count();
        if let Some(rollout) = &mut self.rollout {
            rollout.ready = u32::try_from(ready).expect("a count");
        }
        self.settled()
    }

    fn part(&mut self, name: crate::decide::endpoint::Name) -> &mut Part {
        use crate::decide::endpoint::Name;
        match name {
            Name::Service => &mut self.parts.service,
            Name::Budget => &mut self.parts.budget,
            Name::Autoscaler => &mut self.parts.autoscaler,
        }
    }

    pub(super) fn holds(&self, kind: &str) -> Option<String> {
        let condition = self.status.conditions.iter().find(|condition| condition.type_ == kind)?;
        Some(format!("{} {}", condition.status, condition.reason))
    }
}

/// Reasons of the events of a plan.
pub(super) fn told(plan: &Plan) -> BTreeSet<&str> {
    plan.events.iter().map(|event| event.reason.as_str()).collect()
}
