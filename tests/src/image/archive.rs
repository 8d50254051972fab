//! Layers and configuration as one file, by the OCI image layout, with the image's name in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, Header};

use super::containerfile::Containerfile;
use super::layer::{Layer, digest};

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: quick, for tests.
    Plain,
    /// As it is released: a fifth smaller than by gzip. containerd takes it from 1.5 on, Docker from 23.
    Zstd,
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name with registry and tag.
    pub name: String,
    /// What it is told to be.
    pub settings: Containerfile,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Writes it as an OCI archive. Returns the digest of its manifest, by which a registry knows it.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn write(&self, path: &Path) -> io::Result<String> {
        let config = self.config().to_string();
        let manifest = self.manifest(&config).to_string();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", digest(manifest.as_bytes())),
                "size": manifest.len(),
                // The first is what containerd names it by, the second what others do.
                "annotations": {"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name},
            }],
        });
        let mut tar = Builder::new(BufWriter::new(File::create(path)?));
        put(&mut tar, "oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        put(&mut tar, "index.json", index.to_string().as_bytes())?;
        let config = config.as_bytes();
        let packed = self.layers.iter().map(|layer| (layer.digest.clone(), layer.packed.as_slice()));
        let texts = [config, manifest.as_bytes()].map(|text| (digest(text), text));
        for (digest, bytes) in packed.chain(texts) {
            put(&mut tar, &format!("blobs/sha256/{digest}"), bytes)?;
        }
        tar.into_inner()?.flush()?;
        Ok(format!("sha256:{}", digest(manifest.as_bytes())))
    }

    /// Bytes that a registry ships.
    pub fn packed_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.packed.len() as u64).sum()
    }

    /// Bytes that it takes up on a node.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    fn config(&self) -> Value {
        let own = &self.settings;
        let exposed: serde_json::Map<_, _> = own.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        let contents: Vec<_> = self.layers.iter().map(|layer| format!("sha256:{}", layer.content)).collect();
        json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": own.entrypoint, "Env": own.environment, "User": own.user, "WorkingDir": own.folder,
                "Labels": own.labels, "ExposedPorts": exposed,
            },
            "rootfs": {"type": "layers", "diff_ids": contents},
            "created": "1970-01-01T00:00:00Z",
        })
    }

    fn manifest(&self, config: &str) -> Value {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                let kind = match layer.packing {
                    Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
                    Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                };
                json!({"mediaType": kind, "digest": format!("sha256:{}", layer.digest), "size": layer.packed.len()})
            })
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", digest(config.as_bytes())),
                "size": config.len(),
            },
            "layers": layers,
        })
    }
}

fn put(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}
