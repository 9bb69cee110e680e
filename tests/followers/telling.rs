//! What subscribers and files are told.

use std::{
    fs,
    io::Write,
    time::{Duration, SystemTime},
};

use support::until;
use tool_follow::{FileOutput, FollowEventKind, Since};

use super::{PATIENCE, in_time, next, next_line, text, with_followers};

#[test]
fn that_it_is_alive_though_its_source_is_silent_and_often_another() {
    with_followers(|followers, log| async move {
        let source =
            log.source("").rotate_every(Duration::from_millis(50)).heartbeat(Duration::from_millis(120));
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        let (mut beats, mut longest) = (0, Duration::ZERO);
        while beats < 3 {
            match next(&mut events).await.kind {
                FollowEventKind::Heartbeat { silent, .. } => {
                    assert!(silent > longest, "{silent:?} after {longest:?}");
                    longest = silent;
                    beats += 1;
                }
                FollowEventKind::Opened { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn what_a_slow_subscriber_missed_while_nobody_waited_for_it() {
    with_followers(|followers, mut log| async move {
        let follower = followers.follow("log", log.source("").buffer(8 << 10)).unwrap();
        let mut quick = follower.subscribe();
        let mut slow = follower.subscribe();
        for round in 0..100 {
            log.burst(round);
        }
        let total = log.written.len();
        for _ in 0..total {
            next_line(&mut quick).await;
        }
        let first = slow.try_next().unwrap();
        assert!(matches!(first.kind, FollowEventKind::Gap { missed } if missed > 100), "{first:?}");
        let second = slow.try_next().unwrap();
        assert!(matches!(second.kind, FollowEventKind::Line(_)), "{second:?}");
    });
}

#[test]
fn when_a_line_was_written_and_what_it_says() {
    with_followers(|followers, mut log| async move {
        log.say(5, "E hello");
        log.say(1_000_000_000, "x");
        let follower = followers.follow("log", log.source("").max_line(32)).unwrap();
        let mut events = follower.subscribe();
        let line = loop {
            let line = next_line(&mut events).await;
            if line.stream == tool_engine::Stream::Stderr {
                break line;
            }
        };
        assert_eq!(line.cut, 6);
        assert_eq!(text(&line), "E");
        assert_eq!(&line.written[..], b"2026-01-31T10:00:00.000000005Z E");
        let time = line.time.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(time.subsec_nanos(), 5);
    });
}

#[test]
fn only_what_comes_from_now_on_if_nothing_else_is_asked_for() {
    with_followers(|followers, mut log| async move {
        // Long ago.
        log.say(0, "old");
        let follower = followers.follow("log", log.source("").since(Since::Now)).unwrap();
        let mut events = follower.subscribe();
        loop {
            if let FollowEventKind::Opened { .. } = next(&mut events).await.kind {
                break;
            }
        }
        let now = humantime::format_rfc3339_nanos(SystemTime::now());
        writeln!(log.file, "{now} new").unwrap();
        assert_eq!(text(&next_line(&mut events).await), "new");
    });
}

#[test]
fn each_line_to_a_file_that_is_begun_anew_when_it_is_full() {
    with_followers(|followers, mut log| async move {
        let path = log.path().with_file_name("out");
        let output = FileOutput::new(&path).max_bytes(4_000).keep(1_000);
        let source = log.source("").rotate_every(Duration::from_millis(100)).output(output);
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        for round in 0..50 {
            log.burst(round);
        }
        for _ in 0..log.written.len() {
            next_line(&mut events).await;
        }
        // What was read is in the file when it has been stopped.
        in_time("a stop", follower.stop()).await;
        let mut files: Vec<_> = (1..)
            .map(|number| path.with_extension(number.to_string()))
            .take_while(|path| path.exists())
            .collect();
        assert!(files.len() > 2, "{files:?}");
        files.reverse();
        files.push(path);
        let all: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let mut found: Vec<_> = all.lines().map(str::to_owned).collect();
        let mut written = log.written.clone();
        // Two streams can overtake each other.
        found.sort();
        written.sort();
        assert!(found == written, "{} lines instead of {}", found.len(), written.len());
        let counts = follower.counts();
        assert_eq!((counts.output_errors, counts.output_lost), (0, 0));
    });
}

#[test]
fn that_a_file_cannot_be_written_while_all_else_goes_on() {
    with_followers(|followers, mut log| async move {
        let source = log.source("").output(FileOutput::new("/dev/full"));
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        log.say(0, "a");
        next_line(&mut events).await;
        let failed = || (follower.counts().output_errors > 1).then_some(());
        until("it is tried again", PATIENCE, failed).await;
        log.say(0, "b");
        assert_eq!(text(&next_line(&mut events).await), "b");
        in_time("a stop", follower.stop()).await;
        assert_eq!(follower.counts().output_lost, 2);
    });
}

#[test]
fn each_line_to_a_file_though_somebody_removes_it_or_its_folder() {
    with_followers(|followers, mut log| async move {
        let folder = log.path().with_file_name("out");
        let path = folder.join("log");
        let follower = followers.follow("log", log.source("").output(FileOutput::new(&path))).unwrap();
        let mut events = follower.subscribe();
        let said = |text: &str| {
            let text = text.to_owned();
            let path = path.clone();
            move || fs::read_to_string(&path).is_ok_and(|found| found == text).then_some(())
        };
        log.say(0, "one");
        next_line(&mut events).await;
        until("the first line", PATIENCE, said("one\n")).await;
        fs::remove_file(&path).unwrap();
        log.say(1, "two");
        until("the second line", PATIENCE, said("two\n")).await;
        fs::remove_dir_all(&folder).unwrap();
        log.say(1, "three");
        until("the third line", PATIENCE, said("three\n")).await;
        // As another program does that rotates logs.
        fs::rename(&path, folder.join("log.other")).unwrap();
        log.say(1, "four");
        until("the fourth line", PATIENCE, said("four\n")).await;
    });
}
