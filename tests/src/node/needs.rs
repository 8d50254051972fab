//! What a machine must have for nodes of tests, and what it lacks.

use std::path::Path;
use std::process::{Command, Stdio};

use super::cgroups::{CONTROLLERS, MOUNT};
use super::module;

/// Why there can be no nodes here, for people; `None` where there can. Installs packages that are missing, if it may.
pub(super) fn lacking() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if user != Some("0") {
        return Some("nodes of tests need root: they are namespaces with mounts and networks of their own".to_owned());
    }
    for controller in CONTROLLERS {
        let folder = Path::new(MOUNT).join(controller);
        if !folder.join("cgroup.procs").is_file() {
            let what = format!("{} is no control group of version 1", folder.display());
            return Some(format!("nodes of tests need cgroup v1 with {}: {what}", CONTROLLERS.join(", ")));
        }
    }
    let tools = module().join("tools.sh");
    if !runs(Command::new(&tools)) {
        return Some(format!("{} could not install what nodes of tests need", tools.display()));
    }
    let mut unshare = Command::new("unshare");
    unshare.args(NAMESPACES).arg("true").stderr(Stdio::null());
    (!runs(unshare)).then(|| format!("unshare {} is refused here", NAMESPACES.join(" ")))
}

/// The namespaces of a node.
pub(super) const NAMESPACES: [&str; 7] =
    ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];

fn runs(mut command: Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}
