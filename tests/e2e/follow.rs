//! The README's `logs -f`, typed while a job lives through what befalls it; and the program as kubectl's plug-in.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use tempfile::TempDir;
use tests::chart::Ran;
use tests::program::trainyard;
use tests::told::FOLLOW;

use crate::yard::{JOBS, Yard};

/// A command that follows the logs of the job `flowers`, until this is dropped.
pub(crate) struct Followed {
    child: Child,
    /// Has the program under both of its names, a kubeconfig for the jobs' namespace, and what is printed.
    folder: TempDir,
}

impl Followed {
    pub(crate) fn start(yard: &Yard) -> Followed {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["trainyard", "kubectl-trainyard"] {
            symlink(trainyard(), folder.path().join(name)).expect("a link");
        }
        fs::copy(yard.rig.cluster().kubeconfig(), folder.path().join("kubeconfig")).expect("a kubeconfig");
        shell(folder.path(), &format!("kubectl config set-context --current --namespace={JOBS}"));
        let printed = File::create(folder.path().join("log")).expect("a log");
        let child = command(folder.path(), &format!("exec {FOLLOW}")).stdout(printed).spawn();
        Followed { child: child.expect("it starts"), folder }
    }

    /// Waits until it has printed lines of both pods of an attempt.
    pub(crate) fn has_both_of(&self, yard: &Yard, attempt: u32) {
        yard.until_true(&format!("{FOLLOW} tells of both pods of attempt {attempt}"), || {
            let printed = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            (0..2).all(|member| printed.lines().any(|line| line.starts_with(&format!("[{attempt}-{member}] "))))
        });
    }

    /// What the plug-in of kubectl's answers.
    pub(crate) fn plugin(&self, arguments: &str) -> String {
        shell(self.folder.path(), &format!("kubectl trainyard {arguments}"))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, line: &str) -> Command {
    let mut path = OsString::from(folder);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env("PATH", path).env("KUBECONFIG", folder.join("kubeconfig")).stdin(Stdio::null());
    shell
}

fn shell(folder: &Path, line: &str) -> String {
    Ran::of(&mut command(folder, line)).good()
}
