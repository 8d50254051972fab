//! The control groups (version 1) that kubelets put pods into: one folder for each test in each hierarchy, and in it one for each node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the hierarchies are.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";
/// The hierarchies that a kubelet works with.
pub(super) const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices", "systemd"];

/// What a test weighs where CPUs are short. A group weighs as much as a single process if nothing is said, however many it has.
const SHARES: &str = "4096";

/// Shell text that removes the control groups of the test whose folder is `$1`, once its processes have ended.
pub(super) const REMOVAL: &str = r#"for try in 1 2 3 4 5 6 7 8 9; do
  find /sys/fs/cgroup/*/"$(basename "$1")" -depth -type d -exec rmdir {} + 2>/dev/null
  ls -d /sys/fs/cgroup/*/"$(basename "$1")" >/dev/null 2>&1 || break
  sleep 0.3
done
"#;

/// Makes the control group that a kubelet begins from, in every hierarchy; what an earlier life of the node left in it goes.
pub(super) fn make(group: &Path) -> io::Result<()> {
    remove(group);
    for controller in CONTROLLERS {
        let mut folder = PathBuf::from(MOUNT).join(controller);
        for part in group {
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder)?;
            match controller {
                // A group may use no CPU until it is said which.
                "cpuset" => {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        fs::write(folder.join(file), fs::read(parent.join(file))?)?;
                    }
                }
                "cpu" if parent == Path::new(MOUNT).join(controller) => fs::write(folder.join("cpu.shares"), SHARES)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Puts this process, and what it starts, into a control group beside those of the test's nodes: the control plane does not starve
/// when pods compute.
pub(super) fn join(group: &Path) -> io::Result<()> {
    make(group)?;
    fs::write(Path::new(MOUNT).join("cpu").join(group).join("cgroup.procs"), "0")
}

/// Removes a control group with all that are in it, as far as no process is.
fn remove(group: &Path) {
    for controller in CONTROLLERS {
        remove_tree(&Path::new(MOUNT).join(controller).join(group));
    }
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // One with a process in it stays, and is used as it is.
    let _ = fs::remove_dir(folder);
}

/// Removes what tests left behind whose watchdog was killed as well: groups of our name whose folder is gone.
pub(super) fn clear_leftovers(prefix: &str, folders: &Path) {
    for controller in CONTROLLERS {
        for entry in fs::read_dir(Path::new(MOUNT).join(controller)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| name.starts_with(prefix));
            if ours && !folders.join(&name).exists() {
                remove_tree(&entry.path());
            }
        }
    }
}
