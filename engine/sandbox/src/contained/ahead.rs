//! The next sandbox, made ahead while its predecessor works.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tool_zygote::protocol::Kind;

use super::nascent::Nascent;
use crate::{cgroup::Cgroup, policy::ResourceLimits, vitals::Waiting};

/// What has to be known of a call to make its sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Want {
    pub(super) kind: Kind,
    /// Of its cgroup.
    pub(super) limits: ResourceLimits,
}

/// A sandbox that waits for its call. Dropped, it ends, for which nobody waits.
#[derive(Debug)]
pub(super) struct Ready {
    // They are dropped in this order: what is closed is not waited with, and a cgroup that nobody is in is used again.
    _waiting: Option<Waiting>,
    pub(super) nascent: Nascent,
    pub(super) cgroup: Option<Cgroup>,
}

/// One at most, of what was wanted twice in a row.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What was wanted last, and last but one.
    last: [Option<Want>; 2],
    ready: Option<Ready>,
}

impl Ahead {
    /// The one that waits, if it is of this kind.
    pub(super) fn take(&self, want: &Want) -> Option<Ready> {
        let mut state = self.state();
        let is_again = state.last[0].as_ref() == Some(want);
        state.last.rotate_right(1);
        if state.last[0].as_ref() != Some(want) {
            state.last[0] = Some(want.clone());
        }
        state.ready.take().filter(|_| is_again)
    }

    /// Makes one, if none waits and what was wanted last was wanted twice.
    pub(super) fn make(&self, make: impl FnOnce(&Want) -> Option<Ready>) {
        let state = &mut *self.state();
        if let (None, [Some(last), Some(before)]) = (&state.ready, &state.last)
            && last == before
        {
            state.ready = make(last);
        }
    }

    /// Whatever waits.
    pub(super) fn clear(&self) -> Option<Ready> {
        self.state().ready.take()
    }

    /// Whether a cgroup waits, too.
    pub(super) fn has_cgroup(&self) -> bool {
        self.state().ready.as_ref().is_some_and(|ready| ready.cgroup.is_some())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ready {
    /// In this cgroup.
    pub(super) fn new(nascent: Nascent, cgroup: Option<Cgroup>) -> Self {
        let _waiting = nascent.parts().map(|parts| Waiting::new(&parts.control));
        Self { _waiting, nascent, cgroup }
    }

    /// It has its call now. The cgroup is to outlive the sandbox.
    pub(super) fn into_parts(self) -> (Nascent, Option<Cgroup>) {
        (self.nascent, self.cgroup)
    }

    /// Ends it, and waits for that, so that its cgroup can be used again, or removed.
    pub(super) fn end(mut self) {
        self.nascent.meet();
    }
}
