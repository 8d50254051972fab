//! Google Cloud Storage for tests: fake-gcs-server's library, which many test Google's own client libraries with, behind what writing
//! needs beyond it (see `tests/storage/cmd/gcs`). A client is let in as a pod with a service account of Google's is: by a token of the
//! machine's metadata server.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{free_port, program, wait_until_ready};
use crate::cluster::Error;
use crate::cluster::process::{Folder, Process};

const NAME: &str = "gcs";
const TOKEN: &str = "for-tests-alone";

/// A running server. It stops when this is dropped, and with this process at the latest.
pub struct GoogleServer {
    // Fields are dropped in this order: the process ends before its folder goes.
    _process: Process,
    _folder: Folder,
    port: u16,
}

impl GoogleServer {
    /// Starts one on a free port, with one bucket. What it keeps is in its memory.
    ///
    /// # Errors
    /// Where the program is missing, can't be started or is not ready in time.
    pub fn start(bucket: &str) -> Result<GoogleServer, Error> {
        let (program, folder, port) = (program(NAME)?, Folder::new()?, free_port()?);
        let address = format!("127.0.0.1:{port}");
        let arguments = ["-address", &address, "-bucket", bucket, "-token", TOKEN].map(str::to_owned);
        let mut process = Process::start(NAME, program, arguments.into(), folder.path())?;
        wait_until_ready(&mut process, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        Ok(GoogleServer { _process: process, _folder: folder, port })
    }

    /// The environment by which a client finds it.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let address = format!("127.0.0.1:{}", self.port);
        [
            ("GOOGLE_BASE_URL", format!("http://{address}")),
            ("GOOGLE_ALLOW_HTTP", "true".into()),
            ("GCE_METADATA_HOST", address),
        ]
    }

    /// The variable by which a client has its token without asking for it.
    pub fn token(&self) -> (&'static str, String) {
        ("GOOGLE_BEARER_TOKEN", TOKEN.into())
    }

    /// Keys of uploads to a bucket that have begun and are neither completed nor aborted.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<String>, ureq::Error> {
        let request = ureq::get(format!("http://127.0.0.1:{}/{bucket}?uploads", self.port));
        let answer = request.header("Authorization", format!("Bearer {TOKEN}")).call()?.body_mut().read_to_string()?;
        let keys = answer.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_owned()).collect())
    }
}
