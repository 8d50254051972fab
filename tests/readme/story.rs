//! The blocks of the README and of the guide, and a shell that they are run in.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use tempfile::TempDir;
use tests::chart::{self, Ran};
use tests::program::trainyard;

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// A text of the repository.
pub(crate) fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// The fenced blocks of a language, as they stand in the README and in the guide.
pub(crate) fn blocks(language: &str) -> Vec<String> {
    let text = ["README.md", "crds/GUIDE.md"].map(text).join("\n");
    let start = format!("```{language}\n");
    let ends = |block: &str| block.split_once("```").expect("an end of the block").0.to_owned();
    text.split(&start).skip(1).map(ends).collect()
}

/// All commands, without the remarks behind them.
pub(crate) fn commands() -> Vec<String> {
    let lines = blocks("sh").join("\n").replace("\\\n", " ");
    let command =
        |line: &str| line.split(" #").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    lines.lines().map(command).filter(|command| !command.is_empty()).collect()
}

/// The manifest of this kind.
pub(crate) fn manifest(kind: &str) -> String {
    let of_kind = |block: &String| block.contains(&format!("kind: {kind}\n"));
    blocks("yaml").into_iter().find(of_kind).unwrap_or_else(|| panic!("the README has no {kind}"))
}

/// A folder with a shell that finds our programs, Helm and kubectl.
pub(crate) struct Story {
    pub(crate) folder: TempDir,
    path: String,
    kubeconfig: PathBuf,
}

impl Story {
    pub(crate) fn new(kubeconfig: &Path) -> Story {
        let folders = [trainyard(), chart::checker("helm")].map(|program| {
            program.parent().map(|folder| folder.display().to_string()).expect("a program lies in a folder")
        });
        let path = format!("{}:{}", folders.join(":"), env::var("PATH").unwrap_or_default());
        Story { folder: tempfile::tempdir().expect("a folder"), path, kubeconfig: kubeconfig.to_owned() }
    }

    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.folder.path());
        shell.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig).env("NO_COLOR", "1").stdin(Stdio::null());
        for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            shell.env(home, self.folder.path().join("helm"));
        }
        shell
    }

    /// Runs a command, which must succeed; what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let ran = Ran::of(&mut self.shell(command));
        assert!(ran.ok, "{command}:\n{}\n{}", ran.out, ran.err);
        ran.out
    }

    /// Runs one that goes on until it is stopped, for some seconds; what it printed.
    pub(crate) fn watch(&self, command: &str) -> String {
        let ran = Ran::of(&mut self.shell(&format!("timeout 3 {command}; test $? -eq 124")));
        assert!(ran.ok, "{command} does not go on:\n{}\n{}", ran.out, ran.err);
        ran.out
    }

    /// Starts one that is killed when the child is dropped.
    pub(crate) fn start(&self, command: &str) -> Running {
        let log = fs::File::create(self.folder.path().join("started.log")).expect("a log");
        let errors = log.try_clone().expect("a log");
        let child = self.shell(&format!("exec {command}")).stdout(log).stderr(errors).spawn();
        Running(child.unwrap_or_else(|fault| panic!("{command}: {fault}")))
    }
}

/// A command that runs.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
