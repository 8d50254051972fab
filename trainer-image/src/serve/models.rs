//! The models that are served: each by its name, in its newest version. A version that takes the place of another one gets
//! all new requests; what the old one has taken in, it still answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crds::contract::Cause;
use crds::model_endpoint::Batching;

use super::device::Chosen;
use super::engine::{Admission, Answer, Engine, Explained, Gathering, Lane, Network, ONE_BY_ONE, Picture, Row, Taken};
use super::error::ServeError;
use super::settings::{Settings, Source};
use super::statistics::{Figures, Statistics};
use crate::data::View;
use crate::fault::Fault;
use crate::inference::decide;
use crate::model::{self, Card};
use crate::torch::give_back_memory;

/// Digits of the digest that make a version's name.
const VERSION_DIGITS: usize = 12;

/// A model under its name.
pub(super) struct Served {
    /// Its name in requests.
    pub(super) name: String,
    pub(super) source: Source,
    admission: Admission,
    current: RwLock<Option<Arc<Version>>>,
    /// Why what lies in its folder is not served: a sentence, or empty.
    held_up: RwLock<String>,
}

/// One version of a model.
pub(super) struct Version {
    /// The first digits of the digest.
    pub(super) name: String,
    /// Digest of `model.json`.
    pub(super) digest: String,
    pub(super) card: Card,
    /// What computes it.
    pub(super) chosen: Chosen,
    answers: Arc<Lane<(), Answer>>,
    /// Each image with the class that is to be shown, or the one that is decided for.
    explanations: Option<Arc<Lane<Option<usize>, Explained>>>,
    statistics: Arc<Statistics>,
}

/// What a model says of an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    pub(super) answer: Answer,
    /// Index of the class that the model decides for: of two by its threshold, else the most probable one.
    pub(super) class: usize,
}

impl Served {
    pub(super) fn new(source: &Source, batching: &Batching) -> Served {
        Served {
            name: source.name.clone(),
            source: source.clone(),
            admission: Admission::new(batching.max_queue as usize),
            current: RwLock::new(None),
            held_up: RwLock::default(),
        }
    }

    /// The newest version.
    pub(super) fn current(&self) -> Option<Arc<Version>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the newest model in its folder is not the one that is served: a sentence, or empty.
    pub(super) fn held_up(&self) -> String {
        self.held_up.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says why what lies in its folder is not served.
    pub(super) fn hold_up(&self, why: String) {
        *self.held_up.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Images on their way to the network.
    pub(super) fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Reads the model folder and makes it ready to answer, without letting requests at it yet.
    ///
    /// # Errors
    /// The folder is not that of a whole model, or memory ran out.
    pub(super) fn load(&self, settings: &Settings, chosen: &Chosen, engine: &Engine) -> Result<Arc<Version>, Fault> {
        let saved = model::open(&self.source.folder)?;
        self.check(&saved.digest, settings.revision)?;
        let most = settings.batching.max_batch_size as usize;
        let network = Network::new(&saved, chosen.device, settings.precision, most, settings.explain)?;
        // On a GPU the largest batch shows whether the memory is enough, and finds the convolutions' algorithms.
        let sizes: &[usize] = if chosen.device.is_cuda() { &[1, most] } else { &[1] };
        network.warm_up(sizes)?;
        // To prepare a network takes several times its memory.
        drop(saved.weights);
        give_back_memory();
        let view = Arc::new(View::evaluation(saved.card.preprocessing.clone()));
        let delay = Duration::from_millis(settings.batching.max_delay_milliseconds.into());
        // One thread computes both: neither waits for the other's lock.
        let network = Arc::new(Mutex::new(network));
        let shared = Arc::clone(&network);
        // Heat maps are answers as well: both are counted together.
        let statistics = Arc::new(Statistics::new(&self.name));
        let taken = || Taken {
            view: Arc::clone(&view),
            admission: self.admission.clone(),
            statistics: Arc::clone(&statistics),
        };
        let answers = engine.lane(taken(), Gathering { most, delay }, move |asked| {
            let rows: Vec<Row> = asked.into_iter().map(|(row, ())| row).collect();
            lock(&shared).answer(&rows)
        });
        let threshold = saved.card.threshold.map(|threshold| threshold as f32);
        let explanations = settings.explain.then(|| {
            let explain = move |asked: Vec<(Row, Option<usize>)>| {
                let network = lock(&network);
                let explain = |(row, class)| network.explain(&row, class, |row| decide(row, threshold));
                asked.into_iter().map(explain).collect()
            };
            Arc::new(engine.lane(taken(), ONE_BY_ONE, explain))
        });
        let digits = saved.digest.trim_start_matches("sha256:");
        Ok(Arc::new(Version {
            name: digits.chars().take(VERSION_DIGITS).collect(),
            digest: saved.digest,
            card: saved.card,
            chosen: chosen.clone(),
            answers: Arc::new(answers),
            explanations,
            statistics,
        }))
    }

    /// That the folder still holds the model of the revision: its other servers answer with that one.
    fn check(&self, digest: &str, revision: u32) -> Result<(), Fault> {
        match &self.source.digest {
            Some(expected) if expected != digest => {
                let folder = self.source.folder.display();
                let text =
                    format!("{folder} holds another model ({digest}) than that of revision {revision} ({expected})");
                Err(Fault::new(Cause::BadData, text).hint(
                    "set followTrainingJob for a revision with the newer model, or put the former one back into the folder",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Gives all requests that come from now on to this version.
    pub(super) fn put(&self, version: Arc<Version>) {
        let classes = version.card.classes.len();
        tracing::info!(model = self.name, version = version.name, classes, "the model is ready");
        self.hold_up(String::new());
        let old = self.current.write().unwrap_or_else(PoisonError::into_inner).replace(version);
        // What it still has to answer holds it; it is dropped here otherwise, outside the lock.
        drop(old);
    }
}

impl Version {
    /// Judges images, in their order. Dropping the future takes back what has not begun.
    pub(super) async fn judge(&self, engine: &Engine, pictures: Vec<Picture>) -> Result<Vec<Judged>, ServeError> {
        let asked = self.statistics.asked();
        let are_files: Vec<bool> = pictures.iter().map(Picture::is_file).collect();
        let answers = engine.compute(&self.answers, pictures, ()).await?;
        asked.answered();
        let threshold = self.card.threshold.map(|threshold| threshold as f32);
        let judged = answers.into_iter().zip(are_files).enumerate().map(|(index, (answer, is_file))| {
            check_finite(index, is_file, answer.logits.iter().chain(&answer.probabilities))?;
            let class = decide(&answer.probabilities, threshold);
            Ok(Judged { answer, class })
        });
        judged.collect()
    }

    /// Explains one image: a class by name or index, or the one that the model decides for.
    pub(super) async fn explain(
        &self,
        engine: &Engine,
        picture: Picture,
        class: Option<&str>,
    ) -> Result<Explained, ServeError> {
        let explanations = self.explanations.as_ref().ok_or_else(|| {
            let text =
                "heat maps are switched off: start the server with --explain, or set explain in the ModelEndpoint";
            ServeError::NotFound(text.to_owned())
        })?;
        let class = class.map(|class| self.class_of(class)).transpose()?;
        let asked = self.statistics.asked();
        let is_file = picture.is_file();
        let mut explained = engine.compute(explanations, vec![picture], class).await?;
        asked.answered();
        let explained = explained.swap_remove(0);
        let Explained { answer, map, .. } = &explained;
        check_finite(0, is_file, answer.logits.iter().chain(&answer.probabilities).chain(map))?;
        Ok(explained)
    }

    fn class_of(&self, text: &str) -> Result<usize, ServeError> {
        let classes = &self.card.classes;
        let by_index = || text.parse().ok().filter(|index| *index < classes.len());
        classes.iter().position(|class| class == text).or_else(by_index).ok_or_else(|| {
            ServeError::Request(format!("there is no class {text:?}: the model's metadata lists its {}", classes.len()))
        })
    }

    /// What it has done so far.
    pub(super) fn figures(&self) -> Figures {
        self.statistics.figures()
    }

    /// Name of a class.
    pub(super) fn class(&self, index: usize) -> &str {
        self.card.classes.get(index).map_or("", String::as_str)
    }

    /// Width and height of the network's images, in pixels.
    pub(super) fn size(&self) -> usize {
        self.card.preprocessing.crop_size as usize
    }
}

/// An answer is numbers, or none. A client's own values may be whatever they are; an image's are not, and then it is the network
/// that overflows.
fn check_finite<'a>(index: usize, is_file: bool, mut values: impl Iterator<Item = &'a f32>) -> Result<(), ServeError> {
    if values.all(|value| value.is_finite()) {
        return Ok(());
    }
    let text = format!("the network's answer to image {} is not finite", index + 1);
    Err(if is_file { ServeError::Internal(text) } else { ServeError::Request(text) })
}

fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    // It is not changed by what it computes.
    network.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_number_is_the_network_s_fault_unless_the_client_sent_numbers() {
        for value in [f32::NAN, f32::INFINITY] {
            let text = "the network's answer to image 3 is not finite".to_owned();
            let check = |is_file| check_finite(2, is_file, [0.5, value].iter());
            assert_eq!(check(true), Err(ServeError::Internal(text.clone())));
            assert_eq!(check(false), Err(ServeError::Request(text)));
        }
        assert_eq!(check_finite(2, true, [0.5, -1.0].iter()), Ok(()));
    }
}
