//! Short calls, one after the other in each of some lanes, half of them through the registry: every one has the output that is
//! its own, and nothing is left of them.

use std::time::{Duration, Instant};

use support::{Flavour, Rig, in_lanes};
use tool_engine::{Call, Engine, Report};

use crate::held::{compare, settled, swells};

/// How many run at a time.
const LANES: u64 = 8;

/// Before the first mark, so that what is made once is there.
const WARM_UP: u64 = 500;

/// False when something has become more.
pub(crate) fn run(runs: u64) -> bool {
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, runs))
}

async fn soak(rig: &Rig, runs: u64) -> bool {
    // As many records as there are after the warm-up.
    let builder = rig.builder().max_records(usize::try_from(WARM_UP / 4).expect("it is small"));
    let engine = builder.build().expect("an engine can be built");
    let half = runs.div_ceil(2);
    println!("warming up with {WARM_UP} calls, then twice {half}, {LANES} at a time");
    batch(&engine, 0, WARM_UP).await;
    let warm = settled(rig, &engine, None).await;
    batch(&engine, WARM_UP, half).await;
    let middle = settled(rig, &engine, Some(&warm)).await;
    batch(&engine, WARM_UP + half, runs - half).await;
    let end = settled(rig, &engine, Some(&warm)).await;
    let grown = compare(&warm, &middle, &end) | swells(&middle, &end);
    engine.shutdown(Duration::from_secs(10)).await;
    if grown {
        println!("\nGREW: something is left over after {runs} calls\n{}", warm.mark.growth());
        return false;
    }
    println!("\nok: {runs} calls, every one with its own output, and nothing left over");
    true
}

async fn batch(engine: &Engine, first: u64, runs: u64) {
    let began = Instant::now();
    in_lanes(LANES, runs, |round| {
        let (engine, number) = (engine.clone(), first + round);
        async move {
            let call = Call::command(["/bin/echo".to_owned(), number.to_string()]);
            if number.is_multiple_of(2) {
                is_own(&engine.start(call).await.expect("echo succeeds"), number);
            } else {
                let registry = engine.registry();
                let id = registry.submit(call).expect("it has an id of its own").id;
                let end = registry.wait(&id).await.expect("it is known");
                is_own(end.as_ref().as_ref().expect("echo succeeds"), number);
            }
        }
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    println!("{runs:>7} calls in {seconds:.1} s, {:.2} ms each", seconds * 1e3 / runs as f64);
}

fn is_own(report: &Report, number: u64) {
    assert_eq!(report.stdout.text(), format!("{number}\n"));
    assert!(report.residue.is_empty() && !report.kill_pending && !report.pipe_held, "{report:?}");
}
