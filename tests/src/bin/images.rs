//! Assembles our images for CPUs without a container engine: `images BUILT OUT` takes the programs that cargo built into the folder
//! BUILT, writes OCI archives into OUT, and prints how large they are, packed and unpacked. One that is larger than it may be is a fault.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use tests::image::{Packing, Product, Programs};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [built, out] = arguments.as_slice() else {
        eprintln!("usage: images BUILT OUT");
        return ExitCode::from(64);
    };
    match assemble(Path::new(built), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("images: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn assemble(built: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    // The script that assembles files works in the repository's root.
    let (built, out) = (built.canonicalize()?, out.canonicalize()?);
    println!("{:<10} {:>10} {:>10}  digest", "image", "packed MB", "MB");
    for product in Product::ALL {
        let image = product.image(Programs { built: &built, work: &out }, &product.released(), Packing::Zstd)?;
        let digest = image.write(&out.join(product.name()).with_extension("tar"))?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{:<10} {:>10.1} {:>10.1}  {digest}",
            product.name(),
            megabytes(image.packed_size()),
            megabytes(image.size())
        );
        for (layer, name) in image.layers.iter().zip(&image.settings.layers) {
            println!("  {name:<8} {:>10.1} {:>10.1}", megabytes(layer.packed.len() as u64), megabytes(layer.size));
        }
        let (packed, most) = (image.packed_size(), product.most_packed());
        if packed > most {
            let (name, packed, most) = (product.name(), megabytes(packed), megabytes(most));
            return Err(format!("the image of the {name} has {packed:.1} MB packed, and may have {most:.0}").into());
        }
    }
    Ok(())
}
