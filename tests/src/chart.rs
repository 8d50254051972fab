//! The chart as Helm renders it, and what Helm does with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

use crate::cluster::programs::build;

/// The chart's folder.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/trainyard"))
}

/// A program that charts, alerts and workflows are checked with, by its name.
///
/// # Panics
/// Where `tests/checkers/build.sh` can't build it.
pub fn checker(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let module = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/checkers"));
    let folder = BUILT.get_or_init(|| build(module).unwrap_or_else(|fault| panic!("{fault}")));
    folder.join(name)
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Whether it succeeded.
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn of(command: &mut Command) -> Ran {
        let output: Output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|fault| panic!("{} can't be run: {fault}", command.get_program().display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Panics
    /// Where it did not.
    pub fn good(self) -> String {
        assert!(self.ok, "{}\n{}", self.out, self.err);
        self.out
    }
}

/// Helm with these arguments, on a cluster if there is a kubeconfig. It keeps nothing of its own in the home folder.
pub fn helm<A: AsRef<OsStr>>(kubeconfig: Option<&Path>, arguments: impl IntoIterator<Item = A>) -> Command {
    let home = std::env::temp_dir().join("trainyard-helm");
    let mut command = Command::new(checker("helm"));
    command.args(arguments).env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, &home);
    }
    command
}

/// The chart rendered for a release of that name in that namespace, with more arguments, such as `--set`.
pub fn template(release: &str, namespace: &str, more: &[&str]) -> Ran {
    let chart = folder().to_string_lossy();
    let arguments = ["template", release, &*chart, "--namespace", namespace];
    Ran::of(&mut helm(None, arguments.iter().chain(more)))
}

/// The objects of a rendered chart.
///
/// # Panics
/// Where the chart can't be rendered.
pub fn render(release: &str, namespace: &str, more: &[&str]) -> Vec<Value> {
    objects(&template(release, namespace, more).good())
}

/// The objects of a text in YAML.
///
/// # Panics
/// Where it is none.
pub fn objects(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|fault| panic!("{fault}:\n{yaml}"));
    all.into_iter().filter(|object| !object.is_null()).collect()
}

/// The rules of the roles of a kind among objects: those of the operator, without the ones that are aggregated.
pub fn rules(objects: &[Value], kind: &str) -> Vec<PolicyRule> {
    let is_own = |object: &&Value| {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        object["kind"] == kind && !labels.into_iter().any(|(name, _)| name.contains("aggregate-to"))
    };
    let rules = objects.iter().filter(is_own).flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default());
    rules.map(|rule| serde_json::from_value(rule).unwrap_or_else(|fault| panic!("no rule: {fault}"))).collect()
}
