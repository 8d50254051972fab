//! The operator's log, and its traces where OpenTelemetry's own environment variables say where they go.

use std::error::Error;
use std::io;
use std::time::Duration;

use clap::ValueEnum;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// The variables that ask for traces, by the OpenTelemetry specification of the OTLP exporter.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// Longest time that a batch of spans may take to be sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Log {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

impl Log {
    /// Logs to the standard error from now on, and sends spans to a collector if one is named.
    ///
    /// # Errors
    /// What names the collector can't be understood.
    pub(super) fn start(self) -> Result<Traces, Box<dyn Error>> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match self {
            Log::Text => fmt::layer().with_writer(io::stderr).with_filter(filter).boxed(),
            Log::Json => fmt::layer().json().with_writer(io::stderr).with_filter(filter).boxed(),
        };
        let is_asked_for = ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        let traces = if is_asked_for { Traces::to(None)? } else { Traces(None) };
        tracing_subscriber::registry().with(lines).with(traces.layer()).try_init()?;
        Ok(traces)
    }
}

/// The way of spans to a collector. What is still to be sent is sent when this is dropped.
pub(super) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// To a collector at this address, or at that of the environment.
    fn to(endpoint: Option<&str>) -> Result<Traces, Box<dyn Error>> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Collector(agent.into()));
        let exporter = match endpoint {
            Some(endpoint) => exporter.with_endpoint(endpoint).build()?,
            None => exporter.build()?,
        };
        // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go first.
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => Resource::builder().build(),
            None => Resource::builder().with_service_name("trainyard-operator").build(),
        };
        Ok(Traces(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())))
    }

    fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        let ours = EnvFilter::new("info");
        let provider = self.0.as_ref()?;
        Some(tracing_opentelemetry::layer().with_tracer(provider.tracer("trainyard")).with_filter(ours))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // The process ends: whoever does not answer now misses the last spans.
        let _ = self.0.take().map(|provider| provider.shutdown());
    }
}

/// Sends what is exported, on the exporter's own thread.
#[derive(Debug)]
struct Collector(ureq::Agent);

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = answer.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Takes one request, and answers that all is well.
    fn collect(listener: &TcpListener) -> Vec<u8> {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut seen, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut part).unwrap();
            seen.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
            let Some(head) = text.find("\r\n\r\n") else { continue };
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            let is_whole =
                seen.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(head) + 4 + length <= seen.len();
            if is_whole || count == 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                return seen;
            }
        }
    }

    #[test]
    fn spans_reach_a_collector_with_their_fields() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let collector = thread::spawn(move || collect(&listener));
        let traces = Traces::to(Some(&endpoint)).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("write", verb = "create_pod").in_scope(|| {});
        });
        drop(traces);
        let seen = collector.join().unwrap();
        let contains = |text: &str| seen.windows(text.len()).any(|window| window == text.as_bytes());
        for text in ["POST /v1/traces", "trainyard-operator", "write", "verb", "create_pod"] {
            assert!(contains(text), "{text}");
        }
    }
}
