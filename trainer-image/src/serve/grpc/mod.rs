//! gRPC: the Open Inference Protocol's service, and the standard one for health.

mod about;
mod codec;
mod connection;
mod convert;
mod guard;
#[cfg(any(test, fuzzing))]
pub(super) mod strangers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::guard::Guard;
use self::proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use self::proto::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::app::App;
use super::connections::Incoming;
use super::error::ServeError;
use super::metrics::Ended;
use super::protocol;

/// What the build makes of `open_inference.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "the code is generated"
)]
pub(super) mod proto {
    tonic::include_proto!("inference");
}

/// How often a silent client is asked whether it is still there, and how long it has to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests at a time of one connection.
const STREAMS: u32 = 32;
/// What a message may have besides the images.
pub(super) const FRAME: usize = 64 << 10;

/// Tells clients of the standard health service whether requests should come here.
#[derive(Clone)]
pub(super) struct Health(HealthReporter);

impl Health {
    /// Not ready yet.
    pub(super) async fn new() -> Health {
        let health = Health(HealthReporter::new());
        health.tell(false).await;
        health
    }

    /// The whole server, and its service by name.
    pub(super) async fn tell(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status("", status).await;
        self.0
            .set_service_status(<GrpcInferenceServiceServer<Service> as tonic::server::NamedService>::NAME, status)
            .await;
    }
}

/// Serves connections until they end, then finishes what is being answered.
pub(super) async fn serve(incoming: Incoming, app: Arc<App>, health: Health) -> Result<(), tonic::transport::Error> {
    let limits = &app.settings.limits;
    // Those who are slow to send; who is slow to be answered is told by the service itself.
    let slowest = Duration::from_secs(u64::from(limits.timeout_seconds) + 1);
    let most = limits.max_request_bytes as usize + FRAME;
    let header_timeout = app.settings.header_timeout;
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.0),
    );
    let stop = incoming.stopped();
    let service = GrpcInferenceServiceServer::new(Service(Arc::clone(&app)))
        .max_decoding_message_size(most)
        .max_encoding_message_size(usize::MAX);
    tonic::transport::Server::builder()
        .timeout(slowest)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(Guard::new(health, Arc::clone(&app)))
        .add_service(Guard::new(service, app))
        .serve_with_incoming_shutdown(connection::stream(incoming, header_timeout), stop)
        .await
}

struct Service(Arc<App>);

impl From<ServeError> for Status {
    fn from(error: ServeError) -> Status {
        let code = match &error {
            ServeError::Request(_) | ServeError::Image { .. } | ServeError::MediaType(_) => Code::InvalidArgument,
            ServeError::NotFound(_) => Code::NotFound,
            ServeError::Method(_) => Code::Unimplemented,
            ServeError::Unauthorized => Code::Unauthenticated,
            ServeError::TooLarge(_) => Code::OutOfRange,
            ServeError::QueueFull { .. } => Code::ResourceExhausted,
            ServeError::Unavailable(_) => Code::Unavailable,
            ServeError::Slow(_) | ServeError::Silent(_) | ServeError::Timeout(_) => Code::DeadlineExceeded,
            ServeError::Internal(_) => Code::Internal,
        };
        Status::new(code, error.to_string())
    }
}

/// A version that may be left out.
fn given(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

impl Service {
    async fn infer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, ServeError> {
        let app = &self.0;
        let (served, version) = app.version(&request.model_name, given(&request.model_version))?;
        let is_raw = !request.raw_input_contents.is_empty();
        let mut asked = convert::request(request)?;
        let pictures = protocol::pictures(std::mem::take(&mut asked.inputs), version.size())?;
        let seconds = u64::from(app.settings.limits.timeout_seconds);
        let judged = timeout(Duration::from_secs(seconds), version.judge(&app.engine, pictures));
        let judged = judged.await.unwrap_or(Err(ServeError::Timeout(seconds)))?;
        let outputs = protocol::outputs(&asked, &version, &judged)?;
        Ok(convert::response(&served.name, &version.name, asked.id.unwrap_or_default(), outputs, is_raw))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.0.version(&name, given(&version)) {
            Err(ServeError::Unavailable(_)) => false,
            other => other.map(|_| true)?,
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: protocol::SERVER.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: protocol::EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let (served, version) = self.0.version(&name, given(&version))?;
        Ok(Response::new(about::metadata(&served.name, &version)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let (served, version) = self.0.version(&name, given(&version))?;
        let config = about::config(&self.0.config(served, &version));
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let versions = if name.is_empty() {
            self.0.models().iter().filter_map(|served| Some((served, served.current()?))).collect()
        } else {
            vec![self.0.version(&name, given(&version))?]
        };
        let figures =
            versions.iter().map(|(served, version)| about::statistics(&served.name, &version.name, &version.figures()));
        Ok(Response::new(ModelStatisticsResponse { model_stats: figures.collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.0.index(request.into_inner().ready).into_iter().map(about::indexed);
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let answered = self.infer(request.into_inner()).await;
        let code = answered.as_ref().err().map_or(200, |error| error.status().as_u16());
        self.0.metrics.ended(&Ended { protocol: "grpc", method: "infer", code });
        Ok(Response::new(answered?))
    }
}
