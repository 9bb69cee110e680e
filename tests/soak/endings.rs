//! The scenarios of the timeout and cancellation suites, thousands of times and many at once, and what the process holds
//! before and after. Every run is checked as it is in the suites.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use support::{
    Dice, Endless, Flavour, Rig, in_lanes, is_canceled, is_canceled_at_random, is_dropped_at_random,
    times_out,
};
use tempfile::TempDir;
use tool_engine::{Engine, EngineBuilder};

use crate::held::{compare, settled, swells};

/// How many runs there are at a time.
const LANES: u64 = 50;

/// Runs before the first mark, so that what is made once is there.
const WARM_UP: u64 = 300;

/// False when descriptors, threads, tasks, children or temporary files have become more.
pub(crate) fn run(runs: u64) -> bool {
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, runs))
}

async fn soak(rig: &Rig, runs: u64) -> bool {
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

    let grown = compare(&warm, &middle, &end) | swells(&middle, &end);
    engine.shutdown(Duration::from_secs(10)).await;
    if grown {
        println!("\nGREW: something is left over after {runs} runs\n{}", warm.mark.growth());
        return false;
    }
    println!("\nok: {runs} runs, every one with the outcome that it should have, and nothing left over");
    true
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
