//! What the chart renders to, for some sets of values. `UPDATE_CHART=1 cargo test -p tests --test chart golden` writes the
//! golden files anew.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::chart;

/// Values, by the name of their file in `values/` and of the golden file: each switches on what others leave off.
pub(crate) const SETS: [&str; 4] = ["default", "namespaced", "observed", "production"];

fn file(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("chart").join(folder).join(name).with_extension("yaml")
}

/// The arguments by which Helm takes a set of values.
pub(crate) fn given(set: &str) -> [String; 2] {
    ["--values".to_owned(), file("values", set).display().to_string()]
}

/// The chart with a set of values, as Helm renders it.
pub(crate) fn rendered(set: &str, namespace: &str, more: &[&str]) -> String {
    let given = given(set);
    let arguments: Vec<&str> = given.iter().map(String::as_str).chain(more.iter().copied()).collect();
    chart::template("trainyard", namespace, &arguments).good()
}

#[test]
fn the_chart_renders_as_the_golden_files_say() {
    for set in SETS {
        // The definitions are three thousand lines that stand in crds/; their own test is below.
        let text = rendered(set, "trainyard", &["--set", "crds.enabled=false"]);
        let path = file("golden", set);
        if std::env::var_os("UPDATE_CHART").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            golden == text,
            "golden/{set}.yaml is not what the chart renders to: see git diff after \
             UPDATE_CHART=1 cargo test -p tests --test chart golden. It renders to:\n{text}"
        );
    }
}

#[test]
fn the_definitions_are_those_of_the_types_and_are_kept() {
    let rendered = chart::render("trainyard", "trainyard", &["--set", "rbac.create=false"]);
    let is_definition = |object: &&Value| object["kind"] == "CustomResourceDefinition";
    let definitions: Vec<_> = rendered.iter().filter(is_definition).collect();
    let mut expected = Vec::new();
    for manifest in crds::manifest::manifests() {
        let mut definition = chart::objects(&manifest.yaml).remove(0);
        definition["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        expected.push(definition);
    }
    assert!(definitions.into_iter().eq(&expected), "the chart's definitions are not those of crds/");
}

#[test]
fn a_package_has_the_definitions_that_a_clone_has_as_links() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().display().to_string();
    let source = chart::folder().display().to_string();
    chart::Ran::of(&mut chart::helm(None, ["package", &source, "--destination", &destination])).good();
    let package = format!("{destination}/trainyard-{}.tgz", env!("CARGO_PKG_VERSION"));
    let arguments = ["template", "trainyard", &package, "--namespace", "trainyard"];
    let packaged = chart::Ran::of(&mut chart::helm(None, arguments)).good();
    assert!(packaged == chart::template("trainyard", "trainyard", &[]).good());
    assert_eq!(packaged.matches("kind: CustomResourceDefinition").count(), 3);
}
