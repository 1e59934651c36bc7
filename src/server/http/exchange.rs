//! `Exchange`: one HTTP request and its response. It asks the application once, passes the response on in parts, and
//! sends one disconnect notice if the client disconnects before the end.

use std::convert::Infallible;
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
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body::RequestBody;
use super::pending::{InvalidResponse, PendingRequest, PendingRequests};
use super::response::Part;
use super::settings::HttpSettings;
use super::upload::{BodyChannel, BodyUpload};
use crate::drops::{self, DropReason};
use crate::error::{BoxError, Error, Result};
use crate::server::asgi::application::Application;
use crate::server::asgi::messages::{self as asgi, decode_path};
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
    let first = exchange.first_part().await.map_err(ResponseError::status)?;
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
/// have seen the request. No other code does. Its [`BodyUpload`] is dropped with it.
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
        let body_channel = if rest.is_done() { None } else { Some(BodyChannel::new(application).await?) };
        if let Some(channel) = &body_channel {
            message = message.with("body_channel", channel.name());
        }
        let message = application.traced("http.request", message, Some(&request.headers));
        // If the send is dropped or its server is lost, the message may or may not have arrived.
        self.announced = true;
        let sent = application.layer.send("http.request", message).await;
        if let Err(error) = sent {
            self.announced = error.may_have_run();
            if !self.announced
                && let Some(channel) = body_channel
            {
                channel.forget();
            }
            return Err(error);
        }
        let timeout = self.context.settings.response_timeout;
        self.upload = body_channel.map(|channel| BodyUpload::start(channel, rest, timeout));
        Ok(())
    }

    /// Waits for the part with the head of the response.
    async fn first_part(&mut self) -> Result<Part, ResponseError> {
        let part = self.receive_part().await?;
        if part.head.is_none() {
            tracing::warn!(
                channel = self.reply_channel,
                "the application sent content before the head of its response"
            );
            drops::count(DropReason::Malformed, 1);
            return Err(ResponseError::Invalid);
        }
        self.remaining = self.declared_length(&part);
        self.accept(part)
    }

    async fn next_part(&mut self) -> Result<Part, ResponseError> {
        let part = self.receive_part().await?;
        self.accept(part)
    }

    async fn receive_part(&mut self) -> Result<Part, ResponseError> {
        let request = self.request.as_mut().ok_or(ResponseError::TooSlow)?;
        let next = timeout(self.context.settings.response_timeout, request.next());
        let part = tokio::select! {
            next = next => next.map_err(|_| ResponseError::TimedOut)?,
            status = BodyUpload::failed(&mut self.upload) => return Err(ResponseError::Body(status)),
        };
        part.ok_or(ResponseError::TooSlow)?.map_err(|InvalidResponse| ResponseError::Invalid)
    }

    fn accept(&mut self, part: Part) -> Result<Part, ResponseError> {
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

    /// Receives and drops the rest of a response whose content the client does not get, within one response timeout.
    /// The client already has its whole response, so a shutdown does not wait for the rest either.
    fn discard_rest(mut self) {
        let context = self.context.clone();
        let discarding = async move {
            let time = self.context.settings.response_timeout;
            let rest = async { while !self.finished && self.next_part().await.is_ok() {} };
            // Nothing is to be done when the time is over: the drop of the exchange sends the disconnect.
            let _ = timeout(time, rest).await;
        };
        let draining = context.shutdown.draining.clone();
        context.application.spawn(async move {
            draining.run_until_cancelled_owned(discarding).await;
        });
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

impl ResponseError {
    /// Returns the status of the response to the client.
    fn status(self) -> StatusCode {
        match self {
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Invalid | Self::Length | Self::TooSlow => StatusCode::BAD_GATEWAY,
            Self::Body(status) => status,
        }
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
        let notice = async move { application.send_disconnect("http.disconnect", message).await };
        self.context.application.spawn(notice);
    }
}
