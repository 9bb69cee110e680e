//! A cancel at every moment, and who reads and waits meanwhile.

use std::{sync::Arc, task::Poll, time::Duration};

use support::{
    Dice, Endless, Flavour, PATIENCE, Rig, hostile, in_lanes, is_alive, ready, wait_for_output, with_engine,
};
use tool_engine::{
    CancelSource, Cancellation, ErrorKind, EventKind, ExitStatus, Limits, RemoveError, State, UnknownId,
};

use crate::{end, events, kind, plain, running, sh, sleeping};

fn canceled(reason: &str) -> ErrorKind {
    ErrorKind::Canceled { by: CancelSource::Caller, reason: Some(reason.into()) }
}

#[test]
fn who_cancels_and_then_reads_finds_the_cancelled_end() {
    with_engine(
        |builder| builder.max_running(100),
        |engine| async move {
            let registry = engine.registry();
            in_lanes(8, 40, |round| {
                let registry = registry.clone();
                async move {
                    let id = registry.submit(sleeping()).unwrap().id;
                    Dice::new(round).pause(Duration::from_millis(20)).await;
                    let status = registry.cancel(&id, "enough").unwrap();
                    assert!(status.state >= State::Stopping, "{status:?}");
                    let by = Cancellation { by: CancelSource::Caller, reason: Some("enough".into()) };
                    assert!(status.cancellation.is_none_or(|cancellation| cancellation == by));
                    // At once, without waiting for anything.
                    assert!(registry.status(&id).unwrap().state >= State::Stopping);
                    let told = events(&registry, &id).await;
                    assert!(
                        matches!(told.last(), Some(EventKind::Ended { error: Some(error) }) if *error == canceled("enough"))
                    );
                    // Who has read the end finds it everywhere.
                    let status = registry.status(&id).unwrap();
                    assert_eq!((status.state, status.outcome()), (State::Ended, Some("canceled")));
                    assert_eq!(status.cancellation, None);
                    assert_eq!(kind(&registry.remove(&id).unwrap()), canceled("enough"));
                }
            })
            .await;
        },
    );
}

#[test]
fn a_cancel_in_mid_stream_tells_every_reader_one_end_also_one_that_does_not_read() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let limits = Limits { event_ring: Some(8 << 10), stdout: Some(8 << 10), ..Limits::default() };
        let id = registry.submit(hostile(["flood"]).limits(limits)).unwrap().id;
        let mut idle = registry.events(&id, None).unwrap();
        let mut reader = registry.events(&id, None).unwrap();
        let mut seen = 0;
        while seen < 1 << 18 {
            match reader.next().await.unwrap().kind {
                EventKind::Stdout(chunk) | EventKind::Stderr(chunk) => seen += chunk.0.len(),
                EventKind::Ended { error } => panic!("{error:?}"),
                _ => {}
            }
        }
        registry.cancel(&id, "enough").unwrap();
        let mut ends = 0;
        while let Some(event) = reader.next().await {
            ends += u32::from(matches!(event.kind, EventKind::Ended { .. }));
        }
        assert_eq!(ends, 1);
        // This one's buffer was full long ago.
        let (mut ends, mut gaps) = (0, 0);
        while let Some(event) = idle.try_next() {
            assert_eq!(ends, 0, "{event:?} after the end");
            ends += u32::from(matches!(event.kind, EventKind::Ended { .. }));
            gaps += u32::from(matches!(event.kind, EventKind::Gap { .. }));
        }
        assert_eq!((ends, gaps), (1, 1));
        assert_eq!(kind(&end(&registry, &id).await), canceled("enough"));
    });
}

#[test]
fn what_waits_for_its_turn_is_cancelled_at_once_and_never_starts() {
    with_engine(
        |builder| builder.max_running(1),
        |engine| async move {
            let registry = engine.registry();
            let first = running(&registry, sleeping()).await;
            let marker = tempfile::NamedTempFile::new().unwrap();
            let script = format!("echo started >> {}", marker.path().display());
            let waiting: Vec<_> = (0..5).map(|_| registry.submit(sh(&script)).unwrap().id).collect();
            for id in &waiting {
                assert_eq!(registry.status(id).unwrap().state, State::Queued);
                assert!(registry.cancel(id, "not needed").unwrap().state >= State::Stopping);
            }
            for id in &waiting {
                // While the first one still has the only place.
                let end = end(&registry, id).await;
                assert_eq!(kind(&end), canceled("not needed"));
                assert_eq!(end.as_ref().as_ref().unwrap_err().report().enforced, None);
                let told = events(&registry, id).await;
                assert!(matches!(told[..], [EventKind::Ended { .. }]), "{told:?}");
            }
            assert_eq!(registry.status(&first).unwrap().state, State::Running);
            // The place goes to somebody else, and to none of them.
            let last = registry.submit(sh(&script)).unwrap().id;
            registry.cancel(&first, "enough").unwrap();
            assert!(end(&registry, &last).await.is_ok());
            assert_eq!(std::fs::read_to_string(marker.path()).unwrap(), "started\n");
        },
    );
}

#[test]
fn after_the_end_the_end_stands() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        for (script, outcome) in [("true", "ok"), ("exit 3", "process")] {
            let id = registry.submit(sh(script)).unwrap().id;
            let first = end(&registry, &id).await;
            for _ in 0..2 {
                let status = registry.cancel(&id, "too late").unwrap();
                assert_eq!((status.state, status.outcome()), (State::Ended, Some(outcome)));
                assert_eq!(status.cancellation, None);
            }
            assert_eq!(registry.cancel_all(None, "too late"), 0);
            assert!(Arc::ptr_eq(&first, &end(&registry, &id).await));
        }
    });
}

#[test]
fn a_second_cancel_skips_the_grace_and_the_first_one_is_named() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let call = hostile(["on-term", "stay"]).kill_grace(Duration::from_secs(3600));
        let id = running(&registry, call).await;
        let mut reader = registry.events(&id, None).unwrap();
        registry.cancel(&id, "please").unwrap();
        wait_for_output(&mut reader, "got SIGTERM\n").await;
        let status = registry.status(&id).unwrap();
        assert_eq!(
            (status.state, status.cancellation.unwrap().reason.as_deref()),
            (State::Stopping, Some("please"))
        );
        registry.cancel(&id, "now").unwrap();
        let end = end(&registry, &id).await;
        assert_eq!(kind(&end), canceled("please"));
        assert_eq!(end.as_ref().as_ref().unwrap_err().report().exit, Some(ExitStatus::Signal(9)));
        events(&registry, &id).await;
    });
}

#[test]
fn an_unknown_id_is_one_error_everywhere() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let unknown = UnknownId { id: "nobody".into() };
        assert_eq!(registry.status("nobody").unwrap_err(), unknown);
        assert_eq!(registry.events("nobody", None).unwrap_err(), unknown);
        assert_eq!(registry.wait("nobody").await.unwrap_err(), unknown);
        assert_eq!(registry.cancel("nobody", "why").unwrap_err(), unknown);
        assert_eq!(registry.remove("nobody").unwrap_err(), RemoveError::Unknown(unknown.clone()));
        assert_eq!(registry.cancel_all(Some("nobody"), "why"), 0);
        assert!(unknown.to_string().contains("\"nobody\""), "{unknown}");
        // What was only started is not known here.
        let run = engine.start(sh("true"));
        assert!(registry.status(&run.id().to_string()).is_err());
        run.await.unwrap();
    });
}

#[test]
fn all_that_an_owner_has_is_cancelled_and_nothing_else() {
    with_engine(
        |builder| builder.max_running(4),
        |engine| async move {
            let registry = engine.registry();
            let mut of_a = vec![running(&registry, sleeping().owner("a")).await];
            of_a.push(running(&registry, sleeping().owner("a")).await);
            let of_b = running(&registry, sleeping().owner("b")).await;
            let of_nobody = running(&registry, sleeping()).await;
            of_a.extend((0..3).map(|_| registry.submit(sleeping().owner("a")).unwrap().id));
            assert_eq!(registry.cancel_all(Some("a"), "go home"), 5);
            for id in &of_a {
                assert!(registry.status(id).unwrap().state >= State::Stopping);
                assert_eq!(kind(&end(&registry, id).await), canceled("go home"));
            }
            for id in [&of_b, &of_nobody] {
                let status = registry.status(id).unwrap();
                assert_eq!((status.state, status.cancellation), (State::Running, None));
            }
            assert_eq!(registry.cancel_all(None, "closing time"), 2);
            for id in [&of_b, &of_nobody] {
                assert_eq!(kind(&end(&registry, id).await), canceled("closing time"));
            }
        },
    );
}

#[test]
fn who_stops_waiting_or_reading_cancels_nothing_and_all_who_wait_get_the_same() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let go = tempfile::tempdir().unwrap();
        let script = format!("echo ready; until [ -e {}/go ]; do sleep 0.01; done", go.path().display());
        let id = running(&registry, sh(&script)).await;
        for _ in 0..50 {
            let (mut wait, mut reader) =
                (Box::pin(registry.wait(&id)), registry.events(&id, Some(1)).unwrap());
            let mut next = Box::pin(reader.next());
            std::future::poll_fn(|cx| {
                assert!(wait.as_mut().poll(cx).is_pending() && next.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        let mut waiters = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (registry, id) = (registry.clone(), id.clone());
            waiters.spawn(async move { end(&registry, &id).await });
        }
        assert_eq!(registry.status(&id).unwrap().state, State::Running);
        std::fs::write(go.path().join("go"), "").unwrap();
        let ends = waiters.join_all().await;
        assert!(ends[0].is_ok() && ends.iter().all(|end| Arc::ptr_eq(end, &ends[0])));
    });
}

#[test]
fn an_engine_that_closes_cancels_what_was_submitted_and_the_records_stay_to_be_read() {
    for flavour in Flavour::ALL {
        Rig::run(flavour, |rig| async move {
            let mark = rig.mark();
            let engine = rig.builder().max_running(1).catalog(Endless::catalog()).build().unwrap();
            let registry = engine.registry();
            let id = running(&registry, sleeping()).await;
            let waiting = registry.submit(sleeping()).unwrap().id;
            engine.shutdown(Duration::from_secs(20)).await;
            for id in [&id, &waiting] {
                let kind = kind(&end(&registry, id).await);
                assert_eq!(kind, ErrorKind::Canceled { by: CancelSource::Shutdown, reason: None });
            }
            let late = registry.submit(sh("true")).unwrap().id;
            assert!(matches!(kind(&end(&registry, &late).await), ErrorKind::Canceled { .. }));
            engine.shutdown(Duration::from_secs(20)).await;
            drop((engine, registry));
            mark.assert_settled("after the test").await;
        });
    }
}

#[test]
fn the_last_handle_cancels_what_was_submitted_and_a_registry_is_one() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.engine();
        let registry = engine.registry();
        let id = running(&registry, sleeping()).await;
        let mut reader = registry.events(&id, None).unwrap();
        let EventKind::Started { pid } = reader.next().await.unwrap().kind else { panic!() };
        drop(engine);
        tokio::task::yield_now().await;
        assert!(registry.status(&id).unwrap().state == State::Running && is_alive(pid));
        drop(registry);
        let mut last = None;
        while let Some(event) = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap() {
            last = Some(event.kind);
        }
        assert!(matches!(
            last,
            Some(EventKind::Ended { error: Some(ErrorKind::Canceled { by: CancelSource::Shutdown, .. }) })
        ));
        drop(reader);
        mark.assert_settled("after the last handle").await;
    });
}

#[test]
fn a_runtime_that_goes_away_leaves_a_record_that_says_so() {
    let _watchdog = support::Watchdog::new(PATIENCE);
    let rig = Rig::new();
    let runtime = Flavour::MultiThread.runtime();
    let engine = rig.builder().runtime(runtime.handle().clone()).build().unwrap();
    let registry = engine.registry();
    let id = registry.submit(sleeping()).unwrap().id;
    runtime.block_on(async { ready(&mut registry.events(&id, None).unwrap()).await });
    drop(runtime);
    // Outside any runtime.
    let status = registry.status(&id).unwrap();
    assert_eq!((status.state, status.outcome()), (State::Ended, Some("lost")));
    assert_eq!(registry.cancel(&id, "too late").unwrap().outcome(), Some("lost"));
    assert!(matches!(kind(&registry.remove(&id).unwrap()), ErrorKind::Lost { .. }));
    let late = registry.submit(sleeping()).unwrap().id;
    assert_eq!(registry.status(&late).unwrap().outcome(), Some("lost"), "nothing can run there");
}
