//! What an author of a manifest can rely on: everything that is wrong is named at once, with its place and what to do, and
//! what is right means what it says.
//!
//! One mistake a file: `manifest/bad/NAME.toml`, and beside it in `NAME.txt` what is said of it.
//!
//! Not promised: the words of the TOML parser about a text that is no TOML, and those of the operating system.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use snapbox::Data;
use tool_engine::{AfterExit, Level, Limits, Network, Overflow, ResourceLimits, Retry, Tmpfs};
use tool_runtimes::{
    Runtime, Source, Tool,
    manifest::{Manifest, Warm},
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifest").join(name)
}

fn good(name: &str) -> Manifest {
    Manifest::load(folder("good").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn tool<'m>(manifest: &'m Manifest, name: &str) -> &'m Tool {
    manifest.tools.iter().find(|tool| tool.name == name).unwrap()
}

/// A tool that is a file.
fn script(runtime: Runtime, entry: PathBuf, export: Option<&str>) -> Source {
    Source::Script { runtime, entry, export: export.map(str::to_owned) }
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let bad = folder("bad");
    let mut names: Vec<PathBuf> = fs::read_dir(&bad).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    names.sort();
    assert!(names.len() >= 40, "{} manifests", names.len());
    let assert = snapbox::Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV);
    let mut wrong = Vec::new();
    for path in names {
        let said = match Manifest::load(&path) {
            Ok(_) => "nothing is wrong".to_owned(),
            Err(error) => error.to_string(),
        };
        let said = said.replace(&format!("{}/", bad.display()), "") + "\n";
        let expected = Data::read_from(&path.with_extension("txt"), None);
        if let Err(error) = assert.try_eq(Some(&path.display()), said.into(), expected) {
            wrong.push(error.to_string());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_too() {
    let said = Manifest::load("/gone/tools.toml").unwrap_err().to_string();
    assert!(said.starts_with("/gone/tools.toml: cannot be read: "), "{said}");
    let said = Manifest::load("/dev/zero").unwrap_err().to_string();
    assert!(said.contains("not a file"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tools.toml");
    fs::write(&path, b"version = 1\n# \xff\n").unwrap();
    let error = Manifest::load(&path).unwrap_err();
    assert_eq!((error.diagnostics()[0].line, error.diagnostics()[0].column), (2, 3));
}

#[test]
fn a_great_many_tools_and_mistakes_are_read_and_told_all_the_same() {
    let declared = |more: &str| {
        let tools: String =
            (0..5000).map(|index| format!("[tools.t{index}]\ncommand = [\"true\"]\n{more}")).collect();
        Manifest::parse(&format!("version = 1\n{tools}[tools.t_9]\ncommand = [\"true\"]\n"), "tools.toml")
    };
    assert_eq!(declared("").unwrap().tools.len(), 5001);
    let error = declared("x = 1\n").unwrap_err();
    assert_eq!(error.diagnostics().len(), 201);
    assert!(error.to_string().ends_with("\ntools.toml: and 4800 more mistakes; mend the others first"));
    let error = Manifest::parse(
        "version = 1\n\n[tools.\"t.9\"]\ncommand = [\"a\"]\n[tools.t_9]\ncommand = [\"b\"]\n",
        "tools.toml",
    );
    let said = error.unwrap_err().to_string();
    assert!(said.contains("tools.toml:5:8: the tools \"t_9\" and \"t.9\" (in tools.toml:3)"), "{said}");
}

#[test]
fn files_that_include_each_other_without_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let name = |index: usize| folder.path().join(format!("{index}.toml"));
    for index in 0..5000 {
        fs::write(name(index), format!("version = 1\ninclude = [\"{}.toml\"]\n", index + 1)).unwrap();
    }
    let said = Manifest::load(name(0)).unwrap_err().to_string();
    let expected = "15.toml:2:12: include: 16.toml is the last of more than 16 files in a row; include it in";
    assert!(said.contains(expected), "{said}");
    fs::write(name(15), "version = 1\n").unwrap();
    Manifest::load(name(0)).unwrap();
}

#[test]
fn everything_that_can_be_set_is_what_it_says() {
    let manifest = good("everything.toml");
    let folder = folder("good").canonicalize().unwrap();
    assert_eq!(manifest.runtimes[&Runtime::Bun], folder.join("node_modules/.bin/bun"));
    let tool = tool(&manifest, "word-count");
    assert_eq!(tool.description.as_deref(), Some("Count words in a text"));
    assert_eq!(tool.source, script(Runtime::Bun, folder.join("tools/words.ts"), Some("wordCount")));
    assert_eq!(tool.max_timeout, Some(Duration::from_secs(90)));
    let limits = Limits {
        timeout: Some(Duration::from_secs(30)),
        idle_timeout: Some(Duration::from_secs(5)),
        kill_grace: Some(Duration::ZERO),
        after_exit: Some(AfterExit::Linger(Duration::from_secs(2))),
        drain: Some(Duration::from_millis(250)),
        overflow: Some(Overflow::Fail),
        stdout: Some(10 << 20),
        stderr: Some(4096),
        message: Some(64 << 20),
        ..Limits::default()
    };
    assert_eq!(tool.limits, limits);
    let resources = ResourceLimits {
        memory: Some(512 << 20),
        pids: Some(64),
        cpus: Some(1.5),
        cpu_time: Some(Duration::from_secs(10)),
        file_size: Some(1 << 30),
        open_files: Some(256),
        tmp_size: Some(64 << 20),
        tmp_files: Some(1000),
    };
    assert_eq!(tool.resources, resources);
    assert_eq!((tool.policy.network, tool.policy.level), (Some(Network::None), Some(Level::NoCgroup)));
    assert_eq!(tool.policy.ro, [folder.join("")]);
    assert_eq!(tool.policy.rw, [PathBuf::from("/var/data")]);
    assert_eq!(tool.policy.hide, [folder.join("secret")]);
    let cache = Tmpfs { path: folder.join("cache"), size: Some(16 << 20) };
    assert_eq!(tool.policy.tmpfs, [cache, Tmpfs { path: "/scratch".into(), size: None }]);
    assert_eq!(tool.policy.user, Some(1234));
    assert_eq!(tool.policy.protect, [folder.join("everything.toml")]);
    let document = tool.document();
    assert_eq!(document["policy"]["tmpfs"][0], format!("{}:16777216", folder.join("cache").display()));
    assert_eq!((&document["policy"]["user"], &document["limits"]["tmp_files"]), (&json!(1234), &json!(1000)));
    assert_eq!(document["policy"].get("protect"), None, "it is nothing that the author said");
    assert_eq!(tool.env, [("TZ".to_owned(), "UTC".to_owned())]);
    assert_eq!(
        (&tool.env_pass[..], &tool.secrets[..]),
        (&["LC_ALL".to_owned()][..], &["API_KEY".to_owned()][..])
    );
    assert_eq!(tool.config, json!({ "deep": { "list": [1, 2.5, true, "x"] } }));
    let second = Duration::from_secs(1);
    let retry = Retry::attempts(3).backoff(second).max_backoff(second * 10).jitter(false);
    let retry = retry.on(["busy", "timeout"]).deadline(second * 60);
    assert_eq!((&tool.retry, tool.warm), (&retry, Warm::Count(2)));
    let annotations = &tool.annotations;
    assert_eq!(annotations.title.as_deref(), Some("Words"));
    assert_eq!(
        (annotations.read_only, annotations.idempotent, annotations.destructive, annotations.open_world),
        (Some(true), Some(true), Some(false), Some(false))
    );
    let said = tool.input_schema.as_ref().unwrap().check(&json!({})).unwrap_err().to_string();
    assert_eq!(said, "text: is missing");
    let said = tool.output_schema.as_ref().unwrap().check(&json!("x")).unwrap_err().to_string();
    assert_eq!(said, "is \"x\", not a whole number");
    assert_eq!(tool.workdir.as_ref(), Some(&folder.join("work")));
}

#[test]
fn a_tool_wins_over_the_defaults_key_by_key() {
    let manifest = good("defaults.toml");
    let folder = folder("good").canonicalize().unwrap();
    let own = tool(&manifest, "own");
    assert_eq!(own.source, Source::Command(vec![folder.join("bin/own").into(), "x".into()]));
    assert_eq!(own.limits.timeout, Some(Duration::from_secs(5)));
    assert_eq!((own.resources.memory, own.resources.pids), (Some(512 << 20), Some(9)));
    assert_eq!((own.policy.network, own.policy.ro.len()), (Some(Network::Host), 0));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(own.env, [pair("TZ", "UTC"), pair("MODE", "b")]);
    assert_eq!((own.retry.attempts, own.retry.backoff), (Some(3), Some(Duration::from_secs(1))));
    assert_eq!(own.warm, Warm::Auto);

    let plain = tool(&manifest, "plain");
    assert_eq!(plain.source, Source::Command(vec!["git".into(), "log".into()]));
    assert_eq!(plain.limits.timeout, Some(Duration::from_secs(30)));
    assert_eq!((plain.policy.network, plain.policy.ro.len()), (Some(Network::None), 1));
    assert_eq!(plain.env, [pair("TZ", "UTC"), pair("MODE", "a")]);
    assert_eq!(plain.warm, Warm::Never);
}

#[test]
fn an_included_file_has_defaults_and_paths_of_its_own() {
    let manifest = good("defaults.toml");
    let folder = folder("good").canonicalize().unwrap();
    let names: Vec<_> = manifest.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["own", "plain", "included", "script"]);
    let included = tool(&manifest, "included");
    // All of them tell what there is to be called.
    let files: Vec<_> =
        included.policy.protect.iter().map(|path| path.strip_prefix(&folder).unwrap().to_owned()).collect();
    assert!(files.contains(&"defaults.toml".into()) && files.len() > 1, "{files:?}");
    assert!(manifest.tools.iter().all(|tool| tool.policy.protect == included.policy.protect));
    assert_eq!(included.source, script(Runtime::Python, folder.join("more/b.py"), None));
    assert_eq!(included.limits.timeout, Some(Duration::from_secs(7)));
    assert_eq!((included.policy.network, included.resources.memory, included.env.len()), (None, None, 0));
    let expected = script(Runtime::Bun, folder.join("tools/words.ts"), None);
    assert_eq!(tool(&manifest, "script").source, expected);
}

#[test]
fn a_text_is_a_manifest_as_if_it_were_in_a_file() {
    let path = folder("good").join("not-there.toml");
    let text = "version = 1\n[tools.a]\nentry = \"tools/words.ts\"\n";
    assert_eq!(Manifest::parse(text, &path).unwrap().tools[0].runtime(), Runtime::Bun);
    assert!(Manifest::parse("version = 1\n", &path).unwrap().tools.is_empty());
}
