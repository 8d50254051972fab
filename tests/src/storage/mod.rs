//! Servers that tests read from and write to. S3: Versity's gateway over a folder, in which a bucket is a folder and an object a
//! file, so that tests can lay out, look at and damage objects as files. Google Cloud Storage, Azure and the web: see there.

mod azure;
mod google;
mod web;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::Error;
use crate::cluster::process::{Folder, Process};
use crate::cluster::programs::build;

pub use azure::AzureServer;
pub use google::GoogleServer;
pub use web::WebServer;

const NAME: &str = "versitygw";
const KEY: &str = "trainyard";
const SECRET: &str = "for-tests-alone";
/// How long it may take to come up: it takes a fraction of a second on a machine with nothing else to do.
const START: Duration = Duration::from_secs(60);

/// A running S3 server. It stops when this is dropped, and with this process at the latest.
pub struct Server {
    // Fields are dropped in this order: the process ends before its folder goes.
    process: Process,
    address: SocketAddrV4,
    folder: Folder,
}

impl Server {
    /// Starts one on a free port, with one bucket.
    ///
    /// # Errors
    /// Where the program is missing, can't be started or is not ready in time.
    pub fn start(bucket: &str) -> Result<Server, Error> {
        Server::start_on(Ipv4Addr::LOCALHOST, bucket)
    }

    /// Starts one on a free port of an address, such as one that pods reach.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(address: Ipv4Addr, bucket: &str) -> Result<Server, Error> {
        let program = program(NAME)?;
        let folder = Folder::new()?;
        for name in [&format!("buckets/{bucket}"), "metadata"] {
            std::fs::create_dir_all(folder.path().join(name))?;
        }
        // It changes to the folder of the buckets before it looks for the other.
        let [metadata, buckets] = ["metadata", "buckets"].map(|name| folder.path().join(name).display().to_string());
        let address = SocketAddrV4::new(address, free_port()?);
        let arguments = [
            "--port",
            &address.to_string(),
            "--access",
            KEY,
            "--secret",
            SECRET,
            "--quiet",
            "posix",
            // Not every file system of a test machine keeps attributes of files.
            "--sidecar",
            &metadata,
            &buckets,
        ];
        let process = Process::start(NAME, program, arguments.map(str::to_owned).into(), folder.path())?;
        let mut server = Server { process, address, folder };
        wait_until_ready(&mut server.process, address)?;
        Ok(server)
    }

    /// The folder of a bucket.
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.folder.path().join("buckets").join(name)
    }

    /// The environment by which a client finds it.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ]
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the one that was killed, on the same port.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.run()?;
        wait_until_ready(&mut self.process, self.address)
    }
}

/// One of the programs that `tests/storage/build.sh` builds.
///
/// # Errors
/// Where they can't be built.
pub fn program(name: &str) -> Result<PathBuf, Error> {
    Ok(build(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/storage")))?.join(name))
}

fn wait_until_ready(process: &mut Process, address: SocketAddrV4) -> Result<(), Error> {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        let what = match process.ended() {
            Some(status) => format!("ended with {status}"),
            None if began.elapsed() > START => format!("is not ready after {} s", START.as_secs()),
            None => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        return Err(Error::Start { program: process.name, what, log: process.last_words() });
    }
    Ok(())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
