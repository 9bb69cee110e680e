//! `soak followers [SECONDS]`: see there. `soak [RUNS]`: the scenarios of the timeout and cancellation suites, thousands of times and many at once, and what the
//! process holds before and after. Every run is checked as it is in the suites; the exit code is 1 when descriptors,
//! threads, tasks, children or temporary files have become more. See `scripts/soak`.

#![expect(clippy::print_stdout, reason = "a command-line program")]

mod followers;

use std::{
    fs,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{
    Dice, Endless, Flavour, Mark, Rig, in_lanes, is_canceled, is_canceled_at_random, is_dropped_at_random,
    times_out,
};
use tempfile::TempDir;
use tool_engine::{Engine, EngineBuilder};

/// How many runs there are at a time.
const LANES: u64 = 50;

/// Runs before the first mark, so that what is made once is there.
const WARM_UP: u64 = 300;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "followers") {
        let seconds = std::env::args().nth(2).map_or(Ok(600), |seconds| seconds.parse());
        let Ok(seconds) = seconds else {
            println!("usage: soak followers [SECONDS]");
            return ExitCode::from(64);
        };
        let rig = Rig::new();
        let time = Duration::from_secs(seconds);
        return Flavour::MultiThread.runtime().block_on(followers::followers(&rig, time));
    }
    let runs = match std::env::args().nth(1).map(|argument| argument.parse()) {
        None => 10_000,
        Some(Ok(runs)) => runs,
        Some(Err(_)) => {
            println!("usage: soak [RUNS]");
            return ExitCode::from(64);
        }
    };
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, runs))
}

async fn soak(rig: &Rig, runs: u64) -> ExitCode {
    let proofs = Arc::new(TempDir::new().expect("a temporary folder can be made"));
    let builder: EngineBuilder = rig.builder().catalog(Endless::catalog());
    let engine = builder.max_running(64).build().expect("an engine can be built");
    println!("warming up with {WARM_UP} runs, then twice {} runs, {LANES} at a time", runs.div_ceil(2));

    batch(&engine, &proofs, 0, WARM_UP).await;
    let warm = settled(rig, &engine, None).await;
    let half = runs.div_ceil(2);
    batch(&engine, &proofs, WARM_UP, half).await;
    let middle = settled(rig, &engine, Some(&warm)).await;
    batch(&engine, &proofs, WARM_UP + half, runs - half).await;
    let end = settled(rig, &engine, Some(&warm)).await;

    println!("\n{:<14}{:>10}{:>10}{:>10}{:>12}{:>12}", "", "warm", "middle", "end", "1st half", "2nd half");
    let mut grown = false;
    for (((what, warm), (_, middle)), (_, end)) in warm.rows().into_iter().zip(middle.rows()).zip(end.rows())
    {
        println!("{what:<14}{warm:>10}{middle:>10}{end:>10}{:>+12}{:>+12}", middle - warm, end - middle);
        grown |= match what {
            RSS | ZYGOTE_RSS => false,
            // Pools that fill up with the most calls at once; they are bounded.
            ZYGOTE_FDS | CGROUPS => end > middle + POOL,
            _ => end > warm,
        };
    }
    engine.shutdown(Duration::from_secs(10)).await;
    if grown {
        println!("\nGREW: something is left over after {runs} runs\n{}", warm.mark.growth());
        return ExitCode::FAILURE;
    }
    println!("\nok: {runs} runs, every one with the outcome that it should have, and nothing left over");
    ExitCode::SUCCESS
}

/// One after the other in each lane: all ways to misbehave, ended in all ways.
async fn batch(engine: &Engine, proofs: &Arc<TempDir>, first: u64, runs: u64) {
    let began = Instant::now();
    in_lanes(LANES, runs, |round| {
        let (engine, proofs, round) = (engine.clone(), Arc::clone(proofs), first + round);
        let modes = Endless::ALL.len() as u64;
        let mode = Endless::ALL[usize::try_from(round % modes).expect("it is small")];
        let mut dice = Dice::new(round);
        async move {
            match round / modes % 4 {
                0 => drop(times_out(&engine, mode, Duration::from_millis(200), proofs.path()).await),
                1 => is_canceled(&engine, mode, round / 2).await,
                2 => is_canceled_at_random(&engine, mode, &mut dice).await,
                _ => drop(is_dropped_at_random(&engine, mode, &mut dice).await),
            }
        }
    })
    .await;
    println!("{runs:>7} runs in {:.1} s", began.elapsed().as_secs_f64());
}

/// What the process holds at one moment.
struct Held {
    mark: Mark,
    rss: i64,
    zygote: Option<Zygote>,
}

/// What the zygote holds, and what it made.
struct Zygote {
    fds: i64,
    mounts: i64,
    rss: i64,
    sandboxes: i64,
    cgroups: i64,
}

const RSS: &str = "RSS (KiB)";
const ZYGOTE_RSS: &str = "zygote RSS";
const ZYGOTE_FDS: &str = "zygote fds";
const CGROUPS: &str = "cgroups";
/// How many more there may be in the second half: as many as there are calls at once.
const POOL: i64 = 64;

impl Zygote {
    fn now() -> Option<Self> {
        let family = support::descendants(std::process::id());
        let (pid, _) = family.iter().find(|(_, name)| name == "run-tool-zygote")?;
        let count =
            |path: String| Some(i64::try_from(fs::read_dir(path).ok()?.count()).expect("it is small"));
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?.lines().count();
        let cgroups = support::own_cgroups(std::process::id()).into_iter().filter_map(count).sum();
        Some(Self {
            fds: count(format!("/proc/{pid}/fd"))?,
            mounts: i64::try_from(mounts).expect("it is small"),
            rss: rss(&pid.to_string()),
            // Beside the zygote and its keeper.
            sandboxes: i64::try_from(family.len()).expect("it is small") - 2,
            cgroups,
        })
    }
}

impl Held {
    fn rows(&self) -> Vec<(&'static str, i64)> {
        let counts = self.mark.counts().into_iter();
        let mut rows: Vec<_> =
            counts.map(|(what, count)| (what, i64::try_from(count).expect("it is small"))).collect();
        rows.push((RSS, self.rss));
        if let Some(zygote) = &self.zygote {
            rows.extend([
                ("sandboxes", zygote.sandboxes),
                ("zygote mounts", zygote.mounts),
                (ZYGOTE_FDS, zygote.fds),
                (CGROUPS, zygote.cgroups),
                (ZYGOTE_RSS, zygote.rss),
            ]);
        }
        rows
    }
}

/// Waits until no execution is left and the counts are what they were, or for so long that they will not be any more.
async fn settled(rig: &Rig, engine: &Engine, since: Option<&Held>) -> Held {
    let patience = Instant::now() + Duration::from_secs(20);
    let calm = |now: &Mark| match since {
        Some(held) => held.mark.growth().is_empty(),
        // The zygote's keeper is one.
        None => now.counts().iter().all(|(what, count)| *what != "children" || *count <= 1),
    };
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mark = rig.mark();
        if (engine.active() == 0 && calm(&mark)) || Instant::now() > patience {
            return Held { mark, rss: rss("self"), zygote: Zygote::now() };
        }
    }
}

fn rss(process: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a process has a resident set")
}
