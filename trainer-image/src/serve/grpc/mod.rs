//! gRPC: the Open Inference Protocol's service, and the standard one for health.

mod about;
mod convert;
mod deadline;
mod guard;
mod messages;
mod parts;
#[cfg(any(test, fuzzing))]
pub(super) mod strangers;

use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::{BoxStream, StreamExt, try_unfold};
use prost::Message;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use self::guard::Guard;
use self::proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use self::proto::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::app::App;
use super::aside::aside;
use super::body::Deadline;
use super::connections;
use super::error::ServeError;
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

/// What a message may have besides the images.
pub(super) const FRAME: usize = 64 << 10;
/// Bytes of a message from which on it is read on another thread, for the others' sake.
const LARGE: usize = 1 << 20;

/// What the standard health service is asked about: the whole server, and its service.
const NAMES: [&str; 2] = ["", <GrpcInferenceServiceServer<Service> as NamedService>::NAME];
/// How often it looks whether the server is ready.
const PERIOD: Duration = Duration::from_secs(1);

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
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Tells what holds from now on, for as long as it is polled; it was ready before.
    pub(super) async fn follow(&self, app: &App) {
        let mut told = true;
        loop {
            sleep(PERIOD).await;
            let ready = app.is_ready();
            if ready != told {
                if !ready && !app.is_stopping() {
                    let seconds = app.engine.busy().as_secs();
                    tracing::error!("not ready: the network has computed one batch for {seconds} seconds");
                }
                self.tell(ready).await;
                told = ready;
            }
        }
    }

    /// Ends the streams of those who watch: they go on for ever otherwise, and no connection ends before its streams.
    pub(super) async fn end(mut self) {
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }
}

/// The services. Streams of requests end once `stop` becomes true.
pub(super) fn router(app: &Arc<App>, health: &Health, mut stop: watch::Receiver<bool>) -> Router {
    let limits = &app.settings.limits;
    // Those who are slow to send; who is slow to be answered is told by the service itself.
    let slowest = Duration::from_secs(u64::from(limits.timeout_seconds) + 1);
    let most = limits.max_request_bytes as usize + FRAME;
    let health = HealthServer::new(HealthService::from_health_reporter(health.0.clone()));
    let stop = async move { connections::stopped(&mut stop).await }.boxed().shared();
    let service = GrpcInferenceServiceServer::new(Service { app: Arc::clone(app), stop })
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(most)
        .max_encoding_message_size(usize::MAX);
    Routes::new(Guard::new(health, Arc::clone(app)))
        .add_service(Guard::new(service, Arc::clone(app)))
        .prepare()
        .into_axum_router()
        .layer(middleware::from_fn_with_state(slowest, deadline::keep))
}

#[derive(Clone)]
struct Service {
    app: Arc<App>,
    /// Ends when the server is to finish what is being answered.
    stop: Shared<BoxFuture<'static, ()>>,
}

/// A message in answer, and whether it is a large one, which is not compressed: everyone would wait for that.
struct Answer {
    message: ModelInferResponse,
    is_large: bool,
}

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
    /// Answers a request in its time, and counts it.
    async fn infer(&self, request: ModelInferRequest) -> Result<Answer, ServeError> {
        let coming = self.app.metrics.coming("grpc", "infer", self.app.known(&request.model_name));
        let deadline = Deadline::after(self.app.settings.limits.timeout_seconds);
        let answered = deadline.within(self.answer(request)).await;
        coming.ended(answered.as_ref().err().map_or(200, |error| error.status().as_u16()));
        answered
    }

    async fn answer(&self, request: ModelInferRequest) -> Result<Answer, ServeError> {
        let app = &self.app;
        let (served, version) = app.version(&request.model_name, given(&request.model_version))?;
        let is_raw = !request.raw_input_contents.is_empty();
        let (most, size, takes_long) = (app.most(&version), version.size(), request.encoded_len() >= LARGE);
        let read = move || {
            let mut asked = convert::request(request, most)?;
            let pictures = protocol::pictures(std::mem::take(&mut asked.inputs), size)?;
            Ok((asked, pictures))
        };
        let (asked, pictures) = aside(takes_long, read).await?;
        let is_large = protocol::is_large(&asked, version.card.classes.len(), pictures.len())?;
        let judged = version.judge(&app.engine, pictures).await?;
        let name = served.name.clone();
        let written = move || {
            let outputs = protocol::outputs(&asked, &version, &judged)?;
            Ok(convert::response(&name, &version.name, asked.id.unwrap_or_default(), outputs, is_raw))
        };
        Ok(Answer { message: aside(is_large, written).await?, is_large })
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: self.app.is_live() }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.app.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        // One that there isn't is not ready: clients that wait for a model ask until it is, as Triton lets them.
        let ready = self.app.version(&name, given(&version)).is_ok();
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
        let (served, version) = self.app.version(&name, given(&version))?;
        Ok(Response::new(about::metadata(&served.name, &version)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let (served, version) = self.app.version(&name, given(&version))?;
        let config = about::config(&self.app.config(served, &version));
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let versions = if name.is_empty() {
            self.app.models().iter().filter_map(|served| Some((served, served.current()?))).collect()
        } else {
            vec![self.app.version(&name, given(&version))?]
        };
        let figures =
            versions.iter().map(|(served, version)| about::statistics(&served.name, &version.name, &version.figures()));
        Ok(Response::new(ModelStatisticsResponse { model_stats: figures.collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.app.index(request.into_inner().ready).into_iter().map(about::indexed);
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let Answer { message, is_large } = self.infer(request.into_inner()).await?;
        let mut response = Response::new(message);
        if is_large {
            response.disable_compression();
        }
        Ok(response)
    }

    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    /// Answers one request after the other, in their order. One that is refused does not end the stream.
    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let answers = try_unfold((self.clone(), request.into_inner()), |(service, mut requests)| async move {
            let next = tokio::select! {
                biased;
                () = service.stop.clone() => return Err(Status::unavailable("the server stops: open a stream anew")),
                next = requests.message() => next?,
            };
            let Some(request) = next else { return Ok(None) };
            let id = request.id.clone();
            let answer = convert::of_stream(id, service.infer(request).await.map(|answer| answer.message));
            Ok(Some((answer, (service, requests))))
        });
        let mut response = Response::new(answers.boxed());
        // Large ones would be compressed as well.
        response.disable_compression();
        Ok(response)
    }
}
