//! Images to measure with: made, so that nothing is downloaded, and like photos in what a decoder feels: as many bytes for a pixel,
//! detail at every scale.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// A folder with two classes of photos of this size, in all `count`; made once. JPEG, quality 90, 4:2:0, about 1.9 bits a pixel.
pub(crate) fn folder(parent: &Path, width: usize, height: usize, count: usize) -> Result<PathBuf, Box<dyn Error>> {
    let folder = parent.join(format!("{width}x{height}"));
    if folder.exists() {
        return Ok(folder);
    }
    let partial = parent.join(format!(".{width}x{height}"));
    let mut compressor = Compressor::new()?;
    compressor.set_quality(90)?;
    compressor.set_subsamp(Subsamp::Sub2x2)?;
    let mut bytes = 0;
    for number in 0..count {
        let pixels = photo(width, height, number as u32 + 1);
        let pitch = width * 3;
        let image = Image { pixels: pixels.as_slice(), width, pitch, height, format: PixelFormat::RGB };
        let jpeg = compressor.compress_to_vec(image)?;
        bytes += jpeg.len();
        let class = partial.join(format!("{}", number % 2));
        fs::create_dir_all(&class)?;
        fs::write(class.join(format!("{number:03}.jpg")), jpeg)?;
    }
    println!("{}: {count} images made, {} KB each", folder.display(), bytes / count / 1000);
    fs::rename(partial, &folder)?;
    Ok(folder)
}

/// Noise at scales from the whole image down to single pixels, the finer the weaker, in three related colours.
fn photo(width: usize, height: usize, seed: u32) -> Vec<u8> {
    let mut values = vec![128.0_f32; width * height * 3];
    let mut spacing = width.max(height);
    let mut octave = 0;
    while spacing >= 1 {
        // Amplitudes fall with the frequency, as in photos; the sensor's noise is at the end.
        let amplitude =
            if spacing == 1 { 5.0 } else { (90.0 * (spacing as f32 / width.max(height) as f32).sqrt()).min(48.0) };
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let shared = lattice(x, y, spacing, seed.wrapping_mul(31) + octave * 7);
                    let own = lattice(x, y, spacing * 2, seed.wrapping_mul(57) + octave * 11 + channel as u32);
                    values[(y * width + x) * 3 + channel] += amplitude * (0.8 * shared + 0.2 * own);
                }
            }
        }
        spacing /= 3;
        octave += 1;
    }
    // The conversion saturates.
    values.into_iter().map(|value| value as u8).collect()
}

/// Smooth noise from -1 to 1 with a random value at each multiple of `spacing`.
fn lattice(x: usize, y: usize, spacing: usize, seed: u32) -> f32 {
    let value = |column: usize, row: usize| {
        let mut hash = seed ^ (column as u32).wrapping_mul(0x9E37_79B1) ^ (row as u32).wrapping_mul(0x85EB_CA77);
        hash = (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D);
        hash = (hash ^ (hash >> 12)).wrapping_mul(0x297A_2D39);
        ((hash ^ (hash >> 15)) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let (column, row) = (x / spacing, y / spacing);
    let (right, down) = ((x % spacing) as f32 / spacing as f32, (y % spacing) as f32 / spacing as f32);
    let upper = value(column, row) * (1.0 - right) + value(column + 1, row) * right;
    let lower = value(column, row + 1) * (1.0 - right) + value(column + 1, row + 1) * right;
    upper * (1.0 - down) + lower * down
}
