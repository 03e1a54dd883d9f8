//! Link settings. The Python extension finds libtorch beside itself, in the `torch` package that
//! is imported first; test, bench and example binaries need an absolute path and an explicit
//! `-ltorch`, without which the linker drops `libtorch_cuda` and CUDA silently vanishes.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KOOPFLOW_TORCH_VERSION");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    if env::var_os("CARGO_FEATURE_PYTHON").is_some() {
        println!("cargo:rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN/../torch/lib");
        return;
    }
    if let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg=-ltorch");
}
