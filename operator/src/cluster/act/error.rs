//! Why a plan could not be carried out, whom that is told, and when it is tried again.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::Status;

use super::super::reconcile::backoff;

/// Errors in a row from which on a person is told.
const LASTING: u32 = 5;
/// Errors in a row from which on a person is told of what goes by itself and has not: after more than a minute.
const STAYING: u32 = 40;
/// What the API server says where a webhook or a policy of the cluster denies an object, whichever code that has chosen.
const DENIALS: [&str; 2] = ["denied the request", "denied request: "];
/// Longest time before a name is tried again that is soon free.
const SOON: Duration = Duration::from_secs(2);

/// Why a plan could not be carried out to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::cluster) enum ActError {
    /// The API server refused a write, or could not be reached.
    #[error("can't {doing}: {source}")]
    Api {
        /// Which kind of write.
        verb: &'static str,
        /// What was tried.
        doing: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// It did not answer in time.
    #[error("can't {doing}: the API server did not answer within {} s", .patience.as_secs())]
    Timeout {
        /// What was tried.
        doing: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// This operator does not lead any more.
    #[error("can't {doing}: this operator does not hold the lease")]
    NotLeading {
        /// What was tried.
        doing: String,
    },
    /// The name of an object is another one's.
    #[error("{what} {}", match .holder {
        Holder::Leftover => "of an earlier one of the same name is still there",
        Holder::Stranger => "exists and belongs to somebody else: delete it, or take another name",
    })]
    Taken {
        /// Kind and name of the object.
        what: String,
        /// Whose it is.
        holder: Holder,
    },
}

/// Whose an object is that has a name of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Holder {
    /// It is on its way out, or an earlier job or endpoint of the same name has left it: it goes by itself.
    Leftover,
    /// Somebody else's, who keeps it.
    Stranger,
}

impl Holder {
    /// Whose the object is that this one can't have the name of.
    pub(in crate::cluster) fn of(object: &ObjectMeta, kind: &str, name: &str) -> Holder {
        let is_namesake = |owner: &OwnerReference| owner.kind == kind && owner.name == name;
        match object.deletion_timestamp.is_some() || controller(object).is_some_and(is_namesake) {
            true => Holder::Leftover,
            false => Holder::Stranger,
        }
    }
}

/// What controls an object.
pub(in crate::cluster) fn controller(object: &ObjectMeta) -> Option<&OwnerReference> {
    object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

impl ActError {
    /// A short word for metrics, of which there are few.
    pub(in crate::cluster) fn category(&self) -> &'static str {
        match self {
            ActError::Api { .. } => match self.answer().map(|status| status.code) {
                Some(403) => "forbidden",
                Some(409) => "conflict",
                Some(422) => "invalid",
                Some(429) => "throttled",
                Some(_) => "refused",
                None => "unreachable",
            },
            ActError::Timeout { .. } => "timeout",
            ActError::Taken { .. } => "taken",
            ActError::NotLeading { .. } => "not_leading",
        }
    }

    /// What the API server says is wrong with an object that it will never take. What a webhook or a policy denies it may take later:
    /// who runs the cluster can change them.
    pub(in crate::cluster) fn invalid(&self) -> Option<String> {
        let invalid = self.answer().filter(|status| status.code == 422 && !is_denial(status));
        invalid.map(|status| status.message.clone())
    }

    /// What a person is to be told of an object that the API server may take later, by the number of errors in a row: at once what it
    /// refuses, since a quota, a right or what the object names is missing, or a policy denies it; and whatever has been wrong so often
    /// that it is more than a moment's, such as an admission webhook that is down, or somebody else's object that has the name. What an
    /// earlier one of the same name has left has its grace period to go.
    pub(in crate::cluster) fn told(&self, errors: u32) -> Option<String> {
        let refused = self.answer().filter(|status| status.code == 403 || is_denial(status));
        let refused = refused.map(|status| status.message.clone());
        let lasts = match self {
            ActError::Api { .. } => errors >= LASTING && !self.is_code(404),
            ActError::Timeout { .. } | ActError::Taken { holder: Holder::Stranger, .. } => errors >= LASTING,
            ActError::Taken { holder: Holder::Leftover, .. } => errors >= STAYING,
            ActError::NotLeading { .. } => false,
        };
        refused.or_else(|| lasts.then(|| self.to_string()))
    }

    /// How long to wait before it is tried again, by the number of errors in a row. That a leftover has gone may not be heard of.
    pub(in crate::cluster) fn wait(&self, errors: u32) -> Duration {
        let leftover = matches!(self, ActError::Taken { holder: Holder::Leftover, .. });
        let most = if leftover { SOON } else { Duration::MAX };
        backoff(errors).min(most)
    }

    /// Whether the write that failed was of this verb.
    pub(in crate::cluster) fn is_of(&self, verb: &str) -> bool {
        matches!(self, ActError::Api { verb: of, .. } if *of == verb)
    }

    /// Whether the namespace is being deleted.
    pub(in crate::cluster) fn is_namespace_going(&self) -> bool {
        let details = self.answer().and_then(|status| status.details.as_ref());
        details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// What the API server answered, if it did.
    fn answer(&self) -> Option<&Status> {
        match self {
            ActError::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            ActError::Timeout { .. } | ActError::Taken { .. } | ActError::NotLeading { .. } => None,
        }
    }

    pub(in crate::cluster) fn is_code(&self, code: u16) -> bool {
        self.answer().is_some_and(|status| status.code == code)
    }
}

fn is_denial(status: &Status) -> bool {
    DENIALS.iter().any(|words| status.message.contains(words))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_cluster_does_not_take_now_is_told_in_its_own_words_and_never_ends_a_job() {
        let quota =
            "pods \"a-t1-0\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2";
        let range = "pods \"a-t1-0\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
        let security = "pods \"a-t1-0\" is forbidden: violates PodSecurity \"restricted:latest\": hostPath volumes";
        let webhook = "admission webhook \"images.example.com\" denied the request: the image is not signed";
        let policy = "pods \"a-t1-0\" is invalid: : ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no team label";
        let down = "Internal error occurred: failed calling webhook \"images.example.com\": connection refused";
        let wrong = "Pod \"a-t1-0\" is invalid: spec.affinity: Invalid value";
        // Code and text; whether it can never pass; whether it is told at the first time.
        for (code, text, never, at_once) in [
            (403, quota, false, true),
            (403, range, false, true),
            (403, security, false, true),
            (403, webhook, false, true),
            (400, webhook, false, true),
            (422, webhook, false, true),
            (422, policy, false, true),
            (500, down, false, false),
            (422, wrong, true, false),
        ] {
            let source = Box::new(kube::Error::Api(Box::new(Status::failure(text, "").with_code(code))));
            let error = ActError::Api { verb: "create_pod", doing: "create pod a-t1-0".to_owned(), source };
            assert_eq!(error.invalid().as_deref(), never.then_some(text), "{code} {text}");
            assert_eq!(error.told(1).as_deref(), at_once.then_some(text), "{code} {text}");
            assert!(error.told(LASTING).is_some_and(|told| told.contains(text)), "{code} {text}");
            assert!(error.wait(1) < error.wait(4), "less and less often");
        }
    }

    #[test]
    fn a_name_that_somebody_keeps_is_told_of_and_tried_less_and_less_often_and_one_that_is_left_goes_by_itself() {
        let taken = |holder| ActError::Taken { what: "pod a-t1-0".to_owned(), holder };
        let (strange, left) = (taken(Holder::Stranger), taken(Holder::Leftover));
        assert_eq!(strange.told(LASTING - 1), None);
        assert_eq!(
            strange.told(LASTING).as_deref(),
            Some("pod a-t1-0 exists and belongs to somebody else: delete it, or take another name")
        );
        assert_eq!(strange.wait(LASTING + 10), Duration::from_secs(60));
        assert_eq!((left.told(LASTING), left.wait(LASTING + 10)), (None, SOON));
        assert_eq!(left.told(STAYING).as_deref(), Some("pod a-t1-0 of an earlier one of the same name is still there"));
        let late = ActError::Timeout { doing: "create pod a-t1-0".to_owned(), patience: Duration::from_secs(30) };
        assert_eq!(late.told(LASTING - 1), None);
        assert!(late.told(LASTING).is_some_and(|told| told.contains("did not answer within 30 s")));
    }

    #[test]
    fn what_an_earlier_one_of_the_name_has_left_and_what_is_being_deleted_goes_by_itself() {
        let object = |kind: &str, controller: bool, is_going: bool| {
            let owner = json!({
                "apiVersion": "v1", "kind": kind, "name": "a", "uid": "earlier", "controller": controller,
            });
            let deleted = is_going.then_some("2026-07-01T12:00:00Z");
            let metadata = json!({"ownerReferences": [owner], "deletionTimestamp": deleted});
            serde_json::from_value::<ObjectMeta>(metadata).expect("metadata")
        };
        for (metadata, holder) in [
            (object("TrainingJob", true, false), Holder::Leftover),
            (object("ScoringJob", true, false), Holder::Stranger),
            (object("TrainingJob", false, false), Holder::Stranger),
            (object("ScoringJob", true, true), Holder::Leftover),
            (ObjectMeta::default(), Holder::Stranger),
        ] {
            assert_eq!(Holder::of(&metadata, "TrainingJob", "a"), holder, "{metadata:?}");
        }
    }
}
