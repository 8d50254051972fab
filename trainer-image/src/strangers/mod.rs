//! What strangers may send: for each reader of their bytes a target, which reads them and asserts what must hold whatever they are.
//! They are read as they should be, or refused for a cause that lies in them; nothing panics, and the memory that it takes is
//! bounded by their number.
//!
//! Not part of the product: it is built for the tests, which damage the seeds of each target at random, and for `make fuzz`, which
//! lets a fuzzer look for what no seed leads to. What was found stays, as a seed with a name, in `fuzz/seeds/TARGET/`.

mod card;
#[cfg(test)]
mod damage;
mod image;
mod shard;
mod table;
#[cfg(test)]
mod tests;
mod weights;

use std::path::{Path, PathBuf};

#[cfg(test)]
pub(crate) use card::model_folder;
use crds::contract::Cause;

use crate::fault::Fault;
use crate::serve::strangers as serve;

/// One reader of strangers' bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Whether the bytes are what the reader takes, and no refusal.
    read: fn(&[u8]) -> bool,
    made: fn() -> Vec<Seed>,
    memory: Memory,
}

/// Bytes of memory that reading may take at a time, what is asserted of it included: so many, and so many for each byte that is
/// read. What libtorch and libjpeg take is not counted.
#[derive(Clone, Copy)]
struct Memory(u64, u64);

/// Bytes to begin with.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What it is.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

const MIB: u64 = 1 << 20;

/// Every reader.
pub const TARGETS: [Target; 12] = [
    // The library for TIFF reserves up to 256 MiB for a tag before it can be told of a limit; it fills no more than the file has.
    Target { name: "image", read: image::read, made: image::seeds, memory: Memory(264 * MIB, 64) },
    Target { name: "rest", read: serve::rest, made: serve::rest_seeds, memory: Memory(128 << 10, 8) },
    Target { name: "grpc", read: serve::grpc, made: serve::grpc_seeds, memory: Memory(256 << 10, 8) },
    Target {
        name: "safetensors",
        read: weights::safetensors,
        made: weights::safetensors_seeds,
        memory: Memory(MIB, 100),
    },
    Target { name: "pth", read: weights::pth, made: weights::pth_seeds, memory: Memory(MIB, 200) },
    Target { name: "pickle", read: weights::pickle, made: weights::pickle_seeds, memory: Memory(MIB, 200) },
    Target { name: "csv", read: table::csv, made: table::csv_seeds, memory: Memory(MIB, 300) },
    Target { name: "json_lines", read: table::json_lines, made: table::json_lines_seeds, memory: Memory(MIB, 300) },
    // The library's panics are caught; where backtraces are asked for, they take memory.
    Target { name: "parquet", read: table::parquet, made: table::parquet_seeds, memory: Memory(128 * MIB, 300) },
    Target { name: "shard", read: shard::read, made: shard::seeds, memory: Memory(MIB, 100) },
    Target { name: "card", read: card::read, made: card::seeds, memory: Memory(MIB, 100) },
    Target { name: "assignment", read: card::assignment, made: card::assignments, memory: Memory(MIB, 100) },
];

impl Target {
    /// The target of this name.
    ///
    /// # Panics
    /// There is none.
    pub fn named(name: &str) -> Target {
        TARGETS.into_iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
    }

    /// Reads bytes as the product does, and says whether they are what it takes.
    ///
    /// # Panics
    /// They are neither read as they should be nor refused for the right cause, or it takes too much memory.
    pub fn check(&self, bytes: &[u8]) -> bool {
        let Memory(base, each) = self.memory;
        let most = base + each * bytes.len() as u64;
        let mut is_taken = false;
        let taken = allocation_counter::measure(|| is_taken = (self.read)(bytes)).bytes_max;
        assert!(taken <= most, "{} bytes took {taken} bytes of memory, more than {most}", bytes.len());
        is_taken
    }

    /// What its seeds are: made here, and kept in its folder.
    ///
    /// # Panics
    /// The folder can't be read.
    pub fn seeds(&self) -> Vec<Seed> {
        let mut seeds = (self.made)();
        let folder = self.folder();
        if folder.exists() {
            let mut kept: Vec<PathBuf> =
                std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
            kept.sort_unstable();
            seeds.extend(kept.into_iter().map(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Seed { name, bytes: std::fs::read(path).expect("a file") }
            }));
        }
        seeds
    }

    /// Where the seeds lie that are kept: what was found and mended, and what no code here makes.
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(self.name)
    }
}

impl Seed {
    pub(crate) fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
        Seed { name: name.to_owned(), bytes: bytes.into() }
    }
}

/// Writes a file anew. Some file systems send one to the disk at once that is written over, and not one that takes its place.
fn put(file: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(file);
    std::fs::write(file, bytes).expect("a file");
}

/// That a refusal lies in the bytes: not in this program, this machine or its storage.
fn assert_refused(fault: &Fault) {
    assert!(matches!(fault.cause(), Cause::BadData | Cause::BadSpec), "{:?}: {fault}", fault.cause());
    assert!(!fault.to_string().is_empty());
}
