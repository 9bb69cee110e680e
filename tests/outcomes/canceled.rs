//! `Canceled`: who asked, and why, before the start and after it.

use std::time::Duration;

use support::{alive, failed, ready, until, with_engine};
use tool_engine::{
    CancelSource, Cancellation, CancellationToken, ErrorKind, EventKind, Execution, ExitStatus,
};

use crate::{plain, sh};

const SLEEP: &str = "echo ready; exec sleep 100";

/// Asserts who is told to have cancelled it.
async fn canceled(run: Execution, by: CancelSource, reason: Option<&str>, words: &str) {
    let (kind, report) = failed(run).await;
    assert_eq!(kind, ErrorKind::Canceled { by, reason: reason.map(str::to_owned) });
    assert_eq!(kind.to_string(), words);
    assert!(!kind.is_retryable());
    assert_eq!(report.exit, Some(ExitStatus::Signal(15)));
}

#[test]
fn by_the_caller_with_a_reason() {
    with_engine(plain, |engine| async move {
        let run = engine.start(sh(SLEEP));
        ready(&mut run.events()).await;
        run.cancel("the turn is over");
        let words = "canceled by the caller: the turn is over";
        canceled(run, CancelSource::Caller, Some("the turn is over"), words).await;
    });
}

#[test]
fn by_a_token() {
    with_engine(plain, |engine| async move {
        let token = CancellationToken::new();
        let run = engine.start(sh(SLEEP).cancel_on(CancellationToken::new()).cancel_on(token.clone()));
        ready(&mut run.events()).await;
        token.cancel();
        canceled(run, CancelSource::Token, None, "canceled by the caller's token").await;
    });
}

#[test]
fn by_a_signal_that_the_program_received() {
    with_engine(plain, |engine| async move {
        for (number, words) in [(2, "canceled by SIGINT (signal 2)"), (15, "canceled by SIGTERM (signal 15)")]
        {
            let run = engine.start(sh(SLEEP));
            ready(&mut run.events()).await;
            run.cancel(CancelSource::Signal(number));
            canceled(run, CancelSource::Signal(number), None, words).await;
        }
        let run = engine.start(sh(SLEEP));
        ready(&mut run.events()).await;
        run.cancel(Cancellation { by: CancelSource::Signal(2), reason: Some("Ctrl-C".into()) });
        canceled(run, CancelSource::Signal(2), Some("Ctrl-C"), "canceled by SIGINT (signal 2): Ctrl-C").await;
    });
}

#[test]
fn by_shutdown() {
    with_engine(plain, |engine| async move {
        let run = engine.start(sh(SLEEP));
        ready(&mut run.events()).await;
        engine.shutdown(Duration::from_secs(10)).await;
        canceled(run, CancelSource::Shutdown, None, "canceled because the engine shuts down").await;
        let late = engine.start(sh("true"));
        let (kind, report) = failed(late).await;
        assert_eq!(kind, ErrorKind::Canceled { by: CancelSource::Shutdown, reason: None });
        assert_eq!(report.enforced, None, "nothing was started");
    });
}

#[test]
fn by_dropping_the_last_engine() {
    with_engine(plain, |engine| async move {
        let other = tool_engine::Engine::builder().build().unwrap();
        let run = other.start(sh(SLEEP));
        ready(&mut run.events()).await;
        drop(other);
        canceled(run, CancelSource::Shutdown, None, "canceled because the engine shuts down").await;
        drop(engine);
    });
}

#[test]
fn by_dropping_the_execution() {
    with_engine(plain, |engine| async move {
        let run = engine.start(sh(SLEEP));
        let (id, mut events) = (run.id(), run.events());
        ready(&mut events).await;
        drop(run);
        let mut end = None;
        while let Some(event) = events.next().await {
            if let EventKind::Ended { error } = event.kind {
                end = error;
            }
        }
        let end = end.expect("it did not succeed");
        assert_eq!(end, ErrorKind::Canceled { by: CancelSource::Dropped, reason: None });
        assert_eq!(end.to_string(), "canceled because nobody waits for it any more");
        until("nothing is alive", support::PATIENCE, || alive(id).is_empty().then_some(())).await;
    });
}

#[test]
fn before_the_start() {
    with_engine(plain, |engine| async move {
        let token = CancellationToken::new();
        token.cancel();
        let (kind, report) = failed(engine.start(sh("true").cancel_on(token))).await;
        assert_eq!(kind, ErrorKind::Canceled { by: CancelSource::Token, reason: None });
        assert_eq!((report.exit, report.enforced), (None, None));
    });
}

#[test]
fn while_it_waits_for_its_turn() {
    with_engine(
        |builder| builder.max_running(1),
        |engine| async move {
            let running = engine.start(sh(SLEEP));
            ready(&mut running.events()).await;
            let waiting = engine.start(sh("true"));
            waiting.cancel("not wanted any more");
            let (kind, report) = failed(waiting).await;
            assert_eq!(kind.to_string(), "canceled by the caller: not wanted any more");
            assert_eq!(report.enforced, None);
            running.cancel("enough");
            failed(running).await;
        },
    );
}
