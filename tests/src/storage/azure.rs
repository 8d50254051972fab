//! Azure Blob Storage for tests: Azurite, Microsoft's own emulator, which honours the conditions of a write and takes blobs in blocks.

use std::net::{Ipv4Addr, SocketAddrV4};

use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;

use super::{free_port, wait_until_ready};
use crate::cluster::Error;
use crate::cluster::process::{Folder, Process};
use crate::cluster::programs::build;

const NAME: &str = "azurite";
/// The account that Azurite has unless it is told otherwise, and its key, which Microsoft documents:
/// <https://learn.microsoft.com/en-us/azure/storage/common/storage-connect-azurite>.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server. It stops when this is dropped, and with this process at the latest.
pub struct AzureServer {
    // Fields are dropped in this order: the process ends before its folder goes.
    process: Process,
    _folder: Folder,
    port: u16,
}

impl AzureServer {
    /// Starts one on a free port, with one container. What it keeps is in its memory.
    ///
    /// # Errors
    /// Where the program is missing, can't be started, is not ready in time or makes no container.
    pub fn start(container: &str) -> Result<AzureServer, Error> {
        let program = build(concat!(env!("CARGO_MANIFEST_DIR"), "/storage/azure").as_ref())?.join(NAME);
        let (folder, port) = (Folder::new()?, free_port()?);
        let number = port.to_string();
        let arguments = [
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &number,
            "--inMemoryPersistence",
            "--disableTelemetry",
            "--silent",
        ];
        let mut process = Process::start(NAME, program, arguments.map(str::to_owned).into(), folder.path())?;
        wait_until_ready(&mut process, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        let server = AzureServer { process, _folder: folder, port };
        server.create(container).map_err(|error| {
            let what = format!("makes no container: {error}");
            Error::Start { program: NAME, what, log: server.process.last_words() }
        })?;
        Ok(server)
    }

    /// Makes a container, which a client of objects does not.
    fn create(&self, container: &str) -> Result<(), Box<dyn std::error::Error>> {
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY)?);
        let uri = format!("{}/{container}?restype=container", self.endpoint());
        let mut request = http::Request::put(uri).body(HttpRequestBody::from(Vec::new()))?;
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request)?;
        ureq::run(request.map(|_| ()))?;
        Ok(())
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// The environment by which a client finds it.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AZURE_STORAGE_ENDPOINT", self.endpoint()),
            ("AZURE_ALLOW_HTTP", "true".into()),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.into()),
        ]
    }
}
