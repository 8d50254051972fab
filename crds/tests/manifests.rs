//! The definitions beside the sources are those of the types. `UPDATE_CRDS=1 cargo test -p crds --test manifests` writes them.

use std::path::Path;

#[test]
fn the_files_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("UPDATE_CRDS").is_some();
    for manifest in crds::manifest::manifests() {
        let path = folder.join(manifest.file_name);
        if update {
            std::fs::write(&path, &manifest.yaml).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            file == manifest.yaml,
            "{} is not what the types say: UPDATE_CRDS=1 cargo test -p crds --test manifests writes it anew",
            manifest.file_name
        );
    }
}
