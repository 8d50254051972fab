//! Where the control plane's programs are: in `KUBEBUILDER_ASSETS`, and for what is not there, where
//! `tests/cluster/build.sh` puts them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::Error;

/// The folder of the Go module, with the nodes and stages beside it.
pub(crate) fn module() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/cluster"))
}

/// Finds programs; builds them where they are missing.
#[derive(Default)]
pub(crate) struct Programs {
    built: OnceLock<PathBuf>,
}

impl Programs {
    pub(crate) fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let given = std::env::var_os("KUBEBUILDER_ASSETS").map(|folder| Path::new(&folder).join(name));
        if let Some(given) = given.filter(|path| path.is_file()) {
            return Ok(given);
        }
        let folder = match self.built.get() {
            Some(folder) => folder,
            None => {
                let folder = build(module())?;
                self.built.get_or_init(|| folder)
            }
        };
        let path = folder.join(name);
        if path.is_file() { Ok(path) } else { Err(Error::Programs { what: format!("{} is no file", path.display()) }) }
    }
}

/// Runs the script of a Go module, which is quick once the programs are there. What it says on standard error, people see.
pub(crate) fn build(module: &Path) -> Result<PathBuf, Error> {
    let script = module.join("build.sh");
    let wrong = |what: String| Error::Programs { what };
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|fault| wrong(format!("{}: {fault}", script.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(folder) if output.status.success() => Ok(folder.into()),
        _ => Err(wrong(format!("{} ended with {}", script.display(), output.status))),
    }
}
