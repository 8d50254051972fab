//! Asks the gangs' leaders how far they are, several times a second, beside everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crds::contract::Progress;

use crate::observe::{Mark, progress};

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(250);
/// Time for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the leaders have answered. Asking ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    newest: Arc<Mutex<BTreeMap<u32, Progress>>>,
    running: BTreeMap<u32, Arc<AtomicBool>>,
}

impl Polls {
    /// Asks the leader of `gang` at this port from now on, and the one before it no more.
    pub(crate) fn ask(&mut self, gang: u32, port: u16) {
        let goes_on = Arc::new(AtomicBool::new(true));
        if let Some(before) = self.running.insert(gang, Arc::clone(&goes_on)) {
            before.store(false, Ordering::Relaxed);
        }
        let newest = Arc::clone(&self.newest);
        thread::spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
            let address = format!("http://127.0.0.1:{port}/progress");
            while goes_on.load(Ordering::Relaxed) {
                if let Some(progress) = ask(&agent, &address) {
                    newest.lock().unwrap_or_else(PoisonError::into_inner).insert(gang, progress);
                }
                thread::sleep(EVERY);
            }
        });
    }

    /// The newest progress of a job of so many gangs, of which some are done; `None` as long as none has answered.
    pub(crate) fn newest(&self, gangs: u32, done: &BTreeSet<u32>) -> Option<Progress> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        progress::of_job(&newest, gangs, done)
    }

    /// How far each gang was by its own last word.
    pub(crate) fn marks(&self) -> BTreeMap<u32, Mark> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.iter().map(|(gang, heard)| (*gang, Mark::of(heard))).collect()
    }
}

impl Drop for Polls {
    fn drop(&mut self) {
        self.running.values().for_each(|goes_on| goes_on.store(false, Ordering::Relaxed));
    }
}

/// No answer is no fault: the leader starts, or ends, or is a trainer that tells nothing.
fn ask(agent: &ureq::Agent, address: &str) -> Option<Progress> {
    let text = agent.get(address).call().ok()?.body_mut().read_to_string().ok()?;
    serde_json::from_str(&text).ok().map(Progress::bounded)
}
