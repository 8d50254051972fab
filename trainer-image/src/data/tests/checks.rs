//! What is said of a data set before it is trained on.

use std::path::Path;

use image::RgbImage;

use super::super::checks::{Finding, check};
use super::super::{Dataset, Labels, Source, open};

/// Writes a picture that differs by its name.
fn picture(file: &Path, side: u32, number: u8) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    RgbImage::from_fn(side, side, |x, y| image::Rgb([number, x as u8, y as u8])).save(file).unwrap();
}

fn data(root: &Path, part: &str) -> Dataset {
    let known = ["cat".to_owned(), "dog".to_owned()];
    open(&Source::new(root.join(part)), Labels::Known(&known)).unwrap()
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}: {}", finding.check, finding.text)).collect()
}

#[test]
fn sound_data_gives_no_finding() {
    let root = tempfile::tempdir().unwrap();
    for (part, first) in [("training", 0), ("validation", 100)] {
        for number in 0..4 {
            picture(&root.path().join(format!("{part}/cat/{number}.png")), 16, first + number);
            picture(&root.path().join(format!("{part}/dog/{number}.png")), 16, first + 50 + number);
        }
    }
    let (training, validation) = (data(root.path(), "training"), data(root.path(), "validation"));
    assert_eq!(check(&training, Some(&validation), 32).unwrap(), []);
    assert_eq!(check(&training, None, 32).unwrap(), []);
}

#[test]
fn each_finding_says_what_and_where() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..20 {
        picture(&root.path().join(format!("training/cat/{number:02}.png")), 16, number);
    }
    picture(&root.path().join("training/dog/0.png"), 7, 99);
    picture(&root.path().join("validation/cat/copy.png"), 16, 3);
    picture(&root.path().join("validation/cat/own.png"), 16, 77);
    // What can't be read is no finding here: whoever loads it says so.
    std::fs::write(root.path().join("training/cat/torn.png"), b"").unwrap();
    let (training, validation) = (data(root.path(), "training"), data(root.path(), "validation"));
    assert_eq!(
        texts(&check(&training, Some(&validation), 32).unwrap()),
        [
            "classes: validation says nothing of class dog: it has no image of it",
            "balance: class \"cat\" has 21 images to train on and class \"dog\" has 1: accuracy can look good while small \
             classes are not recognised; see each class in the report",
            "duplicates: 1 of 2 validation images are trained on as well, byte for byte, so that validation flatters the \
             model: cat/copy.png (as cat/03.png)",
            "image size: 1 of 23 images looked at are blown up more than 4 times to 32 pixels (data.imageSize): dog/0.png",
        ]
    );
}
