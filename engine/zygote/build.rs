//! Builds the zygote: one `rustc` of one program without dependencies, so that it works offline, from the sources of this
//! crate alone, in anybody's workspace. Statically where there is a static libc, because a fork of a static program is
//! cheaper; dynamically otherwise.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through their environment")]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed=src/protocol.rs");
    let out = PathBuf::from(variable("OUT_DIR")).join("zygote");
    let linkage = if variable("CARGO_CFG_TARGET_OS") != "linux" {
        // There are no namespaces elsewhere: only level 0 is offered.
        std::fs::write(&out, []).expect("OUT_DIR is writable");
        "none"
    } else if let Err(no_static) = build(&out, true) {
        if let Err(error) = build(&out, false) {
            panic!("the zygote could not be built: {error}\nnor statically: {no_static}");
        }
        "dynamic"
    } else {
        "static"
    };
    println!("cargo::rustc-env=ZYGOTE_FILE={}", out.display());
    println!("cargo::rustc-env=ZYGOTE_LINKAGE={linkage}");
}

fn build(out: &Path, is_static: bool) -> Result<(), String> {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["program/main.rs", "--crate-name", "run_tool_zygote", "--edition", "2024", "--target"])
        .arg(variable("TARGET"))
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        .args(["-C", if is_static { "target-feature=+crt-static" } else { "target-feature=-crt-static" }])
        .args(["--cap-lints", "allow", "-o"])
        .arg(out);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    // What cargo was told for this target: `-C link-arg`, a linker, a sysroot. Instrumentation would need its runtime.
    for flag in env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default().split('\x1f') {
        if !flag.is_empty() && !flag.contains("instrument-coverage") && !flag.contains("sanitizer") {
            rustc.arg(flag);
        }
    }
    let done = rustc.output().map_err(|error| format!("rustc could not be started: {error}"))?;
    done.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&done.stderr).into_owned())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
