//! Trying again: how often, after how long a wait, and after which endings.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    call::{Call, Stdin, Target},
    error::{ErrorKind, invalid},
    plan::Catalog,
};

/// What can be tried again, by the names of [`ErrorKind::name`]. The others never are: a call that is wrong stays wrong, a
/// tool that threw has answered, and who cancels means it.
const CAN: [&str; 8] = ["process", "protocol", "lost", "busy", "limit", "timeout", "sandbox", "spawn"];
const NEVER: [&str; 3] = ["invalid", "tool", "canceled"];

/// How a call that failed is tried again. What is not set is taken from the layer below: call, tool (manifest), and at the
/// bottom the defaults named here. A call may ask for less than its tool allows, not for more.
///
/// Nothing is tried again unless somebody says so: only who knows that a tool does no harm when it is called twice can.
/// Each attempt is a fresh process with the same input, and takes its own turn; none holds a place while it waits. The
/// execution has one id, one event log ([`EventKind::Retrying`](crate::EventKind::Retrying) comes before each wait) and one
/// outcome: that of its last attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to `Call::retry`"]
pub struct Retry {
    /// How often it is tried in all, from 1 on. Default 1: not again.
    pub attempts: Option<u32>,
    /// The wait before the second attempt; before each further one it is twice as long. Default 200 ms.
    pub backoff: Option<Duration>,
    /// The longest wait. Default 30 s, or `backoff` if that is longer.
    pub max_backoff: Option<Duration>,
    /// Whether each wait is drawn by chance, evenly between nothing and what it would be otherwise, so that many do not
    /// come again at the same time. Default yes.
    pub jitter: Option<bool>,
    /// After which endings, by their [names](ErrorKind::name): `process`, `protocol`, `lost`, `busy`, `limit`, `timeout`,
    /// `sandbox`, `spawn`. Default: whatever [`ErrorKind::is_retryable`] says, so nothing that the tool itself did.
    pub on: Option<Vec<String>>,
    /// For all attempts and the waits between them, from the submission on. What still runs then ends by its timeout,
    /// which is lowered to what is left. No attempt is waited for that would begin later. Default: none.
    pub deadline: Option<Duration>,
}

impl Retry {
    /// This many attempts in all.
    pub fn attempts(attempts: u32) -> Self {
        Self { attempts: Some(attempts), ..Self::default() }
    }

    /// The wait before the second attempt, which doubles from then on.
    pub fn backoff(mut self, first: Duration) -> Self {
        self.backoff = Some(first);
        self
    }

    /// The longest wait.
    pub fn max_backoff(mut self, longest: Duration) -> Self {
        self.max_backoff = Some(longest);
        self
    }

    /// Whether waits are drawn by chance.
    pub fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = Some(jitter);
        self
    }

    /// After which endings.
    pub fn on<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.on = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The time for all attempts together.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// This, with `below` where it says nothing.
    pub fn over(self, below: &Self) -> Self {
        Self {
            attempts: self.attempts.or(below.attempts),
            backoff: self.backoff.or(below.backoff),
            max_backoff: self.max_backoff.or(below.max_backoff),
            jitter: self.jitter.or(below.jitter),
            on: self.on.or_else(|| below.on.clone()),
            deadline: self.deadline.or(below.deadline),
        }
    }

    /// Whether every name in [`on`](Self::on) can be tried again, and the numbers can be meant.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: what is wrong with it.
    pub fn check(&self) -> Result<(), ErrorKind> {
        if self.attempts == Some(0) {
            return Err(invalid("retry attempts", "0 attempts would never try at all", "give 1 or more"));
        }
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            return Err(invalid(
                "retry deadline",
                "there is no time for any attempt",
                "give a positive time, or leave it out",
            ));
        }
        for name in self.on.iter().flatten() {
            let known = CAN.join(", ");
            if NEVER.contains(&&**name) {
                let message = format!("what ended as {name:?} is never tried again");
                return Err(invalid("retry on", message, format!("choose from {known}")));
            }
            if !CAN.contains(&&**name) {
                let message = format!("{name:?} is no kind of ending");
                return Err(invalid("retry on", message, format!("choose from {known}")));
            }
        }
        Ok(())
    }

    /// Whether a call that asks for this stays within what its tool allows.
    fn within(&self, tool: &Self) -> Result<(), ErrorKind> {
        fn both<T>(asked: Option<T>, allowed: Option<T>, more: impl Fn(T, T) -> bool) -> bool {
            asked.zip(allowed).is_some_and(|(asked, allowed)| more(asked, allowed))
        }
        let others =
            |asked: &Vec<String>, allowed: &Vec<String>| asked.iter().any(|name| !allowed.contains(name));
        let raised = [
            ("retry attempts", both(self.attempts, tool.attempts, |asked, allowed| asked > allowed)),
            ("retry deadline", both(self.deadline, tool.deadline, |asked, allowed| asked > allowed)),
            ("retry on", both(self.on.as_ref(), tool.on.as_ref(), others)),
            // Whoever waits less asks for more.
            ("retry backoff", both(self.backoff, tool.backoff, |asked, allowed| asked < allowed)),
            ("retry max_backoff", both(self.max_backoff, tool.max_backoff, |asked, allowed| asked < allowed)),
        ];
        match raised.iter().find(|(_, raised)| *raised) {
            None => Ok(()),
            Some((name, _)) => Err(invalid(
                *name,
                "the call asks for more than its tool allows",
                "ask for less, or allow it where the tool is declared",
            )),
        }
    }
}

/// When a call is tried again: settled once, before its first attempt.
#[derive(Debug)]
pub(crate) struct Schedule {
    attempts: u32,
    backoff: Duration,
    max_backoff: Duration,
    jitter: bool,
    on: Option<Vec<String>>,
    until: Option<Instant>,
}

impl Schedule {
    /// That of a call that was submitted at `began`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]
    pub(crate) fn of(call: &Call, catalog: Option<&dyn Catalog>, began: Instant) -> Result<Self, ErrorKind> {
        let tool = match (&call.target, catalog) {
            (Target::Tool(_) | Target::Description(_), Some(catalog)) => catalog.retry(call),
            (Target::Tool(_) | Target::Description(_), None) | (Target::Command(_), _) => Retry::default(),
        };
        call.retry.check()?;
        call.retry.within(&tool)?;
        let Retry { attempts, backoff, max_backoff, jitter, on, deadline } = call.retry.clone().over(&tool);
        let attempts = attempts.unwrap_or(1);
        if attempts > 1 && matches!(call.stdin, Stdin::Fd(_)) {
            return Err(invalid(
                "stdin",
                "an open file cannot be read again from its beginning by a second attempt",
                "hand its bytes over (`Stdin::Bytes`), or do not try again",
            ));
        }
        let backoff = backoff.unwrap_or(Duration::from_millis(200));
        Ok(Self {
            attempts,
            backoff,
            max_backoff: max_backoff.unwrap_or(Duration::from_secs(30).max(backoff)),
            jitter: jitter.unwrap_or(true),
            on,
            until: deadline.and_then(|deadline| began.checked_add(deadline)),
        })
    }

    /// Whether there is but one attempt.
    pub(crate) fn is_once(&self) -> bool {
        self.attempts == 1
    }

    /// What is left of the time for all attempts.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// How long to wait before the next attempt, after so many; `None` when that was the last.
    pub(crate) fn wait(&self, made: u32, kind: &ErrorKind) -> Option<Duration> {
        let wanted = match &self.on {
            _ if NEVER.contains(&kind.name()) => false,
            Some(names) => names.iter().any(|name| name == kind.name()),
            None => kind.is_retryable(),
        };
        if !wanted || made >= self.attempts {
            return None;
        }
        let wait = self.longest(made);
        let wait = if self.jitter { fraction(wait) } else { wait };
        match self.left() {
            Some(left) if wait >= left => None,
            _ => Some(wait),
        }
    }

    /// The wait after so many attempts, without chance.
    fn longest(&self, made: u32) -> Duration {
        let times = 1_u32.checked_shl(made.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(times).min(self.max_backoff)
    }
}

/// Evenly between nothing and `whole`.
fn fraction(whole: Duration) -> Duration {
    Duration::from_nanos(fastrand::u64(0..=u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(retry: Retry) -> Schedule {
        Schedule::of(&Call::command(["true"]).retry(retry), None, Instant::now()).unwrap()
    }

    fn busy() -> ErrorKind {
        ErrorKind::Busy { reason: String::new() }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry =
            Retry::attempts(99).backoff(Duration::from_millis(100)).max_backoff(Duration::from_secs(1));
        let schedule = schedule(retry.jitter(false));
        let waits: Vec<_> = (1..=99).map(|made| schedule.wait(made, &busy())).collect();
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(waits[..5], [millis(100), millis(200), millis(400), millis(800), millis(1000)]);
        assert!(waits[5..98].iter().all(|wait| *wait == millis(1000)), "also where doubling would overflow");
        assert_eq!(waits[98], None, "that was the last attempt");
    }

    #[test]
    fn nothing_is_tried_again_unless_asked_for() {
        assert_eq!(schedule(Retry::default()).wait(1, &busy()), None);
        assert!(schedule(Retry::attempts(2)).wait(1, &busy()).is_some());
        let timeout = ErrorKind::Timeout { clock: crate::Clock::Wall, after: Duration::ZERO };
        assert_eq!(schedule(Retry::attempts(2)).wait(1, &timeout), None, "the tool's own doing");
        assert!(schedule(Retry::attempts(2).on(["timeout"])).wait(1, &timeout).is_some());
        assert_eq!(schedule(Retry::attempts(2).on(["timeout"])).wait(1, &busy()), None);
    }

    #[test]
    fn no_attempt_is_waited_for_that_would_come_too_late() {
        let retry = Retry::attempts(9).backoff(Duration::from_secs(3600)).jitter(false);
        assert!(schedule(retry.clone()).wait(1, &busy()).is_some());
        assert_eq!(schedule(retry.deadline(Duration::from_secs(60))).wait(1, &busy()), None);
    }

    #[test]
    fn a_call_may_ask_for_less_than_its_tool_allows() {
        let second = Duration::from_secs(1);
        let tool = Retry::attempts(3).backoff(second).on(["busy", "timeout"]).deadline(second);
        for less in [
            Retry::default(),
            Retry::attempts(2),
            Retry::default().backoff(second * 2),
            Retry::default().on(["busy"]).jitter(false),
            Retry::default().deadline(second / 2),
            Retry::default().max_backoff(second),
        ] {
            assert_eq!(less.within(&tool), Ok(()), "{less:?}");
        }
        for (more, subject) in [
            (Retry::attempts(4), "retry attempts"),
            (Retry::default().backoff(second / 2), "retry backoff"),
            (Retry::default().on(["busy", "lost"]), "retry on"),
            (Retry::default().deadline(second * 2), "retry deadline"),
        ] {
            let error = more.within(&tool).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid {subject}: the call asks for more")), "{error}");
        }
    }

    #[test]
    fn what_is_never_tried_again_cannot_be_asked_for() {
        for name in NEVER {
            let error = Retry::attempts(2).on([name]).check().unwrap_err().to_string();
            assert!(error.contains("never tried again; choose from process, "), "{error}");
        }
        let error = Retry::attempts(2).on(["slow"]).check().unwrap_err().to_string();
        assert!(error.contains("\"slow\" is no kind of ending"), "{error}");
        assert!(Retry::attempts(0).check().is_err());
        assert!(Retry::attempts(2).deadline(Duration::ZERO).check().is_err());
    }

    proptest! {
        /// Whatever is set: a wait is never longer than the longest, nor than without chance.
        #[test]
        fn a_wait_by_chance_stays_within_its_bounds(made in 1_u32..100, first in 0_u64..u64::MAX, most in 0_u64..u64::MAX) {
            let retry = Retry::attempts(u32::MAX)
                .backoff(Duration::from_nanos(first))
                .max_backoff(Duration::from_nanos(most));
            let schedule = schedule(retry);
            let wait = schedule.wait(made, &busy()).unwrap();
            prop_assert!(wait <= schedule.longest(made) && wait <= Duration::from_nanos(most));
        }
    }
}
