//! Google Cloud Storage for tests: fake-gcs-server, which Google's own client libraries are tested with by many. It does not honour the
//! conditions of a write, so that it stands in for reading alone.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use super::{free_port, program, wait_until_ready};
use crate::cluster::Error;
use crate::cluster::process::{Folder, Process};

const NAME: &str = "fake-gcs-server";

/// A running server. It stops when this is dropped, and with this process at the latest.
pub struct GoogleServer {
    // Fields are dropped in this order: the process ends before its folder goes.
    _process: Process,
    _folder: Folder,
    port: u16,
}

impl GoogleServer {
    /// Starts one on a free port, with a bucket for each folder in `buckets`, and each file below it as an object.
    ///
    /// # Errors
    /// Where the program is missing, can't be started or is not ready in time.
    pub fn start(buckets: &Path) -> Result<GoogleServer, Error> {
        let (program, folder, port) = (program(NAME)?, Folder::new()?, free_port()?);
        let address = format!("127.0.0.1:{port}");
        let arguments = [
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            &port.to_string(),
            "-public-host",
            &address,
            "-external-url",
            &format!("http://{address}"),
            "-backend",
            "memory",
            "-data",
            &buckets.display().to_string(),
        ];
        let mut process = Process::start(NAME, program, arguments.map(str::to_owned).into(), folder.path())?;
        wait_until_ready(&mut process, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        Ok(GoogleServer { _process: process, _folder: folder, port })
    }

    /// The environment by which a client finds it.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("GOOGLE_BASE_URL", format!("http://127.0.0.1:{}", self.port)),
            ("GOOGLE_ALLOW_HTTP", "true".into()),
            ("GOOGLE_SKIP_SIGNATURE", "true".into()),
        ]
    }
}
