//! Compiles the C++ shim against libtorch's headers and the protocol of the server, and tells the linker where libtorch will be when
//! the trainer runs.

use std::path::{Path, PathBuf};

const SHIM: &str = "src/torch/shim";
/// Folder of the protocol that is served by gRPC.
const PROTOCOL: &str = "src/serve/grpc";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // In an image the binary is bin/trainer and libtorch lies in lib/ beside bin/.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    let libtorch = libtorch();
    // On a developer's machine libtorch stays in its cache. Other packages that link this one read the place as
    // DEP_TRAINER_SHIM_LIBTORCH_LIB.
    let lib = libtorch.join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:libtorch_lib={}", lib.display());
    compile_shim(&libtorch.join("include"));
    compile_protocol();
}

/// In pure Rust: no protoc is needed.
fn compile_protocol() {
    println!("cargo:rerun-if-changed={PROTOCOL}/open_inference.proto");
    let descriptors = protox::compile(["open_inference.proto"], [PROTOCOL]).expect("the protocol is well-formed");
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .compile_fds(descriptors)
        .expect("the folder for generated code can be written");
}

fn libtorch() -> PathBuf {
    let told = std::env::var("LIBTORCH").unwrap_or_default();
    match std::fs::canonicalize(&told) {
        Ok(home) if !told.is_empty() => home,
        _ => panic!("LIBTORCH is {told:?}, which is no folder; run trainer-image/libtorch.sh, which fetches libtorch"),
    }
}

fn compile_shim(include: &Path) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .flag(format!("-isystem{SHIM}/gloo"));
    for file in [
        "graph",
        "group",
        "lane",
        "last_words",
        "plugin",
        "reducer",
        "tensor",
        "optim",
        "packed",
        "driver",
        "nvml",
        "sync_norm",
    ] {
        build.file(format!("{SHIM}/{file}.cpp"));
    }
    build.compile("trainer-shim");
    // The shim is a static library that needs these; the linker takes them in this order.
    for library in ["torch_cpu", "c10", "dl"] {
        println!("cargo:rustc-link-lib={library}");
    }
}
