//! What becomes of what the engine says of itself: warnings go to standard error, spans and metrics to a collector, if
//! there is one and this binary was built for it.

use std::io;

use anyhow::Result;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

#[cfg(feature = "otel")]
use crate::otel::Export;

/// Runs from before the first call until after the last.
pub(crate) struct Telemetry {
    #[cfg(feature = "otel")]
    export: Option<Export>,
}

impl Telemetry {
    /// What the engine has to say beside outcomes goes to standard error. `RUN_TOOL_LOG` can ask for more: error, warn, info,
    /// debug, trace or off. `endpoint` is where spans and metrics go, if that was said.
    pub(crate) fn begin(quiet: bool, endpoint: Option<&str>) -> Result<Self> {
        let wish = variable("RUN_TOOL_LOG").and_then(|level| level.parse().ok());
        let default = if quiet { LevelFilter::OFF } else { LevelFilter::WARN };
        let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
        let subscriber = Registry::default().with(lines.with_filter(wish.unwrap_or(default)));
        #[cfg(feature = "otel")]
        {
            let export = Export::begin(endpoint)?;
            subscriber.with(export.as_ref().and_then(Export::layer)).init();
            Ok(Self { export })
        }
        #[cfg(not(feature = "otel"))]
        {
            if endpoint.is_some() {
                anyhow::bail!(
                    "--otel-endpoint: this run-tool was built without OpenTelemetry; build it with `cargo build --release \
                     --package run-tool-cli --features otel`"
                );
            }
            subscriber.init();
            Ok(Self {})
        }
    }

    /// Sends what is left to be sent, for a bounded time.
    pub(crate) fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(export) = self.export {
            export.end();
        }
    }
}

/// A variable of our own environment, if it is there and says something.
#[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
