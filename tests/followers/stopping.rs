//! A follower ends when it is asked to, whatever its source does and whoever does not read, and leaves nothing behind.

use std::time::Duration;

use support::{Flavour, Rig, descendants, hostile_path};
use tool_follow::{FollowEventKind, Followers, Source, TimeFormat};

use super::{Log, down, in_time, next_line, patient, with_followers};

/// Stops a follower of this source when it has told a line.
fn stops(source: impl FnOnce(&mut Log) -> Source) {
    with_followers(|followers, mut log| async move {
        log.say(0, "a");
        let source = source(&mut log);
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        while next_line(&mut events).await.time.is_none() {}
        in_time("a stop", async {
            tokio::join!(follower.stop(), async { while events.next().await.is_some() {} })
        })
        .await;
    });
}

#[test]
fn though_its_source_ignores_sigterm() {
    stops(|log| log.source("stay"));
}

#[test]
fn though_a_daemon_holds_the_pipe() {
    stops(|log| log.source("hold"));
}

#[test]
fn though_it_is_being_opened_anew() {
    stops(|log| log.source("stay").rotate_every(Duration::from_millis(1)));
}

#[test]
fn though_its_source_floods() {
    stops(|log| {
        let flood = "while :; do echo \"2026-01-31T10:00:00Z flood\"; done # $0";
        let words = ["sh", "-c", flood, "{since}"];
        log.served(Source::command(words, TimeFormat::Rfc3339), "")
    });
}

#[test]
fn though_nobody_reads() {
    with_followers(|followers, mut log| async move {
        for round in 0..2_000 {
            log.burst(round);
        }
        let never_read = followers.follow("log", log.source("").buffer(4 << 10)).unwrap();
        let kept = never_read.subscribe();
        let counts = || never_read.counts();
        support::until("it stands still", super::PATIENCE, || (counts().lines > 5).then_some(())).await;
        in_time("a stop", never_read.stop()).await;
        assert!(counts().lines < log.written.len() as u64, "it was held up: {:?}", counts());
        let mut kept = kept;
        let mut last = None;
        while let Some(event) = kept.next().await {
            last = Some(event.kind);
        }
        assert!(matches!(last, Some(FollowEventKind::Ended { error: None })), "{last:?}");
    });
}

#[test]
fn while_it_waits_for_the_next_attempt() {
    with_followers(|followers, _| async move {
        let words = [hostile_path().to_str().unwrap(), "exit", "{since}"].map(str::to_owned);
        let long = Duration::from_secs(3600);
        let source = Source::command(words, TimeFormat::Rfc3339).call(patient).backoff(long, long);
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        while !matches!(super::next(&mut events).await.kind, FollowEventKind::Reconnect { .. }) {}
        in_time("a stop", follower.stop()).await;
    });
}

#[test]
fn when_the_last_of_the_followers_is_dropped_outside_a_runtime() {
    let _watchdog = support::Watchdog::new(Duration::from_secs(100));
    let rig = Rig::new();
    let runtime = Flavour::MultiThread.runtime();
    let (followers, engine, mut events) = runtime.block_on(async {
        let engine = rig.engine();
        let followers = Followers::builder(&engine).build().unwrap();
        let mut log = Log::new();
        log.say(0, "a");
        let follower = followers.follow("log", log.source("stay")).unwrap();
        let mut events = follower.subscribe();
        next_line(&mut events).await;
        (followers, engine, events)
    });
    drop(followers);
    runtime.block_on(in_time("its end", async { while events.next().await.is_some() {} }));
    runtime.block_on(in_time("a shutdown", engine.shutdown(Duration::from_secs(5))));
    drop(engine);
    assert!(family().is_empty(), "{:?}", family());
}

#[test]
fn when_the_runtime_goes_away() {
    let _watchdog = support::Watchdog::new(Duration::from_secs(100));
    let rig = Rig::new();
    let runtime = Flavour::MultiThread.runtime();
    let (followers, follower) = runtime.block_on(async {
        let engine = rig.engine();
        let followers = Followers::builder(&engine).build().unwrap();
        let mut log = Log::new();
        log.say(0, "a");
        let follower = followers.follow("log", log.source("")).unwrap();
        next_line(&mut follower.subscribe()).await;
        (followers, follower)
    });
    drop(runtime);
    let mut events = follower.subscribe();
    let last = std::iter::from_fn(|| events.try_next()).last().map(|event| event.kind);
    assert!(matches!(last, Some(FollowEventKind::Ended { error: Some(_) })), "{last:?}");
    assert_eq!(followers.metrics().active, 0);
    drop(followers);
    // The janitor ends what ran.
    let runtime = Flavour::CurrentThread.runtime();
    let gone = support::until("nothing is left", super::PATIENCE, || family().is_empty().then_some(()));
    runtime.block_on(gone);
}

#[test]
fn with_its_engine() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.engine();
        let followers = Followers::builder(&engine).build().unwrap();
        let mut log = Log::new();
        log.say(0, "a");
        let follower = followers.follow("log", log.source("")).unwrap();
        let mut events = follower.subscribe();
        next_line(&mut events).await;
        in_time("a shutdown", engine.shutdown(Duration::from_secs(5))).await;
        assert_eq!(followers.metrics().active, 0);
        assert!(followers.follow("other", log.source("")).is_err());
        drop((follower, events, log));
        down(followers, engine).await;
        mark.assert_settled("after the shutdown").await;
    });
}

/// What this process has started, the sandboxes' own processes included.
fn family() -> Vec<(u32, String)> {
    descendants(std::process::id())
}
