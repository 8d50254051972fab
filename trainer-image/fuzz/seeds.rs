//! Writes the seeds of each target into a folder of its name below the one that is named.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::args_os().nth(1).ok_or_else(|| io::Error::other("name a folder"))?);
    for target in trainer::strangers::TARGETS {
        let folder = root.join(target.name);
        fs::create_dir_all(&folder)?;
        for seed in target.seeds() {
            fs::write(folder.join(&seed.name), seed.bytes)?;
        }
    }
    Ok(())
}
