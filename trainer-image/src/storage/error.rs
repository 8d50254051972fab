//! What a store refuses or fails at, and what that means for the job.

use std::io::{self, ErrorKind};
use std::path::Path;

use crds::contract::Cause;
use crds::uri::Scheme;

use super::scheme;
use crate::fault::Fault;

/// Why something in a store can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Nothing is there.
    #[error("{uri}: nothing is there: {}", said(source))]
    Missing {
        /// What was asked for.
        uri: String,
        /// What the store says.
        source: object_store::Error,
    },
    /// Nothing has a name that begins so.
    #[error("{uri}: nothing is there, and nothing below it")]
    Nothing {
        /// The prefix.
        uri: String,
    },
    /// The credentials are missing, wrong, or not enough.
    #[error("{uri}: no permission to {doing} it: {}", said(source))]
    Permission {
        /// What was asked for.
        uri: String,
        /// What was tried: a verb.
        doing: &'static str,
        /// What the store says.
        source: object_store::Error,
    },
    /// The store can't be opened as the environment describes it.
    #[error("{uri}: the storage can't be opened: {source}")]
    Settings {
        /// What was asked for.
        uri: String,
        /// What is wrong.
        source: object_store::Error,
    },
    /// The name is none that a store has.
    #[error("{uri}: {why}")]
    Name {
        /// What was asked for.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store or the way to it failed, after retries.
    #[error("{uri}: can't {doing} it: {}", said(source))]
    Failed {
        /// What was asked for.
        uri: String,
        /// What was tried: a verb.
        doing: &'static str,
        /// What it said last, and how often it was asked.
        source: object_store::Error,
    },
}

/// Parts of texts by which stores say that nobody gave them credentials: they then ask the machine's metadata server, which
/// exists in their own clouds alone.
const NO_CREDENTIALS: [&str; 3] = ["169.254.169.254", "metadata.google.internal", "metadata/computeMetadata"];

/// Parts of texts by which stores say that there is no such bucket or container. A listing of none has no error of its own kind.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Parts of texts by which stores refuse whoever asks. A listing that is refused has no error of its own kind; and Versity's
/// gateway finds no such user where S3 forbids.
const REFUSED: [&str; 3] = ["status code: 401", "status code: 403", "XAdminUserNotFound"];

impl StorageError {
    pub(super) fn new(uri: &str, doing: &'static str, source: object_store::Error) -> Self {
        use object_store::Error as E;
        let uri = uri.to_owned();
        // The one way to tell: these come as errors of any kind, with the answer of the server in the text.
        let text = text(&source);
        match source {
            _ if REFUSED.iter().any(|sign| text.contains(sign)) => Self::Permission { uri, doing, source },
            E::NotFound { .. } => Self::Missing { uri, source },
            _ if NO_BUCKET.iter().any(|sign| text.contains(sign)) => Self::Missing { uri, source },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Permission { uri, doing, source },
            _ if NO_CREDENTIALS.iter().any(|sign| text.contains(sign)) => Self::Permission { uri, doing, source },
            E::InvalidPath { .. } => Self::Name { uri, why: source.to_string() },
            _ => Self::Failed { uri, doing, source },
        }
    }

    /// A short word for metrics, of which there are few.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::Nothing { .. } => "missing",
            Self::Permission { .. } => "permission",
            Self::Settings { .. } => "settings",
            Self::Name { .. } => "name",
            Self::Failed { .. } => "storage",
        }
    }

    /// Which end of the job it means.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Missing { .. } | Self::Nothing { .. } => Cause::DataMissing,
            Self::Permission { .. } => Cause::Permission,
            Self::Settings { .. } | Self::Name { .. } => Cause::BadSpec,
            Self::Failed { .. } => Cause::Storage,
        }
    }

    /// What to do about it: a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::Nothing { .. } => {
                "check the name of the bucket or container and the path in it; names are case-sensitive"
            }
            Self::Permission { uri, .. } => match scheme(Path::new(uri)) {
                Some(Scheme::Gs) => {
                    "give the pod credentials with the rights for this path: by pod.envFrom with a secret that has \
                     GOOGLE_SERVICE_ACCOUNT_KEY (the JSON of the key), or by its service account"
                }
                Some(Scheme::Az) => {
                    "give the pod credentials with the rights for this path: by pod.envFrom with a secret that has \
                     AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or by its service account"
                }
                Some(Scheme::Https) => {
                    "a web server is asked without credentials: make it give this to everybody, or put it into a bucket"
                }
                _ => {
                    "give the pod credentials with the rights for this path: by pod.envFrom with a secret that has \
                     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by its service account"
                }
            },
            Self::Settings { uri, .. } => match scheme(Path::new(uri)) {
                Some(Scheme::Gs) => "correct the environment variables GOOGLE_* of the pod",
                Some(Scheme::Az) => {
                    "correct the environment variables AZURE_* of the pod: it needs AZURE_STORAGE_ACCOUNT_NAME, the account \
                     that has the container"
                }
                _ => "correct the environment variables AWS_* of the pod",
            },
            Self::Name { .. } => "correct the URI",
            Self::Failed { uri, .. } => match scheme(Path::new(uri)) {
                Some(Scheme::S3) => {
                    "the storage or the network failed, not the data: see whether the endpoint (AWS_ENDPOINT_URL) can be \
                     reached from the pod"
                }
                Some(Scheme::Az) => {
                    "the storage or the network failed, not the data: see whether the account's endpoint \
                     (AZURE_STORAGE_ENDPOINT, where it is not Azure's own) can be reached from the pod"
                }
                _ => {
                    "the storage or the network failed, not the data: see whether its host can be reached from the pod"
                }
            },
        }
    }
}

/// What a store says, without the page of XML around it.
fn said(error: &object_store::Error) -> String {
    let text = text(error);
    let between = |start: &str, end: &str| Some(text.split_once(start)?.1.split_once(end)?.0.to_owned());
    match (between("<Code>", "</Code>"), between("<Message>", "</Message>")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => with_the_last_source(error),
    }
}

/// What an error says, and what lies at the bottom of it, unless it says that already: `invalid peer certificate`, `Connection
/// refused`.
fn with_the_last_source(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match sources(error).last().map(ToString::to_string) {
        Some(last) if !text.contains(&last) => format!("{text}: {last}"),
        _ => text,
    }
}

fn sources(error: &dyn std::error::Error) -> impl Iterator<Item = &dyn std::error::Error> {
    std::iter::successors(error.source(), |error| error.source())
}

/// All that an error and its sources say.
fn text(error: &dyn std::error::Error) -> String {
    let below = sources(error).map(ToString::to_string);
    std::iter::once(error.to_string()).chain(below).collect()
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Missing { .. } | StorageError::Nothing { .. } => ErrorKind::NotFound,
            StorageError::Permission { .. } => ErrorKind::PermissionDenied,
            StorageError::Settings { .. } | StorageError::Name { .. } => ErrorKind::InvalidInput,
            StorageError::Failed { .. } => ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Fault {
        Fault::new(error.cause(), error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_the_variables_of_the_store_that_failed() {
        let table = [
            ("s3://bucket/a", ["AWS_ACCESS_KEY_ID", "AWS_*", "AWS_ENDPOINT_URL"]),
            ("gs://bucket/a", ["GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_*", "its host"]),
            ("az://container/a", ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_*", "AZURE_STORAGE_ENDPOINT"]),
            ("https://host/a.csv", ["a web server", "", "its host"]),
        ];
        let prefixes = ["AWS_", "GOOGLE_", "AZURE_"];
        for (uri, says) in table {
            let source = || object_store::Error::Generic { store: "any", source: "refused".into() };
            let errors = [
                StorageError::Permission { uri: uri.into(), doing: "read", source: source() },
                StorageError::Settings { uri: uri.into(), source: source() },
                StorageError::new(uri, "read", source()),
            ];
            // A web server has no settings that could be wrong.
            for (error, says) in errors.iter().zip(says).filter(|(_, says)| !says.is_empty()) {
                assert!(error.hint().contains(says), "{uri}: {}", error.hint());
                let named = prefixes.iter().filter(|prefix| error.hint().contains(*prefix)).count();
                assert!(named <= 1, "{uri}: {}", error.hint());
            }
        }
    }

    #[test]
    fn a_listing_of_no_bucket_is_missing_and_one_that_is_refused_a_permission() {
        let table = [
            ("404 Not Found: <Code>NoSuchBucket</Code>", "missing"),
            ("404 Not Found: <Code>ContainerNotFound</Code>", "missing"),
            ("status code: 403 Forbidden: <Code>AuthenticationFailed</Code>", "permission"),
            ("status code: 401 Unauthorized: <Code>AuthenticationRequired</Code>", "permission"),
            ("error sending request for http://169.254.169.254/metadata/identity/oauth2/token", "permission"),
            ("status code: 503 Service Unavailable: <Code>ServerBusy</Code>", "storage"),
        ];
        for (text, category) in table {
            let source = object_store::Error::Generic { store: "any", source: text.into() };
            assert_eq!(StorageError::new("az://container/a", "list", source).category(), category, "{text}");
        }
    }
}
