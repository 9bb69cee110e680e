//! Each line once, from sources that are continued at a time or at an entry.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use support::hostile_path;
use tool_follow::{
    Counts, FollowEventKind, Follower, Followers, Line, Since, Source, Subscription, TimeFormat,
};

use super::{Log, assert_exact, in_time, next_line, patient, text, with_followers};

/// How long a test may go on if the machine is too busy for all that it wants to see.
const ENOUGH: Duration = Duration::from_secs(40);

/// Takes lines, while the log is being written, until enough has happened; then all that there is.
async fn take(
    follower: &Follower,
    log: &mut Log,
    mut write: impl FnMut(&mut Log, u64),
    is_enough: impl Fn(Counts) -> bool,
) -> Vec<Line> {
    let mut events = follower.subscribe();
    let (mut lines, began, mut round) = (Vec::new(), Instant::now(), 0);
    while !is_enough(follower.counts()) && began.elapsed() < ENOUGH {
        write(log, round);
        round += 1;
        let until = log.written.len().saturating_sub(40);
        rest(&mut events, &mut lines, until).await;
        tokio::task::yield_now().await;
    }
    rest(&mut events, &mut lines, log.written.len()).await;
    in_time("the end", follower.stop()).await;
    while let Some(event) = events.next().await {
        if let FollowEventKind::Line(line) = event.kind {
            lines.push(line);
        }
    }
    lines
}

async fn rest(events: &mut Subscription, lines: &mut Vec<Line>, until: usize) {
    while lines.len() < until {
        lines.push(next_line(events).await);
    }
}

/// Follows the log through so many sources.
async fn exact(followers: Followers, mut log: Log, source: Source, sources: u64) {
    log.burst(0);
    let follower = followers.follow("log", source).unwrap();
    let lines = take(&follower, &mut log, Log::burst, |counts| counts.sources >= sources).await;
    assert_exact(&lines, &log.written);
    let counts = follower.counts();
    assert!(counts.sources > 5, "too few to prove anything: {counts:?}");
    assert_eq!(counts.lines, log.written.len() as u64, "{counts:?}");
}

const OFTEN: Duration = Duration::from_millis(40);

#[test]
fn over_a_hundred_rotations() {
    with_followers(|followers, log| async move {
        let source = log.source("chop").rotate_every(OFTEN);
        exact(followers, log, source, 100).await;
    });
}

#[test]
fn over_a_hundred_rotations_of_a_source_that_leaves_out_the_very_time() {
    with_followers(|followers, log| async move {
        let source = log.source("after").rotate_every(OFTEN);
        exact(followers, log, source, 100).await;
    });
}

#[test]
fn over_a_hundred_rotations_by_bytes() {
    with_followers(|followers, log| async move {
        let source = log.source("").rotate_bytes(5_000);
        exact(followers, log, source, 100).await;
    });
}

#[test]
fn from_sources_that_die_in_the_middle_of_a_line() {
    with_followers(|followers, log| async move {
        let none = Duration::from_millis(1);
        let source = log.source("chop,die").rotate_every(OFTEN * 5).backoff(none, none);
        exact(followers, log, source, 60).await;
    });
}

#[test]
fn from_a_source_that_sends_the_whole_last_second_again() {
    with_followers(|followers, log| async move {
        let source = Source::kubectl([log.path()]).program(hostile_path());
        let source = log.served(source, "chop").rotate_every(OFTEN);
        exact(followers, log, source, 60).await;
    });
}

#[test]
fn from_containers() {
    with_followers(|followers, log| async move {
        let source = Source::docker(log.path()).program(hostile_path());
        let source = log.served(source, "").rotate_every(OFTEN);
        exact(followers, log, source, 20).await;
    });
}

#[test]
fn from_the_journal_by_cursor() {
    with_followers(|followers, mut log| async move {
        let (program, path) = (journalctl(&log), log.path().display().to_string());
        let source = Source::journal(["--unit", "web"])
            .program(program)
            .since(Since::Beginning)
            .call(move |call| patient(call).env("HOSTILE_JOURNAL", path.clone()))
            .rotate_every(OFTEN)
            .back_pressure();
        let follower = followers.follow("journal", source).unwrap();
        let write = |log: &mut Log, round: u64| {
            for text in [format!("message {round}"), "the same".into(), "the same".into()] {
                writeln!(log.file, "{text}").unwrap();
                log.written.push(text);
            }
            log.file.write_all(b"no \xff text\n").unwrap();
            log.written.push("no \u{fffd} text".into());
        };
        let lines = take(&follower, &mut log, write, |counts| counts.sources >= 40).await;
        assert_exact(&lines, &log.written);
        assert!(follower.counts().sources > 5);
        assert!(lines.iter().all(|line| line.time.is_some()));
        assert!(lines.iter().any(|line| text(line) == "no \u{fffd} text" && line.content.contains(&0xff)));
    });
}

/// A program that takes what `journalctl` takes.
fn journalctl(log: &Log) -> PathBuf {
    let path = log.path().with_file_name("journalctl");
    fs::write(&path, format!("#!/bin/sh\nexec {} journal \"$@\"\n", hostile_path().display())).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A source that writes all of the log again, this piece by piece, and takes its time.
fn slow(log: &Log, pieces: &str) -> Source {
    let script = format!("{pieces} <{}; exec sleep 1000", log.path().display());
    log.served(Source::command(["sh", "-c", &script, "sh", "{since}"], TimeFormat::Rfc3339), "")
}

#[test]
fn though_a_source_sends_more_again_than_it_is_read_for() {
    with_followers(|followers, mut log| async move {
        for number in 0..20 {
            log.say(100_000, &format!("line {number}"));
        }
        let source = slow(&log, "while read -r line; do echo \"$line\"; sleep 0.02; done");
        let follower = followers.follow("log", source.rotate_bytes(100)).unwrap();
        let mut lines = Vec::new();
        in_time("the lines", rest(&mut follower.subscribe(), &mut lines, log.written.len())).await;
        assert_exact(&lines, &log.written);
        assert!(follower.counts().rotations > 0);
    });
}

#[test]
fn though_a_line_is_longer_than_a_source_is_read_for() {
    with_followers(|followers, mut log| async move {
        log.say(0, &"x".repeat(10_000));
        log.say(1, "next");
        let pieces = "while part=$(head -c 1000; echo .) && [ \"$part\" != . ]; do printf %s \"${part%.}\"; sleep 0.1; done";
        let follower = followers.follow("log", slow(&log, pieces).rotate_bytes(1_000)).unwrap();
        let mut lines = Vec::new();
        in_time("the lines", rest(&mut follower.subscribe(), &mut lines, 2)).await;
        assert_exact(&lines, &log.written);
    });
}
