//! The workflows of continuous integration and of a release, as actionlint reads them, and the scripts that they run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::chart::{Ran, checker};

#[test]
fn actionlint_finds_nothing() {
    // It would look for the root of a repository, which a copy of the sources is not.
    let files = ["ci.yaml", "release.yaml"].map(|name| root().join(".github/workflows").join(name));
    let ran = Ran::of(Command::new(checker("actionlint")).arg("-no-color").args(files).current_dir(root()));
    assert!(ran.ok, "{}{}", ran.out, ran.err);
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn what_others_have_made_is_named_by_its_digest() {
    for name in ["ci.yaml", "release.yaml"] {
        let text = fs::read_to_string(root().join(".github/workflows").join(name)).expect("a workflow");
        let used = text.lines().filter_map(|line| line.split_once("uses: ").map(|(_, used)| used));
        for line in used.filter(|used| !used.starts_with("./")) {
            let (_, version) = line.split_once('@').unwrap_or_else(|| panic!("{name}: {line}: no version"));
            let digest: String = version.chars().take_while(char::is_ascii_hexdigit).collect();
            assert!(digest.len() == 40 && version.contains(" # v"), "{name}: {line}");
        }
    }
}

#[test]
fn a_release_has_the_notes_of_its_own_version_and_of_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let changelog = folder.path().join("CHANGELOG.md");
    let text = "# Changelog\n\n## Unreleased\n\n- c\n\n## 0.1.0-rc.1\n\n- a\n\n## 0.1.0 (2027-01-01)\n\n## 0.0.9 (old)\n\n- b\n";
    fs::write(&changelog, text).expect("a changelog");
    let notes = |version: &str| Ran::of(Command::new(root().join(".ci/notes")).arg(version).arg(&changelog));
    assert_eq!(notes("0.1.0-rc.1").good().trim(), "- a");
    assert_eq!(notes("0.0.9").good().trim(), "- b");
    for version in ["0.1.0", "0.1", "0.2.0"] {
        let ran = notes(version);
        assert!(!ran.ok && ran.err.contains(&format!("has no section \"## {version}\"")), "{version}: {ran:?}");
    }
}

#[test]
fn an_archive_of_a_release_has_program_and_plugin_completions_and_licences() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    fs::write(&program, "#!/bin/sh\necho \"$@\"\n").expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut archive = Command::new(root().join(".ci/archive"));
    Ran::of(archive.arg(&program).args(["trainyard-a", "7"]).current_dir(folder.path())).good();
    let bytes = fs::read(folder.path().join("trainyard-a.tar.gz")).expect("an archive");
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice())).entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let (path, mode) =
            (entry.path().expect("a path").display().to_string(), entry.header().mode().expect("a mode"));
        let link = entry.link_name().expect("a link or none").map(|link| link.display().to_string());
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("a text");
        files.insert(path.trim_start_matches("trainyard-a/").to_owned(), (link.unwrap_or(text), mode));
    }
    for (name, begin) in [
        ("trainyard", "#!/bin/sh"),
        ("kubectl-trainyard", "trainyard"),
        ("completions/trainyard.bash", "completions bash"),
        ("completions/_trainyard", "completions zsh"),
        ("completions/trainyard.fish", "completions fish"),
        ("THIRD-PARTY.txt", "What comes with Trainyard"),
        ("CHANGELOG.md", "# Changelog"),
        ("README.md", "# Trainyard"),
    ] {
        assert!(files.get(name).is_some_and(|(text, _)| text.starts_with(begin)), "{name}: {:?}", files.get(name));
    }
    assert_eq!((files["trainyard"].1, files["LICENSE"].1), (0o755, 0o644));
    let known: Value =
        serde_json::from_slice(&fs::read(folder.path().join("trainyard-a.spdx.json")).expect("a list")).expect("JSON");
    let names: Vec<&str> =
        known["packages"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&"kube") && !names.contains(&"libc6"), "{names:?}");
}

#[test]
fn a_fault_that_is_ignored_is_ignored_until_a_day_that_is_to_come() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("deny.toml");
    for (reason, said) in [
        ("we call none of it", "the reason must end with \"until YEAR-MONTH-DAY\""),
        ("we call none of it, until 2020-01-01", "its day has come"),
    ] {
        let ignored =
            format!("[advisories]\nignore = [\n  {{ id = \"RUSTSEC-2026-0001\", reason = \"{reason}\" }},\n]\n");
        fs::write(&config, ignored).expect("a configuration");
        let ran = Ran::of(Command::new(root().join("trainer-image/deny.sh")).env("DENY_CONFIG", &config));
        assert!(!ran.ok && ran.err.contains(said) && ran.err.contains("RUSTSEC-2026-0001"), "{ran:?}");
    }
}
