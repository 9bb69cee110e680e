//! What the suites share: marks that show what is left over, looking for processes, waiting without sleeping, engines
//! for tests, and calls of the `hostile` programs.

mod mark;
mod processes;
mod rig;
mod wait;

pub use mark::Mark;
pub use processes::{alive, children, group_alive, is_alive};
pub use rig::{Flavour, Rig, hostile, hostile_path};
pub use wait::{Watchdog, ready, until, wait_for_output};
