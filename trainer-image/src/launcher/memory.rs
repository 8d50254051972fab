//! Tells whether the kernel's out-of-memory killer took a process: its count in this pod's control group.

use std::fs;
use std::path::{Path, PathBuf};

/// The count of kills, remembered between looks.
#[derive(Debug)]
pub(super) struct OomKills {
    file: Option<PathBuf>,
    seen: u64,
}

impl OomKills {
    /// Finds the count of this process's control group, version 1 or 2, under `root` (`/`).
    pub(super) fn of_this_process(root: &Path) -> OomKills {
        let file = candidates(root).into_iter().find(|file| count(file).is_some());
        let seen = file.as_deref().and_then(count).unwrap_or(0);
        OomKills { file, seen }
    }

    /// Whether the count has risen since the last look.
    pub(super) fn rose(&mut self) -> bool {
        let Some(now) = self.file.as_deref().and_then(count) else { return false };
        let rose = now > self.seen;
        self.seen = now;
        rose
    }
}

/// Where the count may be, the likeliest first. In a container the group's own folder is mounted at the top; on a plain
/// machine it lies under the path that `/proc/self/cgroup` names.
fn candidates(root: &Path) -> Vec<PathBuf> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = root.join("sys/fs/cgroup");
    let mut files = Vec::new();
    for line in groups.lines() {
        // hierarchy-ID:controllers:path; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            files.push(mounts.join(path).join("memory.events"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(mounts.join("memory").join(path).join("memory.oom_control"));
        }
    }
    files.push(mounts.join("memory.events"));
    files.push(mounts.join("memory/memory.oom_control"));
    files
}

/// Both versions have a line `oom_kill <count>`.
fn count(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_is_seen_once_whichever_version_and_place() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill N\n";
        let v2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill N\noom_group_kill 0\n";
        let table = [
            ("v2 in a container", "0::/\n", "sys/fs/cgroup/memory.events", v2),
            ("v2 on a machine", "0::/user.slice/a.scope\n", "sys/fs/cgroup/user.slice/a.scope/memory.events", v2),
            ("v2, path of the host seen inside", "0::/kubepods/x\n", "sys/fs/cgroup/memory.events", v2),
            (
                "v1 on a machine",
                "8:pids:/\n5:cpu,memory:/docker/x\n",
                "sys/fs/cgroup/memory/docker/x/memory.oom_control",
                v1,
            ),
            ("v1 in a container", "5:memory:/docker/x\n", "sys/fs/cgroup/memory/memory.oom_control", v1),
        ];
        for (case, groups, file, text) in table {
            let root = tempfile::tempdir().unwrap();
            let write = |path: &str, text: &str| {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            write("proc/self/cgroup", groups);
            write(file, &text.replace('N', "4"));
            let mut kills = OomKills::of_this_process(root.path());
            let before = kills.rose();
            write(file, &text.replace('N', "5"));
            assert_eq!([before, kills.rose(), kills.rose()], [false, true, false], "{case}");
        }
    }

    #[test]
    fn without_control_groups_nothing_rises() {
        let root = tempfile::tempdir().unwrap();
        assert!(!OomKills::of_this_process(root.path()).rose());
    }
}
