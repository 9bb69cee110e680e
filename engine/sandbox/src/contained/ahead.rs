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

/// A sandbox that waits for its call. Dropping it waits for its death, which takes a millisecond.
#[derive(Debug)]
pub(super) struct Ready {
    // They are dropped in this order: nobody may be in a cgroup that is given back.
    _waiting: Option<Waiting>,
    pub(super) nascent: Nascent,
    cgroup: Option<Cgroup>,
}

/// One at most, of what was wanted twice in a row.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What was wanted last, and last but one.
    last: [Option<Want>; 2],
    ready: Option<Ready>,
    /// Somebody makes one just now.
    is_making: bool,
    /// Those that are of no use. They are dropped where nobody waits.
    useless: Vec<Ready>,
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
        let ready = state.ready.take();
        if is_again {
            return ready;
        }
        state.useless.extend(ready);
        None
    }

    /// It is of no use, and is to be dropped later.
    pub(super) fn leave(&self, useless: Ready) {
        self.state().useless.push(useless);
    }

    /// Makes one, if none waits and what was wanted last was wanted twice. Drops those that are of no use.
    pub(super) fn make(&self, make: impl FnOnce(&Want) -> Option<Ready>) {
        // Neither while others wait for the lock.
        let useless = std::mem::take(&mut self.state().useless);
        drop(useless);
        let Some(want) = self.begin() else { return };
        let made = make(&want);
        let useless = self.keep(&want, made);
        drop(useless);
    }

    /// What was made for this, if that is still wanted; or else it is of no use.
    fn keep(&self, want: &Want, made: Option<Ready>) -> Option<Ready> {
        let mut state = self.state();
        state.is_making = false;
        if state.ready.is_some() || state.last[0].as_ref() != Some(want) {
            return made;
        }
        state.ready = made;
        None
    }

    /// What to make, if anything.
    fn begin(&self) -> Option<Want> {
        let mut state = self.state();
        let [Some(last), Some(before)] = &state.last else { return None };
        let want = (last == before && state.ready.is_none() && !state.is_making).then(|| last.clone())?;
        state.is_making = true;
        Some(want)
    }

    /// All that there are.
    pub(super) fn clear(&self) -> Vec<Ready> {
        let mut state = self.state();
        let useless = std::mem::take(&mut state.useless);
        state.ready.take().into_iter().chain(useless).collect()
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
    pub(super) fn into_parts(mut self) -> (Nascent, Option<Cgroup>) {
        self.cgroup.iter_mut().for_each(Cgroup::begin);
        (self.nascent, self.cgroup)
    }
}
