//! Turns, caps and memory in the queue.

use std::{future::Future, time::Duration};

use support::{Flavour, ready, uncontained};
use tool_engine::{
    Call, Catalog, Engine, EngineBuilder, ErrorKind, Limits, Plan, Protocol, ResourceLimits, State,
};

use crate::{end, kind, running, sh, sleeping};

/// A command with a limit of memory, which is not enforced: the queue counts it at every level of the suites.
fn weighing(bytes: u64, call: Call) -> Call {
    uncontained(call).resources(ResourceLimits { memory: Some(bytes), ..ResourceLimits::default() })
}

/// One thread: calls come to the line in the order of their submission.
fn with_engine<F: Future<Output = ()>>(
    configure: impl FnOnce(EngineBuilder) -> EngineBuilder,
    test: impl FnOnce(Engine) -> F,
) {
    support::with_engine_on(Flavour::CurrentThread, configure, test);
}

/// Waits until all that was submitted before is in line, or runs: one that comes after them has waited in vain. What it is
/// told.
async fn in_line(engine: &Engine, call: Call) -> String {
    let impatient = Limits { queue_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let error = engine.start(call.limits(impatient)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Busy { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn owners_take_turns_however_much_one_of_them_submits() {
    with_engine(
        |builder| builder.max_running(1),
        |engine| async move {
            let registry = engine.registry();
            let order = tempfile::NamedTempFile::new().unwrap();
            let first = running(&registry, sleeping()).await;
            let note = |who: &str| sh(&format!("echo {who} >> {}", order.path().display())).owner(who);
            let mut waiting: Vec<_> = (0..6).map(|_| registry.submit(note("greedy")).unwrap().id).collect();
            waiting.extend((0..2).map(|_| registry.submit(note("modest")).unwrap().id));
            waiting.push(registry.submit(note("late")).unwrap().id);
            in_line(&engine, sh("true")).await;
            registry.cancel(&first, "begin").unwrap();
            for id in &waiting {
                assert!(end(&registry, id).await.is_ok());
            }
            let order = std::fs::read_to_string(order.path()).unwrap();
            let order: Vec<_> = order.lines().collect();
            let expected =
                ["greedy", "modest", "late", "greedy", "modest", "greedy", "greedy", "greedy", "greedy"];
            assert_eq!(order, expected);
        },
    );
}

#[test]
fn an_owner_at_its_cap_waits_and_holds_up_nobody() {
    with_engine(
        |builder| builder.max_running(3).max_running_per_owner(1),
        |engine| async move {
            let registry = engine.registry();
            let first = running(&registry, sleeping().owner("a")).await;
            let second = registry.submit(sleeping().owner("a")).unwrap().id;
            let other = running(&registry, sleeping().owner("b")).await;
            let nobodys = running(&registry, sleeping()).await;
            assert_eq!(registry.status(&second).unwrap().state, State::Queued);
            let told = in_line(&engine, sleeping().owner("b")).await;
            assert!(told.contains("1 of this owner run, of at most 1"), "{told}");
            registry.cancel(&first, "enough").unwrap();
            ready(&mut registry.events(&second, None).unwrap()).await;
            for id in [&second, &other, &nobodys] {
                registry.cancel(id, "enough").unwrap();
                end(&registry, id).await;
            }
        },
    );
}

#[test]
fn what_runs_fits_into_the_memory_that_there_is() {
    with_engine(
        |builder| builder.max_running(10).max_memory(100 << 20),
        |engine| async move {
            let registry = engine.registry();
            let mib = |count: u64| weighing(count << 20, sleeping());
            let first = running(&registry, mib(60)).await;
            let second = running(&registry, mib(40)).await;
            let third = registry.submit(mib(50)).unwrap().id;
            // It would fit in once the second has gone, but the third one's turn is before it.
            let small = registry.submit(mib(1)).unwrap().id;
            registry.cancel(&second, "enough").unwrap();
            end(&registry, &second).await;
            let told = in_line(&engine, mib(1)).await;
            assert!(told.contains("62914560 of 104857600 bytes of memory, and this call 1048576"), "{told}");
            for id in [&third, &small] {
                assert_eq!(registry.status(id).unwrap().state, State::Queued);
            }
            registry.cancel(&first, "enough").unwrap();
            for id in [&third, &small] {
                ready(&mut registry.events(id, None).unwrap()).await;
                registry.cancel(id, "enough").unwrap();
                end(&registry, id).await;
            }
            let too_large = engine.start(mib(101)).await.unwrap_err();
            assert!(matches!(too_large.kind(), ErrorKind::Invalid { .. }), "{too_large:?}");
            assert!(too_large.to_string().contains("max_memory"), "{too_large}");
            assert_eq!(too_large.report().enforced, None, "nothing was started");
            // One that was in the way and goes lets those behind it run.
            let first = running(&registry, mib(60)).await;
            let (large, small) = (registry.submit(mib(90)).unwrap().id, registry.submit(mib(10)).unwrap().id);
            registry.cancel(&large, "enough").unwrap();
            assert!(matches!(kind(&end(&registry, &large).await), ErrorKind::Canceled { .. }));
            ready(&mut registry.events(&small, None).unwrap()).await;
            assert_eq!(registry.cancel_all(None, "enough"), 2);
            for id in [&first, &small] {
                end(&registry, id).await;
            }
        },
    );
}

#[derive(Debug)]
struct Heavy;

impl Catalog for Heavy {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let mut plan = Plan::new("sh", Protocol::Stdio);
        plan.args = vec!["-c".into(), "echo ready; exec sleep 1000".into()];
        plan.policy.level = Some(tool_engine::Level::None);
        plan.resources.memory = self.memory(call);
        Ok(plan)
    }

    fn memory(&self, _call: &Call) -> Option<u64> {
        Some(60 << 20)
    }
}

#[test]
fn what_a_tools_own_limit_is_the_queue_knows_from_the_catalog() {
    with_engine(
        |builder| builder.max_memory(100 << 20).catalog(Heavy),
        |engine| async move {
            let registry = engine.registry();
            let first = running(&registry, Call::tool("heavy", 1)).await;
            let second = registry.submit(Call::tool("heavy", 2)).unwrap().id;
            in_line(&engine, sh("true")).await;
            assert_eq!(registry.status(&second).unwrap().state, State::Queued);
            registry.cancel(&first, "enough").unwrap();
            end(&registry, &first).await;
            ready(&mut registry.events(&second, None).unwrap()).await;
            registry.cancel(&second, "enough").unwrap();
            end(&registry, &second).await;
        },
    );
}

#[test]
fn an_owner_that_fills_its_part_of_the_line_is_turned_away_and_no_other() {
    with_engine(
        |builder| builder.max_running(1).max_queued(4).max_queued_per_owner(2),
        |engine| async move {
            let registry = engine.registry();
            let first = running(&registry, sleeping()).await;
            let submit = |owner: &str| registry.submit(sh("true").owner(owner)).unwrap().id;
            let waiting: Vec<_> = ["greedy", "greedy", "modest"].map(submit).into();
            let refused = end(&registry, &submit("greedy")).await;
            let words = kind(&refused).to_string();
            assert!(words.contains("2 of this owner wait, of at most 2"), "{words}");
            let last = submit("late");
            let refused = end(&registry, &submit("modest")).await;
            let words = kind(&refused).to_string();
            assert!(words.contains("4 wait, of at most 1 and 4; 1 of this owner wait"), "{words}");
            registry.cancel(&first, "begin").unwrap();
            for id in waiting.iter().chain([&last]) {
                assert!(end(&registry, id).await.is_ok());
            }
        },
    );
}
