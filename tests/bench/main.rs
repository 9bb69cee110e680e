//! What the engine costs, as ratios to a bare `tokio::process` in the same run: these machines drift, ratios hardly do.
//!
//! Both sides take turns, call by call, and the medians are compared. Exits with 1 when a bound is broken.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(
    clippy::disallowed_methods,
    reason = "the bare side of the comparison is what the rest of the workspace may not use"
)]

use std::{
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, process::Command, task::JoinSet};
use tool_engine::{Call, Engine};

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
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let rows = runtime.block_on(async {
        // On the workers, where an engine's callers are, not in `block_on`, whose polling is slower.
        tokio::time::timeout(WATCHDOG, tokio::spawn(measure(rounds))).await
    });
    let Ok(Ok(rows)) = rows else {
        println!("did not end within {WATCHDOG:?}");
        return ExitCode::FAILURE;
    };
    println!("{:<44} {:>10} {:>10} {:>7}  bound", "", "bare", "run-tool", "ratio");
    for row in &rows {
        let verdict = if row.holds { "" } else { "  BROKEN" };
        println!(
            "{:<44} {:>7.2} {} {:>7.2} {} {:>7.2}  {}{verdict}",
            row.what, row.bare, row.unit, row.ours, row.unit, row.ratio, row.bound
        );
    }
    if rows.iter().all(|row| row.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(rounds: usize) -> Vec<Row> {
    let engine = Engine::builder().max_running(256).build().expect("an engine");
    let mut rows = Vec::new();
    rows.push(sequential("one after the other, p50", &engine, rounds).await);
    let (latency, throughput) = in_flight(&engine, 64, rounds / 20).await;
    rows.extend([latency, throughput]);
    let ballast = ballast();
    rows.push(sequential("from an engine with 1 GiB resident, p50", &engine, rounds).await);
    drop(ballast);
    rows.push(flood(&engine).await);
    engine.shutdown(Duration::from_secs(5)).await;
    rows
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

async fn sequential(what: &'static str, engine: &Engine, rounds: usize) -> Row {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for round in 0..rounds + 20 {
        let (bare, ours) = (timed(bare()).await, timed(ours(engine)).await);
        if round >= 20 {
            theirs.push(bare);
            own.push(ours);
        }
    }
    at_most(what, median(theirs), median(own), 1.3)
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
        at_most("64 in flight, p50 of a call", median(theirs), median(own), 1.3),
        at_most("64 in flight, until all have ended, p50", median(their_time), median(own_time), 1.3),
    )
}

/// Throughput of 1 GiB of stdout, against a task that reads the pipe into one buffer.
async fn flood(engine: &Engine) -> Row {
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
    Row {
        what: "1 GiB of stdout",
        bare,
        ours,
        unit: "GiB/s",
        ratio,
        bound: "≥ 0.85".into(),
        holds: ratio >= 0.85,
    }
}
