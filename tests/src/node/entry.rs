//! The throw-away namespaces in which nodes are made: the test binary starts itself anew in them, so that its own networks, mounts and
//! processes are none of the machine's, and all end with it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::{cgroups, module, needs};
use crate::cluster::process::{FOLDERS, Folder};
use crate::cluster::programs;

/// Set to the name of the test's control groups in the process that is inside.
const INSIDE: &str = "TRAINYARD_NODES_INSIDE";

/// On which side of the namespaces this process is.
pub enum Entry {
    /// Inside: nodes can be made.
    Inside,
    /// Outside, and the process inside has come to its end: with this.
    Outside(ExitCode),
    /// Outside, and nodes can't be made on this machine; the text says why.
    Impossible(String),
}

/// Starts this program anew, with the same arguments, where it can make nodes, and waits for its end. To be called first in `main`.
/// Before, outside, it lets `prepare` make what takes a network.
///
/// # Panics
/// Where what nodes run can't be built.
pub fn enter(prepare: impl FnOnce()) -> Entry {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "the loopback device can't be set up");
        cgroups::join(&control_group("control-plane")).unwrap_or_else(|fault| panic!("no control group: {fault}"));
        return Entry::Inside;
    }
    if let Some(what) = needs::lacking() {
        return Entry::Impossible(what);
    }
    // What is built may be fetched, for which there is no network inside.
    for module in [programs::module(), module()] {
        programs::build(module).unwrap_or_else(|fault| panic!("{fault}"));
    }
    prepare();
    cgroups::clear_leftovers(FOLDERS, &std::env::temp_dir());
    let folder = Folder::with_end(&format!("{}{}", restored_settings(), cgroups::REMOVAL))
        .unwrap_or_else(|fault| panic!("{fault}"));
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(needs::NAMESPACES)
        // The first process of a process namespace has to reap orphans, which a shell does.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap_or_default())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, folder.path().file_name().unwrap_or_default())
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .status();
    let status = status.unwrap_or_else(|fault| panic!("setpriv and unshare can't be run: {fault}"));
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Entry::Outside(ExitCode::from(code))
}

/// Settings of the kernel that a kubelet changes for the whole machine.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Shell text that sets them as they are now.
fn restored_settings() -> String {
    let restored = |setting: &&str| {
        let value = std::fs::read_to_string(format!("/proc/sys/{setting}")).ok()?;
        Some(format!("echo {} > /proc/sys/{setting}\n", value.trim()))
    };
    SETTINGS.iter().filter_map(restored).collect()
}

/// The control group of a node, below the root of each hierarchy.
///
/// # Panics
/// Outside of the namespaces.
pub(super) fn control_group(node: &str) -> PathBuf {
    let name =
        std::env::var_os(INSIDE).unwrap_or_else(|| panic!("nodes are made inside of namespaces: node::enter() first"));
    Path::new(&name).join(node)
}
