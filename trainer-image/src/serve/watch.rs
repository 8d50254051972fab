//! Looks for new versions of the models, and puts them in the place of the old ones without a request noticing. What can't be
//! loaded now is tried again, less and less often; only what will never do is not.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crds::contract::Cause;

use super::app::App;
use super::models::Served;
use crate::fault::{Fault, guard};
use crate::model;

/// The longest pause between two tries, unless the period is longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Stops the watching when it is dropped.
pub(super) struct Watch(#[expect(dead_code, reason = "the thread notices that it is gone")] Sender<()>);

/// Looks at each model every `period`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(app: &Arc<App>, period: Duration) -> io::Result<Watch> {
    let (sender, stop) = mpsc::channel();
    let app = Arc::clone(app);
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let mut failures: Vec<Option<Failure>> = app.models().iter().map(|_| None).collect();
        while stop.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            for (served, failure) in app.models().iter().zip(&mut failures) {
                // The thread outlives a defect: nobody would notice that there are no new versions any more.
                let looked = guard(|| {
                    look(&app, served, failure, period);
                    Ok(())
                });
                if let Err(fault) = looked {
                    tell(&app, served, &fault, true);
                }
            }
        }
    })?;
    Ok(Watch(sender))
}

/// A version that could not be loaded.
struct Failure {
    digest: String,
    tries: u32,
    /// When it is tried again; never if there is no use.
    again: Option<Instant>,
}

impl Failure {
    /// One more of a version, or the first one.
    fn after(before: Option<Failure>, digest: String, cause: Cause, now: Instant, period: Duration) -> Failure {
        let tries = before.filter(|before| before.digest == digest).map_or(0, |before| before.tries) + 1;
        let again = (!is_for_good(cause)).then(|| now + pause(tries, period));
        Failure { digest, tries, again }
    }

    fn holds_back(&self, digest: &str, now: Instant) -> bool {
        self.digest == digest && self.again.is_none_or(|again| now < again)
    }
}

/// Whether the same folder fails for the same cause at any time. A folder that is being copied looks broken, or half of it is
/// missing, until it is whole.
fn is_for_good(cause: Cause) -> bool {
    matches!(cause, Cause::BadSpec | Cause::GpuUnsupported | Cause::Bug | Cause::NotFinite | Cause::OtherPermanent)
}

/// How long to wait after so many tries: twice as long each time.
fn pause(tries: u32, period: Duration) -> Duration {
    period.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST.max(period))
}

fn look(app: &App, served: &Served, failure: &mut Option<Failure>, period: Duration) {
    let digest = match model::current_digest(&served.source.folder) {
        Ok(digest) => digest,
        Err(error) => {
            tracing::warn!(model = served.name, %error, "can't see whether there is a new version");
            return;
        }
    };
    if served.current().is_some_and(|version| version.digest == digest) {
        // What was there meanwhile is gone.
        *failure = None;
        served.hold_up(String::new());
        return;
    }
    if failure.as_ref().is_some_and(|failure| failure.holds_back(&digest, Instant::now())) {
        return;
    }
    match app.load_one(served) {
        Ok(()) => {
            *failure = None;
            app.metrics.swapped();
        }
        Err(fault) => {
            let next = Failure::after(failure.take(), digest, fault.cause(), Instant::now(), period);
            tell(app, served, &fault, next.again.is_some());
            *failure = Some(next);
        }
    }
}

fn tell(app: &App, served: &Served, fault: &Fault, again: bool) {
    let end = if again { "it is tried again" } else { "it is not tried again before it changes" };
    tracing::error!(model = served.name, "the new version can't be served, the old one stays: {fault}; {end}");
    app.metrics.swap_failed();
    served.hold_up(format!("{fault}; {end}"));
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::serve::device::Chosen;
    use crate::serve::engine::Engine;
    use crate::serve::settings::tests::read;
    use crate::strangers::model_folder;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn what_passes_is_tried_again_less_and_less_often_and_what_does_not_never() {
        let now = Instant::now();
        let passing = [Cause::Storage, Cause::HostMemory, Cause::GpuMemory, Cause::NodeFault, Cause::DataMissing];
        for cause in passing.into_iter().chain([Cause::BadData, Cause::Permission]) {
            let mut failure = None;
            for minutes in [1, 2, 4, 8, 10, 10] {
                let next = Failure::after(failure.take(), "a".to_owned(), cause, now, PERIOD);
                let again = now + PERIOD * minutes;
                assert_eq!(next.again, Some(again), "{cause:?}");
                assert!(next.holds_back("a", again - PERIOD / 2) && !next.holds_back("a", again));
                assert!(!next.holds_back("b", now), "another version is tried at once");
                failure = Some(next);
            }
            let other = Failure::after(failure, "b".to_owned(), cause, now, PERIOD);
            assert_eq!(other.again, Some(now + PERIOD));
        }
        let lasting = Failure::after(None, "a".to_owned(), Cause::Bug, now, PERIOD);
        assert!(lasting.holds_back("a", now + PERIOD * 10_000) && !lasting.holds_back("b", now));
        assert_eq!(pause(3, LONGEST * 2), LONGEST * 2);
        assert_eq!(pause(u32::MAX, Duration::from_secs(1)), LONGEST);
    }

    #[test]
    fn a_version_that_makes_libtorch_panic_is_held_up_and_looked_for_again_once_it_changes() {
        let folder = model_folder();
        let settings = read(&[&format!("a={}", folder.path().display())], &[]).unwrap();
        // There is no CUDA half here, which tch's functions unwrap.
        let chosen = Chosen { device: Device::Cuda(0), reason: String::new() };
        let engine = Engine::start(1, 10_000, Arc::default(), |_| ()).unwrap();
        let app = App::new(settings, None, chosen, engine, Arc::default());
        let [served] = app.models() else { panic!("one model") };
        let mut failure = None;
        look(&app, served, &mut failure, PERIOD);
        let told = served.held_up();
        assert!(told.ends_with("; it is not tried again before it changes"), "{told}");
        let failure = failure.unwrap();
        let digest = model::current_digest(&served.source.folder).unwrap();
        assert_eq!((failure.digest, failure.tries, failure.again), (digest, 1, None));
        assert!(served.current().is_none() && app.load_one(served).is_err());
    }
}
