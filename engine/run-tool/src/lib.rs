//! Runs the tools of AI agents: each call in a fresh process that cannot outlive it and ends in one truthful outcome.
//!
//! This crate is what an embedder needs, under one name: the engine of [`tool_engine`], the tools of [`tool_runtimes`],
//! and the followers of [`tool_follow`] as [`follow`].
//!
//! ```
//! use std::time::Duration;
//! use run_tool::{Call, CancellationToken, Engine, Tool, Tools};
//! use serde_json::json;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tools = Tools::builder().tool(Tool::command("word-count", ["wc", "-w"])).build()?;
//! let engine = Engine::builder().catalog(tools).build()?;
//! let turn = CancellationToken::new();
//! let call = Call::tool("word-count", json!("to be or not to be")).timeout(Duration::from_secs(30)).cancel_on(turn);
//! match engine.start(call).await {
//!     Ok(report) => assert_eq!(report.value, Some(json!(6))),
//!     Err(error) if error.is_retryable() => println!("again: {error}"),
//!     Err(error) => println!("{error}: {}", error.report().stderr.text()),
//! }
//! engine.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

pub use tool_engine::*;
pub use tool_follow as follow;
pub use tool_runtimes::*;
