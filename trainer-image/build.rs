//! Tells the linker where libtorch will be when the trainer runs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // In an image the binary is bin/trainer and libtorch lies in lib/ beside bin/.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    // On a developer's machine libtorch stays in its cache.
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        if let Ok(lib) = std::fs::canonicalize(libtorch).map(|home| home.join("lib")) {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        }
    }
}
