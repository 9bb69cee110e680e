//! Output, as it is captured and as it is told live.

use support::{assert_same, ended, failed, hostile, pattern, succeeded, wait_for_output, with_engine};
use tempfile::TempDir;
use tool_engine::{Call, ErrorKind, EventKind, Limit, Limits, Overflow, Stdin, Stream};

use crate::{TOKEN, all_told, assert_masked, plain, sh};

#[test]
fn both_streams_are_masked_and_the_tool_has_the_value() {
    with_engine(plain, |engine| async move {
        let script = r#"echo "out $TOKEN."; echo "err $TOKEN" >&2; printf %s "$TOKEN" | wc -c"#;
        let run = engine.start(sh(script));
        let events = run.events();
        let end = ended(run).await;
        assert_masked(&all_told(events, &end));
        let report = end.expect("it succeeds");
        assert_eq!(report.stdout.text(), format!("out ***.\n{}\n", TOKEN.len()));
        assert_eq!(report.stderr.text(), "err ***\n");
        assert_eq!(report.stdout.total(), report.stdout.bytes().len() as u64);
        let written = "out .\n\nerr \n".len() + 2 * TOKEN.len() + TOKEN.len().to_string().len();
        assert_eq!(report.usage.bytes_out, written as u64, "what the tool wrote");
    });
}

#[test]
fn it_is_found_when_it_comes_byte_by_byte() {
    with_engine(plain, |engine| async move {
        let script = r#"text="<$TOKEN>"; while [ -n "$text" ]; do
            rest="${text#?}"; printf %s "${text%"$rest"}"; printf %s "${text%"$rest"}" >&2; text="$rest"; done"#;
        let run = engine.start(sh(script));
        let events = run.events();
        let end = ended(run).await;
        assert_masked(&all_told(events, &end));
        let report = end.expect("it succeeds");
        assert_eq!((report.stdout.text().as_str(), report.stderr.text().as_str()), ("<***>", "<***>"));
    });
}

#[test]
fn a_beginning_without_an_end_is_let_out_at_the_end() {
    with_engine(plain, |engine| async move {
        let report = succeeded(engine.start(sh("printf 'abc s3cr'; printf s3cr >&2"))).await;
        assert_eq!(report.stdout.text(), "abc s3cr");
        assert_eq!(report.stderr.text(), "s3cr");
    });
}

#[test]
fn a_prompt_that_ends_as_a_secret_begins_is_shown_when_the_tool_falls_silent() {
    with_engine(plain, |engine| async move {
        // Both wait for an answer: one has said as much of the secret as may be shown, one has said more.
        let run = engine.start(sh("printf 'address'; printf 'token: s3cr3' >&2; exec sleep 1000"));
        let mut events = run.events();
        wait_for_output(&mut events, "address").await;
        run.cancel("seen");
        // What is too much to be let go comes when there is no end to it.
        wait_for_output(&mut events, "s3cr3").await;
        let (_, report) = failed(run).await;
        assert_eq!(
            (report.stdout.text().as_str(), report.stderr.text().as_str()),
            ("address", "token: s3cr3")
        );
    });
}

#[test]
fn a_secret_that_comes_slowly_is_masked_but_for_what_was_taken_for_a_prompt() {
    with_engine(plain, |engine| async move {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let script = r#"rest="${TOKEN#?}"; printf %s "${TOKEN%"$rest"}"; until [ -e go ]; do sleep 0.01; done; printf '%s.' "$rest""#;
        let run = engine.start(sh(script).workdir(folder.path()));
        wait_for_output(&mut run.events(), "s").await;
        std::fs::write(folder.path().join("go"), "").expect("the folder is there");
        let report = succeeded(run).await;
        assert_eq!(report.stdout.text(), "s***.");
    });
}

#[test]
fn a_call_that_is_stopped_does_not_show_it_in_its_last_words() {
    with_engine(plain, |engine| async move {
        let script = r#"printf 'last words: %s' "$TOKEN" >&2; echo ready; exec sleep 1000"#;
        let run = engine.start(sh(script));
        let (mut live, events, canceler) = (run.events(), run.events_from(0), run.canceler());
        let cancel = async {
            while let Some(event) = live.next().await {
                if matches!(event.kind, tool_engine::EventKind::Stdout(_)) {
                    canceler.cancel(tool_engine::CancelSource::Caller);
                }
            }
        };
        let (end, ()) = tokio::join!(ended(run), cancel);
        assert_masked(&all_told(events, &end));
        assert_eq!(end.expect_err("it was canceled").report().stderr.text(), "last words: ***");
    });
}

#[test]
fn a_timeout_does_not_show_it_in_the_last_bytes_of_stderr() {
    with_engine(plain, |engine| async move {
        // It says it before it is killed, when it is asked to end: so the clock does not matter.
        let script = r#"trap 'printf "asked: %s" "$TOKEN" >&2; exit 3' TERM; while :; do sleep 0.01; done"#;
        let run = engine.start(sh(script).timeout(std::time::Duration::from_secs(3)));
        let events = run.events();
        let end = ended(run).await;
        assert_masked(&all_told(events, &end));
        let error = end.expect_err("it timed out");
        assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
        assert!(error.report().stderr.text().ends_with("asked: ***"), "{:?}", error.report().stderr.text());
    });
}

#[test]
fn the_gap_of_a_cut_capture_does_not_cut_it_in_two() {
    with_engine(plain, |engine| async move {
        let script = r#"printf 'x%.0s' 1 2 3 4 5; printf %s "$TOKEN"; printf 'y%.0s' 1 2 3 4 5 6 7 8 9; printf %s "$TOKEN""#;
        let total = 5 + 3 + 9 + 3;
        for cap in 1..=total {
            let run = engine.start(sh(script).max_output(cap, Overflow::Truncate));
            let events = run.events();
            let end = ended(run).await;
            let told = all_told(events, &end);
            assert_masked(&told);
            let report = end.expect("it succeeds");
            let masked = b"xxxxx***yyyyyyyyy***";
            assert_eq!((report.stdout.total(), report.stdout.dropped()), (total, total - cap));
            assert!(masked.starts_with(&report.stdout.head()) && masked.ends_with(&report.stdout.tail()));
        }
    });
}

#[test]
fn what_the_tool_wrote_is_held_against_the_limit_not_what_is_left_when_it_is_masked() {
    with_engine(plain, |engine| async move {
        let length = TOKEN.len() as u64;
        // It has exited by the time it is read, or it has not.
        for rest in ["", "; exec sleep 1000"] {
            for (stream, redirect) in [(Stream::Stdout, ""), (Stream::Stderr, " >&2")] {
                let call = |script: String, most| {
                    let limits = Limits {
                        stdout: Some(most),
                        stderr: Some(most),
                        overflow: Some(Overflow::Fail),
                        ..Limits::default()
                    };
                    sh(&script).limits(limits)
                };
                let script = format!(r#"printf %s "$TOKEN" {redirect}"#);
                let (kind, report) = failed(engine.start(call(script.clone() + rest, length - 1))).await;
                assert_eq!(kind, ErrorKind::Limit { limit: Limit::Output { stream, bytes: length - 1 } });
                assert_eq!(report.usage.bytes_out, length);
                succeeded(engine.start(call(script, length))).await;
            }
        }
    });
}

#[test]
fn output_without_a_secret_is_the_same_to_the_byte() {
    with_engine(plain, |engine| async move {
        let total = 5_000_000;
        let call = hostile(["pattern", "stdout", &total.to_string()]);
        let report = succeeded(engine.start(call.secret("TOKEN", TOKEN))).await;
        assert_same(&report.stdout.bytes(), &pattern(0..total), "everything");
        assert_eq!(report.usage.bytes_out, total as u64);
    });
}

#[test]
fn its_lines_and_its_escaped_forms_are_known() {
    with_engine(plain, |engine| async move {
        let key = "-----BEGIN KEY-----\nAAAABBBBCCCC\nDDDDEEEEFFFF\nG\n";
        let script = r#"printf %s "$KEY"; printf '%s\n' "$KEY" | sed -n 's/^DDDD/<&/p'
            echo 's3cr3t-t0k3n/with \"quotes\" s3cr3t-t0k3n%2Fwith%20%22quotes%22'"#;
        let report = succeeded(engine.start(sh(script).secret("KEY", key))).await;
        assert_eq!(report.stdout.text(), "***<***\n*** ***\n");
    });
}

#[test]
fn it_is_known_as_other_languages_write_it() {
    // json.dumps of Python, json_encode of PHP, encoding/json of Go, Rust's and our own errors' quotes, a form.
    let secret = "schlüssel/<&>\u{1f511}\u{200b} +\u{7f}é";
    let forms = [
        r#""schl\u00fcssel/<&>\ud83d\udd11\u200b +\u007f\u00e9""#,
        &r#""schl\u00fcssel\/<&>\ud83d\udd11\u200b +DEL\u00e9""#.replace("DEL", "\u{7f}"),
        "\"schlüssel/\\u003c\\u0026\\u003e\u{1f511}\u{200b} +\u{7f}é\"",
        &format!("{secret:?}"),
        "=schl%C3%BCssel%2F%3C%26%3E%F0%9F%94%91%E2%80%8B+%2B%7F%C3%A9&",
        "=schl%c3%bcssel%2f%3c%26%3e%f0%9f%94%91%e2%80%8b%20%2b%7f%c3%a9&",
    ];
    with_engine(plain, |engine| async move {
        for form in forms {
            let call = Call::command(["cat"]).secret("KEY", secret);
            let report = succeeded(engine.start(call.stdin(Stdin::Bytes(form.to_owned().into())))).await;
            let (first, last) = (&form[..1], &form[form.len() - 1..]);
            assert_eq!(report.stdout.text(), format!("{first}***{last}"), "{form}");
        }
    });
}

#[test]
fn characters_of_many_bytes_are_not_harmed_where_they_are_cut() {
    with_engine(plain, |engine| async move {
        // Others begin as the secret's do, and each byte is a write of its own.
        let text = "ä🔐ö 🔑schlüssel🔑 ü🔒";
        let script = r#"$| = 1; syswrite STDOUT, $_ for split //, $ENV{TEXT}"#;
        let call = Call::command(["perl", "-e", script]).env("TEXT", text).secret("KEY", "🔑schlüssel🔑");
        let run = engine.start(call);
        let events = run.events();
        let end = ended(run).await;
        assert!(!all_told(events, &end).contains("schl"));
        assert_eq!(end.expect("it succeeds").stdout.text(), "ä🔐ö *** ü🔒");
    });
}

#[test]
fn the_longest_and_very_many_are_masked() {
    with_engine(plain, |engine| async move {
        let long: String = (0..64 << 10).map(|n: u32| char::from(b'!' + (n * n % 8191 % 90) as u8)).collect();
        let call = sh(r#"printf '%s|%s|%s' "$LONG" "$LONG" "$TOKEN""#).secret("LONG", long.as_str());
        assert_eq!(succeeded(engine.start(call)).await.stdout.text(), "***|***|***");

        let value = |n: u32| format!("secret number {n:03}");
        let call = (0..100).fold(Call::command(["cat"]), |call, n| call.secret(format!("S{n}"), value(n)));
        let all: Vec<String> = (0..100).map(value).collect();
        let call = call.stdin(Stdin::Bytes((all.join("\n") + "secret number 100").into()));
        let report = succeeded(engine.start(call)).await;
        assert_eq!(report.stdout.text(), ["***"; 100].join("\n") + "secret number 100");
    });
}

#[test]
fn several_that_overlap_and_begin_alike_leave_nothing_of_each_other() {
    with_engine(plain, |engine| async move {
        let call = Call::command(["printf", "abcd|abcdef|bcde|abcdefg-|cdefg|abcdabcd"])
            .secret("SHORT", "abcd")
            .secret("LONG", "abcdef")
            .secret("LATE", "cdefg");
        assert_eq!(succeeded(engine.start(call)).await.stdout.text(), "***|***|bcde|***-|***|******");
    });
}

#[test]
fn where_we_stop_listening_in_the_middle_of_it_its_beginning_is_masked() {
    with_engine(plain, |engine| async move {
        let limits = Limits { drain: Some(std::time::Duration::from_millis(100)), ..Limits::default() };
        let run = engine.start(sh("echo ready; printf 'last: s3cr3t-t0k3n'; exec sleep 1000").limits(limits));
        let mut events = run.events();
        let Some(EventKind::Started { pid }) = events.next().await.map(|event| event.kind) else {
            panic!("it did not start")
        };
        wait_for_output(&mut events, "last: ").await;
        // Somebody out of reach, who may have been about to write the rest.
        let pipe = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1"));
        run.cancel("now");
        let error = run.await.expect_err("it was canceled");
        assert!(error.report().pipe_held);
        assert_eq!(error.report().stdout.text(), "ready\nlast: ***");
        drop(pipe);
    });
}

#[test]
fn each_call_masks_its_own() {
    with_engine(plain, |engine| async move {
        let call = |value| {
            Call::command(["sh", "-c", "echo the first one, the second one: $TOKEN"]).secret("TOKEN", value)
        };
        let (first, second) = (engine.start(call("the first one")), engine.start(call("the second one")));
        let (first, second) = tokio::join!(succeeded(first), succeeded(second));
        assert_eq!(first.stdout.text(), "***, the second one: ***\n");
        assert_eq!(second.stdout.text(), "the first one, ***: ***\n");
    });
}
