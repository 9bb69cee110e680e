//! What the suites share: marks that show what is left over, looking for processes, waiting without sleeping, engines
//! for tests, and calls of the `hostile` programs.

mod capture;
mod dice;
mod ending;
mod levels;
mod mark;
mod pattern;
mod processes;
mod rig;
mod scenario;
mod wait;

pub use capture::{Capture, Said, Saying, Span};
pub use dice::Dice;
pub use ending::{OneTool, Scripted, ended, failed, patient, sh_up, succeeded, with_engine, with_engine_on};
pub use levels::{at, is_without_sandbox, skip};
pub use mark::Mark;
pub use pattern::{assert_same, pattern};
pub use processes::{
    alive, alive_of, descendants, descendants_named, group_alive, is_alive, is_named, is_own_child,
    is_stopped, own_cgroups, remains, send,
};
pub use rig::{Flavour, Rig, hostile, hostile_path, level, uncontained};
pub use scenario::{
    Endless, end_of, in_lanes, is_canceled, is_canceled_at_random, is_dropped_at_random, times_out,
};
pub use wait::{PATIENCE, Watchdog, ready, until, wait_for_output};
