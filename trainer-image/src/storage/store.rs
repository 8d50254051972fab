//! The stores of this process, one for each bucket, and the runtime that they work on.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crds::contract::env::STORAGE_RETRY_SECONDS;
use crds::uri::{Scheme, Uri};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use super::StorageError;

/// How long a request is tried again, unless [`STORAGE_RETRY_SECONDS`] says otherwise: a store's hiccup, and less than other
/// ranks wait in a collective.
const PATIENCE: u64 = 120;
/// How long a connection may take to come about.
const CONNECT: &str = "10s";
/// How long nothing may arrive.
const SILENCE: &str = "60s";
/// How long one request may take in all. What counts is whether bytes arrive: a slow line may take its time.
const WHOLE: &str = "3600s";

/// Waits for a future on this process's runtime. It is not to be called from within a runtime.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Two threads: they copy and decrypt for the threads that wait.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // An error means that somebody has chosen already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("storage").enable_all().build().expect("two threads can start")
    })
}

/// The store of a URI's bucket.
pub(super) fn open(uri: &Uri) -> io::Result<Arc<dyn ObjectStore>> {
    static STORES: Mutex<Option<HashMap<String, Arc<dyn ObjectStore>>>> = Mutex::new(None);
    let name = format!("{}://{}", uri.scheme().name(), uri.authority());
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let stores = stores.get_or_insert_default();
    if let Some(store) = stores.get(&name) {
        return Ok(store.clone());
    }
    let _within = runtime().enter();
    let store = build(uri).map_err(|source| StorageError::Settings { uri: uri.to_string(), source })?;
    stores.insert(name, store.clone());
    Ok(store)
}

fn build(uri: &Uri) -> object_store::Result<Arc<dyn ObjectStore>> {
    use ClientConfigKey::{AllowHttp, ConnectTimeout, ReadTimeout, Timeout};
    let limits = [(ConnectTimeout, CONNECT), (ReadTimeout, SILENCE), (Timeout, WHOLE)];
    let bucket = uri.authority();
    Ok(match uri.scheme() {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries(patience()));
            let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
            let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(AllowHttp));
            only_https("AWS", endpoint, allowed.as_deref())?;
            for (key, value) in limits {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        Scheme::Gs => {
            let mut builder =
                GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retries(patience()));
            let allowed = std::env::var("GOOGLE_ALLOW_HTTP").ok();
            only_https("GOOGLE", builder.get_config_value(&GoogleConfigKey::BaseUrl), allowed.as_deref())?;
            for (key, value) in limits {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        Scheme::Az => {
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retries(patience()));
            let allowed = builder.get_config_value(&AzureConfigKey::Client(AllowHttp));
            only_https("AZURE", builder.get_config_value(&AzureConfigKey::Endpoint), allowed.as_deref())?;
            for (key, value) in limits {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        Scheme::File | Scheme::Pvc | Scheme::Https => {
            let mut options = ClientOptions::default();
            for (key, value) in limits {
                options = options.with_config(key, value);
            }
            let url = format!("https://{bucket}");
            Arc::new(
                HttpBuilder::new()
                    .with_url(url)
                    .with_client_options(options)
                    .with_retry(retries(patience()))
                    .build()?,
            )
        }
    })
}

/// Refuses an endpoint without TLS, unless the environment allows it in so many words: keys and data would travel open.
fn only_https(prefix: &str, endpoint: Option<String>, allowed: Option<&str>) -> object_store::Result<()> {
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && allowed != Some("true") => {
            let why = format!("the endpoint {endpoint} has no TLS; set {prefix}_ALLOW_HTTP=true if that is meant");
            Err(object_store::Error::Generic { store: "endpoint", source: why.into() })
        }
        _ => Ok(()),
    }
}

/// How long a request is tried again.
pub(crate) fn patience() -> Duration {
    let seconds = std::env::var(STORAGE_RETRY_SECONDS).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(PATIENCE))
}

/// A request is tried again until patience is over: the shortest pauses don't fit into it as often as it may be tried.
///
/// The next pause is drawn evenly from what is below `base` times the one before: half of that in the middle, so that pauses grow
/// only from a base of e on (their logarithms by ln(base) - 1 on average). With 4 the middle doubles.
fn retries(patience: Duration) -> RetryConfig {
    let shortest = Duration::from_millis(100);
    let backoff = BackoffConfig { init_backoff: shortest, max_backoff: Duration::from_secs(10), base: 4.0 };
    let max_retries = patience.div_duration_f64(shortest) as usize + 1;
    RetryConfig { backoff, max_retries, retry_timeout: patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_patience_ends_retries_and_pauses_grow() {
        for patience in [0, 1, PATIENCE, 86_400].map(Duration::from_secs) {
            let RetryConfig { backoff, max_retries, retry_timeout } = retries(patience);
            assert_eq!(retry_timeout, patience);
            let least = backoff.init_backoff * u32::try_from(max_retries).unwrap();
            assert!(least > patience, "{max_retries} retries may end within {patience:?}");
            assert!(backoff.base > std::f64::consts::E, "pauses shrink: {backoff:?}");
        }
    }
}
