//! Followers of silent sources, each opened anew every second, for so long. What the process holds must not grow, no
//! rotation may take a second, and the second half must have as many rotations as the first: standing still is not
//! stability.
//!
//! Without a sandbox, as `docker logs` and `journalctl` run, which need what a sandbox keeps from them: in one, two processors
//! open some 350 sources a second, and 500 are due.

use std::time::{Duration, Instant};

use support::{Flavour, Rig, uncontained};
use tool_follow::{Counts, Followers, Source, TimeFormat};

/// How many.
const FOLLOWERS: usize = 500;

/// How long a rotation may take.
const ROTATION: Duration = Duration::from_secs(1);

/// A moment: what is held, and what was done until then.
struct Moment {
    held: Vec<(&'static str, i64)>,
    counts: Counts,
    at: Instant,
}

/// Follows for so many seconds.
pub(crate) fn run(seconds: u64) -> bool {
    let rig = Rig::new();
    Flavour::MultiThread.runtime().block_on(soak(&rig, Duration::from_secs(seconds)))
}

async fn soak(rig: &Rig, time: Duration) -> bool {
    let mark = rig.mark();
    let engine = rig.engine();
    let followers = Followers::builder(&engine).max(FOLLOWERS).build().expect("followers can be made");
    println!("{FOLLOWERS} silent sources, each opened anew every second, for {time:?}");
    for number in 0..FOLLOWERS {
        // Spread over a second, as what was started by and by is.
        tokio::time::sleep(Duration::from_secs(1) / u32::try_from(FOLLOWERS).expect("it is small")).await;
        // Sleeps until the year 2081 or so.
        let source = Source::command(["sleep", "{since}"], TimeFormat::UnixSeconds);
        let source = source.rotate_every(Duration::from_secs(1)).call(uncontained);
        followers.follow(format!("silent {number}"), source).expect("there is room");
    }
    let patience = Instant::now() + Duration::from_secs(120);
    while followers.metrics().followers.iter().any(|follower| follower.counts.rotations < 2) {
        assert!(Instant::now() < patience, "the followers do not rotate: {:?}", followers.metrics().counts);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let warm = moment(rig, &followers).await;
    tokio::time::sleep_until((warm.at + time / 2).into()).await;
    let middle = moment(rig, &followers).await;
    tokio::time::sleep_until((warm.at + time).into()).await;
    let end = moment(rig, &followers).await;
    followers.shutdown().await;
    drop(followers);
    engine.shutdown(Duration::from_secs(10)).await;
    drop(engine);
    mark.assert_settled("after the followers").await;

    println!("\n{:<14}{:>10}{:>10}{:>10}{:>12}{:>12}", "", "warm", "middle", "end", "1st half", "2nd half");
    let mut broken = Vec::new();
    for (((what, warm), (_, middle)), (_, end)) in warm.held.iter().zip(&middle.held).zip(&end.held) {
        let (first, second) = (middle - warm, end - middle);
        println!("{what:<14}{warm:>10}{middle:>10}{end:>10}{first:>+12}{second:>+12}");
        // A source that is being opened anew holds more or fewer for a moment: half a descriptor for each. One rotation in a
        // thousand that leaves one comes to about as much.
        let noise = if *what == "fds" { FOLLOWERS as i64 / 2 } else { 2 };
        if *end > warm + noise {
            broken.push(format!("{what} grew from {warm} to {end}"));
        }
    }
    let rate = |from: &Moment, to: &Moment| {
        (to.counts.rotations - from.counts.rotations) as f64 / to.at.duration_since(from.at).as_secs_f64()
    };
    let (first, second) = (rate(&warm, &middle), rate(&middle, &end));
    println!(
        "{:<14}{:>10}{:>10}{:>10}{first:>10.0}/s{second:>10.0}/s",
        "rotations", warm.counts.rotations, middle.counts.rotations, end.counts.rotations
    );
    println!("{:<14}{:>30?}", "longest", end.counts.longest_rotation);
    if second < first * 0.9 {
        broken.push(format!("{second:.0} rotations a second in the second half, {first:.0} in the first"));
    }
    if first < FOLLOWERS as f64 / 2.0 {
        broken.push(format!("only {first:.0} rotations a second"));
    }
    if end.counts.longest_rotation >= ROTATION {
        broken.push(format!("a rotation took {:?}", end.counts.longest_rotation));
    }
    if end.counts.errors > 0 {
        broken.push(format!("{} sources failed", end.counts.errors));
    }
    for what in &broken {
        println!("BROKEN: {what}");
    }
    broken.is_empty()
}

/// What is held, as the median of some looks: at any moment, some of them are being opened anew.
async fn moment(rig: &Rig, followers: &Followers) -> Moment {
    let mut looks = Vec::new();
    for _ in 0..11 {
        looks.push(rig.mark().counts());
        tokio::time::sleep(Duration::from_millis(170)).await;
    }
    let median = |index: usize| {
        let mut all: Vec<_> = looks.iter().map(|look| look[index].1).collect();
        all.sort_unstable();
        (looks[0][index].0, i64::try_from(all[all.len() / 2]).expect("it is small"))
    };
    let held = (0..looks[0].len()).map(median).collect();
    Moment { held, counts: followers.metrics().counts, at: Instant::now() }
}
