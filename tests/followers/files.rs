//! Each line once, from a file that is written to, renamed and truncated; read by the real `tail`.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use support::{level, until};
use tool_engine::{Level, Policy};
use tool_follow::{FollowEventKind, LineEnd, Since, Source, Subscription};

use super::{PATIENCE, in_time, next, next_line, patient, text, with_followers};

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn source(path: &Path) -> Source {
    Source::file(path).since(Since::Beginning).call(patient).back_pressure()
}

async fn expect(events: &mut Subscription, lines: &[&str]) {
    for expected in lines {
        assert_eq!(text(&next_line(events).await), *expected);
    }
}

#[test]
fn over_many_rotations_also_in_the_middle_of_a_line() {
    with_followers(|followers, log| async move {
        let mut file = append(log.path());
        let source = source(log.path()).rotate_every(Duration::from_millis(60));
        let follower = followers.follow("file", source).unwrap();
        let mut events = follower.subscribe();
        let mut number = 0;
        let began = std::time::Instant::now();
        while follower.counts().sources < 30 && began.elapsed() < Duration::from_secs(40) {
            let before = follower.counts().sources;
            write!(file, "line {number} \u{fffd} is cut").unwrap();
            if number % 3 == 0 {
                // Half of it is read, and then the source is another.
                until("a rotation", PATIENCE, || (follower.counts().sources > before).then_some(())).await;
            }
            file.write_all(b" in half\r\nthe same\nthe same\n").unwrap();
            let line = next_line(&mut events).await;
            assert_eq!(text(&line), format!("line {number} \u{fffd} is cut in half"));
            assert_eq!(line.end, LineEnd::CrLf);
            expect(&mut events, &["the same", "the same"]).await;
            number += 1;
        }
        assert!(follower.counts().sources > 5, "{:?}", follower.counts());
        assert_eq!(follower.counts().lines, number * 3);
    });
}

#[test]
fn a_file_that_is_renamed_is_read_to_its_end_before_the_next_one() {
    with_followers(|followers, log| async move {
        let path = log.path().with_file_name("app.log");
        let follower = followers.follow("file", source(&path).rotate_every(Duration::from_secs(2))).unwrap();
        let mut events = follower.subscribe();
        // It is waited for.
        loop {
            if let FollowEventKind::Reconnect { reason, .. } = next(&mut events).await.kind {
                assert!(reason.contains("not there yet"), "{reason}");
                break;
            }
        }
        for round in 0..3 {
            let mut file = append(&path);
            writeln!(file, "{round} one").unwrap();
            expect(&mut events, &[&format!("{round} one")]).await;
            fs::rename(&path, path.with_extension(format!("{round}"))).unwrap();
            // Whoever writes has not noticed yet.
            let mut fresh = append(&path);
            write!(file, "{round} two\n{round} three, without an end").unwrap();
            writeln!(fresh, "{round} of the next").unwrap();
            expect(&mut events, &[&format!("{round} two")]).await;
            let line = next_line(&mut events).await;
            assert_eq!((text(&line), line.end), (format!("{round} three, without an end"), LineEnd::None));
            assert!(!line.partial);
            expect(&mut events, &[&format!("{round} of the next")]).await;
        }
    });
}

#[test]
fn a_file_that_is_truncated_is_read_from_its_beginning() {
    with_followers(|followers, log| async move {
        let follower = followers.follow("file", source(log.path())).unwrap();
        let mut events = follower.subscribe();
        for round in 0..3 {
            let mut file = append(log.path());
            write!(file, "a long line of round {round}\nanother one\n").unwrap();
            expect(&mut events, &[&format!("a long line of round {round}"), "another one"]).await;
            let before = follower.counts().sources;
            fs::write(log.path(), "").unwrap();
            until("it is noticed", PATIENCE, || (follower.counts().sources > before).then_some(())).await;
        }
    });
}

#[test]
fn what_was_there_before_is_left_out_unless_it_is_asked_for() {
    with_followers(|followers, log| async move {
        let mut file = append(log.path());
        file.write_all(b"old\n").unwrap();
        let source = Source::file(log.path()).call(patient);
        let follower = followers.follow("file", source).unwrap();
        let mut events = follower.subscribe();
        loop {
            if let FollowEventKind::Opened { before: 0, .. } = next(&mut events).await.kind {
                break;
            }
        }
        file.write_all(b"new\nhalf").unwrap();
        expect(&mut events, &["new"]).await;
        // What was read of a line is told when there will be no more.
        in_time("its end", async {
            let mut halves = 0;
            follower.ask_to_stop();
            while let Some(event) = events.next().await {
                if let FollowEventKind::Line(line) = event.kind {
                    assert_eq!((text(&line), line.partial), ("half".to_owned(), true));
                    halves += 1;
                }
            }
            assert!(halves <= 1);
        })
        .await;
    });
}

#[test]
fn that_a_file_was_renamed_is_noticed_however_often_it_is_told_that_the_follower_is_alive() {
    with_followers(|followers, log| async move {
        let mut file = append(log.path());
        file.write_all(b"one\n").unwrap();
        let source = source(log.path()).heartbeat(Duration::from_millis(50));
        let follower = followers.follow("file", source).unwrap();
        let mut events = follower.subscribe();
        expect(&mut events, &["one"]).await;
        fs::rename(log.path(), log.path().with_extension("1")).unwrap();
        append(log.path()).write_all(b"two\n").unwrap();
        in_time("the next file", expect(&mut events, &["two"])).await;
    });
}

#[test]
fn what_is_no_file_holds_nobody_up() {
    with_followers(|followers, log| async move {
        append(log.path()).write_all(b"one\n").unwrap();
        let fifo = log.path().with_extension("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // More than there are threads for files; nobody ever opens the other end.
        for number in 0..3 {
            let follower = followers.follow(number.to_string(), Source::file(&fifo)).unwrap();
            in_time("its end", follower.ended()).await;
            let mut events = follower.subscribe();
            let error = std::iter::from_fn(|| events.try_next()).find_map(|event| match event.kind {
                FollowEventKind::Ended { error } => error,
                _ => None,
            });
            assert!(error.unwrap().to_string().contains("only a regular file can be followed"));
        }
        let follower = followers.follow("file", source(log.path())).unwrap();
        expect(&mut follower.subscribe(), &["one"]).await;
    });
}

#[test]
fn half_a_line_does_not_come_again_and_again_though_tail_ends_at_the_end_of_the_file() {
    with_followers(|followers, log| async move {
        let tail = log.path().with_file_name("tail");
        fs::write(&tail, "#!/bin/sh\nexec cat\n").unwrap();
        fs::set_permissions(&tail, PermissionsExt::from_mode(0o755)).unwrap();
        let mut file = append(log.path());
        file.write_all(b"one\nha").unwrap();
        let path = tail.clone();
        let shape = move |call| {
            let policy = Policy { ro: vec![path.clone()], ..Policy::default() };
            if level() == Level::None { patient(call) } else { patient(call.policy(policy)) }
        };
        let source = source(log.path()).program(&tail).call(shape);
        let follower = followers.follow("file", source.backoff(Duration::ZERO, Duration::ZERO)).unwrap();
        let mut events = follower.subscribe();
        expect(&mut events, &["one"]).await;
        until("it is opened anew", PATIENCE, || (follower.counts().sources > 3).then_some(())).await;
        file.write_all(b"lf\n").unwrap();
        expect(&mut events, &["half"]).await;
    });
}
