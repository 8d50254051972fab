//! Our images without a container engine: root file systems assembled by `trainer-image/rootfs/rootfs.sh`, as the Containerfiles do it, and written as
//! OCI archives. The same files make the same digest.
//!
//! ```text
//! containerfile what an image is told to be, read from the last stage of its Containerfile
//! product       the operator's image and the trainer's, from programs that are built
//! layer         a folder as a tar file without what differs from one day to the next
//! archive       layers and configuration as one file, which containerd imports and skopeo copies
//! ```

mod archive;
mod containerfile;
mod layer;
mod product;
#[cfg(test)]
mod tests;

pub use archive::{Image, Packing};
pub use containerfile::Containerfile;
pub use layer::Layer;
pub use product::{Product, Programs};

use std::io;
use std::path::Path;

/// An image with one static program, which it starts.
///
/// # Errors
/// Where the program can't be read.
pub fn single(program: &Path, name: &str) -> io::Result<Image> {
    let file = program.file_name().unwrap_or_default();
    let root = tempfile::tempdir()?;
    std::fs::copy(program, root.path().join(file))?;
    let entrypoint = vec![format!("/{}", file.display())];
    let settings = Containerfile { entrypoint, ..Containerfile::default() };
    Ok(Image { name: name.to_owned(), settings, layers: vec![Layer::of(root.path(), Packing::Plain)?] })
}
