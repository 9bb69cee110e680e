//! Builds the zygote: one `rustc` of one program without dependencies, so that it works offline, from the sources of this
//! crate alone, in anybody's workspace. Without a C library, so that it needs none to be there and is small: it is written to
//! memory for each engine, and copied for each sandbox. Where that cannot be linked, with std and whatever std needs.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through their environment")]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed=src/protocol.rs");
    println!("cargo::rustc-check-cfg=cfg(freestanding)");
    let out = PathBuf::from(variable("OUT_DIR")).join("zygote");
    let linkage = if variable("CARGO_CFG_TARGET_OS") == "linux" {
        let mut reasons = Vec::new();
        let linked = WAYS.iter().find(|(_, how)| build(&out, how).map_err(|why| reasons.push(why)).is_ok());
        // Cargo shows them when asked to (`-vv`).
        reasons.iter().for_each(|reason| println!("{reason}"));
        linked.unwrap_or_else(|| panic!("the zygote could not be built:\n{}", reasons.join("\n"))).0
    } else {
        // There are no namespaces elsewhere: only level 0 is offered.
        std::fs::write(&out, []).expect("OUT_DIR is writable");
        "none"
    };
    println!("cargo::rustc-env=ZYGOTE_FILE={}", out.display());
    println!("cargo::rustc-env=ZYGOTE_LINKAGE={linkage}");
}

/// How it may be built, the best first.
const WAYS: [(&str, &[&str]); 3] = [
    // Of nothing but what is in `program` and in the crates `core` and `alloc`; at fixed addresses, as nobody is there who could
    // relocate it.
    (
        "freestanding",
        &[
            "--cfg=freestanding",
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
            "-Clto=fat",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
        ],
    ),
    ("static", &["-Ctarget-feature=+crt-static"]),
    ("dynamic", &["-Ctarget-feature=-crt-static"]),
];

fn build(out: &Path, how: &[&str]) -> Result<(), String> {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["program/main.rs", "--crate-name", "run_tool_zygote", "--edition", "2024", "--target"])
        .arg(variable("TARGET"))
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Ccodegen-units=1"])
        .args(["--cap-lints", "allow", "-o"])
        .arg(out);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    // What cargo was told for this target: `-C link-arg`, a linker, a sysroot. Instrumentation would need its runtime.
    rustc.args(flags().iter().filter(|flag| {
        let of = |kind: &str| flag.contains(kind);
        !(of("instrument-coverage") || of("profile-generate") || of("sanitizer"))
    }));
    // Of two that contradict each other the last one holds.
    rustc.args(how);
    if variable("CARGO_CFG_TARGET_ENV") == "musl" && how.contains(&"--cfg=freestanding") {
        // Or rustc adds where programs with a C library begin.
        rustc.arg("-Clink-self-contained=no");
    }
    let done = rustc.output().map_err(|error| format!("rustc could not be started: {error}"))?;
    done.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Those that cargo was given, each in one word.
fn flags() -> Vec<String> {
    let given = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut words = given.split('\x1f').filter(|word| !word.is_empty());
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        let rest = if ["-C", "-Z"].contains(&word) { words.next() } else { None };
        flags.push(format!("{word}{}", rest.unwrap_or_default()));
    }
    flags
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
