//! Two ends at the same moment. Which one wins is a matter of luck; that there is one, and that it is true, is not.
//!
//! Not promised: that a tool which exits in the microseconds between the engine's last look and its SIGTERM counts as
//! ended by itself. Its time was over by then, so `Timeout` is true; its exit code may be 0 all the same.

use std::time::Duration;

use serde_json::json;
use support::{Scripted, ended, with_engine};
use tool_engine::{Call, CancellationToken, Clock, ErrorKind, ExitStatus};

use crate::plain;

const ROUNDS: u64 = 200;
/// So many at once.
const ABREAST: u64 = 8;
const TIMEOUT: Duration = Duration::from_millis(60);

/// Milliseconds about the timeout, other ones in each round.
fn about(round: u64) -> u64 {
    45 + round * 7 % 30
}

#[test]
fn a_tool_that_exits_about_when_its_time_is_over() {
    with_engine(plain, |engine| async move {
        let mut ends = [0, 0];
        for rounds in (0..ROUNDS).collect::<Vec<_>>().chunks(ABREAST as usize) {
            let runs: Vec<_> = rounds
                .iter()
                .map(|round| {
                    let time = format!("0.{:03}", about(*round));
                    engine.start(Call::command(["sleep", &time]).timeout(TIMEOUT))
                })
                .collect();
            for run in runs {
                match ended(run).await {
                    Ok(report) => {
                        ends[0] += 1;
                        assert_eq!(report.exit, Some(ExitStatus::Code(0)));
                    }
                    Err(error) => {
                        ends[1] += 1;
                        let report = error.report();
                        assert_eq!(*error.kind(), ErrorKind::Timeout { clock: Clock::Wall, after: TIMEOUT });
                        assert!(report.timings.running >= TIMEOUT, "{report:?}");
                        // See above for the 0.
                        let possible = [ExitStatus::Signal(15), ExitStatus::Code(0)];
                        assert!(report.exit.is_some_and(|exit| possible.contains(&exit)), "{report:?}");
                    }
                }
            }
        }
        assert_eq!(ends[0] + ends[1], ROUNDS);
    });
}

#[test]
fn a_result_about_when_the_time_is_over() {
    with_engine(
        |builder| builder.catalog(Scripted),
        |engine| async move {
            for rounds in (0..ROUNDS).collect::<Vec<_>>().chunks(ABREAST as usize) {
                let runs: Vec<_> = rounds
                    .iter()
                    .map(|round| {
                        let sleep = format!("sleep={}", about(*round));
                        let steps = ["begin", &sleep, "line={\"type\":\"result\",\"value\":1}"];
                        engine.start(Scripted::call(&steps).timeout(TIMEOUT))
                    })
                    .collect();
                for run in runs {
                    match ended(run).await {
                        Ok(report) => assert_eq!(report.value, Some(json!(1))),
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
                            assert_eq!(error.report().value, None);
                        }
                    }
                }
            }
        },
    );
}

#[test]
fn a_cancellation_when_the_time_is_over() {
    with_engine(plain, |engine| async move {
        for rounds in (0..ROUNDS).collect::<Vec<_>>().chunks(ABREAST as usize) {
            let mut runs = tokio::task::JoinSet::new();
            for round in rounds {
                let token = CancellationToken::new();
                let call = Call::command(["sleep", "100"]).timeout(TIMEOUT).cancel_on(token.clone());
                let run = engine.start(call);
                let time = Duration::from_millis(about(*round));
                runs.spawn(async move {
                    let cancel = async {
                        // It waits for nothing: this is the moment of the cancellation.
                        tokio::time::sleep(time).await;
                        token.cancel();
                    };
                    tokio::join!(ended(run), cancel).0
                });
            }
            for end in runs.join_all().await {
                let error = end.expect_err("it was stopped");
                match error.kind() {
                    ErrorKind::Canceled { .. } => {}
                    ErrorKind::Timeout { .. } => assert!(error.report().timings.running >= TIMEOUT),
                    other => panic!("{other:?}"),
                }
                // A cancellation may come before the start; and one that follows the timeout cuts its grace short.
                assert!(matches!(error.report().exit, Some(ExitStatus::Signal(15 | 9)) | None), "{error:?}");
            }
        }
    });
}
