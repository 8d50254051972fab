//! The operator's image and the trainer's, from programs that are built: `trainer-image/rootfs/rootfs.sh` assembles their files.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Containerfile, Image, Layer, Packing};

/// An image of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// The operator's.
    Operator,
    /// The trainer's, for CPUs.
    Trainer,
}

/// Where programs that go into images are.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// The folder that cargo built them into.
    pub built: &'a Path,
    /// The folder in which files of images are assembled. What is there and is not older than its source is taken as it is.
    pub work: &'a Path,
}

impl Product {
    /// All.
    pub const ALL: [Product; 2] = [Product::Operator, Product::Trainer];

    /// Its name, without registry and tag.
    pub fn name(self) -> &'static str {
        match self {
            Product::Operator => "operator",
            Product::Trainer => "trainer",
        }
    }

    /// The name that this version's image is released under, with registry and tag.
    pub fn released(self) -> String {
        let suffix = match self {
            Product::Operator => "",
            Product::Trainer => "-cpu",
        };
        format!("ghcr.io/trainyard/{}:{}{suffix}", self.name(), env!("CARGO_PKG_VERSION"))
    }

    /// Bytes that a registry ships of it at most. Of the trainer's most are libtorch's.
    pub fn most_packed(self) -> u64 {
        match self {
            Product::Operator => 15_000_000,
            Product::Trainer => 110_000_000,
        }
    }

    /// The folder of its sources.
    fn folder(self) -> PathBuf {
        repository().join(match self {
            Product::Operator => "operator",
            Product::Trainer => "trainer-image",
        })
    }

    /// Assembles the image of programs that are built, under a name.
    ///
    /// # Errors
    /// Where a file that belongs to it is missing, or what assembles it fails; the text says which.
    pub fn image(self, programs: Programs<'_>, name: &str, packing: Packing) -> io::Result<Image> {
        let version = env!("CARGO_PKG_VERSION");
        let containerfile = self.folder().join("Containerfile");
        let settings = Containerfile::read(&containerfile, &[("VERSION", version), ("REVISION", &revision())])?;
        let root = programs.work.join(self.name());
        self.assemble(programs, &root)?;
        let layers = settings.layers.iter().map(|layer| Layer::of(&root.join(layer), packing));
        let layers = layers.collect::<io::Result<_>>()?;
        Ok(Image { name: name.to_owned(), settings, layers })
    }

    fn assemble(self, programs: Programs<'_>, root: &Path) -> io::Result<()> {
        let list = self.folder().join("rootfs.list");
        let contents = programs.work.join(self.name()).with_extension("spdx.json");
        run(Command::new(repository().join("trainer-image/rootfs/sbom.py")).arg(self.name()).arg(&list).arg(contents))?;
        let notices = programs.work.join(self.name()).with_extension("third-party.txt");
        run(Command::new(repository().join("trainer-image/rootfs/notices.py"))
            .args([self.name().as_ref(), list.as_os_str(), notices.as_os_str()])
            .arg(repository().join(".libtorch/licenses")))?;
        let setting = |name: &str, value: &Path| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            setting
        };
        run(Command::new(repository().join("trainer-image/rootfs/rootfs.sh"))
            .arg(list)
            .arg(root)
            .arg(setting("built", programs.built))
            .arg(setting("libtorch", &repository().join(".libtorch/lib")))
            .arg(setting("sbom", programs.work)))
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let ran = command.current_dir(repository()).stdin(Stdio::null()).output()?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(io::Error::other(format!("{} ended with {}: {said}", command.get_program().display(), ran.status)))
}

/// The root of the repository.
pub(super) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The commit that is checked out; empty where there is none.
fn revision() -> String {
    let said = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(repository()).output();
    let said = said.ok().filter(|said| said.status.success()).map(|said| said.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}
