//! What the process and its zygote hold at one moment, and how much more that is later.

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{Mark, Rig};
use tool_engine::Engine;

/// What the process holds at one moment.
pub(crate) struct Held {
    pub(crate) mark: Mark,
    rss: i64,
    zygote: Option<Zygote>,
}

/// What the zygote holds, and what it made.
struct Zygote {
    fds: i64,
    mounts: i64,
    rss: i64,
    sandboxes: i64,
    cgroups: i64,
}

const RSS: &str = "RSS (KiB)";
const ZYGOTE_RSS: &str = "zygote RSS";
const ZYGOTE_FDS: &str = "zygote fds";
const CGROUPS: &str = "cgroups";
/// How many more there may be in the second half: as many as there are calls at once.
const POOL: i64 = 64;

impl Zygote {
    fn of(engine: &Engine) -> Option<Self> {
        let vitals = engine.vitals();
        let zygote = vitals.zygotes.first()?;
        let number = |number: u64| i64::try_from(number).expect("it is small");
        Some(Self {
            fds: number(zygote.fds?),
            mounts: number(zygote.mounts?),
            rss: number(zygote.rss? >> 10),
            // Those that wait for their call included.
            sandboxes: number(zygote.children?),
            cgroups: number(vitals.cgroups + vitals.pooled_cgroups),
        })
    }
}

impl Held {
    fn rows(&self) -> Vec<(&'static str, i64)> {
        let counts = self.mark.counts().into_iter();
        let mut rows: Vec<_> =
            counts.map(|(what, count)| (what, i64::try_from(count).expect("it is small"))).collect();
        rows.push((RSS, self.rss));
        if let Some(zygote) = &self.zygote {
            rows.extend([
                ("sandboxes", zygote.sandboxes),
                ("zygote mounts", zygote.mounts),
                (ZYGOTE_FDS, zygote.fds),
                (CGROUPS, zygote.cgroups),
                (ZYGOTE_RSS, zygote.rss),
            ]);
        }
        rows
    }
}

/// Waits until no execution is left and the counts are what they were, or for so long that they will not be any more.
pub(crate) async fn settled(rig: &Rig, engine: &Engine, since: Option<&Held>) -> Held {
    let patience = Instant::now() + Duration::from_secs(20);
    let calm = |now: &Mark| match since {
        Some(held) => held.mark.growth().is_empty(),
        // The zygote's keeper is one.
        None => now.counts().iter().all(|(what, count)| *what != "children" || *count <= 1),
    };
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mark = rig.mark();
        if (engine.active() == 0 && calm(&mark)) || Instant::now() > patience {
            return Held { mark, rss: rss("self"), zygote: Zygote::of(engine) };
        }
    }
}

/// How much larger a resident set may be after the second half, in KiB: an allocator keeps some of what it had.
const NOISE: i64 = 4096;

/// The resident set of a process, in KiB.
pub(crate) fn rss(process: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a process has a resident set")
}

/// Prints what was held at three moments, and tells whether something has become more that should not have.
pub(crate) fn compare(warm: &Held, middle: &Held, end: &Held) -> bool {
    println!("\n{:<14}{:>10}{:>10}{:>10}{:>12}{:>12}", "", "warm", "middle", "end", "1st half", "2nd half");
    let mut grown = false;
    for (((what, warm), (_, middle)), (_, end)) in warm.rows().into_iter().zip(middle.rows()).zip(end.rows())
    {
        println!("{what:<14}{warm:>10}{middle:>10}{end:>10}{:>+12}{:>+12}", middle - warm, end - middle);
        grown |= match what {
            // Some scenarios keep records: see `swells`.
            RSS | ZYGOTE_RSS => false,
            // Pools that fill up with the most calls at once; they are bounded.
            ZYGOTE_FDS | CGROUPS => end > middle + POOL,
            _ => end > warm,
        };
    }
    grown
}

/// Whether the process or its zygote has become larger in the second half, and says so.
pub(crate) fn swells(middle: &Held, end: &Held) -> bool {
    let zygote = |held: &Held| held.zygote.as_ref().map_or(0, |zygote| zygote.rss);
    let grown = [(RSS, end.rss - middle.rss), (ZYGOTE_RSS, zygote(end) - zygote(middle))];
    let too_much = grown.into_iter().filter(|(_, kib)| *kib > NOISE);
    too_much.inspect(|(what, kib)| println!("GREW: {what} by {kib} in the second half")).count() > 0
}
