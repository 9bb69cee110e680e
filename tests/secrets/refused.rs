//! What is refused, what wins, and that no refusal shows a value.

use serde_json::json;
use support::{OneTool, ended, failed, succeeded, with_engine};
use tool_engine::{Call, ErrorKind, Secret};

use crate::{all_told, plain};

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
fn one_name_with_two_values_is_refused() {
    fn plan_of(values: &[&str]) -> OneTool {
        let mut plan = OneTool::stdio(r#"printf %s "$TOKEN" | wc -c"#);
        let secrets = values.iter().map(|value| Secret::new("TOKEN", *value).expect("a good secret"));
        plan.0.secrets = secrets.collect();
        plan
    }
    for (plan, own, taken) in [
        (&["first"][..], &["second", "third!"][..], false),
        (&["first", "second"], &["first"], false),
        (&["first", "second"], &[], false),
        (&[], &["same", "same"], true),
        (&["same", "same"], &["other"], true),
    ] {
        with_engine(
            |builder| builder.catalog(plan_of(plan)),
            |engine| async move {
                let call = own
                    .iter()
                    .fold(Call::tool("tool", json!(null)), |call, value| call.secret("TOKEN", *value));
                let run = engine.start(call);
                if taken {
                    succeeded(run).await;
                    return;
                }
                let (kind, _) = failed(run).await;
                let ErrorKind::Invalid { subject, message, hint } = &kind else { panic!("{kind}") };
                assert_eq!(subject, "secret \"TOKEN\"");
                assert!(message.contains("two different values") && !hint.is_empty(), "{kind}");
                assert!(
                    !["first", "second", "third!"].iter().any(|value| kind.to_string().contains(value)),
                    "{kind}"
                );
            },
        );
    }
}

#[test]
fn what_is_refused_is_not_shown_in_the_command_either() {
    with_engine(plain, |engine| async move {
        let long = "qq".repeat(40_000);
        for (words, value, shown) in [
            (&["curl", "-uqqq", "other"][..], "qqq", "curl *** other"),
            (&["curl", "-u", "q q"], "q q", "curl -u ***"),
            (&["curl", "-u", "q", "q"], "q q", "*** *** *** ***"),
            (&["curl", "-u", &long], &long, "curl -u ***"),
            (&["curl"], "", "curl"),
            (&["curl"], " \n", "curl"),
        ] {
            let run = engine.start(Call::command(words).secret("TOKEN", value));
            let events = run.events();
            let end = ended(run).await;
            assert_eq!(end.as_ref().expect_err("it is refused").report().tool, shown);
            let told = all_told(events, &end);
            assert!(value.trim().is_empty() || !told.contains(value), "{told}");
        }
        // What was refused for another reason is masked as ever.
        let call = Call::command(["curl", "-uqqqqqqq"]).secret("A=B", "qqqqqqq");
        assert_eq!(failed(engine.start(call)).await.1.tool, "curl -u***");
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
