//! A thousand readers of calls that write, of which some read, some never do, and all vanish: what is left of them.

use std::time::{Duration, Instant};

use support::{Dice, Flavour, Rig, hostile, ready};
use tokio::task::JoinSet;
use tool_engine::{Engine, EventKind, Limits};

use crate::held::{compare, settled};

const READERS: u64 = 1000;

/// So many rounds of a thousand readers.
pub(crate) fn run(rounds: u64) -> bool {
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, rounds))
}

async fn soak(rig: &Rig, rounds: u64) -> bool {
    let engine = rig.builder().build().expect("an engine can be built");
    println!("warming up with a round, then twice {} rounds of {READERS} readers", rounds.div_ceil(2));
    round(&engine, 0).await;
    let warm = settled(rig, &engine, None).await;
    let half = rounds.div_ceil(2);
    several(&engine, 1..=half).await;
    let middle = settled(rig, &engine, Some(&warm)).await;
    several(&engine, half + 1..=2 * half).await;
    let end = settled(rig, &engine, Some(&warm)).await;
    let grown = compare(&warm, &middle, &end);
    engine.shutdown(Duration::from_secs(10)).await;
    if grown {
        println!("\nGREW: readers leave something behind\n{}", warm.mark.growth());
        return false;
    }
    println!("\nok: {} readers came and vanished, and nothing is left of them", 2 * half * READERS);
    true
}

async fn several(engine: &Engine, rounds: std::ops::RangeInclusive<u64>) {
    let began = Instant::now();
    let count = rounds.clone().count();
    for number in rounds {
        round(engine, number).await;
    }
    println!("{count:>7} rounds in {:.1} s", began.elapsed().as_secs_f64());
}

async fn round(engine: &Engine, number: u64) {
    let registry = engine.registry();
    let limits = Limits { event_ring: Some(64 << 10), stdout: Some(64 << 10), ..Limits::default() };
    let flood =
        registry.submit(hostile(["flood"]).limits(limits.clone())).expect("it has an id of its own").id;
    let quiet = registry.submit(hostile(["sleep"]).limits(limits)).expect("it has an id of its own").id;
    for id in [&flood, &quiet] {
        ready(&mut registry.events(id, None).expect("it is known")).await;
    }
    let mut readers = JoinSet::new();
    let mut idle = Vec::new();
    for reader in 0..READERS {
        let mut dice = Dice::new(number * READERS + reader);
        let id = if reader % 2 == 0 { &flood } else { &quiet };
        let mut events = registry.events(id, None).expect("it is known");
        if reader % 4 == 0 {
            idle.push(events);
            continue;
        }
        readers.spawn(async move {
            // Until it has had enough, or is dropped in the middle of waiting.
            for _ in 0..dice.below(200) {
                match events.next().await {
                    Some(event) => assert!(!matches!(event.kind, EventKind::Ended { .. }), "{event:?}"),
                    None => panic!("no end is expected"),
                }
            }
        });
    }
    Dice::new(number).pause(Duration::from_millis(50)).await;
    readers.abort_all();
    while let Some(reader) = readers.join_next().await {
        if let Err(error) = reader
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    drop(idle);
    for id in [&flood, &quiet] {
        let status = registry.status(id).expect("it is known");
        assert!(status.cancellation.is_none(), "a reader has cancelled it: {status:?}");
        registry.cancel(id, "enough").expect("it is known");
        let end = registry.wait(id).await.expect("it is known");
        assert_eq!(end.as_ref().as_ref().err().map(|error| error.kind().name()), Some("canceled"), "{end:?}");
        registry.remove(id).expect("it has ended");
    }
}
