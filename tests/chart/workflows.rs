//! The workflows of continuous integration and of a release, as actionlint reads them.

use std::path::Path;
use std::process::Command;

use tests::chart::{Ran, checker};

#[test]
fn actionlint_finds_nothing() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // It would look for the root of a repository, which a copy of the sources is not.
    let files = ["ci.yaml", "release.yaml"].map(|name| root.join(".github/workflows").join(name));
    let ran = Ran::of(Command::new(checker("actionlint")).arg("-no-color").args(files).current_dir(root));
    assert!(ran.ok, "{}{}", ran.out, ran.err);
}
