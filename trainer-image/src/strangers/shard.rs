//! Tar files of images with their labels.

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Seed, assert_refused, put};
use crate::data::{Dataset, Format, Labels, Source, open};
use crate::fault::Fault;

/// Bytes of a header, and of what data are filled up to.
const BLOCK: usize = 512;

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder");
}

/// Lists a tar file and reads each of its images. Damage to a header shows in its check sum: the same file is also read with
/// sums that are right.
pub(super) fn read(bytes: &[u8]) -> bool {
    list(bytes) | list(&with_sums(bytes))
}

fn list(bytes: &[u8]) -> bool {
    let classes = ["cat".to_owned()];
    FOLDER.with(|folder| {
        let path = folder.path().join("shard");
        put(&path, bytes);
        let source = Source { format: Format::WebDataset, ..Source::new(path) };
        let strict = open(&source, Labels::Known(&classes));
        match open(&source, Labels::Optional(&classes)) {
            Ok(data) => {
                read_all(&data, bytes.len());
                match strict {
                    Ok(strict) => assert_eq!(strict, data),
                    Err(error) => assert_refused(&Fault::from(error)),
                }
                true
            }
            Err(error) => {
                assert!(strict.is_err(), "with labels it is read, without: {error}");
                assert_refused(&Fault::from(error));
                false
            }
        }
    })
}

/// Images do not overlap, so that all together are no more than the file.
fn read_all(data: &Dataset, size: usize) {
    let read = |sample: &crate::data::Sample| data.read(&sample.path).expect("what was listed can be read").len();
    let total: usize = data.samples.iter().map(read).sum();
    assert!(total <= size, "{total} bytes of {size}");
}

/// The file with right check sums, where headers may lie.
fn with_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    bytes
}

pub(super) fn seeds() -> Vec<Seed> {
    let long = format!("{}/b.png", "long".repeat(40));
    vec![
        Seed::new(
            "labels",
            tar(
                &Header::new_gnu(),
                &[("a.jpg", b"image"), ("a.cls", b"cat\n"), ("b.png", b""), ("b.json", b"{\"label\": \"cat\"}")],
            ),
        ),
        Seed::new(
            "a long name",
            tar(&Header::new_gnu(), &[(&long, b"image"), ("c/.hidden", b""), ("./c/d.x.webp", b"image")]),
        ),
        Seed::new("ustar", tar(&Header::new_ustar(), &[("deep/a.seg.jpg", &[7; 600]), ("deep/a.CLS", b"0")])),
        Seed::new("extended", extended()),
    ]
}

fn tar(header: &Header, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = header.clone();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes).expect("a member");
    }
    // One block of zeros ends it as well as two.
    let mut bytes = tar.into_inner().expect("a file");
    bytes.truncate(bytes.len() - BLOCK);
    bytes
}

/// A member whose name and size stand in an extended header.
fn extended() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let facts = "17 path=e/é.jpg\n9 size=5\n".as_bytes();
    for (name, kind, bytes) in [("pax", EntryType::XHeader, facts), ("e.jpg", EntryType::Regular, &b"image"[..])] {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).expect("a member");
    }
    tar.into_inner().expect("a file")
}
