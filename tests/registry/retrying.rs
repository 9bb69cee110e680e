//! What was submitted and is tried again: one record, one end.

use std::time::Duration;

use support::{PATIENCE, until};
use tool_engine::{Call, CancelSource, ErrorKind, EventKind, Filter, Registry, Retry, State};

use crate::{end, events, kind, plain, sh};
use support::with_engine;

/// Waits for so long after its first attempt.
fn failing(wait: Duration) -> Call {
    sh("exit 3").retry(Retry::attempts(2).backoff(wait).jitter(false).on(["process"]))
}

/// Until it waits for its second attempt.
async fn waiting(registry: &Registry, call: Call) -> String {
    let id = registry.submit(call).unwrap().id;
    let mut events = registry.events(&id, None).unwrap();
    while !matches!(events.next().await.expect("it is tried again").kind, EventKind::Retrying { .. }) {}
    id
}

const FOR_EVER: Duration = Duration::from_secs(3600);

#[test]
fn between_two_attempts_it_waits_in_the_queue_and_takes_no_place_there() {
    with_engine(
        |builder| builder.max_running(1).max_queued(0),
        |engine| async move {
            let registry = engine.registry();
            let id = waiting(&registry, failing(FOR_EVER).id("a")).await;
            assert_eq!(registry.status(&id).unwrap().state, State::Queued);
            let queued = registry.list(&Filter { state: Some(State::Queued), ..Filter::default() });
            assert_eq!(queued.len(), 1);
            assert!(!registry.submit(failing(FOR_EVER).id("a")).unwrap().is_new);
            let other = registry.submit(sh("true")).unwrap().id;
            assert!(end(&registry, &other).await.is_ok());
            // Another thread may end it at this very moment.
            assert!(registry.cancel(&id, "enough").unwrap().state >= State::Stopping);
            let ended = end(&registry, &id).await;
            assert_eq!(
                kind(&ended),
                ErrorKind::Canceled { by: CancelSource::Caller, reason: Some("enough".into()) }
            );
            let all = events(&registry, &id).await;
            let ends = all.iter().filter(|kind| matches!(kind, EventKind::Ended { .. })).count();
            let starts = all.iter().filter(|kind| matches!(kind, EventKind::Started { .. })).count();
            assert_eq!((starts, ends, registry.status(&id).unwrap().state), (1, 1, State::Ended));
        },
    );
}

#[test]
fn whoever_reads_on_hears_of_all_attempts_and_one_end() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = waiting(&registry, failing(Duration::from_millis(1))).await;
        let mut reader = registry.events(&id, Some(0)).unwrap();
        assert!(end(&registry, &id).await.is_err());
        let mut told = Vec::new();
        while let Some(event) = reader.next().await {
            told.push(event.kind.clone());
        }
        let [EventKind::Retrying { attempt: 2, .. }, EventKind::Started { .. }, EventKind::Ended { .. }] =
            told[..]
        else {
            panic!("{told:?}");
        };
    });
}

#[test]
fn an_engine_that_closes_ends_what_waits_for_its_next_attempt() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = waiting(&registry, failing(FOR_EVER)).await;
        engine.shutdown(Duration::ZERO).await;
        let state = || (registry.status(&id).unwrap().state == State::Ended).then_some(());
        until("its end", PATIENCE, state).await;
        let ended = end(&registry, &id).await;
        assert!(matches!(kind(&ended), ErrorKind::Canceled { by: CancelSource::Shutdown, .. }));
    });
}
