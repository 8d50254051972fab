//! Who waits for the model of a TrainingJob. They are looked at as soon as it is there; and a TrainingJob that is to be deleted soon
//! after its end stays until they had time to take it, since nothing else tells them where it is.

use crds::{ModelEndpoint, TrainingJob};
use jiff::{SignedDuration, Timestamp};
use kube::Resource;
use kube::runtime::reflector::Store;

use super::context::{Context, is_filled};
use super::kind::Kind;
use super::pods::Owner;

/// Seconds for which a TrainingJob stays at least after its end, or from when this operator has known of it, while somebody waits
/// for its model: some looks of theirs.
const STAYS_SECONDS: i64 = 30;

impl Context {
    /// Those who wait for the model of a TrainingJob, or take each newer one that it leaves.
    pub(super) fn awaiting(&self, training: &Owner) -> Vec<Owner> {
        let jobs = jobs(&self.trainings, training).into_iter().chain(jobs(&self.scorings, training));
        let endpoints = self.endpoints.store.state();
        let endpoints = endpoints.iter().filter(|endpoint| takes(endpoint, training));
        jobs.chain(endpoints.map(|endpoint| Owner::named(endpoint.as_ref()))).collect()
    }

    /// Until when a job stays that was to be deleted at `end`.
    pub(super) fn stays(&self, job: &Owner, end: Timestamp, completed: Timestamp, known_since: Timestamp) -> Timestamp {
        if job.kind != TrainingJob::kind(&()) {
            return end;
        }
        let all_told = is_filled(&self.trainings) && is_filled(&self.scorings) && is_filled(&self.endpoints.store);
        let is_awaited = !all_told || !self.awaiting(job).is_empty();
        if is_awaited { end.max(patience(completed, known_since)) } else { end }
    }
}

/// Until when those who wait get the time to look.
fn patience(completed: Timestamp, known_since: Timestamp) -> Timestamp {
    let stays = SignedDuration::from_secs(STAYS_SECONDS);
    completed.max(known_since).checked_add(stays).unwrap_or(Timestamp::MAX)
}

fn jobs<K: Kind>(store: &Store<K>, training: &Owner) -> Vec<Owner> {
    let all = store.state();
    all.iter().filter(|job| waits(job.as_ref(), training)).map(|job| Owner::named(job.as_ref())).collect()
}

/// Whether a job has not started, and names this TrainingJob.
fn waits<K: Kind>(job: &K, training: &Owner) -> bool {
    let names = job.model().and_then(|model| model.training_job.as_ref()) == Some(&training.name);
    let is_new = job.status().is_none_or(|status| status.attempt == 0 && !status.phase.is_terminal());
    names && is_new && job.meta().namespace.as_ref() == Some(&training.namespace)
}

/// Whether an endpoint has not answered with a model of this TrainingJob, and names it; or takes whatever it leaves.
fn takes(endpoint: &ModelEndpoint, training: &Owner) -> bool {
    let names = endpoint.spec.model.training_job.as_ref() == Some(&training.name);
    let taken = endpoint.status.as_ref().and_then(|status| status.training_job.as_ref());
    let lacks = endpoint.spec.follow_training_job || taken != Some(&training.name);
    names && lacks && endpoint.metadata.namespace.as_ref() == Some(&training.namespace)
}

#[cfg(test)]
mod tests {
    use crds::ScoringJob;
    use serde_json::{Value, json};

    use super::*;

    fn object<K: serde::de::DeserializeOwned>(spec: &Value, status: &Value) -> K {
        let metadata = json!({"name": "a", "namespace": "n"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("an object")
    }

    fn training(namespace: &str, name: &str) -> Owner {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Owner { kind: "TrainingJob".to_owned(), namespace, name, uid: "u".to_owned() }
    }

    #[test]
    fn a_job_waits_for_the_model_that_it_names_until_it_starts_or_fails() {
        let scores = json!({
            "model": {"trainingJob": "t"}, "data": {"uri": "pvc://data/a"}, "output": {"uri": "pvc://data/b"}
        });
        let retrains = json!({"retrainFrom": {"trainingJob": "t"}, "output": {"uri": "pvc://data/b"}});
        for (status, is_waiting) in [
            (Value::Null, true),
            (json!({"phase": "Pending"}), true),
            (json!({"phase": "Suspended"}), true),
            (json!({"phase": "Starting", "attempt": 1}), false),
            (json!({"phase": "Failed"}), false),
        ] {
            let scoring: ScoringJob = object(&scores, &status);
            assert_eq!(waits(&scoring, &training("n", "t")), is_waiting, "{status}");
            let retraining: TrainingJob = object(&retrains, &status);
            assert_eq!(waits(&retraining, &training("n", "t")), is_waiting, "{status}");
            assert!(!waits(&scoring, &training("n", "other")) && !waits(&scoring, &training("other", "t")));
        }
    }

    #[test]
    fn an_endpoint_waits_until_it_answers_and_one_that_follows_ever_after() {
        for (follows, status, is_waiting) in [
            (false, Value::Null, true),
            (false, json!({"trainingJob": "other"}), true),
            (false, json!({"trainingJob": "t"}), false),
            (true, json!({"trainingJob": "t"}), true),
        ] {
            let spec = json!({"model": {"trainingJob": "t"}, "followTrainingJob": follows});
            let endpoint: ModelEndpoint = object(&spec, &status);
            assert_eq!(takes(&endpoint, &training("n", "t")), is_waiting, "{follows} {status}");
            assert!(!takes(&endpoint, &training("n", "other")) && !takes(&endpoint, &training("other", "t")));
        }
        let by_uri: ModelEndpoint = object(&json!({"model": {"uri": "pvc://models/a"}}), &Value::Null);
        assert!(!takes(&by_uri, &training("n", "t")));
    }

    #[test]
    fn those_who_wait_have_time_to_look_also_after_the_operator_was_away() {
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("a time");
        assert_eq!(patience(at(100), at(0)), at(130));
        assert_eq!(patience(at(100), at(1000)), at(1030), "an hour later they have not looked yet");
        assert_eq!(patience(Timestamp::MAX, at(0)), Timestamp::MAX);
    }
}
