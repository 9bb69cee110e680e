//! What a person who sets a machine up can rely on: the truth about what is enforced there, and what to do for more.
//!
//! Not promised: any level of the machine that the tests run on.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

/// Exit code, standard output, standard error of the binary where only what this `PATH` leads to is installed.
fn told_with(path: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    let output = command.args(args).current_dir("/var/tmp").env_clear().env("PATH", path).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn told(args: &[&str]) -> (i32, String, String) {
    told_with("/usr/local/bin:/usr/bin:/bin", args)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is missing and noted, each with what to do about it.
fn advice(found: &Value) -> Vec<String> {
    let lists = ["missing", "remarks"].map(|list| found[list].as_array().unwrap());
    let one = |advice: &Value| {
        let words = ["what", "hint"].map(|part| advice[part].as_str().unwrap().to_owned());
        assert!(words.iter().all(|text| !text.is_empty()), "{advice}");
        words.join("; ")
    };
    lists.into_iter().flatten().map(one).collect()
}

#[test]
fn what_is_said_is_what_calls_get() {
    let (code, out, err) = told(&["doctor", "--json"]);
    let found = json(&out);
    let level = found["level"].as_str().unwrap();
    let well = ["no_cgroup", "full"].contains(&level);
    assert_eq!((code, err.as_str()), (i32::from(!well), ""), "{out}");
    advice(&found);
    let (_, call, _) =
        told(&["exec", "--json", "--level", if level == "none" { "none" } else { "1" }, "--", "true"]);
    let enforced = &json(&call)["enforced"];
    for field in ["level", "namespaces", "seccomp", "user", "proc"] {
        assert!(enforced[field] == found[field] || level == "none", "{field}: {enforced} {found}");
    }
    assert_eq!(enforced["cgroup"].is_null(), found["cgroup"].is_null());
    assert!(found["trial"]["took_ms"].is_number(), "{found}");
    assert!(
        ["freestanding", "static", "dynamic"].contains(&found["zygote"]["linkage"].as_str().unwrap()),
        "{found}"
    );
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(found["kernel"], kernel.trim());
    assert_eq!(found["folder"]["path"], "/var/tmp");
}

#[test]
fn people_get_a_table_without_colours_where_there_is_no_terminal() {
    let (code, out, err) = told(&["doctor"]);
    assert!(code <= 1 && err.is_empty() && !out.contains('\u{1b}'), "{out} {err}");
    assert!(out.starts_with("level "), "{out}");
    for row in [
        "kernel ",
        "namespaces ",
        "Landlock ",
        "seccomp ",
        "cgroup ",
        "/proc ",
        "user ",
        "folder ",
        "zygote ",
    ] {
        assert_eq!(out.lines().filter(|line| line.starts_with(row)).count(), 1, "{row}: {out}");
    }
    assert!(out.lines().any(|line| line.starts_with("shell ") && line.ends_with("/sh")), "{out}");
}

#[test]
fn what_would_be_missing_is_named_with_what_to_do() {
    for (level, name) in [("1", "basic"), ("none", "none")] {
        let (code, out, _) = told(&["doctor", "--level", level, "--json"]);
        let found = json(&out);
        assert_eq!((code, found["level"].as_str()), (1, Some(name)), "{found}");
        assert!(advice(&found).iter().any(|advice| advice.contains("--level")), "{found}");
        assert_eq!(found["namespaces"], Value::Array(Vec::new()));
        let (code, out, _) = told(&["doctor", "--level", level]);
        let (first, missing) = (out.lines().next().unwrap(), out.contains("missing for level"));
        assert!(code == 1 && missing && out.contains("what to do: "), "{out}");
        assert!(first.starts_with(if level == "1" { "level 1 (" } else { "level 0 (" }), "{out}");
    }
    let (code, out, _) = told(&["doctor", "--cgroup", "/nonexistent", "--json"]);
    let found = json(&out);
    assert!(found["level"] != "full" && found["cgroup"].is_null(), "{found}");
    assert!(advice(&found).iter().any(|advice| advice.contains("/nonexistent")), "{found}");
    assert_eq!(code, i32::from(found["level"] != "no_cgroup"));
    let (code, _, err) = told(&["doctor", "--level", "7"]);
    assert!(code == 2 && err.contains("no level"), "{err}");
}

#[test]
fn runtimes_are_found_with_their_versions_or_how_to_get_them() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = |name: &str, says: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {says}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    };
    program("bun", "1.3.5");
    program("node", "v18.0.0");
    program("deno", "hello");
    let (_, out, err) = told_with(folder.path().to_str().unwrap(), &["doctor", "--json"]);
    assert_eq!(err, "");
    let runtimes = json(&out)["runtimes"].clone();
    let of =
        |name: &str| runtimes.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!((&of("bun")["version"], &of("bun")["wrong"]), (&"1.3.5".into(), &Value::Null));
    assert_eq!(of("bun")["program"], folder.path().join("bun").to_str().unwrap());
    for (name, word) in [("node", "20.11.0 or newer"), ("deno", "hello"), ("python", "not found; install it")]
    {
        assert!(of(name)["wrong"].as_str().unwrap().contains(word), "{runtimes}");
    }
}
