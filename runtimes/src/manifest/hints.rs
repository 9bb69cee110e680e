//! What a tool tells its callers: whether to start it ahead, what to expect of it.

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
