//! Requests that are groups of five calls, of which one hangs and ends by its timeout, many at a time: each has its five
//! outcomes, and nothing is left.

use std::time::{Duration, Instant};

use support::{Endless, Flavour, Rig, alive, hostile, in_lanes};
use tool_engine::{CancelSource, Engine, ErrorKind, ExecutionError, Group};

use crate::held::{compare, settled};

/// Groups at a time.
const LANES: u64 = 10;

/// Groups before the first mark.
const WARM_UP: u64 = 30;

/// So many groups.
pub(crate) fn run(groups: u64) -> bool {
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, groups))
}

async fn soak(rig: &Rig, groups: u64) -> bool {
    let builder = rig.builder().catalog(Endless::catalog());
    let engine = builder.max_running(64).build().expect("an engine can be built");
    println!("warming up with {WARM_UP} groups, then twice {} groups, {LANES} at a time", groups.div_ceil(2));
    batch(&engine, 0, WARM_UP).await;
    let warm = settled(rig, &engine, None).await;
    let half = groups.div_ceil(2);
    batch(&engine, WARM_UP, half).await;
    let middle = settled(rig, &engine, Some(&warm)).await;
    batch(&engine, WARM_UP + half, half).await;
    let end = settled(rig, &engine, Some(&warm)).await;
    let grown = compare(&warm, &middle, &end);
    engine.shutdown(Duration::from_secs(10)).await;
    if grown {
        println!("\nGREW: groups leave something behind\n{}", warm.mark.growth());
        return false;
    }
    println!("\nok: {} groups of five, every call with the outcome that it should have", 2 * half);
    true
}

async fn batch(engine: &Engine, first: u64, groups: u64) {
    let began = Instant::now();
    in_lanes(LANES, groups, |number| one(engine.clone(), first + number)).await;
    println!("{groups:>7} groups in {:.1} s", began.elapsed().as_secs_f64());
}

/// One request. Every other one is cancelled as a whole when the call that hangs has failed.
async fn one(engine: Engine, number: u64) {
    const HUNG: usize = 2;
    let modes = Endless::ALL.len() as u64;
    let mode = Endless::ALL[usize::try_from(number % modes).expect("it is small")];
    let fails_fast = number / modes % 2 == 1;
    let last = || if fails_fast { Endless::Sleep.tool() } else { hostile(["exit", "3"]) };
    let calls = vec![
        hostile(["tick", "2", "1"]),
        hostile(["tick", "9", "1"]),
        mode.call(number).timeout(Duration::from_millis(200)),
        last(),
        last(),
    ];
    let group = Group::new(&engine).on_event(|_, _| {});
    let group = if fails_fast { group.fail_fast() } else { group };
    let ends = group.run(calls).await;
    for end in &ends {
        let id = end.as_ref().unwrap_or_else(ExecutionError::report).id;
        assert_eq!(alive(id), Vec::<String>::new(), "{mode:?}");
    }
    let name = |index: usize| ends[index].as_ref().err().map_or("ok", |error| error.kind().name());
    assert_eq!(name(HUNG), "timeout", "{mode:?}: {:?}", ends[HUNG]);
    for (index, end) in ends.iter().enumerate().filter(|(index, _)| *index != HUNG) {
        let expected = if index < HUNG { "ok" } else { "process" };
        match end.as_ref().err().map(ExecutionError::kind) {
            Some(ErrorKind::Canceled { by: CancelSource::Sibling(HUNG), .. }) if fails_fast => {}
            // A machine may be so busy that what is quick is not.
            _ => assert!(name(index) == expected && (!fails_fast || index < HUNG), "{mode:?}: {end:?}"),
        }
    }
}
