//! Two hundred at once. (`scripts/soak many` does it with two thousand.)

use support::{PATIENCE, alive_of, hostile, until, with_engine};
use tool_engine::{Filter, State};

use crate::end;

const MANY: usize = 200;

#[test]
fn two_hundred_run_at_once_and_nothing_is_left_when_all_are_cancelled() {
    with_engine(
        |builder| builder.max_running(MANY),
        |engine| async move {
            let registry = engine.registry();
            let executions: Vec<_> = (0..MANY)
                .map(|n| registry.submit(hostile(["sleep"]).owner(format!("owner {}", n % 7))).unwrap())
                .collect();
            let all = Filter { state: Some(State::Running), limit: Some(MANY), ..Filter::default() };
            until("all of them run", PATIENCE, || (registry.list(&all).len() == MANY).then_some(())).await;
            assert_eq!(registry.cancel_all(Some("owner 3"), "one of them"), (MANY - 3).div_ceil(7));
            registry.cancel_all(None, "all of them");
            for submitted in &executions {
                let end = end(&registry, &submitted.id).await;
                let report = end.as_ref().as_ref().expect_err("it was cancelled").report();
                assert!(!report.kill_pending, "{report:?}");
            }
            let ids: Vec<_> = executions.iter().map(|submitted| submitted.execution).collect();
            assert_eq!(alive_of(&ids), Vec::<String>::new());
            assert_eq!(registry.cancel_all(None, "again"), 0);
        },
    );
}
