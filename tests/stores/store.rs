//! The stores that jobs write to, each with a server of its own; and a client that lays out, looks at and damages objects.

use std::fs;
use std::path::Path;

use futures::TryStreamExt;
use libtest_mimic::Failed;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tests::storage::{AzureServer, GoogleServer, Server};
use tokio::runtime::{Builder, Runtime};

/// The one bucket, or container.
pub(crate) const BUCKET: &str = "yard";

/// A server with the one bucket.
pub(crate) trait Store: Sized {
    const SCHEME: &'static str;

    fn start() -> Result<Self, Failed>;

    /// The environment by which a job finds it.
    fn environment(&self) -> Vec<(&'static str, String)>;

    /// A client of this process.
    fn client(&self) -> Result<Client, Failed> {
        Client::open(Self::SCHEME, self.environment())
    }

    /// Keys of uploads that have begun and are neither completed nor aborted, where the store tells.
    fn unfinished(&self) -> Result<Vec<String>, Failed> {
        Ok(Vec::new())
    }
}

impl Store for Server {
    const SCHEME: &'static str = "s3";

    fn start() -> Result<Server, Failed> {
        Ok(Server::start(BUCKET)?)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment().into()
    }

    fn unfinished(&self) -> Result<Vec<String>, Failed> {
        files_below(&self.bucket(BUCKET).join(".sgwtmp"))
    }
}

impl Store for GoogleServer {
    const SCHEME: &'static str = "gs";

    fn start() -> Result<GoogleServer, Failed> {
        Ok(GoogleServer::start(BUCKET)?)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment().into()
    }

    fn client(&self) -> Result<Client, Failed> {
        let mut environment = Store::environment(self);
        environment.push(self.token());
        Client::open(Self::SCHEME, environment)
    }

    fn unfinished(&self) -> Result<Vec<String>, Failed> {
        Ok(self.uploads(BUCKET)?)
    }
}

/// What an upload to Azure leaves behind, which nobody sees, goes by itself.
impl Store for AzureServer {
    const SCHEME: &'static str = "az";

    fn start() -> Result<AzureServer, Failed> {
        Ok(AzureServer::start(BUCKET)?)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment().into()
    }
}

/// A client of the one bucket.
pub(crate) struct Client {
    store: Box<dyn ObjectStore>,
    runtime: Runtime,
}

impl Client {
    /// One of the store with this scheme, as this process's environment and what is beside it say.
    pub(crate) fn open(scheme: &str, environment: Vec<(&'static str, String)>) -> Result<Client, Failed> {
        // An error means that it is chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = environment.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let store: Box<dyn ObjectStore> = match scheme {
            "s3" => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(BUCKET);
                for (name, value) in settings {
                    builder = builder.with_config(name.parse()?, value);
                }
                Box::new(builder.build()?)
            }
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(BUCKET);
                for (name, value) in settings.filter(|(name, _)| name.starts_with("google_")) {
                    builder = builder.with_config(name.parse()?, value);
                }
                Box::new(builder.build()?)
            }
            "az" => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(BUCKET);
                for (name, value) in settings {
                    builder = builder.with_config(name.parse()?, value);
                }
                Box::new(builder.build()?)
            }
            other => return Err(format!("no store has the scheme {other}").into()),
        };
        Ok(Client { store, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    pub(crate) fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> Result<(), Failed> {
        let bytes: Vec<u8> = bytes.into();
        self.runtime.block_on(self.store.put(&key.into(), bytes.into()))?;
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>, Failed> {
        let read = async { self.store.get(&key.into()).await?.bytes().await };
        Ok(self.runtime.block_on(read)?.into())
    }

    pub(crate) fn text(&self, key: &str) -> Result<String, Failed> {
        Ok(String::from_utf8(self.get(key)?)?)
    }

    pub(crate) fn delete(&self, key: &str) -> Result<(), Failed> {
        Ok(self.runtime.block_on(self.store.delete(&key.into()))?)
    }

    /// All that is below a prefix, with paths from there, in their order.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>, Failed> {
        let prefix = prefix.into();
        let found: Vec<ObjectMeta> = self.runtime.block_on(self.store.list(Some(&prefix)).try_collect())?;
        let path = |meta: &ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&prefix)?.collect();
            Some(parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"))
        };
        let mut found: Vec<_> = found.into_iter().filter_map(|meta| Some((path(&meta)?, meta))).collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// As [`list`](Self::list), the paths alone.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        Ok(self.list(prefix)?.into_iter().map(|(path, _)| path).collect())
    }

    /// Puts the files below a folder of this machine below a prefix.
    pub(crate) fn upload(&self, folder: &Path, prefix: &str) -> Result<(), Failed> {
        files_below(folder)?
            .into_iter()
            .try_for_each(|name| self.put(&format!("{prefix}/{name}"), fs::read(folder.join(&name))?))
    }
}

/// Paths of all files below a folder, from there; none where it is not.
fn files_below(folder: &Path) -> Result<Vec<String>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            true => files.extend(files_below(&entry.path())?.into_iter().map(|below| format!("{name}/{below}"))),
            false => files.push(name),
        }
    }
    Ok(files)
}
