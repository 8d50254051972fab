//! Why a command of a user's could not be carried out, as one sentence, and the exit code for scripts.

use kube::core::Status;

/// Exit code of a job that failed, is not there, or can't have what was asked for it.
const FAILED: u8 = 1;
/// Exit code of what was mistyped, as clap has it.
const USAGE: u8 = 2;
/// Exit code where the cluster can't be reached or doesn't know the caller.
const UNREACHABLE: u8 = 3;
/// Exit code of a wait whose time is over, as timeout(1) has it.
const TIMEOUT: u8 = 124;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// The kubeconfig is missing or can't be used.
    #[error("can't find a cluster: {0}. Set KUBECONFIG, or name a file by --kubeconfig and a context by --context")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody answers.
    #[error("the cluster can't be reached: {why}. Is it up, and is --context the right one?")]
    Unreachable {
        /// The innermost cause.
        why: String,
        #[source]
        source: kube::Error,
    },
    /// The credentials are not taken.
    #[error("the cluster doesn't take your credentials: log in again, or choose another --context")]
    Unauthorized,
    /// A right is missing.
    #[error("you may not {verb} {resource} {place}: ask whoever runs the cluster for that right")]
    Forbidden {
        /// What was to be done: get, list, patch and so on.
        verb: String,
        /// To what.
        resource: String,
        /// Where: in a namespace, or in the whole cluster.
        place: String,
    },
    /// The definitions are not installed.
    #[error("the cluster doesn't know Trainyard's kinds: trainyard crds | kubectl apply -f -")]
    NoKinds,
    /// There is no such job.
    #[error("there is no {what} in the namespace {namespace}{hint}")]
    NoJob {
        /// The job, as it was typed.
        what: String,
        /// Where it was looked for.
        namespace: String,
        /// Names that are near, or how to find others.
        hint: String,
    },
    /// A name that jobs of two kinds have.
    #[error("there are a TrainingJob and a ScoringJob {0}: write tj/{0} or sj/{0}")]
    TwoKinds(String),
    /// It can't be done, for a reason that lies in the job.
    #[error("{0}")]
    Refused(String),
    /// It makes no sense as it was typed.
    #[error("{0}")]
    Usage(String),
    /// The time is over.
    #[error("{0}")]
    Timeout(String),
    /// A file can't be written.
    #[error("can't write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The API server refuses it for another reason.
    #[error("the cluster refuses it: {}", .0.message)]
    Api(Box<Status>),
    /// The client could not do it.
    #[error("{0}")]
    Client(#[source] kube::Error),
}

impl PluginError {
    /// Whether the cluster could not be asked for a job, or doesn't have it.
    pub(crate) fn finds_no_job(&self) -> bool {
        matches!(
            self,
            PluginError::Kubeconfig(_)
                | PluginError::Unreachable { .. }
                | PluginError::Unauthorized
                | PluginError::NoKinds
                | PluginError::NoJob { .. }
        )
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            PluginError::Kubeconfig(_) | PluginError::Unreachable { .. } | PluginError::Unauthorized => UNREACHABLE,
            PluginError::Usage(_) => USAGE,
            PluginError::Timeout(_) => TIMEOUT,
            _ => FAILED,
        }
    }
}

impl From<kube::Error> for PluginError {
    fn from(error: kube::Error) -> PluginError {
        match error {
            kube::Error::Api(status) => of_status(status),
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                PluginError::Unreachable { why: innermost(&error), source: error }
            }
            error => PluginError::Client(error),
        }
    }
}

fn of_status(status: Box<Status>) -> PluginError {
    match status.code {
        401 => PluginError::Unauthorized,
        403 => forbidden(&status.message).unwrap_or(PluginError::Api(status)),
        404 if status.message.contains("could not find the requested resource")
            || status.message.contains("page not found") =>
        {
            PluginError::NoKinds
        }
        _ => PluginError::Api(status),
    }
}

/// What the API server's sentence says of the missing right:
/// `.. cannot list resource "pods" in API group "" in the namespace "a"`. `None` if it refuses for another reason, as a
/// quota does.
fn forbidden(message: &str) -> Option<PluginError> {
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once('"')?;
    let place = match rest.split_once("in the namespace \"").and_then(|(_, rest)| rest.split_once('"')) {
        Some((namespace, _)) => format!("in the namespace {namespace}"),
        None => "in the whole cluster".to_owned(),
    };
    Some(PluginError::Forbidden { verb: verb.to_owned(), resource: resource.to_owned(), place })
}

/// What the innermost of an error's sources says: the outer ones repeat that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, message: &str) -> PluginError {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        kube::Error::Api(Box::new(status)).into()
    }

    #[test]
    fn a_missing_right_is_named_with_verb_resource_and_place() {
        let in_one = answered(
            403,
            r#"trainingjobs.trainyard.dev is forbidden: User "ann" cannot list resource "trainingjobs" in API group "trainyard.dev" in the namespace "a""#,
        );
        assert_eq!(
            in_one.to_string(),
            "you may not list trainingjobs in the namespace a: ask whoever runs the cluster for that right"
        );
        let in_all = answered(
            403,
            r#"nodes is forbidden: User "ann" cannot list resource "nodes" in API group "" at the cluster scope"#,
        );
        assert!(in_all.to_string().starts_with("you may not list nodes in the whole cluster"), "{in_all}");
        assert_eq!(in_one.exit_code(), 1);
    }

    #[test]
    fn each_answer_of_the_server_has_its_sentence_and_exit_code() {
        for (code, message, text, exit) in [
            (401, "Unauthorized", "the cluster doesn't take your credentials", 3),
            (404, "the server could not find the requested resource", "the cluster doesn't know Trainyard's kinds", 1),
            (403, "exceeded quota: pods", "the cluster refuses it: exceeded quota: pods", 1),
            (422, "spec is bad", "the cluster refuses it: spec is bad", 1),
        ] {
            let error = answered(code, message);
            assert!(error.to_string().starts_with(text), "{error}");
            assert_eq!(error.exit_code(), exit, "{error}");
        }
    }
}
