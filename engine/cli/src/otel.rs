//! Spans and metrics on their way to an OpenTelemetry collector: OTLP, protobuf over HTTP, from threads of its own.
//!
//! Where to is said by `--otel-endpoint` or by the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and those of each
//! signal, `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_SDK_DISABLED`; the libraries read the others: headers,
//! timeouts, intervals, sampling, resource). There is no TLS in here: a collector or an agent is nearby, or a proxy is.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::{KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::SdkTracerProvider,
};
use run_tool::{METRICS, MetricKind};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::telemetry::variable;

/// How long what is left may take at the end. An exit code is not held up for longer by a collector that hangs.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Bounds of the buckets that durations (seconds) and sizes (bytes) are counted in.
const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];
const BYTES: [f64; 8] = [0.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// What is exported, and how that is going.
pub(crate) struct Export {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    endpoints: Vec<String>,
    trouble: Trouble,
}

/// The last request that failed: where it went, and why.
#[derive(Debug, Clone, Default)]
struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn note(&self, endpoint: &str, why: Option<&dyn std::fmt::Display>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why.map(|why| format!("{endpoint}: {why}"));
    }

    fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Export {
    /// Begins, if anybody asked for it.
    pub(crate) fn begin(option: Option<&str>) -> Result<Option<Self>> {
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let trouble = Trouble::default();
        let resource = resource();
        let mut endpoints = Vec::new();
        let mut traces = None;
        if let Some(endpoint) = endpoint(option, "TRACES")? {
            endpoints.push(endpoint.clone());
            let exporter = SpanExporter::builder().with_http().with_http_client(Client::new(&trouble));
            let exporter = exporter.with_endpoint(endpoint).with_protocol(Protocol::HttpBinary).build();
            let exporter = exporter.context("traces cannot be exported")?;
            let builder = SdkTracerProvider::builder().with_resource(resource.clone());
            traces = Some(builder.with_batch_exporter(exporter).build());
        }
        let mut metrics = None;
        if let Some(endpoint) = endpoint(option, "METRICS")? {
            endpoints.push(endpoint.clone());
            let exporter = MetricExporter::builder().with_http().with_http_client(Client::new(&trouble));
            let exporter = exporter.with_endpoint(endpoint).with_protocol(Protocol::HttpBinary).build();
            let exporter = exporter.context("metrics cannot be exported")?;
            let builder = SdkMeterProvider::builder().with_resource(resource);
            let provider = builder.with_periodic_exporter(exporter).build();
            record_to(&provider)?;
            metrics = Some(provider);
        }
        Ok((!endpoints.is_empty()).then_some(Self { traces, metrics, endpoints, trouble }))
    }

    /// Where spans go in: those of the engine, with their phases, and no others.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + 'static>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let tracer = self.traces.as_ref()?.tracer("run-tool");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let engine = Targets::new()
            .with_target("tool_engine", LevelFilter::DEBUG)
            .with_target("tool_sandbox", LevelFilter::DEBUG)
            .with_target("tool_runtimes", LevelFilter::DEBUG);
        Some(layer.with_filter(engine))
    }

    /// Sends what is left, for [`LAST_WORDS`] at the most. The libraries' own bounds do not hold while a request is under
    /// way, so this is done on threads that end with the program.
    pub(crate) fn end(self) {
        let (done, all_done) = mpsc::channel::<()>();
        let until = Instant::now() + LAST_WORDS;
        let farewell = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let done = done.clone();
            let work = move || {
                work();
                drop(done);
            };
            // Without a thread there is nothing to be sent with.
            let _ = thread::Builder::new().name(name.into()).spawn(work);
        };
        if let Some(traces) = self.traces {
            farewell("last-traces", Box::new(move || drop(traces.shutdown())));
        }
        if let Some(metrics) = self.metrics {
            farewell("last-metrics", Box::new(move || drop(metrics.shutdown())));
        }
        drop(done);
        // Nothing is ever sent: it ends when the last of them is done.
        let in_time = all_done.recv_timeout(until.saturating_duration_since(Instant::now()))
            == Err(mpsc::RecvTimeoutError::Disconnected);
        let too_slow = || format!("no answer from {} within {LAST_WORDS:?}", self.endpoints.join(", "));
        if let Some(why) = self.trouble.last().or_else(|| (!in_time).then(too_slow)) {
            tracing::warn!(
                "telemetry could not be sent: {why}; is there a collector that takes OTLP over HTTP? The outcome is not \
                 touched by that"
            );
        }
    }
}

/// Where a signal (`TRACES`, `METRICS`) is to be sent, if anywhere: the option's word, the signal's own variable, which is
/// taken as it is, or the common one.
fn endpoint(option: Option<&str>, signal: &str) -> Result<Option<String>> {
    const COMMON: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if variable(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|value| value.eq_ignore_ascii_case("none")) {
        return Ok(None);
    }
    let below = |base: &str| format!("{}/v1/{}", base.trim_end_matches('/'), signal.to_ascii_lowercase());
    let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
    let (origin, url) = match (option, variable(&own), variable(COMMON)) {
        (Some(base), ..) => ("--otel-endpoint", below(base)),
        (None, Some(url), _) => (own.as_str(), url),
        (None, None, Some(base)) => (COMMON, below(&base)),
        (None, None, None) => return Ok(None),
    };
    if !url.starts_with("http://") {
        bail!(
            "{origin}: {url:?} is no http:// address, and this program speaks no TLS; name the HTTP port of a collector or an \
             agent nearby, as in http://localhost:4318"
        );
    }
    Ok(Some(url))
}

/// Who says all this.
fn resource() -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name("run-tool")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// Has what the engine records go there.
fn record_to(provider: &SdkMeterProvider) -> Result<()> {
    let mut recorder = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(provider.meter("run-tool")));
    for metric in METRICS.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
        let bounds = if metric.name.ends_with("_bytes") { &BYTES[..] } else { &SECONDS[..] };
        recorder.set_histogram_bounds_mut([metric.name].into_iter(), bounds);
    }
    metrics::set_global_recorder(recorder).ok().context("somebody else records metrics already")
}

/// Blocks the thread that sends: that is what it is for.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    trouble: Trouble,
}

impl Client {
    fn new(trouble: &Trouble) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Self { agent: config.into(), trouble: trouble.clone() }
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let endpoint = request.uri().to_string();
        let (parts, body) = request.into_parts();
        let sent = self.agent.run(Request::from_parts(parts, &body[..])).and_then(|answer| {
            let (parts, mut body) = answer.into_parts();
            Ok(Response::from_parts(parts, Bytes::from(body.read_to_vec()?)))
        });
        match &sent {
            Ok(answer) if answer.status().is_success() => self.trouble.note(&endpoint, None),
            Ok(answer) => {
                self.trouble.note(&endpoint, Some(&format!("it answered {}", answer.status())));
            }
            Err(error) => self.trouble.note(&endpoint, Some(error)),
        }
        Ok(sent?)
    }
}
