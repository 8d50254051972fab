//! A folder as a tar file without what differs from one day to the next: times, owners, order.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use zstd::stream::write::Encoder;

use super::Packing;

/// How hard zstd tries, as in the release workflow. More takes minutes and saves a few per cent.
const LEVEL: i32 = 10;

/// A layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As it is shipped.
    pub packed: Vec<u8>,
    /// How it is packed.
    pub packing: Packing,
    /// Digest of what is shipped.
    pub digest: String,
    /// Digest of the tar file.
    pub content: String,
    /// Size of the tar file in bytes.
    pub size: u64,
}

impl Layer {
    /// The layer that has what is in a folder. All belongs to root and is from 1970.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub fn of(root: &Path, packing: Packing) -> io::Result<Layer> {
        let content = Hashed::new(match packing {
            Packing::Plain => Sink::Plain(Hashed::new(Vec::new())),
            Packing::Zstd => Sink::Zstd(Encoder::new(Hashed::new(Vec::new()), LEVEL)?),
        });
        let mut tar = Builder::new(content);
        append(&mut tar, root, Path::new(""))?;
        let content = tar.into_inner()?;
        let size = content.size;
        let (sink, content) = content.end();
        let (packed, digest) = match sink {
            Sink::Plain(packed) => packed,
            Sink::Zstd(packed) => packed.finish()?,
        }
        .end();
        Ok(Layer { packed, packing, digest, content, size })
    }
}

fn append<W: Write>(tar: &mut Builder<W>, root: &Path, below: &Path) -> io::Result<()> {
    let entries = fs::read_dir(root.join(below))?;
    let mut names = entries.map(|entry| Ok(below.join(entry?.file_name()))).collect::<io::Result<Vec<PathBuf>>>()?;
    names.sort();
    for name in names {
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = Header::new_gnu();
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &name, io::empty())?;
            append(tar, root, &name)?;
        } else {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &name, fs::File::open(&path)?.take(metadata.len()))?;
        }
    }
    Ok(())
}

enum Sink {
    Plain(Hashed<Vec<u8>>),
    Zstd(Encoder<'static, Hashed<Vec<u8>>>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Plain(sink) => sink.write(bytes),
            Sink::Zstd(sink) => sink.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Plain(sink) => sink.flush(),
            Sink::Zstd(sink) => sink.flush(),
        }
    }
}

/// Counts and digests what is written through it.
struct Hashed<W> {
    inner: W,
    state: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Hashed<W> {
        Hashed { inner, state: Sha256::new(), size: 0 }
    }

    fn end(self) -> (W, String) {
        (self.inner, hexadecimal(&self.state.finalize()))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.state.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of bytes, as images write it, without the name of its algorithm.
pub(super) fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
