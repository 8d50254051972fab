//! What is listed, in which order, and how the faults of folders and tables read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crds::contract::Cause;

use super::super::{DataError, Dataset, Format, Labels, Source, names_labels, open, reopen};
use super::made::put;

/// Paths with the name of their class.
fn listed(data: &Dataset) -> Vec<(String, Option<&str>)> {
    let class = |label: u32| data.classes[label as usize].as_str();
    data.samples.iter().map(|sample| (sample.path.display().to_string(), sample.label.map(class))).collect()
}

fn pairs<'a>(pairs: &[(&str, Option<&'a str>)]) -> Vec<(String, Option<&'a str>)> {
    pairs.iter().map(|(path, class)| ((*path).to_owned(), *class)).collect()
}

/// A folder with these files, all empty: listing opens none of them.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        put(root.path(), file, "");
    }
    root
}

fn train(path: &Path) -> Result<Dataset, DataError> {
    open(&Source::new(path), Labels::Discover)
}

#[test]
fn an_image_folder_is_listed_as_torchvision_lists_it() {
    let root = folder(&[
        "cat/b.PNG",
        "cat/a.jpg",
        "cat/deep/er/c.webp",
        "Bird/1.bmp",
        "bird/1.tiff",
        "cat/notes.txt",
        "cat/._a.jpg",
        ".DS_Store",
        "lost+found/x.png",
        "..data/x/y.png",
        "README.md",
    ]);
    let data = train(root.path()).unwrap();
    assert_eq!(data.classes, ["Bird", "bird", "cat"]);
    let expected = pairs(&[
        ("Bird/1.bmp", Some("Bird")),
        ("bird/1.tiff", Some("bird")),
        ("cat/a.jpg", Some("cat")),
        ("cat/b.PNG", Some("cat")),
        ("cat/deep/er/c.webp", Some("cat")),
    ]);
    assert_eq!(listed(&data), expected);
}

#[test]
fn images_to_score_need_no_classes() {
    let root = folder(&["b.png", "a.jpg", "cat/c.png", "unknown/d.png", "empty.txt"]);
    let classes = ["cat".to_owned(), "dog".to_owned()];
    let data = open(&Source::new(root.path()), Labels::Optional(&classes)).unwrap();
    let expected = pairs(&[("a.jpg", None), ("b.png", None), ("cat/c.png", Some("cat")), ("unknown/d.png", None)]);
    assert_eq!(listed(&data), expected);
    assert_eq!(data.strangers, [("unknown".to_owned(), vec![3])].into());
    let error = open(&Source::new(root.path()), Labels::Known(&classes)).unwrap_err();
    assert!(error.to_string().contains("\"unknown\" is not one of the model's 2 classes"), "{error}");
}

#[test]
fn samples_of_an_earlier_list_are_found_again_without_a_new_one() {
    let root = folder(&["cat/a.jpg", "unknown/b.png"]);
    fs::write(root.path().join("list.csv"), "image,label\ncat/a.jpg,cat\n").unwrap();
    let classes = ["cat".to_owned(), "dog".to_owned()];
    for (source, names) in [(root.path().to_owned(), false), (root.path().join("list.csv"), true)] {
        let source = Source::new(source);
        let first = open(&source, Labels::Optional(&classes)).unwrap();
        assert_eq!(names_labels(&source).unwrap(), names);
        // Of a class that is not known, at the next look.
        fs::write(root.path().join(format!("unknown/{names}.png")), b"").unwrap();
        let again = reopen(&source, &classes, first.samples.clone()).unwrap();
        assert_eq!(again, Dataset { strangers: BTreeMap::new(), ..first });
    }
}

#[test]
fn faults_of_folders_say_what_and_where() {
    let missing = tempfile::tempdir().unwrap().path().join("nowhere");
    let empty = folder(&[]);
    let flat = folder(&["a.png"]);
    let one_class = folder(&["cat/a.png"]);
    let no_image = folder(&["cat/a.png", "dog/notes.txt"]);
    let looped = folder(&["cat/a.png", "dog/b.png"]);
    symlink(looped.path(), looped.path().join("cat/again")).unwrap();
    let self_link = folder(&["cat/a.png", "dog/b.png"]);
    symlink("c.png", self_link.path().join("cat/c.png")).unwrap();
    let dangling = folder(&["cat/a.png", "dog/b.png"]);
    symlink("nothing.png", dangling.path().join("cat/c.png")).unwrap();
    let cases = [
        (missing.as_path(), "missing", Cause::DataMissing, "nowhere: no such file or folder"),
        (empty.path(), "empty", Cause::BadData, "holds no image"),
        (flat.path(), "layout", Cause::BadData, "no class folder"),
        (one_class.path(), "few-classes", Cause::BadData, "two classes or more, and here is only \"cat\""),
        (no_image.path(), "empty-class", Cause::BadData, "dog: the class \"dog\" has no image"),
        (looped.path(), "link-loop", Cause::BadData, "cat/again: a symbolic link leads back"),
        (self_link.path(), "link-loop", Cause::BadData, "cat/c.png"),
        (dangling.path(), "missing", Cause::DataMissing, "cat/c.png: no such file"),
    ];
    for (path, category, cause, words) in cases {
        let error = train(path).unwrap_err();
        assert_eq!((error.category(), error.cause()), (category, cause), "{error}");
        assert!(error.to_string().contains(words) && !error.hint().is_empty(), "{error}");
    }
}

#[test]
fn a_folder_that_may_not_be_read_is_a_permission() {
    let root = folder(&["cat/a.png", "dog/b.png"]);
    let dog = root.path().join("dog");
    fs::set_permissions(&dog, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything: then there is nothing to see here.
    if fs::read_dir(&dog).is_err() {
        assert_eq!(train(root.path()).unwrap_err().cause(), Cause::Permission);
    }
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    assert_eq!(DataError::from_io("a.png", refused).cause(), Cause::Permission);
    fs::set_permissions(&dog, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn names_that_are_not_utf8_are_listed_and_not_as_classes() {
    use std::os::unix::ffi::OsStrExt;
    let root = folder(&["cat/a.png", "dog/b.png"]);
    let name = std::ffi::OsStr::from_bytes(b"\xFF\xFE.png");
    fs::write(root.path().join("cat").join(name), "").unwrap();
    let data = train(root.path()).unwrap();
    assert_eq!(data.samples[1].path, Path::new("cat").join(name));
    fs::create_dir(root.path().join(std::ffi::OsStr::from_bytes(b"\xFF"))).unwrap();
    assert_eq!(train(root.path()).unwrap_err().category(), "layout");
}

#[test]
fn tables_name_images_beside_them() {
    let root = folder(&["images/a.png", "images/b, c.png", "d.png"]);
    put(
        root.path(),
        "t.csv",
        "\u{FEFF}label,weight,image\r\ncat,1,images/a.png\r\n\r\n dog ,2,\"images/b, c.png\"\r\ncat,3,d.png\r\n",
    );
    let lines =
        "\n{\"image\": \"images/a.png\", \"label\": \"cat\"}\n{\"label\": 7, \"image\": \"d.png\", \"more\": [1]}\n\n";
    put(root.path(), "t.jsonl", lines);
    let csv = train(&root.path().join("t.csv")).unwrap();
    assert_eq!(csv.root, root.path());
    let expected = pairs(&[("images/a.png", Some("cat")), ("images/b, c.png", Some("dog")), ("d.png", Some("cat"))]);
    assert_eq!(listed(&csv), expected);
    let json = train(&root.path().join("t.jsonl")).unwrap();
    assert_eq!(listed(&json), pairs(&[("images/a.png", Some("cat")), ("d.png", Some("7"))]));
}

#[test]
fn faults_of_tables_name_the_line() {
    let root = folder(&["a.png", "b.png"]);
    let cases = [
        ("1.csv", "image,label\na.png,cat\nb.png\n", "1.csv, line 3: has 1 columns, where the first line has 2"),
        ("2.csv", "path,label\na.png,cat\n", "2.csv, line 1: has no column \"image\"; its columns are: path, label"),
        ("3.csv", "image,label\na.png,cat\n\nc.png,dog\n", "3.csv, line 4: "),
        ("4.csv", "image,label\na.png,cat\nb.png,dog\na.png,dog\n", "4.csv, line 4: a.png is on line 2 already"),
        ("5.csv", "image,label\na.png,cat\nb.png,\n", "5.csv, line 3: b.png has no label"),
        ("6.csv", "image,label\n,cat\n", "6.csv, line 2: names no image"),
        ("7.csv", "image,label,image\na.png,cat,b.png\n", "7.csv, line 1: has more than one column \"image\""),
        ("8.csv", "", "8.csv: the file is empty"),
        ("9.csv", "image,label\n", "9.csv: the table has no rows"),
        ("10.csv", "image,class\na.png,cat\nb.png,dog\n", "10.csv: no line has a label in the column \"label\""),
        (
            "1.jsonl",
            "{\"image\": \"a.png\", \"label\": \"cat\"}\n{\"image\": \"b.png\"\n",
            "1.jsonl, line 2: is not a JSON object",
        ),
        ("2.jsonl", "{\"image\": 1, \"label\": \"cat\"}\n", "2.jsonl, line 1: \"image\" is 1, and not a path"),
        ("3.jsonl", "{\"image\": \"a.png\", \"label\": 1.5}\n", "3.jsonl, line 1: \"label\" is 1.5"),
        ("0.jsonl", "", "0.jsonl: the file is empty"),
        ("5.jsonl", "{\"path\": \"a.png\"}\n", "5.jsonl, line 1: has no \"image\"; its fields are: path"),
        ("4.jsonl", "[1]\n", "4.jsonl, line 1: is not a JSON object"),
        ("t.txt", "a.png", "none of .csv"),
    ];
    for (name, text, words) in cases {
        put(root.path(), name, text);
        let error = train(&root.path().join(name)).unwrap_err();
        assert!(error.to_string().contains(words) && error.cause() == Cause::BadData, "{name}: {error}");
    }
    put(root.path(), "binary.csv", b"image,label\na.png,caf\xE9\n");
    let error = train(&root.path().join("binary.csv")).unwrap_err();
    assert!(error.to_string().contains("binary.csv, line 2: is not UTF-8 text"), "{error}");
}

#[test]
fn what_is_wrong_with_a_table_as_a_whole_is_not_laid_on_a_line() {
    let root = folder(&["a.png", "b.png"]);
    for (name, text, hint) in [
        ("1.csv", "path,label\na.png,cat\n", "data.imageColumn"),
        ("2.csv", "image,class\na.png,cat\nb.png,dog\n", "data.labelColumn"),
        ("3.jsonl", "{\"path\": \"a.png\"}\n", "data.imageColumn"),
        ("4.csv", "image,label\n", "a line for each image"),
        ("5.csv", "image,label\na.png,cat\nb.png,cat\n", "add images of a second class"),
    ] {
        put(root.path(), name, text);
        let error = train(&root.path().join(name)).unwrap_err();
        assert!(error.hint().contains(hint), "{error}: {}", error.hint());
    }
}

#[test]
fn a_table_to_score_may_lack_labels_and_files() {
    let root = folder(&["a.png"]);
    put(root.path(), "t.csv", "image\na.png\ngone.png\na.png\n");
    let data = open(&Source::new(root.path().join("t.csv")), Labels::Optional(&[])).unwrap();
    assert_eq!(listed(&data), pairs(&[("a.png", None), ("gone.png", None), ("a.png", None)]));
}

#[test]
fn the_format_asked_for_must_be_the_one_that_is_there() {
    let root = folder(&["cat/a.png"]);
    let source = Source { format: Format::Csv, ..Source::new(root.path()) };
    assert!(open(&source, Labels::Discover).unwrap_err().to_string().contains("needs a file, and this is a folder"));
    let source = Source { format: Format::ImageFolder, ..Source::new(root.path().join("cat/a.png")) };
    assert!(open(&source, Labels::Discover).unwrap_err().to_string().contains("needs a folder, and this is a file"));
}

#[test]
fn the_digest_knows_paths_labels_and_classes() {
    let digest = |files: &[&str]| train(folder(files).path()).unwrap().digest();
    let one = digest(&["a/1.png", "b/2.png"]);
    assert_eq!(one, digest(&["b/2.png", "a/1.png"]));
    assert_ne!(one, digest(&["a/1.png", "b/3.png"]));
    assert_ne!(one, digest(&["a/1.png", "c/2.png"]));
}
