//! Keys and places are given out once, and come back.

use std::time::Duration;

use support::{Flavour, Rig, hostile_path};
use tool_engine::ErrorKind;
use tool_follow::{FileOutput, FollowError, FollowEventKind, Followers, Source, TimeFormat};

use super::{Log, down, in_time, next_line, patient, with_followers};

#[test]
fn a_key_is_followed_once() {
    with_followers(|followers, log| async move {
        let follower = followers.follow("web", log.source("")).unwrap();
        let error = followers.follow("web", log.source("")).unwrap_err();
        assert_eq!(error, FollowError::AlreadyFollowed { key: "web".into() });
        assert!(error.to_string().contains("\"web\" is followed already"), "{error}");
        let error = followers.stop("api").await.unwrap_err();
        assert_eq!(error, FollowError::NotFollowed { key: "api".into() });
        in_time("a stop", followers.stop("web")).await.unwrap();
        assert!(followers.get("web").is_err());
        in_time("a stop of what has ended", follower.stop()).await;
        drop(followers.follow("web", log.source("")).unwrap());
        assert_eq!(followers.get("web").unwrap().key(), "web");
    });
}

#[test]
fn a_file_is_written_by_one_follower_whatever_it_is_called() {
    with_followers(|followers, mut log| async move {
        log.say(0, "a");
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
        let follow = |key: &str, path: std::path::PathBuf| {
            followers.follow(key, log.source("").output(FileOutput::new(path)))
        };
        let first = follow("first", folder.path().join("out")).unwrap();
        next_line(&mut first.subscribe()).await;
        for name in ["out", "link/out", "./out"] {
            let error = follow("second", folder.path().join(name)).unwrap_err();
            assert!(matches!(&error, FollowError::FileTaken { key, .. } if key == "first"), "{error:?}");
            assert!(error.to_string().contains("written by the follower \"first\" already"), "{error}");
        }
        drop(follow("other", folder.path().join("another")).unwrap());
        let again = follow("beside", folder.path().join("link/another")).unwrap_err();
        assert!(matches!(again, FollowError::FileTaken { .. }), "also before it is there: {again}");
        for key in ["null", "null too"] {
            drop(follow(key, "/dev/null".into()).unwrap());
        }
        in_time("a stop", first.stop()).await;
        drop(follow("second", folder.path().join("out")).unwrap());
    });
}

#[test]
fn there_are_so_many_places_whatever_the_engine_runs_at_once() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let mark = rig.mark();
        let engine = rig.builder().max_running(1).build().unwrap();
        let followers = Followers::builder(&engine).max(3).build().unwrap();
        let mut log = Log::new();
        log.say(0, "a");
        let hold: Vec<_> =
            (0..3).map(|number| followers.follow(number.to_string(), log.source("")).unwrap()).collect();
        for follower in &hold {
            next_line(&mut follower.subscribe()).await;
        }
        let error = followers.follow("3", log.source("")).unwrap_err();
        assert_eq!(error, FollowError::PoolFull { max: 3 });
        assert!(error.to_string().contains("there are 3 followers"), "{error}");
        let metrics = followers.metrics();
        assert_eq!((metrics.active, metrics.max, metrics.counts.lines), (3, 3, 3));
        // Others have their turn all the same.
        super::in_time("a call", engine.start(tool_engine::Call::command(["true"]))).await.unwrap();
        in_time("a stop", followers.stop("1")).await.unwrap();
        let again = followers.follow("3", log.source("")).unwrap();
        next_line(&mut again.subscribe()).await;
        assert_eq!(followers.metrics().counts.lines, 4, "those of who has ended count, too");
        drop((hold, again));
        down(followers.clone(), engine).await;
        assert_eq!(followers.follow("4", log.source("")).unwrap_err(), FollowError::Closed);
        drop((followers, log));
        mark.assert_settled("after the test").await;
    });
}

#[test]
fn a_source_that_cannot_be_opened_at_all_gives_its_place_back() {
    with_followers(|followers, log| async move {
        let words = ["/no/such/program", "{since}"];
        let source = || Source::command(words, TimeFormat::Rfc3339).call(patient);
        let follower = followers.follow("none", source()).unwrap();
        in_time("its end", follower.ended()).await;
        let events: Vec<_> = std::iter::from_fn({
            let mut events = follower.subscribe();
            move || events.try_next()
        })
        .collect();
        let Some(FollowEventKind::Ended { error: Some(error) }) = events.last().map(|event| &event.kind)
        else {
            panic!("{events:?}");
        };
        assert!(matches!(error, ErrorKind::Spawn { .. }), "{error:?}");
        assert!(error.to_string().contains("/no/such/program"));
        assert!(followers.get("none").is_err());
        // A folder is no file.
        let source = Source::file(log.path().parent().unwrap());
        let follower = followers.follow("none", source).unwrap();
        in_time("its end", follower.ended()).await;
        // A wrong argument is the program's own affair: it is tried again.
        let source = Source::command(
            [hostile_path().to_str().unwrap(), "no-such-mode", "{since}"],
            TimeFormat::Rfc3339,
        );
        let follower = followers.follow("none", source.call(patient)).unwrap();
        let mut events = follower.subscribe();
        let mut seen = (false, false);
        in_time("a second attempt", async {
            while follower.counts().errors < 2 || seen != (true, true) {
                match events.next().await.unwrap().kind {
                    FollowEventKind::Reconnect { reason, .. } => {
                        assert_eq!(reason, "the source exited with code 64");
                        seen.0 = true;
                    }
                    FollowEventKind::Diagnostic(text) => {
                        seen.1 |= String::from_utf8_lossy(&text).contains("no mode");
                    }
                    _ => {}
                }
            }
        })
        .await;
        let error = followers.follow("bad", Source::command(["cat"], TimeFormat::Rfc3339)).unwrap_err();
        assert!(error.to_string().contains("{since}"), "{error}");
    });
}

#[test]
fn times_may_be_as_long_as_there_are() {
    Rig::run(Flavour::MultiThread, |rig| async move {
        let engine = rig.builder().max_timeout(Duration::MAX).build().unwrap();
        let followers = Followers::builder(&engine).stop_within(Duration::MAX).build().unwrap();
        let mut log = Log::new();
        log.say(0, "a");
        let output = FileOutput::new(log.path().with_extension("out")).max_age(Duration::MAX);
        let source = log
            .source("")
            .heartbeat(Duration::MAX)
            .rotate_every(Duration::MAX / 2)
            .backoff(Duration::MAX, Duration::MAX)
            .output(output);
        let follower = followers.follow("log", source).unwrap();
        let mut events = follower.subscribe();
        next_line(&mut events).await;
        follower.ask_to_stop();
        let mut last = None;
        while let Some(event) = in_time("the end", events.next()).await {
            last = Some(event.kind);
        }
        assert!(matches!(last, Some(FollowEventKind::Ended { error: None })), "{last:?}");
        down(followers, engine).await;
    });
}

#[test]
fn what_it_writes_is_not_what_it_reads() {
    with_followers(|followers, log| async move {
        let path = log.path().parent().unwrap().join("./log");
        let link = log.path().with_file_name("link");
        std::os::unix::fs::symlink(log.path(), &link).unwrap();
        for output in [path, link] {
            let source = Source::file(log.path()).output(FileOutput::new(output));
            let error = followers.follow("log", source).unwrap_err().to_string();
            assert!(error.contains("the very file that is followed"), "{error}");
        }
    });
}
