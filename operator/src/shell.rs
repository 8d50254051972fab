//! What commands share at the shell, whether they work here or on a cluster: words that are typed, and the standard output.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum Device {
    /// GPUs if there are enough of them, otherwise CPUs.
    Auto,
    /// GPUs, or nothing.
    Gpu,
    /// CPUs, even if there is a GPU.
    Cpu,
}

/// A claim and its folder on this machine, as `--volume` takes them.
pub(crate) fn volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((claim, folder)) if !claim.is_empty() && !folder.is_empty() => Ok((claim.to_owned(), folder.into())),
        _ => Err("write the claim and its folder: images=/data/images".to_owned()),
    }
}

/// Prints; a reader that has gone (`| head`) is no fault.
pub(crate) fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => 1,
        _ => 0,
    }
}
