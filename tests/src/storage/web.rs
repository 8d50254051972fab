//! A web server for tests: Go's own over a folder, with TLS and an authority of the test's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{free_port, program, wait_until_ready};
use crate::cluster::Error;
use crate::cluster::process::{Folder, Process};

const NAME: &str = "files";

/// A running server. It stops when this is dropped, and with this process at the latest.
pub struct WebServer {
    // Fields are dropped in this order: the process ends before its folder goes.
    _process: Process,
    folder: Folder,
    port: u16,
}

impl WebServer {
    /// Starts one on a free port over the files of a folder.
    ///
    /// # Errors
    /// Where the program is missing, can't be started or is not ready in time.
    pub fn start(files: &Path) -> Result<WebServer, Error> {
        let (program, folder, port) = (program(NAME)?, Folder::new()?, free_port()?);
        let [certificate, key] = certify(folder.path())?.map(|path| path.display().to_string());
        let files = files.display().to_string();
        let address = format!("127.0.0.1:{port}");
        let arguments =
            ["-address", &address, "-certificate", &certificate, "-key", &key, "-folder", &files].map(str::to_owned);
        let mut process = Process::start(NAME, program, arguments.into(), folder.path())?;
        wait_until_ready(&mut process, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        Ok(WebServer { _process: process, folder, port })
    }

    /// The URI of a file.
    pub fn uri(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.port)
    }

    /// The environment by which a client trusts it.
    pub fn environment(&self) -> [(&'static str, String); 1] {
        [("SSL_CERT_FILE", authority(self.folder.path()).display().to_string())]
    }
}

fn authority(folder: &Path) -> PathBuf {
    folder.join("authority.crt")
}

/// Makes an authority, and a certificate of it with its key.
fn certify(folder: &Path) -> Result<[PathBuf; 2], Error> {
    let named = |name: &str, hosts: &[&str]| {
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        Ok::<_, rcgen::Error>(params)
    };
    let mut signer = named("test web", &[])?;
    signer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    signer.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let signer_key = KeyPair::generate()?;
    let signer_certificate = signer.self_signed(&signer_key)?;
    let key = KeyPair::generate()?;
    let certificate = named("localhost", &["localhost"])?.signed_by(&key, &Issuer::new(signer, signer_key))?;
    let write = |path: PathBuf, text: String| fs::write(&path, text).map(|()| path);
    write(authority(folder), signer_certificate.pem())?;
    Ok([write(folder.join("server.crt"), certificate.pem())?, write(folder.join("server.key"), key.serialize_pem())?])
}
