//! Writes the handwritten digits of `crds/examples/data` as PNG files, for the examples, the tests and the benchmarks:
//! `digits FOLDER` makes `FOLDER/{train,test}/<0..9>/<line>.png`. Every fifth image of each digit is held out in `test`.
//!
//! The folder appears whole or not at all, so a run that was cut short leaves nothing that looks finished.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use flate2::read::GzDecoder;
use image::{GrayImage, ImageFormat};

const DIGITS: &[u8] = include_bytes!("../../../crds/examples/data/digits.csv.gz");
/// Images in the file.
const IMAGES: usize = 1797;
/// Width and height of an image, in pixels.
const SIDE: usize = 8;
/// The value of a pixel that is all ink.
const INK: u32 = 16;
/// One image of a digit out of so many is held out.
const HELD_OUT: usize = 5;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: digits FOLDER");
        return ExitCode::from(64);
    };
    let folder = PathBuf::from(folder);
    match write(&folder) {
        Ok(true) => println!("{}: {IMAGES} images written", folder.display()),
        Ok(false) => println!("{}: already there", folder.display()),
        Err(error) => {
            eprintln!("digits: {}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Makes the folder; false if it is there already.
fn write(folder: &Path) -> Result<bool, Box<dyn Error>> {
    if folder.exists() {
        return if is_complete(folder) {
            Ok(false)
        } else {
            Err("exists and does not hold the digits; name another folder, or remove it".into())
        };
    }
    let name = folder.file_name().ok_or("is not a folder that can be made")?.to_string_lossy();
    let partial = folder.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fill(&partial).and_then(|()| Ok(fs::rename(&partial, folder)?));
    match written {
        Ok(()) => Ok(true),
        Err(error) => {
            let _ = fs::remove_dir_all(&partial);
            // Another process that makes the same folder may have come first.
            if is_complete(folder) { Ok(false) } else { Err(error) }
        }
    }
}

/// Writes all images below `folder`.
fn fill(folder: &Path) -> Result<(), Box<dyn Error>> {
    for part in ["train", "test"] {
        for digit in 0..10 {
            fs::create_dir_all(folder.join(part).join(digit.to_string()))?;
        }
    }
    let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(GzDecoder::new(DIGITS));
    let mut seen = [0_usize; 10];
    for (line, record) in lines.deserialize::<Vec<u32>>().enumerate() {
        let mut values = record?;
        let digit = values.pop().ok_or("a line without a digit")? as usize;
        let pixels =
            values.into_iter().map(|value| u8::try_from((value * 255 + INK / 2) / INK)).collect::<Result<_, _>>()?;
        let image = GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).ok_or("a line without 64 pixels")?;
        let part = if seen[digit] % HELD_OUT == HELD_OUT - 1 { "test" } else { "train" };
        seen[digit] += 1;
        let path = folder.join(part).join(digit.to_string()).join(format!("{:04}.png", line + 1));
        image.save_with_format(path, ImageFormat::Png)?;
    }
    Ok(())
}

/// Whether the folder holds as many images as the file.
fn is_complete(folder: &Path) -> bool {
    let count = || -> io::Result<usize> {
        let mut files = 0;
        for part in ["train", "test"] {
            for digit in fs::read_dir(folder.join(part))? {
                files += fs::read_dir(digit?.path())?.count();
            }
        }
        Ok(files)
    };
    count().is_ok_and(|files| files == IMAGES)
}
