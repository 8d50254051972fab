//! What all requests share: the models, the threads, who may ask, and whether the server answers at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crds::contract::{CONTRACT_VERSION, Serving};
use serde::Serialize;

use super::device::Chosen;
use super::engine::Engine;
use super::error::ServeError;
use super::grpc;
use super::metrics::Metrics;
use super::models::{Served, Version};
use super::protocol::Config;
use super::room::Room;
use super::settings::Settings;
use super::token::Token;
use crate::fault::Fault;

/// The server.
pub(super) struct App {
    pub(super) settings: Settings,
    pub(super) engine: Engine,
    pub(super) metrics: Arc<Metrics>,
    /// Bytes that bodies of requests may take at a time, all together.
    pub(super) room: Room,
    models: Vec<Served>,
    token: Option<Token>,
    chosen: RwLock<Chosen>,
    stopping: AtomicBool,
}

/// The state of a model that answers.
const READY: &str = "READY";

/// A model as the repository's index lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Indexed<'a> {
    pub(super) name: &'a str,
    /// Empty while there is none.
    pub(super) version: String,
    pub(super) state: &'static str,
    /// Why it is not ready.
    pub(super) reason: &'static str,
}

impl App {
    /// A server whose models are not loaded yet.
    pub(super) fn new(
        settings: Settings,
        token: Option<Token>,
        chosen: Chosen,
        engine: Engine,
        metrics: Arc<Metrics>,
    ) -> App {
        let models = settings.models.iter().map(|source| Served::new(source, &settings.batching)).collect();
        let room = Room::new(settings.limits.max_request_bytes as usize + grpc::FRAME);
        App {
            settings,
            engine,
            metrics,
            room,
            models,
            token,
            chosen: RwLock::new(chosen),
            stopping: AtomicBool::new(false),
        }
    }

    /// Loads all models.
    ///
    /// # Errors
    /// A model can't be loaded.
    pub(super) fn load(&self) -> Result<(), Fault> {
        self.models.iter().try_for_each(|served| self.load_one(served))
    }

    /// Loads the version of a model that lies in its folder now. If it is the device that fails and it may be another one,
    /// it is the CPU from then on; not for a version that would take the place of one that the device does carry.
    pub(super) fn load_one(&self, served: &Served) -> Result<(), Fault> {
        let chosen = self.chosen();
        let is_first = served.current().is_none();
        let version = match served.load(&self.settings, &chosen, &self.engine) {
            Err(fault) if is_first && chosen.may_fall_back(self.settings.device, fault.cause()) => {
                let chosen = Chosen::fallback(&fault);
                let version = served.load(&self.settings, &chosen, &self.engine)?;
                *self.chosen.write().unwrap_or_else(PoisonError::into_inner) = chosen;
                version
            }
            other => other?,
        };
        served.put(version);
        Ok(())
    }

    pub(super) fn models(&self) -> &[Served] {
        &self.models
    }

    /// What computes.
    pub(super) fn chosen(&self) -> Chosen {
        self.chosen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether requests should come here.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_stopping() && self.models.iter().all(|served| served.current().is_some())
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// From now on the server is not ready; requests that come all the same are answered.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the value of an `Authorization` header lets a request in.
    pub(super) fn authorize(&self, header: Option<&[u8]>) -> Result<(), ServeError> {
        match &self.token {
            Some(token) if !token.allows(header) => Err(ServeError::Unauthorized),
            _ => Ok(()),
        }
    }

    /// Whether requests must bear a token.
    pub(super) fn is_guarded(&self) -> bool {
        self.token.is_some()
    }

    /// A model in its newest version, which must be the one asked for, if one is.
    pub(super) fn version(&self, model: &str, version: Option<&str>) -> Result<(&Served, Arc<Version>), ServeError> {
        let served = self.models.iter().find(|served| served.name == model).ok_or_else(|| {
            let known: Vec<&str> = self.models.iter().map(|served| served.name.as_str()).collect();
            ServeError::NotFound(format!("there is no model {model:?}: there is {}", known.join(", ")))
        })?;
        let current =
            served.current().ok_or_else(|| ServeError::Unavailable(format!("the model {model} is being loaded")))?;
        match version {
            Some(version) if version != current.name => {
                let text = format!("the model {model} has the version {}, not {version:?}", current.name);
                Err(ServeError::NotFound(text))
            }
            _ => Ok((served, current)),
        }
    }

    /// How a model is served.
    pub(super) fn config<'a>(&'a self, served: &'a Served, version: &Version) -> Config<'a> {
        Config {
            model: &served.name,
            size: version.size(),
            classes: version.card.classes.len(),
            batching: &self.settings.batching,
            on_gpu: self.chosen().device.is_cuda(),
        }
    }

    /// The models, or those that are ready.
    pub(super) fn index(&self, only_ready: bool) -> Vec<Indexed<'_>> {
        let models = self.models.iter().map(|served| match served.current() {
            Some(version) => Indexed { name: &served.name, version: version.name.clone(), state: READY, reason: "" },
            None => {
                Indexed { name: &served.name, version: String::new(), state: "LOADING", reason: "it is being loaded" }
            }
        });
        models.filter(|model| !only_ready || model.state == READY).collect()
    }

    /// What the operator is told.
    pub(super) fn serving(&self) -> Serving {
        let chosen = self.chosen();
        Serving {
            contract_version: CONTRACT_VERSION,
            revision: self.settings.revision,
            ready: self.is_ready(),
            device: chosen.name().to_owned(),
            device_reason: chosen.reason,
            digest: self.models.first().and_then(Served::current).map(|version| version.digest.clone()),
        }
    }
}
