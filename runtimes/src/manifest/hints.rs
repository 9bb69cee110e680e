//! What a tool tells its callers: how to try again, whether to start it ahead, what to expect of it.

use std::time::Duration;

/// How a failed call is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often it is tried in all; 1 is not again.
    pub attempts: u32,
    /// How long to wait before the second attempt; each further time twice as long. Default 200 ms.
    pub backoff: Duration,
    /// The longest wait. Default 30 s.
    pub max_backoff: Duration,
    /// Whether the wait is shortened by chance, so that many do not come again at the same time. Default yes.
    pub jitter: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
            jitter: true,
        }
    }
}

/// Whether a tool is started ahead of its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Warm {
    /// When it is called often.
    #[default]
    Auto,
    /// Never.
    Never,
    /// This many wait for a call.
    Count(u32),
}

/// What callers may know about a tool beforehand. Nothing is enforced by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// What to call it before people.
    pub title: Option<String>,
    /// It changes nothing.
    pub read_only: Option<bool>,
    /// Calling it again with the same input changes nothing more.
    pub idempotent: Option<bool>,
    /// It may destroy something.
    pub destructive: Option<bool>,
    /// It deals with things outside: the web, mail.
    pub open_world: Option<bool>,
}
