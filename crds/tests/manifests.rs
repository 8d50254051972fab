//! The definitions beside the sources, and the page of their fields, are those of the types.
//! `UPDATE_CRDS=1 cargo test -p crds --test manifests` writes them.

use std::path::Path;

/// Holds a file against what it should be; writes it if that was asked for.
fn is_current(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE_CRDS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == text,
        "{name} is not what the types say: UPDATE_CRDS=1 cargo test -p crds --test manifests writes it anew"
    );
}

#[test]
fn the_files_are_those_of_the_types() {
    for manifest in crds::manifest::manifests() {
        is_current(manifest.file_name, &manifest.yaml);
    }
}

#[test]
fn the_page_of_fields_is_that_of_the_types() {
    let page = crds::reference::page();
    is_current("REFERENCE.md", &page);
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 200, "{} fields", rows.len());
    let unexplained: Vec<_> = rows.iter().filter(|row| row.ends_with("|  |")).collect();
    assert_eq!(unexplained, Vec::<&&str>::new(), "fields without a description");
}
