//! A call that failed is tried again, if that was asked for, and its report says how often and what each attempt came to.
//!
//! Promised: nothing is tried again unless asked for; never after `Invalid`, `Tool` and `Canceled`. Each attempt is a fresh
//! process with the same input. While it waits it holds no place, and a cancel ends it at once. Outcome, value and output
//! are the last attempt's; what any of them left behind is named and gone. The time for all attempts holds. A call may ask
//! for less than its tool allows, not for more.
//!
//! Not promised: how long a wait is to the moment.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, fs::File, time::Duration};

use serde_json::{Value, json};
use support::{OneTool, Scripted, ended, failed, sh_up, succeeded, wait_for_output, with_engine};
use tempfile::TempDir;
use tool_engine::{
    Call, CancelSource, Catalog, Clock, ErrorKind, Event, EventKind, Events, ExitStatus, Plan, Retry, Stdin,
};
use tool_runtimes::{Tool, Tools};

/// A wait that no test lives to see the end of.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Tried so often, after a moment, whatever the process does.
fn again(attempts: u32) -> Retry {
    Retry::attempts(attempts).backoff(Duration::from_millis(5)).on(["process", "timeout", "busy", "lost"])
}

/// A script that counts its attempts in a file `n` of the folder, and then does this with the number `$n`.
fn counting(folder: &TempDir, then: &str) -> String {
    let file = folder.path().join("n");
    format!("n=$(($(cat {0} 2>/dev/null || echo 0) + 1)); echo $n >{0}; {then}", file.display())
}

fn attempts(folder: &TempDir) -> u32 {
    fs::read_to_string(folder.path().join("n")).unwrap().trim().parse().unwrap()
}

fn sh(script: impl Into<String>) -> Call {
    Call::command(["sh".into(), "-c".into(), script.into()])
}

fn all(mut events: Events) -> Vec<Event> {
    std::iter::from_fn(move || events.try_next()).collect()
}

#[test]
fn it_is_tried_until_it_succeeds_and_the_report_tells_of_every_attempt() {
    with_engine(
        |engine| engine,
        |engine| async move {
            let folder = TempDir::new().unwrap();
            let script = counting(&folder, "echo $n; cat; [ $n -ge 3 ] || exit 7");
            let call = sh(script).stdin(Stdin::Bytes("input\n".into())).retry(again(9));
            let run = engine.start(call);
            let events = run.events();
            let report = succeeded(run).await;
            assert_eq!(&report.stdout.bytes()[..], b"3\ninput\n", "of the last attempt, with the same input");
            let outcomes: Vec<_> = report.attempts.iter().map(|attempt| attempt.outcome).collect();
            assert_eq!(outcomes, ["process", "process", "ok"]);
            let descriptions: Vec<_> =
                report.attempts.iter().map(|attempt| attempt.description.as_deref()).collect();
            assert_eq!(descriptions, [Some("exited with code 7"), Some("exited with code 7"), None]);
            let exits: Vec<_> = report.attempts.iter().filter_map(|attempt| attempt.exit).collect();
            assert_eq!(exits, [ExitStatus::Code(7), ExitStatus::Code(7), ExitStatus::Code(0)]);
            assert!(report.attempts.is_sorted_by_key(|attempt| attempt.began));
            let sum: Duration = report.attempts.iter().map(|attempt| attempt.timings.total).sum();
            assert!(report.timings.total >= sum, "{report:?}");
            let log: Vec<_> = all(events)
                .into_iter()
                .filter_map(|event| match event.kind {
                    EventKind::Started { .. } => Some("started".to_owned()),
                    EventKind::Retrying { attempt, error, .. } => Some(format!("{attempt} after {error}")),
                    EventKind::Ended { .. } => Some("ended".into()),
                    _ => None,
                })
                .collect();
            let (second, third) = ("2 after exited with code 7", "3 after exited with code 7");
            assert_eq!(log, ["started", second, "started", third, "started", "ended"]);
        },
    );
}

#[test]
fn when_no_attempt_succeeds_the_last_one_is_the_outcome() {
    with_engine(
        |engine| engine,
        |engine| async move {
            let folder = TempDir::new().unwrap();
            let call = sh(counting(&folder, "echo $n; exit $n")).retry(again(3));
            let (kind, report) = failed(engine.start(call)).await;
            assert_eq!(kind, ErrorKind::Process { status: ExitStatus::Code(3) });
            assert_eq!((&report.stdout.bytes()[..], report.attempts.len()), (&b"3\n"[..], 3));

            let folder = TempDir::new().unwrap();
            let call = sh(counting(&folder, "echo partial $n; sleep 1000"));
            let call = call.timeout(Duration::from_millis(500)).retry(again(2));
            let (kind, report) = failed(engine.start(call)).await;
            assert!(matches!(kind, ErrorKind::Timeout { clock: Clock::Wall, .. }), "{kind}");
            assert_eq!((report.attempts.len(), attempts(&folder)), (2, 2));
        },
    );
}

#[test]
fn nothing_is_tried_again_unless_asked_for() {
    with_engine(
        |engine| engine.catalog(Scripted),
        |engine| async move {
            for retry in [Retry::default(), Retry::attempts(1), Retry::attempts(5), again(5).on(["timeout"])]
            {
                let folder = TempDir::new().unwrap();
                let (_, report) = failed(engine.start(sh(counting(&folder, "exit 1")).retry(retry))).await;
                assert_eq!((attempts(&folder), report.attempts.len()), (1, 0));
            }
            let thrown = r#"line={"type":"error","phase":"run","name":"Error","message":"no"}"#;
            let all = Retry { on: None, ..again(5) };
            let call = Scripted::call(&["begin", thrown]).retry(all.clone());
            let (kind, report) = failed(engine.start(call)).await;
            assert_eq!((kind.name(), report.attempts.len()), ("tool", 0), "{kind}");
            let (kind, report) = failed(engine.start(Call::command(["a\0b"]).retry(all))).await;
            assert_eq!((kind.name(), report.attempts.len()), ("invalid", 0));
        },
    );
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_started() {
    with_engine(
        |engine| engine,
        |engine| async move {
            for (retry, words) in [
                (Retry::attempts(0), "0 attempts would never try at all"),
                (again(2).on(["tool"]), "\"tool\" is never tried again"),
                (again(2).on(["busy", "canceled"]), "\"canceled\" is never tried again"),
                (again(2).on(["invalid"]), "\"invalid\" is never tried again"),
                (again(2).on(["slow"]), "is no kind of ending; choose from process, "),
                (again(2).deadline(Duration::ZERO), "there is no time for any attempt"),
            ] {
                let (kind, report) = failed(engine.start(sh("exit 0").retry(retry))).await;
                assert_eq!(kind.name(), "invalid");
                assert!(kind.to_string().contains(words), "{kind}");
                assert!(report.enforced.is_none() && report.attempts.is_empty());
            }
            let fd = || Stdin::Fd(File::open("/dev/null").unwrap().into());
            let (kind, _) = failed(engine.start(sh("cat").stdin(fd()).retry(again(2)))).await;
            assert!(kind.to_string().contains("an open file cannot be read again"), "{kind}");
            succeeded(engine.start(sh("cat").stdin(fd()).retry(again(1)))).await;
        },
    );
}

#[test]
fn while_it_waits_it_holds_no_place_and_a_cancel_ends_it_at_once() {
    with_engine(
        |engine| engine.max_running(1),
        |engine| async move {
            let waiting =
                sh("echo once; exit 7").retry(again(2).backoff(FOR_EVER).max_backoff(FOR_EVER).jitter(false));
            let run = engine.start(waiting);
            let mut events = run.events();
            let announced = async {
                loop {
                    if let EventKind::Retrying { attempt, after, error } = events.next().await.unwrap().kind {
                        break (attempt, after, error);
                    }
                }
            };
            let exited = ErrorKind::Process { status: ExitStatus::Code(7) };
            assert_eq!(announced.await, (2, FOR_EVER, exited));
            // There is but one place.
            succeeded(engine.start(sh("echo meanwhile"))).await;
            run.cancel("enough");
            let (kind, report) = failed(run).await;
            assert_eq!(kind, ErrorKind::Canceled { by: CancelSource::Caller, reason: Some("enough".into()) });
            assert_eq!((report.attempts.len(), &report.stdout.bytes()[..]), (1, &b"once\n"[..]));
            assert_eq!(report.exit, Some(ExitStatus::Code(7)), "of the last attempt");
        },
    );
}

#[test]
fn the_time_for_all_attempts_holds() {
    with_engine(
        |engine| engine,
        |engine| async move {
            let call = sh("exit 7").retry(again(u32::MAX).deadline(Duration::from_millis(500)));
            let (kind, report) = failed(engine.start(call)).await;
            assert!(matches!(kind, ErrorKind::Process { .. } | ErrorKind::Timeout { .. }), "{kind}");
            assert!(report.attempts.len() < 500);

            let call = sh("sleep 1000").timeout(Duration::from_secs(500));
            let deadline = Duration::from_secs(1);
            let (kind, _) = failed(engine.start(call.retry(again(5).deadline(deadline)))).await;
            assert!(matches!(kind, ErrorKind::Timeout { after, .. } if after <= deadline), "{kind}");
            let call = sh("exit 0").retry(again(5).deadline(Duration::MAX));
            succeeded(engine.start(call)).await;
        },
    );
}

#[test]
fn who_finds_no_room_comes_again() {
    with_engine(
        |engine| engine.max_running(1).max_queued(0),
        |engine| async move {
            let first = engine.start(sh("echo ready; sleep 1000"));
            wait_for_output(&mut first.events(), "ready").await;
            let (kind, _) = failed(engine.start(sh("exit 0"))).await;
            assert_eq!(kind.name(), "busy");
            // By default: it was not the tool's fault.
            let second = engine
                .start(sh("exit 0").retry(Retry::attempts(u32::MAX).max_backoff(Duration::from_millis(20))));
            let mut events = second.events();
            let EventKind::Retrying { error: ErrorKind::Busy { .. }, .. } = events.next().await.unwrap().kind
            else {
                panic!("it was not tried again");
            };
            first.cancel("make room");
            failed(first).await;
            let report = succeeded(second).await;
            assert!(report.attempts.len() > 1 && report.attempts[0].outcome == "busy");
        },
    );
}

#[test]
fn what_any_attempt_left_behind_is_named_and_gone() {
    with_engine(
        |engine| engine,
        |engine| async move {
            let call = sh_up("sleep 1000 >/dev/null 2>&1 & up; exit 1").retry(again(3));
            let (_, report) = failed(engine.start(call)).await;
            assert_eq!(report.residue.len(), 3, "{:?}", report.residue);
            assert!(report.residue.iter().all(|left| left.killed && left.command == "sleep 1000"));
        },
    );
}

#[test]
fn a_secret_is_masked_in_every_attempt() {
    with_engine(
        |engine| engine,
        |engine| async move {
            let missing = "/t0ps3cret-value/program";
            let call = Call::command([missing]).secret("TOKEN", "t0ps3cret-value");
            let run = engine.start(call.retry(again(2).on(["spawn"])));
            let events = run.events();
            let (kind, report) = failed(run).await;
            let told = format!("{kind:?} {report:?} {:?}", all(events));
            assert!(report.attempts.len() == 2 && !told.contains("t0ps3cret"), "{told}");
        },
    );
}

/// One tool that may be tried again.
#[derive(Debug)]
struct Allowing(OneTool, Retry);

impl Catalog for Allowing {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        self.0.resolve(call)
    }

    fn retry(&self, _: &Call) -> Retry {
        self.1.clone()
    }
}

#[test]
fn a_call_may_ask_for_less_than_its_tool_allows_not_for_more() {
    let folder = TempDir::new().unwrap();
    let tool = OneTool::stdio(&counting(&folder, "exit 1"));
    with_engine(
        |engine| engine.catalog(Allowing(tool, again(3))),
        |engine| async move {
            let call = || Call::tool("tool", Value::Null);
            let count = folder.path().join("n");
            for (asked, made) in [(Retry::default(), 3), (Retry::attempts(2), 2), (Retry::attempts(1), 1)] {
                let _ = fs::remove_file(&count);
                failed(engine.start(call().retry(asked))).await;
                assert_eq!(attempts(&folder), made);
            }
            let (kind, _) = failed(engine.start(call().retry(Retry::attempts(4)))).await;
            let words = kind.to_string();
            assert!(
                words.starts_with("invalid retry attempts: the call asks for more than its tool"),
                "{words}"
            );
        },
    );
}

#[test]
fn what_is_declared_to_be_tried_again_is() {
    let folder = TempDir::new().unwrap();
    let script = counting(&folder, "[ $n -ge 2 ] && echo '{\"n\":'$n'}'");
    let tool = Tool::command("flaky", ["sh", "-c", &script]).retry(again(2));
    let refused = Tools::builder().tool(Tool::command("a", ["true"]).retry(again(2).on(["tool"]))).build();
    assert!(refused.unwrap_err().to_string().contains("\"tool\" is never tried again"));
    with_engine(
        |engine| engine.catalog(Tools::builder().tool(tool).build().unwrap()),
        |engine| async move {
            let end = ended(engine.start(Call::tool("flaky", json!({})))).await.unwrap();
            assert_eq!((end.value, end.attempts.len()), (Some(json!({ "n": 2 })), 2));
            assert_eq!(attempts(&folder), 2);
        },
    );
}
