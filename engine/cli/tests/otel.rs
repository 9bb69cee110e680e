//! What a collector gets to hear, in real OTLP, when there is one; and what happens when there is none.
//!
//! Promised: the span of an execution arrives with its id, tool, outcome, level and phases, and the metrics arrive with the
//! right counts, before the program ends; by the option and by the standard variables. A collector that hangs, is not
//! there or refuses changes neither output nor exit code and holds them up for a bounded time. Nothing goes anywhere that
//! nobody asked for.
//!
//! Not promised: that anything arrives when the program is killed; TLS.
#![expect(clippy::disallowed_methods, reason = "starts the binary under test as a shell would")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{metric::Data, number_data_point},
    trace::v1::Span,
};
use prost::Message;

/// Long enough for any machine; a watchdog, not an expectation.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path and the body of each request.
type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes OTLP over HTTP and answers with this status line; with none, never.
struct Collector {
    url: String,
    requests: Requests,
}

impl Collector {
    fn start(status: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Requests::default();
        let heard = Arc::clone(&requests);
        // It ends with the test's process.
        thread::Builder::new()
            .spawn(move || {
                for connection in listener.incoming() {
                    let heard = Arc::clone(&heard);
                    let serve = move || serve(connection.unwrap(), status, &heard);
                    thread::Builder::new().spawn(serve).unwrap();
                }
            })
            .unwrap();
        Self { url, requests }
    }

    fn requests(&self, path: &str) -> Vec<Vec<u8>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(to, _)| to == path).map(|(_, body)| body.clone()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests("/v1/traces").into_iter();
        let traces = requests.map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        traces
            .flat_map(|traces| traces.resource_spans)
            .flat_map(|of_resource| of_resource.scope_spans)
            .flat_map(|of_scope| of_scope.spans)
            .collect()
    }

    /// The counters and histograms of the last message, by name and labels: their sum, or how often.
    fn metrics(&self) -> BTreeMap<String, u64> {
        let last = self.requests("/v1/metrics").pop().expect("no metrics arrived");
        let message = ExportMetricsServiceRequest::decode(&last[..]).unwrap();
        let metrics = message.resource_metrics.into_iter().flat_map(|one| one.scope_metrics);
        let mut found = BTreeMap::new();
        for metric in metrics.flat_map(|one| one.metrics) {
            let key = |labels: &[KeyValue]| {
                let labels: Vec<_> =
                    attributes(labels).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", metric.name, labels.join(" "))
            };
            match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic);
                    for point in &sum.data_points {
                        let Some(number_data_point::Value::AsInt(value)) = point.value else {
                            panic!("{metric:?}")
                        };
                        found.insert(key(&point.attributes), value.try_into().unwrap());
                    }
                }
                Data::Histogram(histogram) => {
                    for point in &histogram.data_points {
                        assert!(point.explicit_bounds.len() > 5, "{metric:?}");
                        found.insert(key(&point.attributes), point.count);
                    }
                }
                Data::Gauge(_) => {}
                other => panic!("{other:?}"),
            }
        }
        found
    }
}

fn serve(connection: TcpStream, status: Option<&str>, heard: &Requests) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut connection = connection;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        assert_eq!(field("content-type").as_deref(), Some("application/x-protobuf"), "{head}");
        let mut body = vec![0; field("content-length").unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let Some(status) = status else {
            // Holds the connection, and says nothing, for as long as the other side does.
            let _ = reader.read(&mut [0]);
            return;
        };
        let path = head.split(' ').nth(1).unwrap().to_owned();
        heard.lock().unwrap().push((path, body));
        write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |one: &KeyValue| one.value.as_ref().and_then(|value| value.value.as_ref().map(text));
    attributes.iter().map(|one| (one.key.clone(), value(one).unwrap_or_default())).collect()
}

/// The binary in an environment of these variables alone.
fn run_tool(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-tool"));
    command.args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
    command.envs(variables.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn the_span_and_the_metrics_of_an_execution_arrive() {
    let collector = Collector::start(Some("200 OK"));
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("shout.sh");
    std::fs::write(&tool, "#!/bin/sh\ntr a-z A-Z\n").unwrap();
    let args =
        ["--otel-endpoint", &collector.url, "run", tool.to_str().unwrap(), "--input", "\"hi\"", "--json"];
    let output = run_tool(&[("OTEL_SERVICE_NAME", "agent")], &args);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let (span, fields) = (&spans[0], attributes(&spans[0].attributes));
    assert_eq!(span.name, "execution");
    assert_eq!((fields["id"].as_str(), fields["tool"].as_str()), (report["id"].as_str().unwrap(), "shout"));
    assert_eq!(fields["outcome"], "ok");
    assert!(["0", "1", "2", "3", "4"].contains(&fields["level"].as_str()), "{fields:?}");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    let phases: Vec<_> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(phases, ["queued", "starting", "running", "stopping", "draining", "ended"]);
    let traces = ExportTraceServiceRequest::decode(&collector.requests("/v1/traces")[0][..]).unwrap();
    let resource = attributes(&traces.resource_spans[0].resource.as_ref().unwrap().attributes);
    assert_eq!(
        (&*resource["service.name"], &*resource["service.version"]),
        ("agent", env!("CARGO_PKG_VERSION"))
    );

    let metrics = collector.metrics();
    for name in ["executions_total", "duration_seconds", "queue_seconds", "start_seconds", "output_bytes"] {
        assert_eq!(metrics[&format!("run_tool_{name} outcome=ok tool=shout")], 1, "{metrics:?}");
    }
    assert!(!metrics.keys().any(|name| name.starts_with("run_tool_errors")), "{metrics:?}");
}

#[test]
fn failures_arrive_by_the_standard_variables() {
    let collector = Collector::start(Some("200 OK"));
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str())];
    let output = run_tool(&variables, &["exec", "--timeout", "200ms", "--", "sleep", "1000"]);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let spans = collector.spans();
    let fields = attributes(&spans[0].attributes);
    assert_eq!((fields["tool"].as_str(), fields["outcome"].as_str()), ("sleep 1000", "timeout"));
    assert_eq!(spans[0].status.as_ref().unwrap().code, 2, "an error: {spans:?}");
    let metrics = collector.metrics();
    assert_eq!(metrics["run_tool_executions_total outcome=timeout tool=command"], 1, "{metrics:?}");
    assert_eq!(metrics["run_tool_errors_total detail=wall kind=timeout tool=command"], 1, "{metrics:?}");
    assert_eq!(metrics["run_tool_timeouts_total clock=wall tool=command"], 1, "{metrics:?}");
}

#[test]
fn a_signal_goes_where_its_own_variable_says_and_none_means_nowhere() {
    let (traces, metrics) = (Collector::start(Some("200 OK")), Collector::start(Some("200 OK")));
    let own = format!("{}/elsewhere", traces.url);
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", metrics.url.as_str()), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own)];
    let exec = ["exec", "--", "true"];
    assert_eq!(run_tool(&variables, &exec).status.code(), Some(0));
    let heard = |collector: &Collector| {
        (collector.requests("/elsewhere").len(), collector.requests("/v1/metrics").len())
    };
    assert_eq!((heard(&traces), heard(&metrics)), ((1, 0), (0, 1)));
    let base = variables[0];
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(run_tool(&[base, off], &exec).status.code(), Some(0));
        assert_eq!(metrics.requests("/v1/traces").len(), 0, "{off:?}");
    }
    assert_eq!(metrics.requests("/v1/metrics").len(), 2, "one of them was for traces alone");
}

#[test]
fn a_collector_that_hangs_holds_nothing_up_for_long() {
    let collector = Collector::start(None);
    let began = Instant::now();
    let output =
        run_tool(&[], &["--otel-endpoint", &collector.url, "exec", "--", "sh", "-c", "echo out; exit 7"]);
    assert!(began.elapsed() < PATIENCE, "that is as long as it liked");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(7), &b"out\n"[..]));
    let told = stderr(&output);
    assert!(told.contains("telemetry could not be sent: ") && told.contains(&collector.url), "{told}");
}

#[test]
fn a_collector_that_is_not_there_or_refuses_is_told_and_changes_nothing() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let refusing = Collector::start(Some("400 Bad Request"));
    for (url, why) in [(&gone, "refused"), (&refusing.url, "it answered 400")] {
        let output = run_tool(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)], &["exec", "--", "echo", "out"]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"out\n"[..]));
        let told = stderr(&output);
        assert!(told.contains(url.as_str()) && told.contains(why), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        let quiet = run_tool(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)], &["exec", "-q", "--", "true"]);
        assert_eq!((quiet.status.code(), stderr(&quiet)), (Some(0), ""));
    }
}

#[test]
fn an_address_that_cannot_be_spoken_to_is_refused_before_anything_runs() {
    for (args, code) in [(&["exec", "--", "echo", "out"][..], 125), (&["run", "no-such-file.ts"], 2)] {
        let with_option: Vec<_> =
            ["--otel-endpoint", "https://collector.example"].iter().chain(args).copied().collect();
        let output = run_tool(&[], &with_option);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(code), &b""[..]));
        assert!(stderr(&output).contains("speaks no TLS; name the HTTP port"), "{}", stderr(&output));
    }
}
