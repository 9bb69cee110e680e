//! A call in, a process, one truthful outcome out.
//!
//! An [`Engine`] runs [`Call`]s. Each is an [`Execution`]: a process of its own, started fresh, watched by one task,
//! killed with what it started, and resolved to a [`Report`] or an [`ExecutionError`] once nothing of it is left.
//!
//! ```
//! use std::time::Duration;
//! use tool_engine::{Call, Engine, ErrorKind, EventKind};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().build()?;
//! let call = Call::command(["sh", "-c", "echo working; sleep 100"]).timeout(Duration::from_millis(200));
//! let run = engine.start(call);
//! let mut events = run.events();
//! let show = async {
//!     while let Some(event) = events.next().await {
//!         if let EventKind::Stdout(chunk) = event.kind { assert_eq!(&chunk.0[..], b"working\n") }
//!     }
//! };
//! let (end, ()) = tokio::join!(run, show);
//! let error = end.unwrap_err();
//! assert!(matches!(error.kind(), ErrorKind::Timeout { .. }));
//! assert_eq!(&error.report().stdout.bytes()[..], b"working\n");
//! engine.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! The library prints nothing, reads no environment variable, and knows no runtime: what a tool *is* comes from a
//! [`Catalog`].

mod call;
mod cancel;
mod capture;
mod channel;
mod ending;
mod engine;
pub mod environment;
mod error;
mod event_log;
mod events;
mod execution;
mod forms;
mod hints;
mod janitor;
mod lane;
mod life;
mod limits;
mod masker;
mod masking;
mod masks;
mod metering;
mod observed;
mod outcome;
mod plan;
mod queue;
mod registry;
mod report;
mod running;
mod secrets;
mod start;
mod state;
mod streams;
mod submission;
mod sweep;
mod sync;
mod vitals;

pub use call::{Call, Stdin, Target};
pub use cancel::Cancellation;
pub use capture::{Captured, Encoding};
pub use engine::{BuildError, Engine, EngineBuilder};
pub use error::{CancelSource, Clock, ErrorKind, ExecutionError, Limit, ProtocolFault, ToolError, ToolPhase};
pub use event_log::Events;
pub use events::{Chunk, Event, EventKind, LogMessage, Progress};
pub use execution::{Canceler, Execution, ExecutionId};
pub use limits::{AfterExit, Limits, Overflow};
pub use metering::{METRICS, Metric, MetricKind, describe_metrics};
pub use plan::{CHANNEL_PLACEHOLDER, Catalog, Contract, Declared, Plan, Protocol};
pub use registry::{End, Filter, Registry, RemoveError, Status, SubmitError, Submitted, UnknownId};
pub use report::{ErrorDocument, Report, ReportDocument, Stream, Timings, Usage};
pub use secrets::Secret;
pub use state::State;
pub use tokio_util::sync::CancellationToken;
pub use tool_sandbox::{
    Architecture, CgroupFound, CgroupVersion, Enforced, Examination, ExitStatus, FolderFound, Landlock,
    LandlockFound, LaunchStep, Launcher, Level, Missing, Network, Owners, Policy, Proc, ProcessGroups,
    Remark, Residue, ResourceLimits, Sandbox, SandboxBuilder, Tmpfs, Trial, ZygoteFound, ZygoteVitals,
};
pub use vitals::{Grown, Growth, Vitals, watch::VitalsWatch};
