//! The runtimes that a job can run on: images with their CUDA and the GPUs that they have code for.

use std::collections::BTreeSet;

use crds::cuda::{Architecture, CudaVersion, DriverVersion, minimum_driver};
use serde::Deserialize;
use serde_json::Value;

use crate::manifest::value_of;

/// Runtimes that a job can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    runtimes: Vec<Runtime>,
}

/// An image of our trainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its name, as `spec.infrastructure.runtime` gives it.
    pub name: String,
    /// The image.
    pub image: String,
    /// The architectures of nodes that the image is for, as the label `kubernetes.io/arch` names them.
    pub architectures: Vec<String>,
    /// Its CUDA; `None` for an image that computes on CPUs only.
    pub cuda: Option<Cuda>,
}

/// The CUDA side of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// Its version.
    pub version: CudaVersion,
    /// The oldest driver that runs it.
    pub driver: DriverVersion,
    /// What its code was compiled for.
    pub built: Vec<Architecture>,
}

/// A catalogue that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is no YAML, or no list under `runtimes`.
    #[error("the runtime catalogue can't be read: {0}")]
    Yaml(String),
    /// An entry makes no sense.
    #[error("runtime {name:?} of the catalogue: {problem}")]
    Entry {
        /// Name of the entry.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It has no entry.
    #[error("the runtime catalogue has no runtime: give at least one under runtimes")]
    Empty,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    runtimes: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRuntime {
    name: String,
    image: String,
    #[serde(default = "ours")]
    architectures: Vec<String>,
    cuda: Option<String>,
    #[serde(default)]
    compute_capabilities: Vec<String>,
    minimum_driver: Option<String>,
}

/// The architectures of our own images.
fn ours() -> Vec<String> {
    vec!["amd64".to_owned()]
}

/// Longest name of a runtime, as the schema of `spec.infrastructure.runtime` has it.
const NAME_BYTES: usize = 63;

impl Catalogue {
    /// Reads a catalogue:
    ///
    /// ```yaml
    /// runtimes:
    ///   - name: cuda-13.0
    ///     image: ghcr.io/trainyard/trainer:0.1.0-cuda-13.0
    ///     cuda: "13.0"
    ///     computeCapabilities: ["7.5", "8.0", "9.0"]
    ///     minimumDriver: "535.54.03" # only for an image with a forward-compatibility package
    ///     architectures: [amd64, arm64] # amd64 if it is not given
    /// ```
    ///
    /// Versions are texts, in quotes: as a number, 12.10 would be 12.1. An entry without `cuda` is for CPUs. The newest CUDA is the
    /// default of jobs on GPUs, whatever the order.
    ///
    /// # Errors
    /// What is wrong, with the name of the entry.
    pub fn parse(yaml: &str) -> Result<Catalogue, CatalogueError> {
        let value = value_of(yaml).map_err(CatalogueError::Yaml)?;
        let written: Written =
            serde_json::from_value(value).map_err(|error| CatalogueError::Yaml(error.to_string()))?;
        let mut names = BTreeSet::new();
        let mut runtimes = Vec::new();
        for (index, entry) in written.runtimes.into_iter().enumerate() {
            let name = entry.get("name").and_then(Value::as_str).map_or(format!("number {}", index + 1), str::to_owned);
            let read = |entry| serde_json::from_value(entry).map_err(|error| readable(&error));
            let runtime = read(entry).and_then(runtime).and_then(|runtime| match names.insert(name.clone()) {
                true => Ok(runtime),
                false => Err("there is another one of that name: rename one".to_owned()),
            });
            runtimes.push(runtime.map_err(|problem| CatalogueError::Entry { name, problem })?);
        }
        Catalogue::of(runtimes)
    }

    /// Whether there is a runtime of this name.
    pub fn has(&self, name: &str) -> bool {
        self.runtimes.iter().any(|runtime| runtime.name == name)
    }

    /// A catalogue of these runtimes.
    ///
    /// # Errors
    /// [`CatalogueError::Empty`] if there are none.
    pub fn of(mut runtimes: Vec<Runtime>) -> Result<Catalogue, CatalogueError> {
        if runtimes.is_empty() {
            return Err(CatalogueError::Empty);
        }
        // Stable: of two with the same CUDA the first one stays first. Those without CUDA come last.
        runtimes.sort_by_key(|runtime| std::cmp::Reverse(runtime.cuda.as_ref().map(|cuda| cuda.version)));
        Ok(Catalogue { runtimes })
    }

    /// The catalogue of this version: our own trainer. Its CUDA and code are those of libtorch 2.11's build, which it has inside.
    pub fn built_in() -> Catalogue {
        let version = CudaVersion { major: 13, minor: 0 };
        let built = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)];
        let built = built.map(|(major, minor)| Architecture { major, minor }).to_vec();
        let oldest = DriverVersion { major: 580, minor: 65, revision: 6 };
        let cuda = Cuda { version, driver: minimum_driver(version).unwrap_or(oldest), built };
        let runtime = |name: &str, cuda: Option<Cuda>| Runtime {
            name: name.to_owned(),
            image: format!("ghcr.io/trainyard/trainer:{}-{name}", env!("CARGO_PKG_VERSION")),
            architectures: ours(),
            cuda,
        };
        Catalogue { runtimes: vec![runtime("cuda-13.0", Some(cuda)), runtime("cpu", None)] }
    }

    /// The runtimes, the newest CUDA first, those for CPUs last.
    pub fn runtimes(&self) -> &[Runtime] {
        &self.runtimes
    }

    /// The runtime of that name.
    pub fn named(&self, name: &str) -> Option<&Runtime> {
        self.runtimes.iter().find(|runtime| runtime.name == name)
    }

    /// The runtime for CPUs: the first entry without CUDA, else the newest, whose image computes on CPUs as well.
    pub fn for_cpus(&self) -> Option<&Runtime> {
        self.runtimes.iter().find(|runtime| runtime.cuda.is_none()).or(self.runtimes.first())
    }
}

/// What serde says, with what to do where a version was written as a number.
fn readable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let number = text.contains("floating point") || text.contains("integer");
    if number { format!("{text}: put versions in quotes, as in \"12.4\"") } else { text }
}

fn runtime(entry: WrittenRuntime) -> Result<Runtime, String> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if entry.name.is_empty() || entry.name.len() > NAME_BYTES || !entry.name.bytes().all(letters) {
        return Err(format!("its name must have 1 to {NAME_BYTES} lower-case letters, digits, - and ."));
    }
    if entry.image.trim().is_empty() {
        return Err("image is empty: name the image with its tag or digest".to_owned());
    }
    let lower =
        |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if entry.architectures.is_empty() || !entry.architectures.iter().all(lower) {
        return Err(
            "architectures: list them as nodes have them in kubernetes.io/arch, such as [amd64, arm64]".to_owned()
        );
    }
    let (name, image, architectures) = (entry.name, entry.image, entry.architectures);
    let Some(version) = entry.cuda else {
        return match entry.compute_capabilities.is_empty() && entry.minimum_driver.is_none() {
            true => Ok(Runtime { name, image, architectures, cuda: None }),
            false => Err("computeCapabilities and minimumDriver belong to a CUDA: give cuda too".to_owned()),
        };
    };
    let version: CudaVersion = version.parse().map_err(|error| format!("cuda: {error}"))?;
    let driver: DriverVersion = match entry.minimum_driver {
        Some(text) => text.parse().map_err(|error| format!("minimumDriver: {error}"))?,
        None => minimum_driver(version)
            .ok_or_else(|| format!("the oldest driver for CUDA {version} is not known here: give minimumDriver"))?,
    };
    if driver.major == 0 {
        return Err("minimumDriver: a driver's first number is not 0".to_owned());
    }
    let built = entry.compute_capabilities.iter().map(|text| text.parse());
    let built: Vec<Architecture> =
        built.collect::<Result<_, _>>().map_err(|error| format!("computeCapabilities: {error}"))?;
    if built.is_empty() {
        return Err("computeCapabilities is empty: list what the code was compiled for, such as \"9.0\"".to_owned());
    }
    Ok(Runtime { name, image, architectures, cuda: Some(Cuda { version, driver, built }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_is_read_and_sorted_by_its_cuda() {
        let yaml = r#"
runtimes:
  - {name: cpu, image: trainer:cpu}
  - {name: cuda-10.2, image: "trainer:a", cuda: "10.2", computeCapabilities: ["3.7", "7.0"]}
  - {name: cuda-12.10, image: "trainer:b", cuda: "12.10", computeCapabilities: ["9.0"], minimumDriver: "470.57.02"}
"#;
        let catalogue = Catalogue::parse(yaml).unwrap();
        let says = |runtime: &Runtime| {
            let cuda = runtime.cuda.as_ref();
            cuda.map_or(runtime.name.clone(), |cuda| format!("{} {} {}", runtime.name, cuda.version, cuda.driver))
        };
        let runtimes: Vec<String> = catalogue.runtimes().iter().map(says).collect();
        assert_eq!(runtimes, ["cuda-12.10 12.10 470.57.02", "cuda-10.2 10.2 440.33", "cpu"]);
        assert_eq!(catalogue.for_cpus().map(|runtime| runtime.name.as_str()), Some("cpu"));
        let without = Catalogue::parse(&yaml.replace("  - {name: cpu, image: trainer:cpu}\n", "")).unwrap();
        assert_eq!(
            without.for_cpus().map(|runtime| runtime.name.as_str()),
            Some("cuda-12.10"),
            "it computes on CPUs too"
        );
        assert_eq!(catalogue.runtimes()[2].architectures, ["amd64"], "unless others are given");
    }

    #[test]
    fn a_fault_names_its_entry_and_what_to_do() {
        for (entry, fault) in [
            ("", "the runtime catalogue has no runtime: give at least one under runtimes"),
            (
                "{name: A, image: i}",
                r#"runtime "A" of the catalogue: its name must have 1 to 63 lower-case letters, digits, - and ."#,
            ),
            (
                "{name: a, image: ''}",
                r#"runtime "a" of the catalogue: image is empty: name the image with its tag or digest"#,
            ),
            (
                "{name: a, image: i, cuda: '9.2', computeCapabilities: ['7.0']}",
                r#"runtime "a" of the catalogue: the oldest driver for CUDA 9.2 is not known here: give minimumDriver"#,
            ),
            (
                "{name: a, image: i, cuda: '12.x', computeCapabilities: ['7.0']}",
                r#"runtime "a" of the catalogue: cuda: "12.x" is no version: expected two or three numbers with dots between them"#,
            ),
            (
                "{name: a, image: i, cuda: '12.4'}",
                r#"runtime "a" of the catalogue: computeCapabilities is empty: list what the code was compiled for, such as "9.0""#,
            ),
            (
                "{name: a, image: i, minimumDriver: '580.65'}",
                r#"runtime "a" of the catalogue: computeCapabilities and minimumDriver belong to a CUDA: give cuda too"#,
            ),
            (
                "{name: a, image: i, cuda: 12.4}",
                r#"runtime "a" of the catalogue: invalid type: floating point `12.4`, expected a string: put versions in quotes, as in "12.4""#,
            ),
            (
                "{name: a, image: i, architectures: [x86/64]}",
                r#"runtime "a" of the catalogue: architectures: list them as nodes have them in kubernetes.io/arch, such as [amd64, arm64]"#,
            ),
            (
                "{name: a, image: i}, {name: a, image: j}",
                r#"runtime "a" of the catalogue: there is another one of that name: rename one"#,
            ),
        ] {
            let error = Catalogue::parse(&format!("runtimes: [{entry}]")).unwrap_err();
            assert_eq!(error.to_string(), fault);
        }
        let unknown = Catalogue::parse("runtimes: [{name: a, image: i, cudda: '12.4'}]").unwrap_err().to_string();
        assert!(unknown.contains("cudda"), "{unknown}");
    }

    #[test]
    fn the_built_in_catalogue_knows_the_driver_of_its_cuda() {
        let catalogue = Catalogue::built_in();
        let cuda = catalogue.runtimes()[0].cuda.clone().unwrap();
        assert_eq!((cuda.version.to_string(), cuda.driver.to_string()), ("13.0".to_owned(), "580.65.06".to_owned()));
        assert_eq!(catalogue.for_cpus(), catalogue.named("cpu"), "the small image");
    }
}
