//! Tells the programs where libtorch is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var_os("LIBTORCH").unwrap_or_default();
    if let Ok(home) = std::fs::canonicalize(libtorch) {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{}", home.join("lib").display());
    }
}
