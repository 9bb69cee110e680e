//! What runs of a group, and how far each call is: kept by who hears of it, drawn by a thread that a slow terminal may
//! hold up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use run_tool::{Call, Event, EventKind, ExecutionError, Report, Target};

use crate::{group::one_line, values::show_time};

/// Of what a call is called.
const WIDEST: usize = 40;

/// How many calls have a line of their own: what people can follow.
const ROWS: usize = 16;

/// What is to be drawn.
pub(crate) struct Board {
    labels: Vec<String>,
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Default)]
struct State {
    running: BTreeMap<usize, Row>,
    ended: u64,
    failed: u64,
    is_closed: bool,
}

/// One call that runs.
#[derive(Clone)]
struct Row {
    began: Instant,
    fraction: Option<f64>,
    message: Arc<str>,
}

impl Board {
    /// For these calls.
    pub(crate) fn new(calls: &[Call], labels: &[Option<String>]) -> Self {
        let named = calls.iter().zip(labels).map(|(call, label)| match (label, call.target()) {
            (Some(label), _) => one_line(label, WIDEST),
            (None, Target::Tool(name) | Target::Description(name)) => one_line(name, WIDEST),
            (None, Target::Command(words)) => {
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                one_line(&words.join(" "), WIDEST)
            }
        });
        Self { labels: named.collect(), state: Mutex::default(), closed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a call.
    pub(crate) fn happened(&self, index: usize, event: &Event) {
        let mut state = self.state();
        match &event.kind {
            EventKind::Started { .. } => {
                let row = Row { began: Instant::now(), fraction: None, message: "".into() };
                state.running.insert(index, row);
            }
            EventKind::Progress(progress) => {
                let Some(row) = state.running.get_mut(&index) else { return };
                row.fraction = progress.fraction.or(row.fraction);
                if let Some(message) = &progress.message {
                    row.message = one_line(message, 2 * WIDEST).into();
                }
            }
            EventKind::Retrying { attempt, after, .. } => {
                let Some(row) = state.running.get_mut(&index) else { return };
                row.message = format!("attempt {attempt} begins in {}", show_time(*after)).into();
            }
            _ => {}
        }
    }

    /// A call has ended.
    pub(crate) fn ended(&self, index: usize, end: &Result<Report, ExecutionError>) {
        let mut state = self.state();
        state.running.remove(&index);
        state.ended += 1;
        state.failed += u64::from(end.is_err());
    }

    /// All have ended.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.closed.notify_all();
    }
}

/// Draws on the terminal that is our standard error, until the board is closed; then nothing is left of it. Blocks.
pub(crate) fn draw(board: &Board) {
    /// How often. A group that is quicker shows nothing.
    const AGAIN: Duration = Duration::from_millis(100);
    let screen = MultiProgress::new();
    let total = ProgressBar::new(board.labels.len() as u64);
    let mut shown: HashMap<usize, ProgressBar> = HashMap::new();
    let mut drawn = false;
    loop {
        let state = board.state();
        let waited = board.closed.wait_timeout_while(state, AGAIN, |state| !state.is_closed);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            break;
        }
        if !drawn {
            screen.add(total.clone());
            total.set_style(style("{spinner} {elapsed} [{bar:24}] {pos} of {len} {wide_msg}"));
            drawn = true;
        }
        let rows: Vec<(usize, Row)> =
            state.running.iter().take(ROWS).map(|(index, row)| (*index, row.clone())).collect();
        let (ended, failed, more) = (state.ended, state.failed, state.running.len() - rows.len());
        // A terminal that is slow holds up only us.
        drop(state);
        shown.retain(|index, bar| {
            let stays = rows.iter().any(|(row, _)| row == index);
            if !stays {
                bar.finish_and_clear();
                screen.remove(bar);
            }
            stays
        });
        for (index, row) in rows {
            let bar = shown.entry(index).or_insert_with(|| {
                let bar = screen.insert_before(&total, ProgressBar::new(1000));
                bar.set_prefix(board.labels[index].clone());
                bar.set_style(style("  {spinner} {prefix} {wide_msg}"));
                bar.with_elapsed(row.began.elapsed())
            });
            let time = show_time(row.began.elapsed());
            match row.fraction {
                Some(fraction) => {
                    bar.set_style(style("  {spinner} {prefix} [{bar:16}] {wide_msg}"));
                    bar.set_position((fraction.clamp(0.0, 1.0) * 1000.0) as u64);
                }
                None => bar.tick(),
            }
            bar.set_message(format!("{time} {}", row.message));
        }
        total.set_position(ended);
        let failed = if failed > 0 { format!("{failed} failed ") } else { String::new() };
        let more = if more > 0 { format!("{more} more run") } else { String::new() };
        total.set_message(failed + &more);
        total.tick();
    }
    for bar in shown.values() {
        bar.finish_and_clear();
    }
    total.finish_and_clear();
    // A panic of who drew is no reason to leave anything on the screen.
    let _ = screen.clear();
}

/// The templates are written in this file.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
