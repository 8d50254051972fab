//! The commands that need no cluster, with a model that they train.

use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::{fs, io::Cursor};

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;
use tests::program::trainyard;

use crate::story::{Story, manifest};

pub(crate) const COMMANDS: [&str; 10] = [
    "ln -s trainyard target/debug/kubectl-trainyard",
    "export PATH=\"$PWD/target/debug:$PATH\"",
    "trainyard completions bash > trainyard.bash",
    "trainyard validate -f job.yaml",
    "trainyard run -f job.yaml",
    "trainyard run -f job.yaml --set spec.training.epochs=3 --device Cpu",
    "trainyard evaluations pvc://models/flowers",
    "trainer serve DIR",
    "curl --data-binary @a.jpg -H 'Content-Type: image/jpeg' localhost:8080/v2/models/DIR/infer",
    "trainyard explain 161",
];

/// A story with the README's manifests and images of two classes of flowers.
fn story() -> Story {
    let story = Story::new(Path::new("/dev/null"));
    story.file("job.yaml", manifest("TrainingJob"));
    story.file("scoring.yaml", manifest("ScoringJob"));
    for (set, images) in [("flowers", 3), ("new", 2)] {
        for (class, colour) in [("rose", [200, 30, 60]), ("violet", [90, 40, 200])] {
            for index in 0..images {
                let shade = |x: u32, y: u32| colour.map(|part| part ^ ((x * y + index * 7) % 32) as u8);
                let mut png = Cursor::new(Vec::new());
                RgbImage::from_fn(48, 48, |x, y| Rgb(shade(x, y)))
                    .write_to(&mut png, ImageFormat::Png)
                    .expect("a picture");
                story.file(&format!(".trainyard/volumes/datasets/{set}/{class}/{index}.png"), png.into_inner());
            }
        }
    }
    story
}

#[test]
fn what_is_told_of_one_machine_works() {
    let [link, path, complete, validate, run, changed, evaluations, serve, curl, explain] = COMMANDS;
    let first = story();
    fs::create_dir_all(first.folder.path().join("target/debug")).expect("a folder");
    symlink(trainyard(), first.folder.path().join("target/debug/trainyard")).expect("a link");
    first.run(link);
    assert!(first.run(&format!("{path}; kubectl trainyard version --client")).contains(env!("CARGO_PKG_VERSION")));
    first.run(complete);
    assert!(first.run("cat trainyard.bash").contains("_trainyard"));
    first.run(validate);
    assert!(first.run(changed).contains("TrainingJob flowers is done"));

    let story = story();
    assert!(story.run(run).contains("TrainingJob flowers is done"));
    assert!(story.run("trainyard run -f scoring.yaml").contains("ScoringJob flowers-new is done"));
    let model = story.folder.path().join(".trainyard/volumes/models/flowers");
    for file in ["model.safetensors", "model.json", "metrics.json", "report.html", "tensorboard"] {
        assert!(model.join(file).exists(), "{file}");
    }
    assert!(story.run(evaluations).contains("flowers-new"));
    assert!(story.run(explain).contains("PeerLost"));

    symlink(&model, story.folder.path().join("DIR")).expect("a link");
    let pixels = [200, 30, 60].repeat(48 * 48);
    let picture = turbojpeg::Image {
        pixels: &pixels[..],
        width: 48,
        pitch: 144,
        height: 48,
        format: turbojpeg::PixelFormat::RGB,
    };
    story.file("a.jpg", &turbojpeg::compress(picture, 90, turbojpeg::Subsamp::None).expect("a JPEG")[..]);
    assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "something else listens on the README's port 8080");
    let _server = story.start(serve);
    for tries in 0.. {
        if TcpStream::connect("127.0.0.1:8080").is_ok() {
            break;
        }
        let log = || fs::read_to_string(story.folder.path().join("started.log")).unwrap_or_default();
        assert!(tries < 300, "the server does not come up: {}", log());
        sleep(Duration::from_millis(100));
    }
    let answer: Value =
        serde_json::from_str(&story.run(&format!("{curl} --silent --fail --retry 20 --retry-delay 1"))).expect("JSON");
    assert!(["rose", "violet"].contains(&answer["label"].as_str().unwrap_or_default()), "{answer}");
}
