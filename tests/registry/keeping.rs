//! How long records stay, how many of them, and how they are listed.

use std::time::Duration;

use support::{PATIENCE, until, with_engine};
use tool_engine::{Filter, RemoveError, State};

use crate::{end, plain, running, sh, sleeping};

#[test]
fn what_has_ended_stays_for_its_time_and_then_takes_no_memory() {
    with_engine(
        |builder| builder.retention(Duration::from_millis(300)),
        |engine| async move {
            let registry = engine.registry();
            let stays = running(&registry, sleeping()).await;
            let id = registry.submit(sh("true").id("mine")).unwrap().id;
            let waiting = end(&registry, &id).await;
            until("the record goes", PATIENCE, || registry.status(&id).is_err().then_some(())).await;
            assert!(matches!(registry.remove(&id), Err(RemoveError::Unknown(_))));
            // Nobody asks for anything any more: that is done by the engine itself.
            until("its memory goes", PATIENCE, || (registry.size() == (1, 0)).then_some(())).await;
            assert!(waiting.is_ok(), "who has the end keeps it");
            assert_eq!(registry.status(&stays).unwrap().state, State::Running, "what has not ended stays");
            assert!(registry.submit(sh("true; true").id("mine")).unwrap().is_new, "the id is free");
            end(&registry, "mine").await;
            registry.cancel(&stays, "enough").unwrap();
            end(&registry, &stays).await;
        },
    );
}

#[test]
fn no_more_records_stay_than_may_and_those_that_ended_first_go_first() {
    with_engine(
        |builder| builder.max_records(3),
        |engine| async move {
            let registry = engine.registry();
            let stays = running(&registry, sleeping().id("stays")).await;
            for id in ["1", "2", "3", "4", "5"] {
                registry.submit(sh("true").id(id)).unwrap();
                end(&registry, id).await;
                assert!(registry.size().0 <= 4);
            }
            let left: Vec<_> =
                registry.list(&Filter::default()).into_iter().map(|status| status.id).collect();
            assert_eq!(left, ["stays", "3", "4", "5"]);
            registry.cancel(&stays, "enough").unwrap();
            end(&registry, &stays).await;
        },
    );
}

#[test]
fn no_more_bytes_stay_than_may_but_the_last_end_is_always_there() {
    with_engine(
        |builder| builder.max_record_bytes(300_000),
        |engine| async move {
            let registry = engine.registry();
            let write = |bytes: u32| sh(&format!("head -c {bytes} /dev/zero"));
            for round in 0..6 {
                let id = registry.submit(write(50_000)).unwrap().id;
                end(&registry, &id).await;
                assert!(registry.status(&id).is_ok(), "{round}");
                assert!(registry.size().1 <= 300_000);
            }
            let (records, bytes) = registry.size();
            assert!((1..6).contains(&records) && bytes >= 50_000, "{records} records, {bytes} bytes");
            let large = registry.submit(write(1_000_000)).unwrap().id;
            end(&registry, &large).await;
            assert_eq!(registry.size().0, 1);
            assert_eq!(registry.status(&large).unwrap().outcome(), Some("ok"));
        },
    );
}

#[test]
fn lists_are_in_the_order_of_submission_and_can_be_gone_on_with() {
    with_engine(
        |builder| builder.max_running(2),
        |engine| async move {
            let registry = engine.registry();
            let call = |n: usize| {
                let call = if n < 2 { sleeping() } else { sh(&format!("exit {}", n % 2)) };
                call.id(format!("call {n}")).owner(["even", "odd"][n % 2])
            };
            for n in 0..2 {
                running(&registry, call(n)).await;
            }
            for n in 2..600 {
                registry.submit(call(n)).unwrap();
            }
            let numbers = |filter: &Filter| -> Vec<usize> {
                let found = registry.list(filter);
                found.iter().map(|status| status.id["call ".len()..].parse().unwrap()).collect()
            };
            let all = Filter { limit: Some(usize::MAX), ..Filter::default() };
            assert_eq!(numbers(&all), (0..600).collect::<Vec<_>>());
            assert_eq!(numbers(&Filter::default()), (0..100).collect::<Vec<_>>());
            assert_eq!(numbers(&Filter { limit: Some(0), ..Filter::default() }), [0_usize; 0]);
            let odd = Filter { owner: Some("odd".into()), limit: Some(7), ..Filter::default() };
            assert_eq!(numbers(&odd), [1, 3, 5, 7, 9, 11, 13]);
            let after = registry.list(&odd).last().map(|status| status.number);
            assert_eq!(numbers(&Filter { after, ..odd }), [15, 17, 19, 21, 23, 25, 27]);
            let running = Filter { state: Some(State::Running), ..all.clone() };
            assert_eq!(numbers(&running), [0, 1]);
            let queued = Filter { state: Some(State::Queued), owner: Some("even".into()), ..all.clone() };
            assert_eq!(numbers(&queued).len(), 299);
            let tool = Filter { tool: Some("sh -c exit 1".into()), ..all.clone() };
            assert_eq!(numbers(&tool), (3..600).step_by(2).collect::<Vec<_>>());
            assert_eq!(numbers(&Filter { owner: Some("nobody".into()), ..Filter::default() }), [0_usize; 0]);
            assert_eq!(registry.cancel_all(None, "enough"), 600);
            for n in 0..600 {
                end(&registry, &format!("call {n}")).await;
            }
            let ended = Filter { state: Some(State::Ended), ..all };
            assert_eq!(numbers(&ended).len(), 600);
        },
    );
}

#[test]
fn what_is_picked_up_at_once_leaves_nothing() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        for _ in 0..20 {
            let id = registry.submit(sh("true").owner("me")).unwrap().id;
            end(&registry, &id).await;
            registry.remove(&id).unwrap();
        }
        assert_eq!(registry.size(), (0, 0));
        assert!(registry.list(&Filter { owner: Some("me".into()), ..Filter::default() }).is_empty());
    });
}
