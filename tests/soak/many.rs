//! Many sleeping tools at once from one engine: what each of them takes of the engine's own memory, and how soon nothing is
//! left when all are cancelled.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{Flavour, Rig, alive_of, hostile, until};
use tool_engine::{Engine, Filter, Limits, State, Submitted};

use crate::held::{compare, rss, settled};

/// KiB of the engine's own memory for each execution that runs.
const MOST_KIB: f64 = 32.0;
/// From `cancel_all` until nothing is left.
const MOST_TIME: Duration = Duration::from_secs(5);
/// Until all of them run. A watchdog, no expectation.
const PATIENCE: Duration = Duration::from_secs(300);

/// Descriptors that an execution has open while it runs. (Those of its cgroup are closed when many run.)
const DESCRIPTORS: u64 = 7;
/// All others: the pools', those of executions that start or end, and our own.
const OTHERS: u64 = 3000;

/// So many at once.
pub(crate) fn run(at_once: u64) -> bool {
    if let Err(error) = allow_descriptors(OTHERS + at_once * DESCRIPTORS) {
        println!(
            "BROKEN: {at_once} at once need {DESCRIPTORS} descriptors each: {error}; raise the hard limit (`ulimit -Hn`)"
        );
        return false;
    }
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, usize::try_from(at_once).expect("it is small")))
}

/// Raises our own limit as far as needed; the hard one, too, where we may.
fn allow_descriptors(needed: u64) -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
}

async fn soak(rig: &Rig, at_once: usize) -> bool {
    // Nobody is kept from being started, and nobody ends before it is told.
    let limits = Limits { timeout: Some(Duration::from_secs(600)), ..Limits::default() };
    let builder = rig.builder().max_running(at_once).max_queued(at_once).limits(limits);
    let engine = builder.build().expect("an engine can be built");
    // What is made once is there before the mark, the pools included.
    round(&engine, at_once.min(64)).await;
    let warm = settled(rig, &engine, None).await;
    let first = round(&engine, at_once).await;
    let middle = settled(rig, &engine, Some(&warm)).await;
    let second = round(&engine, at_once).await;
    let end = settled(rig, &engine, Some(&warm)).await;
    let grown = compare(&warm, &middle, &end);
    engine.shutdown(Duration::from_secs(10)).await;

    println!(
        "\n{:<14}{:>16}{:>16}{:>16}  bounds ≤ {MOST_KIB} KiB, ≤ {MOST_TIME:?}",
        "at once", "all run after", "KiB each", "gone after"
    );
    let mut holds = !grown;
    for round in [&first, &second] {
        println!(
            "{at_once:<14}{:>14.2} s{:>16.1}{:>14.2} s",
            round.started.as_secs_f64(),
            round.kib_each,
            round.gone.as_secs_f64()
        );
        holds &= round.gone <= MOST_TIME;
    }
    // In the second round the allocator has what the first one gave back, so the first one tells.
    holds &= first.kib_each <= MOST_KIB;
    if holds {
        println!("\nok: nothing left over");
    } else {
        println!("\nBROKEN: see above\n{}", warm.mark.growth());
    }
    holds
}

struct Round {
    started: Duration,
    kib_each: f64,
    gone: Duration,
}

async fn round(engine: &Engine, at_once: usize) -> Round {
    let registry = engine.registry();
    let before = rss("self");
    let began = Instant::now();
    let submit = |_| registry.submit(hostile(["sleep"]).owner("soak")).expect("it has an id of its own");
    let submitted: Vec<Submitted> = (0..at_once).map(submit).collect();
    let running = Filter { state: Some(State::Running), limit: Some(usize::MAX), ..Filter::default() };
    let ended = Filter { state: Some(State::Ended), ..Filter::default() };
    until("all of them run", PATIENCE, || {
        let ended = registry.list(&ended);
        assert!(ended.is_empty(), "of {at_once}, {} ended: {:?}", ended.len(), ended.first());
        (registry.list(&running).len() == at_once).then_some(())
    })
    .await;
    let started = began.elapsed();
    let kib = u32::try_from((rss("self") - before).max(0)).map_or(f64::MAX, f64::from);
    let kib_each = kib / u32::try_from(at_once).map_or(1.0, f64::from);

    let began = Instant::now();
    assert_eq!(registry.cancel_all(Some("soak"), "enough"), at_once);
    for Submitted { id, .. } in &submitted {
        let end = registry.wait(id).await.expect("it is known");
        assert_eq!(end.as_ref().as_ref().err().map(|error| error.kind().name()), Some("canceled"), "{end:?}");
        registry.remove(id).expect("it has ended");
    }
    let gone = began.elapsed();
    let executions: Vec<_> = submitted.iter().map(|submitted| submitted.execution).collect();
    assert_eq!(alive_of(&executions), Vec::<String>::new(), "alive after the end");
    assert_eq!(registry.size(), (0, 0));
    Round { started, kib_each, gone }
}
