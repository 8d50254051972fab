//! What all requests share: the models, the threads, who may ask, and whether the server answers at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crds::contract::{CONTRACT_VERSION, Serving};
use serde::Serialize;

use super::device::Chosen;
use super::engine::Engine;
use super::error::ServeError;
use super::grpc;
use super::metrics::Metrics;
use super::models::{Served, Version};
use super::protocol::{Config, Most};
use super::room::Room;
use super::settings::Settings;
use super::token::Token;
use crate::fault::{Fault, guard};

/// The server.
pub(super) struct App {
    pub(super) settings: Settings,
    pub(super) engine: Engine,
    pub(super) metrics: Arc<Metrics>,
    /// Bytes that bodies of requests may take at a time, all together.
    pub(super) room: Room,
    models: Vec<Served>,
    token: Option<Token>,
    /// What computes, unless a model says otherwise.
    chosen: Chosen,
    stopping: AtomicBool,
}

/// How long a batch may be computed, in times of what a request may take: beyond it nothing is sent here any more, and then the
/// device counts as hung, and the server has to be started anew.
const LATE: u32 = 3;
const HUNG: u32 = 10;

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
        App { settings, engine, metrics, room, models, token, chosen, stopping: AtomicBool::new(false) }
    }

    /// Loads all models.
    ///
    /// # Errors
    /// A model can't be loaded.
    pub(super) fn load(&self) -> Result<(), Fault> {
        self.models.iter().try_for_each(|served| self.load_one(served))
    }

    /// Loads the version of a model that lies in its folder now. If it is the device that fails and it may be another one,
    /// it is the CPU for this version; not for one that would take the place of one that the device does carry.
    pub(super) fn load_one(&self, served: &Served) -> Result<(), Fault> {
        let chosen = &self.chosen;
        let is_carried = served.current().is_some_and(|version| version.chosen.device == chosen.device);
        let load = |chosen: &Chosen| served.load(&self.settings, chosen, &self.engine);
        let version = if is_carried { guard(|| load(chosen)) } else { chosen.carry(self.settings.device, load) };
        served.put(version?);
        Ok(())
    }

    pub(super) fn models(&self) -> &[Served] {
        &self.models
    }

    /// What computes, all models together.
    pub(super) fn chosen(&self) -> Chosen {
        let versions = self.models.iter().filter_map(|served| Some((served.name.as_str(), served.current()?)));
        let versions: Vec<_> = versions.collect();
        let models: Vec<_> = versions.iter().map(|(name, version)| (*name, &version.chosen)).collect();
        self.chosen.clone().with_exceptions(&models)
    }

    /// Whether requests should come here.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_stopping()
            && self.models.iter().all(|served| served.current().is_some())
            && !is_beyond(self.engine.busy(), LATE, self.settings.limits.timeout_seconds)
    }

    /// Whether the device still computes.
    pub(super) fn is_live(&self) -> bool {
        !is_beyond(self.engine.busy(), HUNG, self.settings.limits.timeout_seconds)
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

    /// The name of a model as far as there is one of that name, so that strangers make no labels of metrics.
    pub(super) fn known(&self, model: &str) -> &str {
        self.models.iter().find(|served| served.name == model).map_or("", |served| &served.name)
    }

    /// How much a request may hold that asks a version.
    pub(super) fn most(&self, version: &Version) -> Most {
        Most { images: self.settings.batching.max_queue as usize, size: version.size() }
    }

    /// How a model is served.
    pub(super) fn config<'a>(&'a self, served: &'a Served, version: &Version) -> Config<'a> {
        Config {
            model: &served.name,
            size: version.size(),
            classes: version.card.classes.len(),
            batching: &self.settings.batching,
            on_gpu: version.chosen.device.is_cuda(),
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
        let held_up = self.models.iter().map(|served| (&served.name, served.held_up()));
        let held_up = held_up.filter(|(_, why)| !why.is_empty()).map(|(name, why)| format!("{name}: {why}"));
        Serving {
            contract_version: CONTRACT_VERSION,
            revision: self.settings.revision,
            ready: self.is_ready(),
            device: chosen.name().to_owned(),
            device_reason: chosen.reason,
            held_up: held_up.collect::<Vec<_>>().join("; "),
            digest: self.models.first().and_then(Served::current).map(|version| version.digest.clone()),
        }
    }
}

/// Whether a batch takes longer than so many times what a request may take.
fn is_beyond(busy: Duration, times: u32, timeout_seconds: u32) -> bool {
    busy > Duration::from_secs(u64::from(timeout_seconds)) * times
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use axum::body::Body;
    use axum::http::Request;
    use crds::contract::paths;
    use tch::Device;
    use tonic::codegen::Service;

    use super::*;
    use crate::data::{Preprocessing, View};
    use crate::serve::engine::{Admission, ONE_BY_ONE, Picture, Taken};
    use crate::serve::rest;
    use crate::serve::settings::tests::read;
    use crate::serve::statistics::Statistics;

    #[test]
    fn a_batch_may_take_several_times_as_long_as_a_request() {
        let table = [(0, false, false), (90, false, false), (91, true, false), (300, true, false), (301, true, true)];
        for (seconds, is_late, is_hung) in table {
            let busy = Duration::from_secs(seconds);
            assert_eq!((is_beyond(busy, LATE, 30), is_beyond(busy, HUNG, 30)), (is_late, is_hung), "{seconds} s");
        }
    }

    async fn status(app: &Arc<App>, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        rest::router(app).call(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_device_that_hangs_fails_the_probes_until_it_goes_on() {
        let mut settings = read(&["/models/a"], &[]).unwrap();
        settings.models.clear();
        // Whatever takes any time takes too long.
        settings.limits.timeout_seconds = 0;
        let chosen = Chosen { device: Device::Cpu, reason: String::new() };
        let engine = Engine::start(1, 10_000, Arc::default(), |_| ()).unwrap();
        let app = Arc::new(App::new(settings, None, chosen, engine, Arc::default()));
        let (go_on, wait) = mpsc::channel::<()>();
        let view = Arc::new(View::evaluation(Preprocessing::for_size(4)));
        let taken = Taken { view, admission: Admission::new(1), statistics: Arc::new(Statistics::new("a")) };
        let lane = app.engine.lane(taken, ONE_BY_ONE, move |asked: Vec<(_, ())>| {
            wait.recv().unwrap();
            Ok(asked)
        });
        let (asking, lane) = (Arc::clone(&app), Arc::new(lane));
        assert_eq!((status(&app, paths::READY).await, status(&app, paths::LIVE).await), (200, 200));
        let asked = tokio::spawn(async move {
            asking.engine.compute(&lane, vec![Picture::Values(vec![1.0])], ()).await.map(|answers| answers.len())
        });
        while app.engine.busy().is_zero() {
            tokio::task::yield_now().await;
        }
        assert_eq!((status(&app, paths::READY).await, status(&app, paths::LIVE).await), (503, 503));
        go_on.send(()).unwrap();
        assert_eq!(asked.await.unwrap(), Ok(1));
        while !app.engine.busy().is_zero() {
            tokio::task::yield_now().await;
        }
        assert_eq!((status(&app, paths::READY).await, status(&app, paths::LIVE).await), (200, 200));
    }
}
