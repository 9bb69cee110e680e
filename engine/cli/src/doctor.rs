//! What this machine can enforce and run, for people and for scripts.

use std::{
    io::{self, Write},
    path::PathBuf,
    thread,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use run_tool::{CgroupVersion, Examination, Level, Owners, Proc, Runtime, Sandbox, Version};
use serde_json::{Value, json};

use crate::{
    args::Doctor,
    call::{Surroundings, with_cgroup},
    find_runtime,
    values::show_time,
};

/// It takes some 20 ms; a machine that is loaded may take a thousand times that.
const BOUND: Duration = Duration::from_secs(30);

/// A runtime, and what is known of it here.
struct Found {
    runtime: Runtime,
    program: Option<PathBuf>,
    version: Option<Version>,
    /// What is wrong with it, and what to do.
    wrong: Option<String>,
}

/// With the exit code.
pub(crate) fn doctor(args: &Doctor, around: &Surroundings) -> Result<u8> {
    let sandbox = Sandbox::builder().temp_dir(&around.temp_dir).highest(args.level.unwrap_or(Level::Full));
    let mut sandbox = with_cgroup(sandbox, args.cgroup.as_ref(), around);
    if let Some(user) = args.user {
        sandbox = sandbox.user(user);
    }
    let sandbox = sandbox.build();
    let (found, runtimes) = thread::scope(|scope| {
        let runtimes = scope.spawn(|| runtimes(around));
        (sandbox.examine(&around.current, BOUND), runtimes.join().unwrap_or_default())
    });
    let found = found?;
    let mut out = anstream::stdout().lock();
    if args.json {
        let mut document = serde_json::to_value(&found)?;
        document["runtimes"] = runtimes.iter().map(document_of).collect();
        writeln!(out, "{document}")?;
    } else {
        show(&mut out, &found, &runtimes)?;
    }
    Ok(u8::from(!is_well(&found)))
}

/// Whether calls run that ask for nothing special.
fn is_well(found: &Examination) -> bool {
    found.level >= Level::NoCgroup && found.trial.error.is_none()
}

/// All that have a program of their own, asked for their versions at the same time.
fn runtimes(around: &Surroundings) -> Vec<Found> {
    let known = Runtime::ALL.into_iter().filter(|runtime| *runtime != Runtime::Command);
    thread::scope(|scope| {
        let asked: Vec<_> =
            known.map(|runtime| (runtime, scope.spawn(move || look_for(runtime, around)))).collect();
        let answered = asked.into_iter().map(|(runtime, asking)| {
            asking.join().unwrap_or_else(|_| Found {
                runtime,
                program: None,
                version: None,
                wrong: Some("looking for it failed, which is a bug".into()),
            })
        });
        answered.collect()
    })
}

fn look_for(runtime: Runtime, around: &Surroundings) -> Found {
    // As for a tool in the current folder.
    let program = find_runtime::find(runtime, &around.current.join("tool"), around);
    let mut found = Found { runtime, program, version: None, wrong: None };
    let Some(program) = &found.program else {
        found.wrong = Some(format!("not found; {}", runtime.how_to_get()));
        return found;
    };
    let Some(least) = runtime.least_version() else { return found };
    match Version::of(program, &around.temp_dir) {
        Ok(version) => {
            found.version = Some(version);
            found.wrong = (version < least)
                .then(|| format!("too old; {least} or newer is needed: {}", runtime.how_to_get()));
        }
        Err(error) => found.wrong = Some(format!("does not work: {error}; {}", runtime.how_to_get())),
    }
    found
}

fn document_of(found: &Found) -> Value {
    json!({
        "name": found.runtime.name(),
        "program": found.program,
        "version": found.version.map(|version| version.to_string()),
        "least_version": found.runtime.least_version().map(|version| version.to_string()),
        "wrong": found.wrong,
    })
}

fn show(out: &mut impl Write, found: &Examination, runtimes: &[Found]) -> io::Result<()> {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    let (good, fair, bad) = (colour(AnsiColor::Green), colour(AnsiColor::Yellow), colour(AnsiColor::Red));
    let verdict = match found.level {
        _ if !is_well(found) => bad,
        Level::Full => good,
        _ => fair,
    };
    writeln!(out, "{verdict}{}{verdict:#}\n", found.level)?;
    for (name, words) in rows(found) {
        writeln!(out, "{name:11} {words}")?;
    }
    writeln!(out)?;
    for Found { runtime, program, version, wrong } in runtimes {
        let version = version.map_or_else(String::new, |version| version.to_string());
        let place = program.as_ref().map_or_else(String::new, |program| program.display().to_string());
        let told = [&version, &place].into_iter().filter(|text| !text.is_empty()).cloned();
        let told = told.collect::<Vec<_>>().join("  ");
        match wrong {
            None => writeln!(out, "{:11} {told}", runtime.name())?,
            Some(wrong) => {
                let gap = if told.is_empty() { "" } else { "  " };
                writeln!(out, "{:11} {told}{gap}{fair}{wrong}{fair:#}", runtime.name())?;
            }
        }
    }
    if let Some(error) = &found.trial.error {
        writeln!(out, "\n{bad}a program could not be run{bad:#}: {error}")?;
    }
    for missing in &found.missing {
        let above = missing.level.number().saturating_add(1);
        let style = if above <= Level::NoCgroup.number() { bad } else { fair };
        writeln!(out, "\n{style}missing for level {above}{style:#}: {}", missing.what)?;
        writeln!(out, "  what to do: {}", missing.hint)?;
    }
    for remark in &found.remarks {
        writeln!(out, "\n{fair}note{fair:#}: {}", remark.what)?;
        writeln!(out, "  what to do: {}", remark.hint)?;
    }
    Ok(())
}

/// What there is, each in words.
fn rows(found: &Examination) -> Vec<(&'static str, String)> {
    let time = |millis: f64| show_time(Duration::from_secs_f64(millis / 1000.0));
    let landlock = match found.landlock {
        landlock if landlock.abi == 0 || found.level == Level::None => "none".into(),
        landlock => {
            let holds = match (landlock.files, landlock.scopes) {
                (true, true) => "holds files, abstract sockets and signals",
                (true, false) => "holds files, but neither abstract sockets nor signals",
                (false, _) => "holds nothing",
            };
            format!("ABI {}, {holds}", landlock.abi)
        }
    };
    let cgroup = found.cgroup.as_ref().map_or_else(
        || "none: limits hold for each process by itself".into(),
        |cgroup| {
            let version = match cgroup.version {
                CgroupVersion::V1 => "version 1",
                CgroupVersion::V2 => "version 2",
            };
            let places: Vec<_> = cgroup.folders.iter().map(|folder| folder.display().to_string()).collect();
            format!("{version}, {}", places.join(", "))
        },
    );
    let owners = match found.folder.owners {
        Owners::Same => "tools may there what their user may",
        Owners::Mapped => "its files are shown as the tool's user's",
        Owners::Others => "its files are somebody else's to tools",
        Owners::AsTheyAre => "its files are seen as they are",
    };
    let proc = match found.proc {
        Proc::Own => "each call's own",
        Proc::None => "none: it cannot be mounted",
        Proc::Host => "the host's",
    };
    let processes = match (&found.cgroup, found.pid_max && found.level >= Level::NoCgroup) {
        (Some(_), _) => "bounded by the cgroup",
        (None, true) => "bounded by pid_max",
        (None, false) => "not bounded",
    };
    let none_if_empty = |text: String| if text.is_empty() { "none".into() } else { text };
    let mut rows = vec![
        ("kernel", found.kernel.clone()),
        ("namespaces", none_if_empty(found.namespaces.join(", "))),
        ("Landlock", landlock),
        ("seccomp", if found.seccomp { "filters system calls" } else { "none" }.into()),
        ("cgroup", cgroup),
        ("processes", processes.into()),
        ("/proc", proc.into()),
        ("user", format!("tools run as {}", found.user)),
        ("folder", format!("{} ({}): {owners}", found.folder.path.display(), found.folder.file_system)),
    ];
    let start =
        found.zygote.start_ms.map_or_else(|| "not started".into(), |ms| format!("starts in {}", time(ms)));
    rows.push(("zygote", format!("{}, {start}", found.zygote.linkage)));
    if let Some(took) = found.trial.took_ms {
        rows.push(("trial", format!("`true` took {}", time(took))));
    }
    rows
}
