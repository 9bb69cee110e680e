//! What a person at a terminal can rely on where it comes to containment: what the options show, hide, limit and refuse.
//!
//! Not promised: limits beyond those that a machine can enforce; where it offers no level 3 nothing of this is looked at.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// Exit code, standard output, standard error of the binary in this folder.
fn told(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    let output = command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// What a script says in a sandbox that is set up by these options.
fn said(folder: &Path, options: &[&str], script: &str) -> (i32, String, String) {
    let words: Vec<&str> =
        ["exec"].into_iter().chain(options.iter().copied()).chain(["--", "sh", "-c", script]).collect();
    told(folder, &words)
}

fn report(folder: &Path, options: &[&str], script: &str) -> Value {
    let options: Vec<&str> = options.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&said(folder, &options, script).1).unwrap()
}

/// A folder that a sandbox does not have one of its own of, with some files; `None` where there is no sandbox.
#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
fn scene(what: &str) -> Option<TempDir> {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for inner in ["work", "in", "out", "out/secret"] {
        fs::create_dir(folder.path().join(inner)).unwrap();
        fs::write(folder.path().join(inner).join("file"), inner).unwrap();
    }
    let found = report(&folder.path().join("work"), &[], "true");
    if found["outcome"] == "ok" {
        return Some(folder);
    }
    eprintln!("skipped: {what}: {}", found["error"]["description"]);
    None
}

#[test]
fn without_a_cgroup_there_is_no_more_than_the_level_below() {
    let Some(scene) = scene("a level") else { return };
    let work = &scene.path().join("work");
    let without = report(work, &["--cgroup", "none"], "true");
    assert_eq!(without["enforced"]["level"], "no_cgroup", "{without}");
    let (code, _, err) = said(work, &["--cgroup", "none", "--level", "4"], "true");
    assert!(code == 125 && err.contains("`--cgroup none`"), "{code} {err}");
}

#[test]
fn paths_are_shown_and_hidden_as_asked() {
    let Some(scene) = scene("paths") else { return };
    let work = &scene.path().join("work");
    let (code, out, err) = said(work, &[], "cat file; cat ../in/file; echo x >new");
    assert!(code != 0 && out == "work" && err.contains("../in/file") && err.contains("new"), "{out} {err}");
    let options = ["--ro", "../in", "--rw", "../out", "--hide", "../out/secret", "--tmpfs", "../cache:64KiB"];
    let script = "cat ../in/file ../out/file; ls -A ../out/secret ../cache; echo made >../out/new; \
                  echo kept >../cache/new && cat ../cache/new; echo x >../in/new; \
                  head -c 1000000 /dev/zero >../cache/large";
    let (code, out, err) = said(work, &options, script);
    assert!(code != 0 && out.starts_with("inout") && out.ends_with("kept\n"), "{out} {err}");
    assert!(
        !out.contains("\nfile\n") && err.contains("../in/new") && err.contains("No space"),
        "{out} {err}"
    );
    assert_eq!(fs::read_to_string(scene.path().join("out/new")).unwrap(), "made\n");
    assert!(!scene.path().join("cache/new").exists() && !scene.path().join("in/new").exists());
}

#[test]
fn a_failure_for_want_of_a_path_says_how_to_show_it() {
    let Some(scene) = scene("hints") else { return };
    let (work, file) = (&scene.path().join("work"), scene.path().join("in/file"));
    let file = file.to_str().unwrap();
    let read = &format!("cat {file}");
    let (code, _, err) = said(work, &[], read);
    let hint = format!("{file} exists on the host but was not shown to the tool; show it with --ro {file}");
    assert!(code == 1 && err.ends_with(&format!("run-tool: {hint}\n")), "{err}");
    assert_eq!(report(work, &[], read)["hints"], serde_json::json!([hint]));
    assert!(!said(work, &["--quiet"], read).2.contains("exists on the host"));
    assert_eq!(said(work, &["--ro", file], read).1, "in", "as it says, so it is");
    for (options, script) in [
        // It is no failure.
        (&[][..], format!("{read}; true")),
        // It is not there, it is shown, it is hidden on purpose, nobody names it.
        (&[], format!("{read}s")),
        (&["--ro", "../in"], format!("{read} && cat {file}s")),
        (&["--ro", "../in", "--hide", file], read.clone()),
        (&["--tmpfs", "../in"], read.clone()),
        (&[], "echo permission denied, no such file or directory >&2; exit 1".into()),
        (&[], "cat /etc/shadow- /proc/1/mem /etc/passwd /usr/nothing >&2; exit 1".into()),
        // Nothing is hidden there.
        (&["--level", "none"], format!("{read}; echo {file} >&2; exit 1")),
    ] {
        let report = report(work, options, &script);
        let hints = report["hints"].as_array().unwrap();
        let about_file = hints.iter().any(|hint| hint.as_str().unwrap().contains(file));
        assert!(!about_file && (hints.is_empty() || script.contains("shadow")), "{script}: {report}");
    }
    fs::write(work.join("tool.py"), format!("def run(input, ctx):\n    return open({file:?}).read()\n"))
        .unwrap();
    let (code, _, err) = told(work, &["run", "tool.py"]);
    assert!(
        code == 1 && err.contains(&format!("--ro {file} (of a declared tool: with `policy.ro`)")),
        "{err}"
    );
    assert_eq!(told(work, &["run", "tool.py", "--ro", file]).1, "\"in\"\n");
}

#[test]
fn what_cannot_be_shown_is_refused_in_words() {
    let Some(scene) = scene("what cannot be shown") else { return };
    let work = &scene.path().join("work");
    let (code, _, err) = said(work, &["--ro", "nothing"], "true");
    assert!(code == 125 && err.contains("work/nothing") && err.contains("make it, or leave it out"), "{err}");
    let (code, _, err) = said(work, &["--ro", "file", "--hide", "file"], "true");
    assert!(code == 125 && err.contains("contradicts itself"), "{err}");
    for (option, value, word) in [
        ("--level", "5", "no level"),
        ("--network", "internet", "possible values: none, host"),
        ("--user", "0", "root"),
        ("--memory", "0", "size of zero"),
        ("--memory", "much", "write it as"),
        ("--pids", "0", "whole number"),
        ("--cpus", "-1", "positive"),
        ("--cpu-time", "0s", "positive"),
        ("--tmpfs", "a:much", "no size"),
    ] {
        let (code, _, err) = said(work, &[&format!("{option}={value}")], "true");
        assert!(code == 125 && err.contains(option) && err.contains(word), "{option}: {err}");
    }
}

#[test]
fn the_network_and_the_level_are_as_asked() {
    let Some(scene) = scene("network and level") else { return };
    let work = &scene.path().join("work");
    let namespaces = |options: &[&str]| report(work, options, "true")["enforced"]["namespaces"].clone();
    let has = |options: &[&str]| namespaces(options).as_array().unwrap().contains(&"network".into());
    assert!(has(&[]) && has(&["--network", "none"]) && !has(&["--net", "host"]));
    let none = report(work, &["--level", "none", "--rw", "."], "echo x >../out/free");
    assert_eq!((&none["outcome"], &none["enforced"]["level"]), (&"ok".into(), &"none".into()));
    assert!(scene.path().join("out/free").exists(), "without a sandbox nothing holds it");
    let offered = report(work, &["--level", "3"], "true");
    assert_eq!(offered["outcome"], "ok");
    let (code, _, err) = said(work, &["--cgroup", "/nonexistent", "--level", "4"], "true");
    assert!(code == 125 && err.contains("/nonexistent") && err.contains("level 4"), "{err}");
}

#[test]
fn limits_hold() {
    let Some(scene) = scene("limits") else { return };
    let work = &scene.path().join("work");
    let hungry = "head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null";
    let (code, _, err) = said(work, &["--memory", "32MiB"], hungry);
    let has_cgroup = report(work, &[], "true")["enforced"]["level"] == "full";
    assert!(code != 0 && (code == 123) == has_cgroup, "{code} {err}");
    let (code, _, err) =
        said(work, &["--file-size", "4KiB", "--rw", "../out"], "head -c 9000 /dev/zero >../out/big");
    assert!(code == 123 || err.contains("File too large") || code == 153, "{code} {err}");
    assert_eq!(fs::metadata(scene.path().join("out/big")).unwrap().len(), 4096);
    assert_eq!(said(work, &["--open-files", "64"], "ulimit -n").1, "64\n");
    let (code, _, err) = said(work, &["--cpu-time", "1s"], "while :; do :; done");
    // The clock that the kernel kills by runs ahead of the one that it tells, on a machine that shares its processors.
    assert!(code == 123 || err.contains("SIGXCPU"), "{err}");
    let (_, _, err) = said(work, &["--tmp-size", "64KiB"], "head -c 1000000 /dev/zero >/tmp/large");
    assert!(err.contains("No space"), "{err}");
    let (_, _, err) =
        said(work, &["--tmp-files", "10"], "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo >/tmp/$i; done");
    assert!(err.contains("No space"), "{err}");
    if has_cgroup {
        let fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait";
        let (_, _, err) = said(work, &["--pids", "6"], fork);
        assert!(err.contains("fork"), "{err}");
    }
}

#[test]
fn a_file_is_given_what_its_caller_says_and_a_declared_tool_no_more_than_its_manifest() {
    let Some(scene) = scene("tools") else { return };
    let work = &scene.path().join("work");
    let script = "#!/bin/sh\ncat >/dev/null\ncat ../in/file && echo x >../out/made && echo done\n";
    fs::write(work.join("tool.sh"), script).unwrap();
    let (code, _, err) = told(work, &["run", "tool.sh"]);
    assert!(code == 1 && err.contains("../in/file"), "{err}");
    let (code, out, err) = told(work, &["run", "tool.sh", "--ro", "../in", "--rw", "../out"]);
    assert_eq!((code, out.as_str()), (0, "\"indone\\n\"\n"), "{err}");

    let manifest = "version = 1\n[tools.tool]\nentry = \"tool.sh\"\nlimits.pids = 50\n\
                    policy = { ro = [\"../in\"], rw = [\"../out\", \".\"] }\n";
    fs::write(work.join("tools.toml"), manifest).unwrap();
    assert_eq!(told(work, &["run", "tool"]).0, 0);
    let refused = |options: &[&str]| {
        let words: Vec<&str> = ["run", "tool"].into_iter().chain(options.iter().copied()).collect();
        let (code, _, err) = told(work, &words);
        assert_eq!(code, 2, "{options:?}: {err}");
        assert!(err.contains("its tool"), "{options:?}: {err}");
    };
    for options in [
        ["--rw", "../in"],
        ["--ro", ".."],
        ["--rw", "../out/../in"],
        ["--rw", "tools.toml"],
        ["--network", "host"],
        ["--level", "none"],
        ["--level", "1"],
        ["--user", "1234"],
        ["--pids", "51"],
    ] {
        refused(&options);
    }
    let (code, _, err) = told(work, &["run", "tool", "--ro", "../out", "--pids", "40"]);
    assert!(code == 1 && err.contains("../out/made"), "stricter than the manifest: {err}");
}

#[test]
fn a_tool_cannot_change_what_declares_it() {
    let Some(scene) = scene("manifests") else { return };
    let work = &scene.path().join("work");
    let script = "#!/bin/sh\ncat >/dev/null\necho x >beside\nfor file in mine.toml sub/more.toml; do\n\
                  echo >>$file\nrm -f $file\nmv $file gone\nmv beside $file\ndone\n\
                  for folder in sub .git; do mv $folder moved && mkdir $folder; done\n\
                  echo x >sub/more.toml; echo x >.git/config; mv sub/free sub/renamed\n";
    for (inner, file) in [("sub", "free"), (".git", "config")] {
        fs::create_dir(work.join(inner)).unwrap();
        fs::write(work.join(inner).join(file), "mine").unwrap();
    }
    fs::write(work.join("tool.sh"), script).unwrap();
    let manifest = "version = 1\ninclude = [\"sub/more.toml\"]\n[tools.tool]\nentry = \"tool.sh\"\npolicy.rw = [\".\"]\n";
    fs::write(work.join("mine.toml"), manifest).unwrap();
    fs::write(work.join("sub/more.toml"), "version = 1\n").unwrap();
    let (_, out, err) = told(work, &["run", "tool", "--manifest", "mine.toml"]);
    assert!(work.join("beside").exists(), "it may write beside it: {out} {err}");
    assert_eq!(fs::read_to_string(work.join("mine.toml")).unwrap(), manifest);
    assert_eq!(fs::read_to_string(work.join("sub/more.toml")).unwrap(), "version = 1\n", "{err}");
    assert_eq!(fs::read_to_string(work.join(".git/config")).unwrap(), "mine", "{err}");
    assert!(work.join("sub/renamed").exists(), "what else is in such a folder it may change: {err}");
}

#[test]
fn the_examples_of_the_readme_end_as_it_says() {
    let Some(folder) = scene("the README's examples") else { return };
    let readme = include_str!("../../../README.md");
    let (_, example) = readme.split_once("$ run-tool exec --timeout 1s -- sh -c '").unwrap();
    let (script, rest) = example.split_once("'\n").unwrap();
    let (shown, rest) = rest.split_once("$ echo $?\n").unwrap();
    let (code, out, err) = said(folder.path(), &["--timeout", "1s"], script);
    assert_eq!(format!("{code}"), rest.lines().next().unwrap());
    // Process ids inside depend on who was faster.
    let without_pids = |text: &str| {
        let words =
            text.split_inclusive(' ').map(|word| word.trim_start_matches(|c: char| c.is_ascii_digit()));
        let mut lines: Vec<String> = words.collect::<String>().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(without_pids(&format!("{out}{err}")), without_pids(shown));
    assert!(include_str!("../../../scripts/quickstart").contains(&format!("sh -c '{script}'")));
}

/// `/proc/sys` lets the machine's root write, whatever he may otherwise; in whatever group he is.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
fn no_tool_is_the_machines_root() {
    let Some(scene) = scene("the machine's root") else { return };
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: the machine's root: we are not");
        return;
    }
    for group in ["0", "1000"] {
        let mut command = Command::new("setpriv");
        command.args([
            "--regid",
            group,
            "--clear-groups",
            env!("CARGO_BIN_EXE_run-tool"),
            "exec",
            "--",
            "sh",
            "-c",
        ]);
        command.arg("id -u; cat file; test -w /proc/sys/kernel/core_pattern && echo writable; true");
        command.current_dir(scene.path().join("work")).stdin(Stdio::null());
        let output = command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\nwork", "group {group}: {output:?}");
    }
}

/// Who is root only among himself cannot become another user, and needs not; the machine's root is not to run tools as himself.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that ran")]
fn root_of_a_user_namespace_without_other_users_has_a_sandbox_too() {
    const SOMEBODY: u32 = 65_534;
    let Some(scene) = scene("root among himself") else { return };
    let work = scene.path().join("work");
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        std::os::unix::fs::chown(&work, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let among_himself = |somebody: bool, words: &[&str]| {
        let mut command = Command::new(if somebody { "setpriv" } else { "unshare" });
        if somebody {
            let user = SOMEBODY.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "unshare"]);
        }
        command.arg("-Ur").args(words).current_dir(&work).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").output()
    };
    let binary = env!("CARGO_BIN_EXE_run-tool");
    if !among_himself(is_root, &[binary, "--version"]).is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: root among himself: no user namespace can be made here, or {binary} not be reached"
        );
        return;
    }
    let report = |somebody, options: &[&str]| {
        let script = "id -u; cat file; test -w /proc/sys/kernel/core_pattern && echo writable";
        let words = [&[binary, "exec", "--json"], options, &["--", "sh", "-c", script]].concat();
        let output = among_himself(somebody, &words).unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let own = report(is_root, &[]);
    assert_eq!(
        (&own["enforced"]["proc"], &own["stdout"]["head"]),
        (&"own".into(), &"1000\nwork".into()),
        "{own}"
    );
    if is_root {
        let machines = report(false, &[]);
        assert_eq!(machines["error"]["kind"], "sandbox", "{machines}");
    }
}
