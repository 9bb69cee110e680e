//! What the engine costs, as ratios to a bare `tokio::process` in the same run: these machines drift, ratios hardly do.
//!
//! Both sides take turns, call by call, and the medians are compared. Exits with 1 when a bound is broken.
//!
//! `bench [ROUNDS] [ONLY]`: default 1000; with `ONLY`, the rows whose names contain it.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(
    clippy::disallowed_methods,
    reason = "the bare side of the comparison is what the rest of the workspace may not use"
)]

mod many;

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, process::Command, task::JoinSet};
use tool_engine::{Call, Engine, EventKind, Level, Limits, ProcessGroups};

const TRUE: &str = "/bin/true";
const GIB: u64 = 1 << 30;
/// Nothing here takes longer than this unless something hangs.
const WATCHDOG: Duration = Duration::from_secs(240);

struct Row {
    what: &'static str,
    bare: f64,
    ours: f64,
    unit: &'static str,
    ratio: f64,
    bound: String,
    holds: bool,
}

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1000);
    let only = std::env::args().nth(2).unwrap_or_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let rows = runtime.block_on(async {
        // On the workers, where an engine's callers are, not in `block_on`, whose polling is slower.
        tokio::time::timeout(WATCHDOG, tokio::spawn(measure(rounds, only))).await
    });
    let Ok(Ok(rows)) = rows else {
        println!("did not end within {WATCHDOG:?}");
        return ExitCode::FAILURE;
    };
    println!("{:<52} {:>10} {:>10} {:>7}  bound", "", "bare", "run-tool", "ratio");
    for row in &rows {
        let verdict = if row.holds { "" } else { "  BROKEN" };
        println!(
            "{:<52} {:>7.2} {} {:>7.2} {} {:>7.2}  {}{verdict}",
            row.what, row.bare, row.unit, row.ours, row.unit, row.ratio, row.bound
        );
    }
    if rows.iter().all(|row| row.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(rounds: usize, only: String) -> Vec<Row> {
    let mut rows = Vec::new();
    let wanted = |name: &str| name.contains(&only);
    let bare_engine = Engine::builder().launcher(ProcessGroups).max_running(256).build().expect("an engine");
    if wanted(SEQUENTIAL_0) {
        rows.push(sequential(SEQUENTIAL_0, &bare_engine, rounds, 1.3).await);
    }
    if wanted(IN_FLIGHT) {
        let (latency, throughput) = in_flight(&bare_engine, 64, rounds / 20).await;
        rows.extend([latency, throughput]);
    }
    if wanted(FLOOD_0) {
        rows.push(flood(FLOOD_0, &bare_engine).await);
    }
    if wanted(many::RECORDS) {
        rows.extend(many::records(rounds).await);
    }
    if wanted(many::SUBSCRIBERS) {
        rows.push(many::subscribers(rounds).await);
    }

    let engine = Engine::builder().max_running(256).build().expect("an engine");
    let report = engine.start(Call::command([TRUE])).await.expect("/bin/true");
    let level = report.enforced.map_or(Level::None, |enforced| enforced.level);
    println!("the sandbox is at {level}");
    if wanted(SEQUENTIAL) {
        rows.push(sequential(SEQUENTIAL, &engine, rounds, 2.0).await);
    }
    if wanted(FLOOD) {
        rows.push(flood(FLOOD, &engine).await);
    }
    if wanted(KILLED) {
        rows.push(crowd(&engine, rounds / 100).await);
    }
    match bwrap() {
        Some(bwrap) => {
            if wanted(BWRAP) {
                rows.push(against_bwrap(&bwrap, &engine, rounds / 5).await);
            }
            if wanted(ONE_SHOT) {
                rows.extend(one_shot(&bwrap, rounds / 10).await);
            }
        }
        None => println!("skipped: there is no bwrap to compare with; install bubblewrap"),
    }
    if wanted(LARGE_0) || wanted(LARGE) {
        let ballast = ballast();
        rows.push(sequential(LARGE_0, &bare_engine, rounds, 1.3).await);
        rows.push(sequential(LARGE, &engine, rounds, 2.0).await);
        drop(ballast);
    }
    engine.shutdown(Duration::from_secs(5)).await;
    bare_engine.shutdown(Duration::from_secs(5)).await;
    rows
}

const SEQUENTIAL_0: &str = "level 0: one after the other, p50";
const IN_FLIGHT: &str = "level 0: 64 in flight";
const FLOOD_0: &str = "level 0: 1 GiB of stdout";
const SEQUENTIAL: &str = "sandbox: one after the other, p50";
const FLOOD: &str = "sandbox: 1 GiB of stdout";
const KILLED: &str = "200 killed and reaped, sandbox to killpg";
const BWRAP: &str = "sandbox: to bwrap --unshare-all";
const ONE_SHOT: &str = "run-tool exec, one shot, to bwrap";
const LARGE_0: &str = "level 0: from an engine with 1 GiB resident";
const LARGE: &str = "sandbox: from an engine with 1 GiB resident";

/// The peer that most others are built on.
fn bwrap() -> Option<PathBuf> {
    ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].map(PathBuf::from).into_iter().find(|path| path.is_file())
}

fn bwrap_true(bwrap: &Path) -> Command {
    let mut command = Command::new(bwrap);
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command.args([
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib64",
        "/lib64",
    ]);
    command.args([
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/bin",
        "/bin",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]);
    command.args(["--tmpfs", "/tmp", TRUE]);
    command
}

async fn succeed(mut command: Command) {
    let output = command.output().await.expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn against_bwrap(bwrap: &Path, engine: &Engine, rounds: usize) -> Row {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(21) {
        theirs.push(timed(succeed(bwrap_true(bwrap))).await);
        own.push(timed(ours(engine)).await);
    }
    at_most(BWRAP, median(theirs), median(own), 0.25)
}

/// The command line, engine and zygote started and ended each time, to bwrap.
async fn one_shot(bwrap: &Path, rounds: usize) -> Option<Row> {
    let cli = std::env::current_exe().ok()?.with_file_name("run-tool");
    if !cli.is_file() {
        println!("skipped: there is no {} to compare with bwrap", cli.display());
        return None;
    }
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(21) {
        theirs.push(timed(succeed(bwrap_true(bwrap))).await);
        let mut command = Command::new(&cli);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).current_dir("/usr");
        command.args(["exec", "--", TRUE]);
        own.push(timed(succeed(command)).await);
    }
    Some(at_most(ONE_SHOT, median(theirs), median(own), 1.0))
}

/// Killing 200 processes: in one group by killpg and reaping them all, to as many in sessions of their own in a sandbox.
async fn crowd(engine: &Engine, rounds: usize) -> Row {
    const CROWD: usize = 200;
    let script = |start: &str| {
        format!(
            "i=0; while [ $i -lt {CROWD} ]; do {start} sleep 1000 & i=$((i+1)); done; echo up; exec sleep 1000"
        )
    };
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(7) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script("")]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("sh");
        let mut up = [0; 3];
        let mut stdout = child.stdout.take().expect("piped");
        stdout.read_exact(&mut up).await.expect("a pipe");
        let group = child.id().expect("it runs");
        theirs.push(
            timed(async {
                let killed =
                    Command::new("/bin/kill").args(["-KILL", "--", &format!("-{group}")]).status().await;
                assert!(killed.expect("kill").success());
                child.wait().await.expect("sh");
                // Until the last of them is gone: they all hold the pipe.
                let mut rest = Vec::new();
                stdout.read_to_end(&mut rest).await.expect("a pipe");
            })
            .await,
        );

        // `setsid` forks only where it must, so that all of them are in sessions of their own.
        let limits = Limits { kill_grace: Some(Duration::ZERO), ..Limits::default() };
        let run = engine.start(Call::command(["sh", "-c", &script("setsid")]).limits(limits));
        let mut events = run.events();
        while let Some(event) = events.next().await {
            if matches!(event.kind, EventKind::Stdout(_)) {
                break;
            }
        }
        own.push(
            timed(async {
                run.cancel("enough");
                assert!(run.await.is_err());
            })
            .await,
        );
    }
    at_most(KILLED, median(theirs), median(own), 1.3)
}

/// 1 GiB of touched memory.
fn ballast() -> Vec<u8> {
    let mut memory = vec![0_u8; GIB as usize];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}

async fn bare() {
    let mut command = Command::new(TRUE);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null());
    let output = command.output().await.expect("/bin/true");
    assert!(output.status.success());
}

async fn ours(engine: &Engine) {
    let report = engine.start(Call::command([TRUE])).await.expect("/bin/true");
    assert!(report.stdout.is_empty());
}

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let began = Instant::now();
    work.await;
    began.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn at_most(what: &'static str, bare: f64, ours: f64, bound: f64) -> Row {
    let ratio = ours / bare;
    Row { what, bare, ours, unit: "ms", ratio, bound: format!("≤ {bound}"), holds: ratio <= bound }
}

async fn sequential(what: &'static str, engine: &Engine, rounds: usize, bound: f64) -> Row {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for round in 0..rounds + 20 {
        let (bare, ours) = (timed(bare()).await, timed(ours(engine)).await);
        if round >= 20 {
            theirs.push(bare);
            own.push(ours);
        }
    }
    at_most(what, median(theirs), median(own), bound)
}

async fn in_flight(engine: &Engine, at_once: usize, batches: usize) -> (Row, Row) {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    let (mut their_time, mut own_time) = (Vec::new(), Vec::new());
    for _ in 0..batches.max(5) {
        let began = Instant::now();
        let mut batch = JoinSet::new();
        (0..at_once).for_each(|_| drop(batch.spawn(timed(bare()))));
        theirs.extend(batch.join_all().await);
        their_time.push(began.elapsed().as_secs_f64() * 1e3);

        let began = Instant::now();
        let mut batch = JoinSet::new();
        for _ in 0..at_once {
            let engine = engine.clone();
            batch.spawn(async move { timed(ours(&engine)).await });
        }
        own.extend(batch.join_all().await);
        own_time.push(began.elapsed().as_secs_f64() * 1e3);
    }
    (
        at_most("level 0: 64 in flight, p50 of a call", median(theirs), median(own), 1.3),
        at_most("level 0: 64 in flight, until all have ended", median(their_time), median(own_time), 1.3),
    )
}

/// Throughput of 1 GiB of stdout, against a task that reads the pipe into one buffer.
async fn flood(what: &'static str, engine: &Engine) -> Row {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    let bytes = GIB.to_string();
    for _ in 0..7 {
        let began = Instant::now();
        let mut child = Command::new("/usr/bin/head")
            .args(["-c", &bytes, "/dev/zero"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("head");
        let mut stdout = child.stdout.take().expect("piped");
        let read = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            let mut total = 0_u64;
            loop {
                match stdout.read(&mut buffer).await.expect("a pipe") {
                    0 => return total,
                    read => total += read as u64,
                }
            }
        });
        assert_eq!(read.await.expect("reading"), GIB);
        child.wait().await.expect("head");
        theirs.push(1.0 / began.elapsed().as_secs_f64());

        let began = Instant::now();
        let report =
            engine.start(Call::command(["/usr/bin/head", "-c", &bytes, "/dev/zero"])).await.expect("head");
        assert_eq!(report.stdout.total(), GIB);
        own.push(1.0 / began.elapsed().as_secs_f64());
    }
    let (bare, ours) = (median(theirs), median(own));
    let ratio = ours / bare;
    Row { what, bare, ours, unit: "GiB/s", ratio, bound: "≥ 0.85".into(), holds: ratio >= 0.85 }
}
