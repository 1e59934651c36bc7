//! `Exchange`: one HTTP request and its response. It asks the application once, passes the response on in parts, and
//! sends one disconnect notice if the client disconnects before the end.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::stream;
use http_body::Body as _;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body::RequestBody;
use super::pending::{InvalidResponse, PendingRequest, PendingRequests};
use super::response::Part;
use super::settings::HttpSettings;
use crate::error::{BoxError, Error, Result};
use crate::message;
use crate::name::ChannelName;
use crate::server::asgi::application::Application;
use crate::server::asgi::messages as asgi;
use crate::server::asgi::messages::decode_path;
use crate::server::transport::http::content;
use crate::server::transport::listener::Peer;
use crate::server::transport::shutdown::Shutdown;

/// State that all HTTP requests of one server share.
pub(crate) struct HttpContext {
    pub(crate) application: Arc<Application>,
    pub(crate) pending: Arc<PendingRequests>,
    pub(crate) settings: HttpSettings,
    pub(crate) shutdown: Shutdown,
}

/// Sends the request to the application and returns its response: 503 if the request cannot be sent, 504 if the
/// application does not respond in time, 502 if its response is invalid.
pub(crate) async fn answer(context: Arc<HttpContext>, peer: Peer, request: Request) -> Response {
    if !context.settings.enabled || request.method() == Method::CONNECT {
        return StatusCode::NOT_FOUND.into_response();
    }
    let (parts, body) = request.into_parts();
    // Checked before hyper asks the client for the body with `100 Continue`.
    if body.size_hint().lower() > u64::try_from(context.settings.max_body_size).unwrap_or(u64::MAX) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let body = RequestBody::new(body, &context.settings, context.application.layer.max_message_size());
    match start_exchange(&context, peer, &parts, body).await {
        Ok((exchange, first)) => exchange.respond(first),
        Err(status) => status.into_response(),
    }
}

async fn start_exchange(
    context: &Arc<HttpContext>,
    peer: Peer,
    request: &Parts,
    mut body: RequestBody,
) -> Result<(Exchange, Part), StatusCode> {
    let first_chunk = tokio::select! {
        chunk = body.chunk() => chunk?,
        // The application has not seen the request yet, and its client may be slow.
        () = context.shutdown.draining.cancelled() => return Err(StatusCode::SERVICE_UNAVAILABLE),
    };
    let mut exchange = Exchange::new(context, decode_path(request.uri.path()), request.method.clone());
    exchange.send_request(request, peer, first_chunk, body).await.map_err(|error| {
        tracing::debug!(%error, "cannot pass a request to the application");
        refusal(&error)
    })?;
    let first = exchange.first_part().await?;
    Ok((exchange, first))
}

fn refusal(error: &Error) -> StatusCode {
    match error {
        Error::ChannelFull { .. } | Error::Redis { .. } | Error::Closed | Error::RuntimeEnded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Error::MessageTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// One request and its response. When dropped before the last part, it sends `http.disconnect` if the application may
/// have seen the request. No other code does.
struct Exchange {
    context: Arc<HttpContext>,
    /// `None` once dropping has begun.
    request: Option<PendingRequest>,
    reply_channel: String,
    path: ByteString,
    upload: Option<BodyUpload>,
    method: Method,
    /// Whether the application may have seen the request.
    announced: bool,
    /// Whether the last part of the response has been received.
    finished: bool,
    /// Bytes of content that are still to come, if the response has a `Content-Length`.
    remaining: Option<u64>,
    _token: TaskTrackerToken,
}

impl Exchange {
    fn new(context: &Arc<HttpContext>, path: ByteString, method: Method) -> Self {
        let request = context.pending.open();
        Self {
            reply_channel: request.reply_channel(),
            request: Some(request),
            path,
            upload: None,
            method,
            announced: false,
            finished: false,
            remaining: None,
            _token: context.application.token(),
            context: context.clone(),
        }
    }

    /// Sends `http.request` with the first chunk of the body, and starts to send the rest.
    async fn send_request(&mut self, request: &Parts, peer: Peer, first_chunk: Bytes, rest: RequestBody) -> Result<()> {
        let application = &self.context.application;
        let mut message = asgi::request(&self.reply_channel, request, &self.path, &application.root_path, peer);
        if !first_chunk.is_empty() {
            message = message.with("body", first_chunk);
        }
        let body_channel =
            if rest.is_done() { None } else { Some(application.layer.new_channel("http.request.body?").await?) };
        if let Some(channel) = &body_channel {
            message = message.with("body_channel", channel.as_str());
        }
        let message = application.traced("http.request", message, Some(&request.headers));
        // If the send is dropped or its server is lost, the message may or may not have arrived.
        self.announced = true;
        let sent = application.layer.send("http.request", message).await;
        if let Err(error) = sent {
            self.announced = error.may_have_run();
            return Err(error);
        }
        self.upload = body_channel.map(|channel| BodyUpload::start(&self.context, channel, rest));
        Ok(())
    }

    async fn first_part(&mut self) -> Result<Part, StatusCode> {
        loop {
            match self.next_part().await {
                Ok(part) if part.head.is_some() => {
                    self.remaining = self.declared_length(&part);
                    return self.check_length(&part).map(|()| part).map_err(|_wrong_length| StatusCode::BAD_GATEWAY);
                }
                Ok(_) => tracing::debug!(channel = self.reply_channel, "chunk before the head of the response ignored"),
                Err(ResponseError::TimedOut) => return Err(StatusCode::GATEWAY_TIMEOUT),
                Err(ResponseError::Invalid | ResponseError::Length | ResponseError::TooSlow) => {
                    return Err(StatusCode::BAD_GATEWAY);
                }
                Err(ResponseError::Body(status)) => return Err(status),
            }
        }
    }

    async fn next_part(&mut self) -> Result<Part, ResponseError> {
        let request = self.request.as_mut().ok_or(ResponseError::TooSlow)?;
        let next = timeout(self.context.settings.response_timeout, request.next());
        let part = tokio::select! {
            next = next => next.map_err(|_| ResponseError::TimedOut)?,
            status = body_failed(&mut self.upload) => return Err(ResponseError::Body(status)),
        };
        let part = part.ok_or(ResponseError::TooSlow)?.map_err(|InvalidResponse| ResponseError::Invalid)?;
        self.check_length(&part)?;
        self.finished |= !part.more;
        Ok(part)
    }

    /// Returns the length of the content that the head declares, if the response comes in parts and has content.
    fn declared_length(&self, first: &Part) -> Option<u64> {
        let head = first.head.as_ref().filter(|head| first.more && self.has_content(head.status))?;
        head.length
    }

    /// Returns `true` if the client gets the content of a response with this status.
    fn has_content(&self, status: StatusCode) -> bool {
        content::is_allowed(&self.method, status)
    }

    /// Subtracts a part from the declared length. Content beyond that length would become part of the next response,
    /// and with less content the client would wait for the rest.
    fn check_length(&mut self, part: &Part) -> Result<(), ResponseError> {
        let Some(remaining) = &mut self.remaining else { return Ok(()) };
        match remaining.checked_sub(part.content.len() as u64) {
            Some(rest) if part.more || rest == 0 => *remaining = rest,
            _ => {
                tracing::warn!(
                    channel = self.reply_channel,
                    "the content of a response does not match its content-length"
                );
                return Err(ResponseError::Length);
            }
        }
        Ok(())
    }

    fn respond(self, first: Part) -> Response {
        let Part { head, content, more } = first;
        let mut head = head.unwrap_or_default();
        let has_content = self.has_content(head.status);
        if !more && has_content {
            // A wrong length would make the rest of the content part of the next response.
            head.headers.remove(CONTENT_LENGTH);
        }
        let body = match (more, has_content) {
            (true, true) => Body::from_stream(stream::try_unfold((self, Some(content)), next_content)),
            (true, false) => {
                self.discard_rest();
                without_length()
            }
            (false, false) if content.is_empty() => without_length(),
            (false, _) => Body::from(content),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    /// Receives and drops the rest of a response whose content the client does not get.
    fn discard_rest(mut self) {
        let application = self.context.application.clone();
        application.spawn(async move { while !self.finished && self.next_part().await.is_ok() {} });
    }
}

/// Returns an empty body of unknown length. A declared length of 0 would be wrong for a response to HEAD, because the
/// response to GET has content.
fn without_length() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
}

/// The rest of a response: its exchange, and content that was received and not passed on.
type Rest = (Exchange, Option<Bytes>);

/// Returns the next content of a response and the rest after it. An error cuts the connection, so that the client
/// notices the incomplete response. Parts without content are skipped: HTTP/2 would send a frame for each, which flow
/// control does not hold back.
async fn next_content((mut exchange, mut content): Rest) -> Result<Option<(Bytes, Rest)>, BoxError> {
    loop {
        if let Some(content) = content.take().filter(|content| !content.is_empty()) {
            return Ok(Some((content, (exchange, None))));
        }
        if exchange.finished {
            return Ok(None);
        }
        content = Some(exchange.next_part().await?.content);
    }
}

/// Why a response is not completed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum ResponseError {
    #[error("the application did not send the next part of its response in time")]
    TimedOut,
    #[error("the application sent an invalid response")]
    Invalid,
    #[error("the content of the response does not match its content-length")]
    Length,
    #[error("the client does not read its response")]
    TooSlow,
    #[error("the rest of the request body is missing")]
    Body(StatusCode),
}

/// The task that sends the rest of a request body to the application.
struct BodyUpload {
    channel: ChannelName,
    outcome: oneshot::Receiver<Result<(), StatusCode>>,
    /// Aborted on drop.
    _task: AbortOnDropHandle<()>,
}

impl BodyUpload {
    fn start(context: &HttpContext, channel: ChannelName, rest: RequestBody) -> Self {
        let (layer, to, timeout) =
            (context.application.layer.clone(), channel.clone(), context.settings.response_timeout);
        let (sender, outcome) = oneshot::channel();
        let task = tokio::spawn(async move {
            // The outcome is ignored once the request is answered.
            let _ = sender.send(rest.send(&*layer, to.as_str(), timeout).await);
        });
        Self { channel, outcome, _task: AbortOnDropHandle::new(task) }
    }

    /// Returns the channel if the application may still wait there for the rest of the body.
    fn unfinished(mut self) -> Option<ChannelName> {
        (self.outcome.try_recv() != Ok(Ok(()))).then_some(self.channel)
    }
}

/// Waits until sending the body fails. Never returns if it succeeds.
async fn body_failed(upload: &mut Option<BodyUpload>) -> StatusCode {
    let outcome = match upload {
        Some(upload) => (&mut upload.outcome).await,
        None => pending().await,
    };
    match outcome {
        Ok(Err(status)) => status,
        Ok(Ok(())) => {
            *upload = None;
            pending().await
        }
        Err(_the_task_failed) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        drop(self.request.take());
        if !self.announced || self.finished {
            return;
        }
        let application = self.context.application.clone();
        let message = asgi::http_disconnect(&self.reply_channel, &self.path);
        let unfinished = self.upload.take().and_then(BodyUpload::unfinished);
        let notice = async move {
            if let Some(channel) = unfinished {
                application.send_disconnect(channel.as_str(), message! { "content": b"", "closed": true }).await;
            }
            application.send_disconnect("http.disconnect", message).await;
        };
        self.context.application.spawn(notice);
    }
}
