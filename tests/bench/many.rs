//! What others cost a call: the records behind it, and those who subscribe to it and never read. Both sides are the engine's
//! own, and take turns.

use std::time::Duration;

use tool_engine::{Call, CancellationToken, Engine, EngineBuilder, Events, ProcessGroups, Registry};

use crate::{Row, TRUE, at_most, median, timed};

pub(crate) const RECORDS: &str = "level 0: records behind a call";
pub(crate) const SUBSCRIBERS: &str = "level 0: 1 000 subscribers that never read, to none";
const CROWD: usize = 1000;

fn builder() -> EngineBuilder {
    Engine::builder().launcher(ProcessGroups).max_running(256)
}

/// An engine with so many records of what has ended. They are of calls that were cancelled beforehand: real ones, without
/// the time that as many processes take.
async fn with_records(count: usize) -> Engine {
    let keep =
        builder().retention(Duration::from_secs(3600)).max_records(2 * count).max_record_bytes(u64::MAX);
    let engine = keep.build().expect("an engine");
    let registry = engine.registry();
    let token = CancellationToken::new();
    token.cancel();
    for n in 0..count {
        let call = Call::command([TRUE]).owner(format!("owner {}", n % 100)).cancel_on(token.clone());
        let id = registry.submit(call).expect("it has an id of its own").id;
        assert!(registry.wait(&id).await.expect("it is known").is_err(), "it was cancelled before");
    }
    assert_eq!(registry.size().0, count);
    engine
}

async fn submitted(registry: &Registry) {
    let id = registry.submit(Call::command([TRUE]).owner("owner 1")).expect("it has an id of its own").id;
    let end = registry.wait(&id).await.expect("it is known");
    assert!(end.is_ok(), "{end:?}");
    registry.remove(&id).expect("it has ended");
}

pub(crate) async fn records(rounds: usize) -> [Row; 2] {
    let (few, more, most) = tokio::join!(with_records(10), with_records(1_000), with_records(100_000));
    let engines = [&few, &more, &most];
    let registries = engines.map(Engine::registry);
    let mut times = [const { Vec::new() }; 3];
    for round in 0..rounds + 20 {
        for (registry, times) in registries.iter().zip(&mut times) {
            let time = timed(submitted(registry)).await;
            if round >= 20 {
                times.push(time);
            }
        }
    }
    drop(registries);
    for engine in engines {
        engine.shutdown(Duration::from_secs(5)).await;
    }
    let [few, more, most] = times.map(median);
    [
        at_most("level 0: records behind a call, 1 000 to 10", few, more, 1.2),
        at_most("level 0: records behind a call, 100 000 to 10", few, most, 1.2),
    ]
}

/// A call that says something, and what subscribes to it meanwhile.
async fn heard(registry: &Registry, subscribers: usize) -> Vec<Events> {
    let id = registry.submit(Call::command(["/bin/echo", "hello"])).expect("it has an id of its own").id;
    let readers = (0..subscribers).map(|_| registry.events(&id, None).expect("it is known")).collect();
    let end = registry.wait(&id).await.expect("it is known");
    assert!(end.is_ok(), "{end:?}");
    registry.remove(&id).expect("it has ended");
    readers
}

pub(crate) async fn subscribers(rounds: usize) -> Row {
    let engine = builder().build().expect("an engine");
    let registry = engine.registry();
    let (mut alone, mut crowded) = (Vec::new(), Vec::new());
    for round in 0..rounds + 20 {
        for (subscribers, times) in [(0, &mut alone), (CROWD, &mut crowded)] {
            let mut readers = Vec::new();
            let time = timed(async { readers = heard(&registry, subscribers).await }).await;
            drop(readers);
            if round >= 20 {
                times.push(time);
            }
        }
    }
    drop(registry);
    engine.shutdown(Duration::from_secs(5)).await;
    at_most(SUBSCRIBERS, median(alone), median(crowded), 1.1)
}
