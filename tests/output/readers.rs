//! Those who read the events: early, late, slow, many.

use std::{fs, pin::pin, task::Poll, time::Duration};

use support::{assert_same, ended, hostile, hostile_path, pattern, succeeded, until, with_engine};
use tempfile::TempDir;
use tool_engine::{Chunk, Event, EventKind, Events, Limits, ReportDocument};

use crate::{field, plain, sh, started, stdout};

fn ring(bytes: u64) -> Limits {
    Limits { event_ring: Some(bytes), stdout: Some(64 << 20), ..Limits::default() }
}

async fn all(events: &mut Events) -> Vec<Event> {
    let mut found = Vec::new();
    while let Some(event) = events.next().await {
        found.push(event);
    }
    found
}

#[test]
fn the_chunks_together_are_what_was_captured() {
    with_engine(plain, |engine| async move {
        let script = "for n in $(seq 200); do echo out $n; echo err $n >&2; done";
        let run = engine.start(sh(script));
        let mut events = run.events();
        let (report, events) = tokio::join!(succeeded(run), all(&mut events));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for (seq, event) in events.iter().enumerate() {
            assert_eq!(event.seq, seq as u64, "one after the other");
            match &event.kind {
                EventKind::Stdout(Chunk(bytes)) => out.extend_from_slice(bytes),
                EventKind::Stderr(Chunk(bytes)) => err.extend_from_slice(bytes),
                EventKind::Started { .. } => assert_eq!(seq, 0),
                EventKind::Ended { error } => assert_eq!((seq, error), (events.len() - 1, &None)),
                other => panic!("{other:?}"),
            }
        }
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "in the order of time");
        assert_same(&out, &report.stdout.bytes(), "stdout");
        assert_same(&err, &report.stderr.bytes(), "stderr");
        assert!(report.stdout.text().ends_with("out 199\nout 200\n"));
    });
}

#[test]
fn a_late_reader_finds_everything_that_the_ring_holds() {
    with_engine(plain, |engine| async move {
        let run = engine.start(hostile(["pattern", "stdout", "500000"]));
        let mut early = run.events();
        let early = all(&mut early).await;
        let (mut late, mut later) = (run.events(), run.events_from(early.len() as u64 - 2));
        let late = all(&mut late).await;
        assert_eq!(late.len(), early.len());
        assert_same(&late.iter().flat_map(stdout).copied().collect::<Vec<_>>(), &pattern(0..500_000), "late");
        assert_eq!(all(&mut later).await.len(), 2, "from a seq on");
        succeeded(run).await;
    });
}

#[test]
fn a_slow_reader_is_told_exactly_what_it_missed() {
    let total = 5_000_000;
    with_engine(plain, |engine| async move {
        let folder = TempDir::new().unwrap();
        let (go, hostile) = (folder.path().join("go"), hostile_path());
        let script = format!(
            "echo first; until [ -e {} ]; do sleep 0.01; done; exec {} pattern stdout {total}",
            go.display(),
            hostile.display()
        );
        let run = engine.start(sh(&script).limits(ring(64 << 10)));
        let mut events = run.events();
        // It reads a little, and then not before the end.
        started(&mut events).await;
        assert_eq!(stdout(&events.next().await.unwrap()), b"first\n");
        let mut whole = run.events_from(0);
        fs::write(go, "").unwrap();
        let report = succeeded(run).await;
        assert_same(&report.stdout.bytes()[b"first\n".len()..], &pattern(0..total), "what was captured");

        let rest = all(&mut events).await;
        let EventKind::Gap { missed } = rest[0].kind else { panic!("no gap first: {:?}", rest[0]) };
        assert_eq!(rest.iter().filter(|event| matches!(event.kind, EventKind::Gap { .. })).count(), 1);
        assert_eq!(rest[0].seq + missed, rest[1].seq, "it goes on where the gap ends");
        for pair in rest[1..].windows(2) {
            assert_eq!(pair[0].seq + 1, pair[1].seq);
        }
        let tail: Vec<u8> = rest.iter().flat_map(stdout).copied().collect();
        assert!(tail.len() < total);
        assert_same(&tail, &pattern(total - tail.len()..total), "after the gap");
        // Who begins late misses more, and sees the same end.
        let whole = all(&mut whole).await;
        let EventKind::Gap { missed } = whole[0].kind else { panic!("no gap first: {:?}", whole[0]) };
        assert_eq!((whole[0].seq, missed), (0, whole[1].seq));
        assert_eq!(whole.last().unwrap().seq, rest.last().unwrap().seq);
    });
}

#[test]
fn a_hundred_readers_see_the_same() {
    with_engine(plain, |engine| async move {
        let total = 700_000;
        let run = engine.start(hostile(["pattern", "stdout", &total.to_string(), "1000"]));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let mut events = run.events();
            readers.spawn(async move { all(&mut events).await });
        }
        let report = succeeded(run).await;
        assert_same(&report.stdout.bytes(), &pattern(0..total), "what was captured");
        for events in readers.join_all().await {
            assert!(matches!(events.last().unwrap().kind, EventKind::Ended { error: None }));
            // On a loaded machine one may have been too slow. Then it knows.
            let mut next = 0;
            for event in &events {
                assert_eq!(event.seq, next);
                next += if let EventKind::Gap { missed } = event.kind { missed } else { 1 };
            }
            if events.iter().all(|event| !matches!(event.kind, EventKind::Gap { .. })) {
                let seen: Vec<u8> = events.iter().flat_map(stdout).copied().collect();
                assert_same(&seen, &pattern(0..total), "seen");
            }
        }
    });
}

#[test]
fn with_back_pressure_a_slow_reader_slows_the_tool_and_misses_nothing() {
    let total = 8_000_000;
    with_engine(plain, |engine| async move {
        let call = hostile(["pattern", "stdout", &total.to_string()]).limits(ring(64 << 10));
        let run = engine.start(call.back_pressure());
        let mut events = run.events();
        let pid = started(&mut events).await;
        let io = format!("/proc/{pid}/io");
        // It comes to a standstill when ring and pipe are full.
        let mut last = 0;
        until("the tool stands still", support::PATIENCE, || {
            let now = field(&io, "wchar");
            let still = now == last && now > 64 << 10;
            last = now;
            still.then_some(())
        })
        .await;
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            assert!(!matches!(event.kind, EventKind::Gap { .. }), "{event:?} after {} bytes", seen.len());
            seen.extend_from_slice(stdout(&event));
            if seen.len() < total / 2 {
                // Never further ahead than ring, pipe, one read and one write.
                let ahead = field(&io, "wchar").saturating_sub(seen.len() as u64);
                assert!(ahead <= 4 * (64 << 10) + 4096, "the tool is {ahead} bytes ahead");
            }
        }
        assert_same(&seen, &pattern(0..total), "seen");
        assert_same(&succeeded(run).await.stdout.bytes(), &pattern(0..total), "captured");
    });
}

#[test]
fn a_tool_held_by_back_pressure_still_has_its_clock_and_can_be_canceled() {
    with_engine(plain, |engine| async move {
        let flood = || hostile(["pattern", "stdout", "100000000000"]).limits(ring(64 << 10)).back_pressure();
        let limits = Limits { timeout: Some(Duration::from_millis(300)), ..ring(64 << 10) };
        let run = engine.start(flood().limits(limits));
        let mut events = run.events();
        let mut run = pin!(ended(run));
        // Polled now and then, and no event read.
        let end = run.as_mut().await;
        assert_eq!(end.unwrap_err().kind().name(), "timeout");
        for (seq, event) in all(&mut events).await.iter().enumerate() {
            assert_eq!(event.seq, seq as u64, "nothing is missing: {event:?}");
        }
        let run = engine.start(flood());
        let events = run.events();
        run.cancel("enough");
        assert_eq!(ended(run).await.unwrap_err().kind().name(), "canceled");
        drop(events);
    });
}

#[test]
fn back_pressure_goes_when_its_reader_goes() {
    let total = 3_000_000;
    with_engine(plain, |engine| async move {
        let call = hostile(["pattern", "stdout", &total.to_string()]).limits(ring(64 << 10));
        let run = engine.start(call.back_pressure());
        let mut events = run.events();
        started(&mut events).await;
        drop(events);
        assert_same(&succeeded(run).await.stdout.bytes(), &pattern(0..total), "captured");
    });
}

#[test]
fn a_reader_that_goes_away_cancels_nothing_and_wakes_nobody_wrongly() {
    with_engine(plain, |engine| async move {
        let run = engine.start(sh("echo ready; sleep 0.1; echo end"));
        for _ in 0..50 {
            let mut events = run.events();
            // Once polled, then dropped while it waits.
            let mut next = pin!(events.next());
            std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_ready())).await;
        }
        let end = ended(run).await;
        assert_eq!(ReportDocument::new(&end).outcome, "ok");
        assert_eq!(end.unwrap().stdout.text(), "ready\nend\n");
    });
}
