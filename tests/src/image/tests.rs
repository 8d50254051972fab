//! The same files make the same image, the lists say what is in it, and what is wrong with a list is said.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::layer::digest;
use super::product::repository;
use super::{Containerfile, Image, Layer, Packing};

/// Images of ours: their Containerfiles and lists.
const IMAGES: [(&str, &str); 3] = [
    ("operator/Containerfile", "operator/rootfs.list"),
    ("trainer-image/Containerfile", "trainer-image/rootfs.list"),
    ("trainer-image/Containerfile.cuda", "trainer-image/rootfs-cuda.list"),
];

/// A list as `trainer-image/rootfs/rootfs.sh` has it, with a program that was built.
fn assemble(folder: &Path, list: &str) -> Output {
    fs::create_dir_all(folder.join("built")).unwrap();
    if !folder.join("built/a").exists() {
        fs::write(folder.join("built/a"), "program").unwrap();
    }
    fs::write(folder.join("rootfs.list"), list).unwrap();
    let mut command = Command::new(repository().join("trainer-image/rootfs/rootfs.sh"));
    let built = format!("built={}", folder.join("built").display());
    command.arg(folder.join("rootfs.list")).arg(folder.join("out")).arg(built).output().unwrap()
}

const LIST: &str = "# Two layers.
[system]
0644 /etc/passwd trainer-image/rootfs/passwd
1777 /tmp/
[program]
0755 /bin/a {built}/a
";

#[test]
fn the_same_files_make_the_same_digest_whenever_and_in_whatever_order() {
    let made = |names: [&str; 2], age: u64, packing| {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(folder.path().join("d")).unwrap();
            let path = folder.path().join("d").join(name);
            fs::write(&path, name).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age)).unwrap();
        }
        std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        let layer = Layer::of(folder.path(), packing).unwrap();
        let image = Image { name: "a:1".to_owned(), settings: Containerfile::default(), layers: vec![layer] };
        image.write(&folder.path().join("archive")).unwrap()
    };
    for packing in [Packing::Plain, Packing::Zstd] {
        assert_eq!(made(["a", "b"], 1, packing), made(["b", "a"], 2_000_000_000, packing));
    }
}

#[test]
fn an_archive_has_what_its_index_names() {
    let folder = tempfile::tempdir().unwrap();
    assert!(assemble(folder.path(), LIST).status.success());
    let layer = |name: &str| Layer::of(&folder.path().join("out").join(name), Packing::Zstd).unwrap();
    let settings = Containerfile { user: "65532:65532".to_owned(), ..Containerfile::default() };
    let image = Image { name: "a:1".to_owned(), settings, layers: vec![layer("system"), layer("program")] };
    let path = folder.path().join("archive");
    let named = image.write(&path).unwrap();

    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(File::open(&path).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(blob) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(digest(&bytes), blob);
        }
        files.insert(name, bytes);
    }
    let read = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
    let blob = |digest: &Value| digest.as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let index = read("index.json");
    let manifest = &index["manifests"][0];
    assert_eq!(
        (&manifest["digest"], &manifest["annotations"]["io.containerd.image.name"]),
        (&named.into(), &"a:1".into())
    );
    let manifest = read(&blob(&manifest["digest"]));
    let config = read(&blob(&manifest["config"]["digest"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    let mut contents = Vec::new();
    for (layer, content) in
        manifest["layers"].as_array().unwrap().iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        let mut bytes = Vec::new();
        zstd::stream::copy_decode(&files[&blob(&layer["digest"])][..], &mut bytes).unwrap();
        assert_eq!(format!("sha256:{}", digest(&bytes)), *content);
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let (user, mode) = (header.uid().unwrap(), header.mode().unwrap());
            contents.push((entry.path().unwrap().display().to_string(), mode, user, header.mtime().unwrap()));
        }
    }
    let expected = [("etc", 0o755), ("etc/passwd", 0o644), ("tmp", 0o1777), ("bin", 0o755), ("bin/a", 0o755)];
    assert_eq!(contents, expected.map(|(path, mode)| (path.to_owned(), mode, 0, 0)));
}

#[test]
fn what_is_listed_no_more_is_shipped_no_more_and_what_has_changed_is_taken_anew() {
    let folder = tempfile::tempdir().unwrap();
    assert!(assemble(folder.path(), LIST).status.success());
    let program = folder.path().join("out/program/bin/a");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);
    fs::write(folder.path().join("built/a"), "newer").unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options().write(true).open(folder.path().join("built/a")).unwrap().set_modified(later).unwrap();
    assert!(assemble(folder.path(), LIST).status.success());
    assert_eq!(fs::read_to_string(&program).unwrap(), "newer");
    assert!(
        assemble(folder.path(), &LIST.replace("0644 /etc/passwd trainer-image/rootfs/passwd\n", "")).status.success()
    );
    assert!(!folder.path().join("out/system/etc").exists());
}

#[test]
fn what_is_wrong_with_a_list_is_said() {
    for (line, said) in [
        ("0755 /bin/b {built}/b", "/built/b is no file: it is to become /bin/b"),
        ("0755 /bin/b {other}/b", "say where other is: other=FOLDER"),
        ("0755 /bin/a {built}/a shiny", "/bin/a: shiny is no way to treat a file"),
        ("0755 /bin/a {built}/a stripped twice", "too many words about /bin/a"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = assemble(folder.path(), &format!("[program]\n{line}\n"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(said), "{line}: {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = assemble(folder.path(), "0755 /bin/a {built}/a\n").stderr;
    assert!(String::from_utf8_lossy(&text).contains("/bin/a stands before the first section"));
}

#[test]
fn the_containerfiles_copy_the_sections_of_their_lists_and_say_what_they_are() {
    for (containerfile, list) in IMAGES {
        let read = Containerfile::read(&repository().join(containerfile), &[("VERSION", "1.2.3"), ("REVISION", "abc")])
            .unwrap();
        let lines = fs::read_to_string(repository().join(list)).unwrap();
        let sections: Vec<_> = lines.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
        assert_eq!(read.layers, sections, "{containerfile}");
        assert_eq!(read.user, "65532:65532", "{containerfile}");
        let labels = ["title", "description", "source", "licenses", "version", "revision"];
        for label in labels.map(|label| format!("org.opencontainers.image.{label}")) {
            assert!(read.labels.get(&label).is_some_and(|value| !value.is_empty()), "{containerfile} lacks {label}");
        }
        let licences = &read.labels["org.opencontainers.image.licenses"];
        for (licence, is_in) in [
            ("LGPL-2.1-or-later", lines.contains("/libc.so.6 ")),
            ("MPL-2.0", lines.contains("/ca-certificates.crt ")),
            ("BSD-3-Clause", lines.contains("/libtorch_cpu.so ")),
            ("LicenseRef-NVIDIA", lines.contains("/libcudart.so")),
        ] {
            assert_eq!(licences.contains(licence), is_in, "{containerfile}: {licences}");
        }
        for document in ["trainyard.spdx.json", "THIRD-PARTY.txt"] {
            assert!(lines.contains(&format!(" /usr/share/doc/trainyard/{document} ")), "{list} lacks {document}");
        }
        let program = read.entrypoint.first().unwrap();
        assert!(lines.contains(&format!(" {program} ")), "{list} lacks {program}");
    }
}

#[test]
fn what_an_image_is_made_of_is_named_by_its_digest() {
    let is_digest = |text: &str| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    for (containerfile, _) in IMAGES {
        let text = fs::read_to_string(repository().join(containerfile)).unwrap();
        let bases = text.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
        for base in bases.filter(|base| *base != "scratch") {
            let digest = base.split_once("@sha256:").map(|(_, digest)| digest);
            assert!(digest.is_some_and(is_digest), "{containerfile}: {base}");
        }
    }
    for (script, wheels) in [("libtorch.sh", 3), ("cuda-headers.sh", 5), ("cuda-libraries.sh", 11)] {
        let text = fs::read_to_string(repository().join("trainer-image").join(script)).unwrap();
        assert!(text.contains("--require-hashes"), "{script}");
        let named = text.lines().filter_map(|line| line.split_once("==")?.1.split_once(" --hash=sha256:"));
        assert_eq!(named.filter(|(_, digest)| is_digest(digest)).count(), wheels, "{script}");
    }
}

#[test]
fn every_library_that_a_listed_library_needs_is_listed() {
    for (_, list) in IMAGES {
        let lines = fs::read_to_string(repository().join(list)).unwrap();
        let libraries = repository().join(".libtorch/lib").display().to_string();
        let sources = lines.lines().filter_map(|line| line.split_whitespace().nth(2));
        let sources =
            sources.map(|source| source.replace("{libtorch}", &libraries)).filter(|source| source.contains(".so"));
        let mut looked_at = 0;
        for source in sources.filter(|source| Path::new(source).exists()) {
            let said = Command::new("readelf").args(["--dynamic", &source]).output().unwrap().stdout;
            for line in String::from_utf8_lossy(&said).lines().filter(|line| line.contains("(NEEDED)")) {
                let needed = line.split_once('[').unwrap().1.trim_end_matches(']');
                assert!(lines.contains(&format!("/{needed} ")), "{list}: {source} needs {needed}");
            }
            looked_at += 1;
        }
        assert!(looked_at > 3, "{list}: {looked_at}");
    }
}
