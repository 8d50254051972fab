//! The checks that need a GPU (`tests/gpu/run`), on CPUs with the least sizes: what they do there says nothing about a GPU, and
//! that they still work says that they will when there is one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::process::interpreter;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("the checks for a GPU come to their end on CPUs, with the least sizes", smoke)]
}

/// A program that `cargo test --workspace` builds beside this one.
fn built(name: &str) -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).ok_or("a folder of builds")?;
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing: cargo build -p trainer --bins --examples", path.display()).into())
    }
}

fn smoke() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (pack, out) = (folder.path().join("pack"), folder.path().join("out"));
    fs::create_dir_all(pack.join("bin"))?;
    for (program, name) in [("trainer", "trainer"), ("examples/gpu", "gpu")] {
        symlink(built(program)?, pack.join("bin").join(name))?;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/run");
    let ran = Command::new(interpreter())
        .arg(script)
        .arg("--cpu-smoke")
        .arg("--pack")
        .arg(&pack)
        .arg("--out")
        .arg(&out)
        .output()?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!("it ended with {}:\n{said}", ran.status).into());
    }
    let results: Value = serde_json::from_slice(&fs::read(out.join("results.json"))?)?;
    let lines = results["lines"].as_array().ok_or("no lines")?;
    for figure in [
        "ResNet-50",
        "EfficientNet-B0",
        "a step in bfloat16",
        "a batch norm over all ranks",
        "from JPEGs",
        "checkpoints",
        "scores",
        "over Gloo",
    ] {
        let is_there = |line: &Value| line["figure"].as_str().is_some_and(|name| name.contains(figure));
        if !lines.iter().any(is_there) {
            return Err(format!("no line of {figure}:\n{said}").into());
        }
    }
    Ok(())
}
