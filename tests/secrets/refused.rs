//! What is refused, what wins, and that no refusal shows a value.

use serde_json::json;
use support::{OneTool, failed, succeeded, with_engine};
use tool_engine::{Call, ErrorKind, Secret};

use crate::plain;

#[test]
fn what_cannot_be_masked_or_handed_over_is_refused_without_being_shown() {
    with_engine(plain, |engine| async move {
        let long = "x".repeat(70_000);
        for (name, value) in [
            ("SHORT", "qqq"),
            ("SPACE", " qqq \n"),
            ("A=B", "qqqqqqq"),
            ("LD_PRELOAD", "qqqqqqq"),
            ("NUL", "qqqq\0qqqq"),
            ("TWICE", "qqqqqqq"),
            ("LONG", long.as_str()),
        ] {
            let call = Call::command(["true"]).env("TWICE", "other").secret(name, value);
            let (kind, _) = failed(engine.start(call)).await;
            let ErrorKind::Invalid { subject, .. } = &kind else { panic!("{kind}") };
            assert!(subject.contains(name), "{kind}");
            let words = format!("{kind} {kind:?}");
            assert!(!words.contains("qqq") && !words.contains("xxxx"), "{words}");
            if name != "TWICE" {
                assert_eq!(Secret::new(name, value).map(|_| ()), Err(kind));
            }
        }
    });
}

#[test]
fn debug_output_of_a_secret_and_of_a_call_does_not_show_it() {
    let secret = Secret::new("TOKEN", "qqqqqqq").expect("a good secret");
    assert_eq!(format!("{secret:?}"), r#"Secret { name: "TOKEN", .. }"#);
    let call = Call::command(["true"]).secret("TOKEN", "qqqqqqq");
    assert!(!format!("{call:?}").contains("qqq"));
}

#[test]
fn the_call_wins_over_the_plan() {
    let mut plan = OneTool::stdio(r#"echo "$A-$B-$C""#);
    plan.0.env.push(("A".into(), "plan's own variable".into()));
    for name in ["A", "B", "C"] {
        plan.0.secrets.push(Secret::new(name, "plan's secret").expect("a good secret"));
    }
    with_engine(
        |builder| builder.catalog(plan),
        |engine| async move {
            let call =
                Call::tool("tool", json!(null)).env("B", "call's variable").secret("C", "call's secret");
            let report = succeeded(engine.start(call)).await;
            assert_eq!(report.stdout.text(), "***-call's variable-***\n");
        },
    );
}
