//! Tools: what they are, and what to start for a call of one.
//!
//! [`Tools`] is the [`Catalog`](tool_engine::Catalog) of an engine. A tool is a function in a file that a runtime loads
//! ([`Bun`]), or a plain command that gets its input as JSON on standard input.

mod bun;
mod tool;
mod tools;
mod worker;

pub use bun::Bun;
pub use tool::Tool;
pub use tools::{Tools, ToolsBuilder, ToolsError};
