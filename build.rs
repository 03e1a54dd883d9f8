//! Link settings. The Python extension finds libtorch beside itself, in the `torch` package that
//! is imported first; test, bench and example binaries need an absolute path and an explicit
//! `-ltorch`, without which the linker drops `libtorch_cuda` and CUDA silently vanishes.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").ok();
    if let Some(lib) = lib.as_deref() {
        compile_gradient(Path::new(lib));
    }
    if env::var_os("CARGO_FEATURE_PYTHON").is_some() {
        let version = lib.as_deref().and_then(|lib| torch_version(Path::new(lib)));
        // `python/mod.rs` refuses to compile without it, so that no extension is built blind.
        if let Some(version) = version {
            println!("cargo:rustc-env=KOOPFLOW_TORCH_VERSION={version}");
        }
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    if env::var_os("CARGO_FEATURE_PYTHON").is_some() {
        println!("cargo:rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN/../torch/lib");
        return;
    }
    if let Some(lib) = lib {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg=-ltorch");
}

/// The C++ beside `tensor/gradient.rs`, with the flags of torch-sys's own.
fn compile_gradient(lib: &Path) {
    let source = "src/tensor/gradient.cpp";
    println!("cargo:rerun-if-changed={source}");
    let Some(include) = lib.parent().map(|root| root.join("include")) else { return };
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .std("c++17")
        .file(source)
        .compile("koopflow_gradient");
}

/// The public version (`2.11.0`, without `+cu130`) of the libtorch that torch-sys links: from the
/// `torch` package's own `version.py`, or from `build-version` where it is a bare libtorch.
fn torch_version(lib: &Path) -> Option<String> {
    let root = lib.parent()?;
    let text = match fs::read_to_string(root.join("version.py")) {
        Ok(python) => {
            let line = python.lines().find(|line| line.starts_with("__version__"))?;
            line.split(['\'', '"']).nth(1)?.to_string()
        }
        Err(_) => fs::read_to_string(root.join("build-version")).ok()?,
    };
    Some(text.trim().split('+').next()?.to_string())
}
