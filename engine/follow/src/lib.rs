//! Long-lived streams of lines.
//!
//! A follower reads what a command writes that streams for ever, `docker logs --follow` for example, for weeks. Such
//! streams stall in silence, so the source is opened anew every few minutes: the old one is ended from outside, everything
//! that it wrote is taken, and the new one continues where it left off. No line is lost and none comes twice; see
//! [`Source`] for what that takes of each kind of source.
//!
//! ```
//! use std::time::Duration;
//! use tool_engine::Engine;
//! use tool_follow::{FollowEventKind, Followers, Since, Source};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let log = folder.path().join("log");
//! # std::fs::write(&log, "one\ntwo\n")?;
//! let engine = Engine::builder().build()?;
//! let followers = Followers::builder(&engine).max(10).build()?;
//! let source = Source::file(&log).since(Since::Beginning).rotate_every(Duration::from_secs(60));
//! let follower = followers.follow("log", source)?;
//! let mut events = follower.subscribe();
//! let mut lines = Vec::new();
//! while let Some(event) = events.next().await {
//!     match event.kind {
//!         FollowEventKind::Line(line) => lines.push(line.content),
//!         FollowEventKind::Ended { error } => assert_eq!(error, None),
//!         _ => {}
//!     }
//!     if lines.len() == 2 {
//!         follower.ask_to_stop();
//!     }
//! }
//! assert_eq!(lines, ["one", "two"]);
//! follower.ended().await;
//! assert_eq!(followers.metrics().counts.lines, 2);
//! engine.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

mod backoff;
mod events;
mod follower;
mod hub;
mod journal;
mod lines;
mod metrics;
mod output;
mod place;
mod pool;
mod seen;
mod source;
mod stop;
mod tailed;
mod time_format;

pub use events::{FollowEvent, FollowEventKind, Line};
pub use hub::Subscription;
pub use lines::LineEnd;
pub use metrics::{Counts, FollowerMetrics, Metrics};
pub use output::FileOutput;
pub use pool::{FollowError, Follower, Followers, FollowersBuilder};
pub use source::{Since, Source};
pub use time_format::TimeFormat;
