//! A test that keeps `decide`, `build`, `observe` and `placement` pure: no client, clock, environment, file, process or
//! waiting in them.

use std::fs;
use std::path::Path;

const FORBIDDEN: [&str; 16] = [
    "kube::Client",
    "kube::Api",
    "kube::runtime",
    "Timestamp::now",
    "SystemTime",
    "Instant",
    "std::env",
    "env::var",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "async ",
    ".await",
    "rand::",
];

#[test]
fn what_decides_and_builds_has_no_client_clock_environment_or_waiting() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut read = 0;
    for room in ["decide", "build", "observe", "placement"] {
        for path in files(&source.join(room)) {
            let text = fs::read_to_string(&path).expect("a source file");
            read += 1;
            for word in FORBIDDEN {
                assert!(!text.contains(word), "{} has {word}", path.display());
            }
        }
    }
    assert!(read > 10, "{read} files");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    // Tests may do as they like.
    let own = entries.map(|entry| entry.path()).filter(|path| !path.ends_with("tests"));
    own.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
