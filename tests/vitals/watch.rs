//! The watch: when it warns, of what, and when it ends.

use std::{fs::File, time::Duration};

use support::{Capture, Flavour, PATIENCE, Rig, until};
use tool_engine::VitalsWatch;
use tracing::Level;

/// What the watch says of every look.
const LOOKED: &str = "looked at the vitals";
const GROWN: &str = "this process has grown";
const HELD: u64 = 60;

fn watch(cooldown: Duration) -> VitalsWatch {
    VitalsWatch { every: Duration::from_millis(1), fds: Some(HELD), tasks: None, rss: None, cooldown }
}

async fn looks(capture: &Capture, more: usize) {
    let enough = capture.count(LOOKED) + more;
    until("the watch looks", PATIENCE, || (capture.count(LOOKED) >= enough).then_some(())).await;
}

async fn warnings(capture: &Capture, enough: usize) {
    until("the watch warns", PATIENCE, || (capture.count(GROWN) >= enough).then_some(())).await;
}

fn hold(rig: &Rig) -> Vec<File> {
    (0..HELD).map(|number| File::create(rig.temp().join(format!("held-{number}"))).unwrap()).collect()
}

#[test]
fn growth_past_a_threshold_is_told_once_in_a_cooldown() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let capture = Capture::begin();
        let engine = rig.builder().watch(watch(Duration::from_secs(3600))).build().unwrap();
        looks(&capture, 3).await;
        assert_eq!(capture.count(GROWN), 0, "{:?}", capture.said());
        let held = hold(&rig);
        warnings(&capture, 1).await;
        looks(&capture, 20).await;
        let said = capture.said();
        let told: Vec<_> = said.events.iter().filter(|event| event.message.contains(GROWN)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].level, Level::WARN);
        assert!(told[0].message.contains(" descriptors then, "), "{told:?}");
        let fds: u64 = told[0].fields["fds"].parse().unwrap();
        assert!(fds > HELD, "{told:?}");
        drop(held);
        engine.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn after_the_cooldown_it_is_told_again_for_as_long_as_it_lasts() {
    Rig::run(Flavour::CurrentThread, |rig| async move {
        let capture = Capture::begin();
        let engine = rig.builder().watch(watch(Duration::from_millis(5))).build().unwrap();
        looks(&capture, 1).await;
        let held = hold(&rig);
        warnings(&capture, 3).await;
        drop(held);
        // A look may have been under way.
        looks(&capture, 2).await;
        let told = capture.count(GROWN);
        looks(&capture, 20).await;
        assert_eq!(capture.count(GROWN), told, "{:?}", capture.said().events.last());
        engine.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn it_does_not_keep_the_engine_alive_and_ends_with_it() {
    for flavour in Flavour::ALL {
        Rig::run(flavour, |rig| async move {
            let mark = rig.mark();
            let engine = rig.builder().watch(watch(Duration::ZERO)).build().unwrap();
            assert_eq!(engine.active(), 0);
            drop(engine);
            mark.assert_settled("after the engine was dropped").await;
            // And a shutdown waits for it.
            let engine = rig.builder().watch(VitalsWatch::default()).build().unwrap();
            engine.shutdown(Duration::from_secs(600)).await;
            drop(engine);
            mark.assert_settled("after the shutdown").await;
        });
    }
}

#[test]
fn it_ends_with_its_runtime_and_without_one() {
    let rig = Rig::new();
    let mark = rig.mark();
    let runtime = Flavour::MultiThread.runtime();
    let builder = rig.builder().runtime(runtime.handle().clone());
    let engine = builder.watch(watch(Duration::ZERO)).build().unwrap();
    drop(runtime);
    drop(engine);
    mark.assert_settled_blocking("after the runtime and the engine");
}
