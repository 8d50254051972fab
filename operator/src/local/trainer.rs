//! Where the trainer's executable is.

use std::env;
use std::path::{Path, PathBuf};

use super::error::RunError;

/// Name of the trainer's executable.
const NAME: &str = "trainer";

/// The trainer: the one given, or the one beside this executable, or the first on the `PATH`.
///
/// # Errors
/// [`RunError::Trainer`] with where it was looked for.
pub fn find(given: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(path) = given {
        let missing = || RunError::Trainer(format!("the trainer {} is not there", path.display()));
        return path
            .is_file()
            .then(|| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
            .ok_or_else(missing);
    }
    let beside = env::current_exe().ok().and_then(|own| own.parent().map(|folder| folder.join(NAME)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(NAME));
    beside.clone().into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        let beside = beside.map(|path| format!("neither as {} nor ", path.display())).unwrap_or_default();
        RunError::Trainer(format!("the trainer is not there, {beside}on the PATH"))
    })
}
