//! Tools: what they are, and what to start for a call of one.
//!
//! [`Tools`] is the [`Catalog`](tool_engine::Catalog) of an engine. A tool is a function in a file that a [`Runtime`]
//! loads, or a plain command that gets its input as JSON on standard input.

mod compiled;
mod contract;
pub mod manifest;
mod probe;
mod runtime;
pub mod schema;
mod start;
mod tool;
mod tools;
pub mod units;
mod worker;

pub use manifest::{Manifest, ManifestError, WrittenCall};
pub use runtime::{Runtime, Version};
pub use schema::Schema;
pub use tool::{Source, Tool};
pub use tools::{Tools, ToolsBuilder, ToolsError};
