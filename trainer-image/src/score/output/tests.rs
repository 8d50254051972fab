//! Exactly once, whatever is killed when; and what stands in the files.

mod crashes;
mod formats;
mod peers;

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;

/// Classes of every test, with names that files don't like.
const CLASSES: [&str; 3] = ["cat", "dog, \"wet\"", "=1+1"];

/// A job in a folder of its own.
struct Job {
    root: TempDir,
    classes: Vec<String>,
    inputs: Vec<Input>,
    format: RowFormat,
    layout: Layout,
    shards: u32,
    /// Which process opens it; otherwise there is one for each shard.
    share: Option<Share>,
}

fn job(count: usize) -> Job {
    let input = |index: usize| Input {
        path: format!("images/{index:05}.png").into(),
        label: Some(index as u32 % 3),
        stranger: None,
    };
    Job {
        root: folder(),
        classes: CLASSES.map(String::from).into(),
        inputs: (0..count).map(input).collect(),
        format: RowFormat::Csv,
        layout: Layout { all_classes: true, top_k: 2 },
        shards: 1,
        share: None,
    }
}

/// In memory where the system has such a place: a sync costs nothing there, and these tests make many.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Job {
    fn format(self, format: RowFormat) -> Self {
        Self { format, ..self }
    }

    fn shards(self, shards: u32) -> Self {
        Self { shards, ..self }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("out/rows")
    }

    /// Opens a shard as an attempt of the job `a`.
    fn open(&self, disk: &Disk, shard: u32, attempt: u32) -> Result<Output, OutputError> {
        self.open_as(disk, shard, &owner("a", attempt))
    }

    fn open_as(&self, disk: &Disk, shard: u32, job: &Owner) -> Result<Output, OutputError> {
        let listing = Listing {
            inputs: self.inputs.clone(),
            images_digest: "sha256:i".to_owned(),
            note: Some("one is strange".to_owned()),
        };
        self.open_with(disk, shard, job, Some(&listing))
    }

    fn open_with(
        &self,
        disk: &Disk,
        shard: u32,
        job: &Owner,
        listing: Option<&Listing>,
    ) -> Result<Output, OutputError> {
        let request = Request {
            folder: &self.folder(),
            job,
            format: self.format,
            classes: &self.classes,
            layout: self.layout,
            model_digest: "sha256:m",
            listing,
            share: self.share.unwrap_or(Share { member: shard, members: self.shards, process: 0, processes: 1 }),
        };
        Output::open_on(disk, &request)
    }

    /// The writer of the first shard.
    fn writer(&self, attempt: u32) -> Writer {
        self.writer_of(0, attempt)
    }

    fn writer_of(&self, shard: u32, attempt: u32) -> Writer {
        match self.open(&Disk::default(), shard, attempt).unwrap() {
            Output::Resume(mut writers) => writers.swap_remove(0),
            Output::Finished { .. } => panic!("the output is finished"),
        }
    }

    /// Runs one shard to its end, or to that of the disk's fate.
    fn run(&self, disk: &Disk, shard: u32, attempt: u32) -> Result<Option<Manifest>, OutputError> {
        match self.open(disk, shard, attempt)? {
            Output::Finished { manifest, .. } => Ok(Some(manifest)),
            Output::Resume(writers) => {
                let mut manifest = None;
                for mut writer in writers {
                    while let Some(range) = writer.next_missing() {
                        let rows = rows(range.clone());
                        writer.commit(range, &rows)?;
                    }
                    manifest = writer.finish()?.manifest;
                }
                Ok(manifest)
            }
        }
    }

    /// Runs every shard to its end.
    fn run_all(&self, attempt: u32) -> Manifest {
        let ends: Vec<_> = (0..self.shards).map(|shard| self.run(&Disk::default(), shard, attempt).unwrap()).collect();
        ends.last().cloned().flatten().expect("the last shard completes the output")
    }

    /// Every file of the output with its content; the attempt that completed it is taken out.
    fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let mut tree = BTreeMap::new();
        let mut folders = vec![self.folder()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.folder()).unwrap().to_string_lossy().into_owned();
                let mut bytes = std::fs::read(&path).unwrap();
                if name.ends_with(".json") {
                    let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    json.as_object_mut().unwrap().remove("attempt");
                    json.get_mut("job").and_then(|job| job.as_object_mut()).map(|job| job.remove("attempt"));
                    bytes = json.to_string().into_bytes();
                }
                tree.insert(name, bytes);
            }
        }
        tree
    }
}

fn owner(uid: &str, attempt: u32) -> Owner {
    Owner { uid: uid.into(), name: format!("ScoringJob default/{uid}"), attempt, created: None }
}

/// What the "model" says of an input depends on its index alone; every tenth is an error.
fn rows(range: Range<usize>) -> Vec<Row> {
    let row = |index: usize| {
        if index % 10 == 9 {
            return Err(format!("image {index} is truncated"));
        }
        let first = 1.0 / (index % 7 + 2) as f32;
        let probabilities = vec![first, (1.0 - first) * 0.75, (1.0 - first) * 0.25];
        Ok(Prediction { class: usize::from(first < 0.5), probabilities })
    };
    range.map(row).collect()
}

/// A disk whose process dies after so many steps.
fn dying_after(steps: i64) -> Disk {
    Disk { fate: crate::folder::Fate(Some(Arc::new(steps.into()))) }
}

const FORMATS: [RowFormat; 3] = [RowFormat::Csv, RowFormat::JsonLines, RowFormat::Parquet];
