//! Ids, and what is the same call.

use std::{collections::HashSet, fs::File, sync::Arc};

use support::{until, with_engine};
use tool_engine::{
    CancellationToken, ErrorKind, EventKind, RemoveError, ResourceLimits, State, Stdin, SubmitError,
    UnknownId,
};

use crate::{end, events, plain, running, sh, sleeping};

#[test]
fn the_same_call_under_the_same_id_is_one_execution_running_or_ended() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let call = || sh("echo ready; read word; echo \"$word\" again").stdin(Stdin::Bytes("hello\n".into()));
        let mut submits = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let registry = registry.clone();
            submits.spawn(async move { registry.submit(call().id("mine").owner("me")).unwrap() });
        }
        let submitted = submits.join_all().await;
        assert_eq!(submitted.iter().filter(|submitted| submitted.is_new).count(), 1);
        let executions: HashSet<_> = submitted.iter().map(|submitted| submitted.execution).collect();
        assert_eq!(executions.len(), 1);
        assert!(submitted.iter().all(|submitted| submitted.id == "mine"));
        let first = end(&registry, "mine").await;
        assert_eq!(first.as_ref().as_ref().unwrap().stdout.text(), "ready\nhello again\n");
        let again = registry.submit(call().id("mine").owner("me")).unwrap();
        assert!(!again.is_new && executions.contains(&again.execution));
        assert!(Arc::ptr_eq(&first, &end(&registry, "mine").await), "it is the same end");
        let started = events(&registry, "mine").await;
        assert_eq!(started.iter().filter(|event| matches!(event, EventKind::Started { .. })).count(), 1);
    });
}

#[test]
fn another_call_under_the_same_id_is_a_conflict_and_starts_nothing() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let call = || sleeping().id("mine").env("A", "1").env("B", "2").secret("TOKEN", "very-secret-1");
        running(&registry, call()).await;
        let reordered = sleeping().id("mine").secret("TOKEN", "very-secret-1").env("B", "2").env("A", "1");
        assert!(!registry.submit(reordered).unwrap().is_new, "the order of variables is none of its shape");
        let others = [
            sh("true").id("mine").env("A", "1").env("B", "2").secret("TOKEN", "very-secret-1"),
            call().env("C", "3"),
            call().owner("somebody"),
            call().kill_grace(std::time::Duration::ZERO),
            call().workdir("/tmp"),
            call().stdin(Stdin::Bytes("x".into())),
            call().resources(ResourceLimits { open_files: Some(9), ..ResourceLimits::default() }),
            sleeping().id("mine").env("A", "1").env("B", "2").secret("TOKEN", "very-secret-2"),
        ];
        for other in others {
            let SubmitError::Conflict { id, why } = registry.submit(other).unwrap_err() else { panic!() };
            assert_eq!((&*id, &*why), ("mine", "it is another call"));
        }
        assert_eq!(engine.active(), 1);
        registry.cancel("mine", "enough").unwrap();
        end(&registry, "mine").await;
        assert!(registry.submit(sh("true").id("mine")).is_err(), "also after the end");
    });
}

#[test]
fn what_cannot_be_compared_conflicts_and_says_why() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let token = CancellationToken::new();
        let with_file = || sh("cat").stdin(Stdin::Fd(File::open("/dev/null").unwrap().into()));
        registry.submit(with_file().id("file")).unwrap();
        registry.submit(sh("true").id("token").cancel_on(token.clone())).unwrap();
        registry.submit(sh("true").id("plain")).unwrap();
        for (call, word) in [
            (with_file().id("file"), "open file"),
            (sh("cat").id("file"), "open file"),
            (sh("true").id("token").cancel_on(token.clone()), "token"),
            (sh("true").id("plain").cancel_on(token.clone()), "token"),
        ] {
            let error = registry.submit(call).unwrap_err();
            let SubmitError::Conflict { why, .. } = &error else { panic!("{error:?}") };
            assert!(why.contains(word), "{why}");
            assert!(error.to_string().contains("an id of its own"), "{error}");
        }
        let unnamed = registry.submit(sh("true")).unwrap();
        assert_eq!(unnamed.id, unnamed.execution.to_string());
        assert!(registry.submit(sh("true").id(&*unnamed.id)).is_err(), "an id of the engine's is taken");
        for id in ["file", "token", "plain", &unnamed.id] {
            assert!(end(&registry, id).await.is_ok(), "{id}");
        }
    });
}

#[test]
fn the_order_of_fields_is_none_of_a_tools_input() {
    with_engine(
        |builder| builder.catalog(support::OneTool::stdio("cat")),
        |engine| async move {
            let registry = engine.registry();
            let call = |text| {
                let input: serde_json::Value = serde_json::from_str(text).unwrap();
                tool_engine::Call::tool("tool", input).id("tool")
            };
            assert!(registry.submit(call(r#"{"a":1,"b":[2,3]}"#)).unwrap().is_new);
            assert!(!registry.submit(call(r#"{"b":[2,3],"a":1}"#)).unwrap().is_new);
            assert!(registry.submit(call(r#"{"a":1,"b":[3,2]}"#)).is_err());
            assert!(registry.submit(call(r#"{"a":1,"b":"[2,3]"}"#)).is_err());
            let end = end(&registry, "tool").await;
            assert_eq!(end.as_ref().as_ref().unwrap().value, Some(serde_json::json!({"a": 1, "b": [2, 3]})));
        },
    );
}

#[test]
fn back_pressure_is_refused_where_no_reader_holds_the_call() {
    with_engine(plain, |engine| async move {
        let error = engine.registry().submit(sh("true").back_pressure()).unwrap_err();
        assert!(matches!(&error, SubmitError::Invalid(ErrorKind::Invalid { .. })), "{error:?}");
        assert!(error.to_string().contains("Engine::start"), "{error}");
    });
}

#[test]
fn an_id_or_an_owner_that_is_none_is_refused() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        for name in [String::new(), "a\nb".into(), "x".repeat(257)] {
            for call in [sh("true").id(&*name), sh("true").owner(&*name)] {
                let error = registry.submit(call).unwrap_err();
                assert!(matches!(error, SubmitError::Invalid(ErrorKind::Invalid { .. })), "{error:?}");
            }
            let error = engine.start(sh("true").owner(&*name)).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");
        }
        assert_eq!(registry.size().0, 0);
        let longest = "ä".repeat(128);
        assert!(registry.submit(sh("true").id(&*longest)).is_ok());
        assert!(end(&registry, &longest).await.is_ok());
    });
}

#[test]
fn states_only_go_forward() {
    with_engine(
        |builder| builder.max_running(1),
        |engine| async move {
            let registry = engine.registry();
            let first = running(&registry, sleeping()).await;
            let second = registry.submit(sh("exit 3").owner("me")).unwrap();
            // Looked at all the time, by another thread.
            let watcher = {
                let (registry, id) = (registry.clone(), second.id.clone());
                std::thread::Builder::new().spawn(move || {
                    let mut seen = vec![State::Queued];
                    while *seen.last().unwrap() != State::Ended {
                        let state = registry.status(&id).unwrap().state;
                        if state != *seen.last().unwrap() {
                            seen.push(state);
                        }
                        std::thread::yield_now();
                    }
                    seen
                })
            };
            let status = registry.status(&second.id).unwrap();
            assert_eq!((status.state, status.outcome()), (State::Queued, None));
            assert_eq!((status.owner.as_deref(), &*status.tool), (Some("me"), "sh -c exit 3"));
            registry.cancel(&first, "enough").unwrap();
            end(&registry, &second.id).await;
            let seen = until("the watcher", support::PATIENCE, {
                let watcher = watcher.unwrap();
                let mut watcher = Some(watcher);
                move || {
                    watcher.take_if(|watcher| watcher.is_finished()).map(|watcher| watcher.join().unwrap())
                }
            })
            .await;
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
            assert_eq!(registry.status(&second.id).unwrap().outcome(), Some("process"));
        },
    );
}

#[test]
fn what_was_picked_up_is_gone_and_its_id_is_free() {
    with_engine(plain, |engine| async move {
        let registry = engine.registry();
        let id = running(&registry, sleeping().id("mine")).await;
        assert_eq!(registry.remove(&id).unwrap_err(), RemoveError::NotEnded { id: id.clone() });
        registry.cancel(&id, "enough").unwrap();
        let end_of_it = end(&registry, &id).await;
        let mut reader = registry.events(&id, None).unwrap();
        assert!(Arc::ptr_eq(&registry.remove(&id).unwrap(), &end_of_it));
        let unknown = UnknownId { id: id.clone() };
        assert_eq!(registry.remove(&id).unwrap_err(), RemoveError::Unknown(unknown.clone()));
        assert_eq!(registry.status(&id).unwrap_err(), unknown);
        let mut read = 0;
        while reader.next().await.is_some() {
            read += 1;
        }
        assert!(read >= 3, "who reads goes on reading");
        assert!(registry.submit(sh("exit 4").id("mine")).unwrap().is_new, "another call");
        assert!(end(&registry, "mine").await.is_err());
    });
}
