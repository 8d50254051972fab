//! Two models that are trained once for all tests, and images to ask them about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crds::contract::{Assignment, CONTRACT_VERSION, env};
use serde_json::{Value, json};

/// Classes of the models.
pub(crate) const CLASSES: [&str; 2] = ["left", "right"];

/// A folder of this run with images in class folders, `first` and `second`: two models of them, of different seeds.
static TRAINED: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(std::env!("CARGO_TARGET_TMPDIR")).join("serving");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    for class in CLASSES {
        let folder = root.join("images").join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..10 {
            fs::write(folder.join(format!("{index:03}.png")), png(class == "left", index)).unwrap();
        }
    }
    for (name, seed) in [("first", 1), ("second", 2)] {
        let spec = json!({
            "data": {"uri": uri(&root.join("images")), "imageSize": 32, "validation": {"fraction": 0.2},
                     "augmentation": {"crop": "None", "horizontalFlip": 0.0}},
            "training": {"epochs": 2, "batchSize": 8, "seed": seed,
                         "optimizer": {"name": "AdamW", "learningRate": 0.001}},
            "infrastructure": {"device": "Cpu"},
            "output": {"uri": uri(&root.join(name))},
        });
        launch("TrainingJob", name, &spec);
    }
    root
});

/// A folder of what was trained: `images`, `first`, `second`.
pub(crate) fn trained(name: &str) -> PathBuf {
    TRAINED.join(name)
}

pub(crate) fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Runs a job of the trainer to its end.
pub(crate) fn launch(kind: &str, name: &str, spec: &Value) {
    launch_with(kind, name, spec, &[]);
}

pub(crate) fn launch_with(kind: &str, name: &str, spec: &Value, variables: &[(&str, &str)]) {
    let assignment = Assignment {
        contract_version: CONTRACT_VERSION,
        kind: kind.into(),
        name: name.into(),
        namespace: "default".into(),
        uid: format!("uid-{name}"),
        created: None,
        attempt: 1,
        member: 0,
        members: 1,
        spec,
    };
    let output = Command::new(std::env!("CARGO_BIN_EXE_trainer"))
        .arg("launch")
        .env(env::ASSIGNMENT, serde_json::to_string(&assignment).unwrap())
        .env(env::PROGRESS_PORT, "0")
        .env(env::TERMINATION_LOG, "/dev/null")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An image of 16 by 16 pixels whose left or right half is bright.
pub(crate) fn picture(bright_left: bool, index: u32) -> image::RgbImage {
    image::RgbImage::from_fn(16, 16, |x, y| {
        let noise = (x * 7 + y * 13 + index * 29) % 64;
        let level = if (x < 8) == bright_left { 180 } else { 20 };
        image::Rgb([(level + noise) as u8; 3])
    })
}

pub(crate) fn png(bright_left: bool, index: u32) -> Vec<u8> {
    encoded(&picture(bright_left, index), image::ImageFormat::Png)
}

pub(crate) fn encoded(picture: &image::RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A copy of a model folder that a test may spoil.
pub(crate) fn copy_of(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in ["model.json", "model.safetensors", "metrics.json"] {
        fs::copy(trained(name).join(file), to.join(file)).unwrap();
    }
}
