//! Errors that say which step failed, on what, and how.

use crate::{
    protocol::{Bytes, Event, Failure, Step},
    sys::{self, Errno},
};

pub(crate) type Steps<T> = Result<T, Failure>;

/// Names the step that a system call belongs to.
pub(crate) trait At<T> {
    fn at(self, step: Step, subject: &[u8]) -> Steps<T>;
}

impl<T> At<T> for sys::Result<T> {
    fn at(self, step: Step, subject: &[u8]) -> Steps<T> {
        self.map_err(|errno| failure(step, subject, errno))
    }
}

pub(crate) fn failure(step: Step, subject: &[u8], errno: Errno) -> Failure {
    Failure { step, subject: Bytes(subject.to_vec()), errno: errno.0 }
}

impl From<Failure> for Event {
    fn from(failure: Failure) -> Self {
        Event::Failed { failure }
    }
}
