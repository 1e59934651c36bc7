//! One HTTP request as the application sees it: asked once, answered in parts, and told once if the client has left.

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

use super::body::Upload;
use super::exchanges::{Broken, Exchange};
use super::response::Part;
use crate::error::{BoxError, Error, Result};
use crate::message;
use crate::name::ChannelName;
use crate::server::asgi::messages as asgi;
use crate::server::asgi::messages::{Peer, decode_path};
use crate::server::http::content;
use crate::server::interface::shared::Shared;

/// Asks the application and gives its answer. 503 if it cannot be asked, 504 if it does not answer in time, 502 if its
/// answer is none.
pub(crate) async fn answer(shared: Arc<Shared>, peer: Peer, request: Request) -> Response {
    if !shared.http.enabled || request.method() == Method::CONNECT {
        return StatusCode::NOT_FOUND.into_response();
    }
    let (parts, body) = request.into_parts();
    // Before anything of it is asked for, as by `100 Continue`.
    if body.size_hint().lower() > u64::try_from(shared.http.max_body_size).unwrap_or(u64::MAX) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let upload = Upload::new(body, &shared.http, shared.layer.max_message_size());
    match ask(&shared, peer, &parts, upload).await {
        Ok((conversation, first)) => conversation.respond(first),
        Err(status) => status.into_response(),
    }
}

async fn ask(
    shared: &Arc<Shared>,
    peer: Peer,
    request: &Parts,
    mut upload: Upload,
) -> Result<(Conversation, Part), StatusCode> {
    let beginning = tokio::select! {
        beginning = upload.chunk() => beginning?,
        // Nobody has heard of the request yet, and its client may take long.
        () = shared.stopping.cancelled() => return Err(StatusCode::SERVICE_UNAVAILABLE),
    };
    let mut conversation = Conversation::new(shared, decode_path(request.uri.path()), request.method.clone());
    conversation.ask(request, peer, beginning, upload).await.map_err(|error| {
        tracing::debug!(%error, "a request cannot be passed on");
        refusal(&error)
    })?;
    let first = conversation.first().await?;
    Ok((conversation, first))
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

/// Dropping it before the last part sends `http.disconnect`, if the application has heard of the request. Nothing else
/// does.
struct Conversation {
    shared: Arc<Shared>,
    /// Taken out in the drop, before the application hears of the end.
    exchange: Option<Exchange>,
    reply_channel: String,
    path: ByteString,
    uploading: Option<Uploading>,
    method: Method,
    announced: bool,
    finished: bool,
    /// How much of the content is to come yet, if the response says.
    left: Option<u64>,
    _running: TaskTrackerToken,
}

impl Conversation {
    fn new(shared: &Arc<Shared>, path: ByteString, method: Method) -> Self {
        let exchange = shared.exchanges.open();
        Self {
            reply_channel: exchange.reply_channel(),
            exchange: Some(exchange),
            path,
            uploading: None,
            method,
            announced: false,
            finished: false,
            left: None,
            _running: shared.tracker.token(),
            shared: shared.clone(),
        }
    }

    /// Sends `http.request` with the beginning of the body, and begins with the rest.
    async fn ask(&mut self, request: &Parts, peer: Peer, beginning: Bytes, rest: Upload) -> Result<()> {
        let layer = &self.shared.layer;
        let mut message = asgi::request(&self.reply_channel, request, &self.path, &self.shared.root_path, peer);
        if !beginning.is_empty() {
            message = message.with("body", beginning);
        }
        let body_channel = if rest.is_done() { None } else { Some(layer.new_channel("http.request.body?").await?) };
        if let Some(channel) = &body_channel {
            message = message.with("body_channel", channel.as_str());
        }
        let message = self.shared.traced("http.request", message, Some(&request.headers));
        // Whether a send took place that is dropped, or whose server is lost, is unknown.
        self.announced = true;
        let sent = layer.send("http.request", message).await;
        if let Err(error) = sent {
            self.announced = error.may_have_run();
            return Err(error);
        }
        self.uploading = body_channel.map(|channel| Uploading::begin(&self.shared, channel, rest));
        Ok(())
    }

    async fn first(&mut self) -> Result<Part, StatusCode> {
        loop {
            match self.next().await {
                Ok(part) if part.head.is_some() => {
                    self.left = self.promised(&part);
                    return self.count(&part).map(|()| part).map_err(|_wrong_length| StatusCode::BAD_GATEWAY);
                }
                Ok(_) => tracing::debug!(channel = self.reply_channel, "a chunk before its response is ignored"),
                Err(Fault::Silent) => return Err(StatusCode::GATEWAY_TIMEOUT),
                Err(Fault::Broken | Fault::Length | Fault::TooSlow) => return Err(StatusCode::BAD_GATEWAY),
                Err(Fault::Upload(status)) => return Err(status),
            }
        }
    }

    async fn next(&mut self) -> Result<Part, Fault> {
        let exchange = self.exchange.as_mut().ok_or(Fault::TooSlow)?;
        let next = timeout(self.shared.http.response_timeout, exchange.next());
        let part = tokio::select! {
            next = next => next.map_err(|_| Fault::Silent)?,
            status = broken(&mut self.uploading) => return Err(Fault::Upload(status)),
        };
        let part = part.ok_or(Fault::TooSlow)?.map_err(|Broken| Fault::Broken)?;
        self.count(&part)?;
        self.finished |= !part.more;
        Ok(part)
    }

    /// How much content comes with the first part of a response and those after it, if its headers say so.
    fn promised(&self, first: &Part) -> Option<u64> {
        let head = first.head.as_ref().filter(|head| first.more && self.has_content(head.status))?;
        head.length
    }

    /// Whether the client gets the content of a response.
    fn has_content(&self, status: StatusCode) -> bool {
        content::is_allowed(&self.method, status)
    }

    /// Takes a part off the content that is to come. More than the headers say would become part of the next response, and
    /// with less the client would wait for the rest.
    fn count(&mut self, part: &Part) -> Result<(), Fault> {
        let Some(left) = &mut self.left else { return Ok(()) };
        match left.checked_sub(part.content.len() as u64) {
            Some(rest) if part.more || rest == 0 => *left = rest,
            _ => {
                tracing::warn!(
                    channel = self.reply_channel,
                    "the content of a response has not the length that it says"
                );
                return Err(Fault::Length);
            }
        }
        Ok(())
    }

    fn respond(self, first: Part) -> Response {
        let Part { head, content, more } = first;
        let mut head = head.unwrap_or_default();
        let has_content = self.has_content(head.status);
        if !more && has_content {
            // What the application says of the length, and says wrongly, would become part of the next response.
            head.headers.remove(CONTENT_LENGTH);
        }
        let body = match (more, has_content) {
            (true, true) => Body::from_stream(stream::try_unfold((self, Some(content)), further)),
            (true, false) => {
                self.hear_out();
                of_unknown_length()
            }
            (false, false) if content.is_empty() => of_unknown_length(),
            (false, _) => Body::from(content),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    /// Takes the rest of a response of which the client gets no content.
    fn hear_out(mut self) {
        let (tracker, runtime) = (self.shared.tracker.clone(), self.shared.runtime.clone());
        let rest = async move { while !self.finished && self.next().await.is_ok() {} };
        tracker.spawn_on(rest, &runtime);
    }
}

/// No content, where nothing is to be said of the length that another response would have.
fn of_unknown_length() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
}

type Coming = (Conversation, Option<Bytes>);

/// The next content of a response and what comes after it; an error cuts the connection, so that the client can tell
/// that the response is not whole. Parts without content reach no client: HTTP/2 would send a frame for each, which no window
/// holds back.
async fn further((mut conversation, mut content): Coming) -> Result<Option<(Bytes, Coming)>, BoxError> {
    loop {
        if let Some(content) = content.take().filter(|content| !content.is_empty()) {
            return Ok(Some((content, (conversation, None))));
        }
        if conversation.finished {
            return Ok(None);
        }
        content = Some(conversation.next().await?.content);
    }
}

/// Why a response does not go on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Fault {
    #[error("the application does not go on with its response")]
    Silent,
    #[error("the application sent something else than a response")]
    Broken,
    #[error("the content of the response has not the length that it says")]
    Length,
    #[error("the client does not read its response")]
    TooSlow,
    #[error("the rest of the request does not come")]
    Upload(StatusCode),
}

/// The rest of a request's body on its way to the application.
struct Uploading {
    channel: ChannelName,
    outcome: oneshot::Receiver<Result<(), StatusCode>>,
    /// Ends with this.
    _task: AbortOnDropHandle<()>,
}

impl Uploading {
    fn begin(shared: &Shared, channel: ChannelName, rest: Upload) -> Self {
        let (layer, to, patience) = (shared.layer.clone(), channel.clone(), shared.http.response_timeout);
        let (tell, outcome) = oneshot::channel();
        let task = tokio::spawn(async move {
            // Nobody waits for the outcome once the request is answered.
            let _ = tell.send(rest.send(&*layer, to.as_str(), patience).await);
        });
        Self { channel, outcome, _task: AbortOnDropHandle::new(task) }
    }

    /// The channel, if the application waits on it for more.
    fn unfinished(mut self) -> Option<ChannelName> {
        (self.outcome.try_recv() != Ok(Ok(()))).then_some(self.channel)
    }
}

/// Waits until the rest of a body breaks off; for ever if it has come.
async fn broken(uploading: &mut Option<Uploading>) -> StatusCode {
    let outcome = match uploading {
        Some(uploading) => (&mut uploading.outcome).await,
        None => pending().await,
    };
    match outcome {
        Ok(Err(status)) => status,
        Ok(Ok(())) => {
            *uploading = None;
            pending().await
        }
        Err(_the_task_failed) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.exchange.take());
        if !self.announced || self.finished {
            return;
        }
        let shared = self.shared.clone();
        let message = asgi::http_disconnect(&self.reply_channel, &self.path);
        let waited_on = self.uploading.take().and_then(Uploading::unfinished);
        let farewell = async move {
            if let Some(channel) = waited_on {
                shared.farewell(channel.as_str(), message! { "content": b"", "closed": true }).await;
            }
            shared.farewell("http.disconnect", message).await;
        };
        self.shared.tracker.spawn_on(farewell, &self.shared.runtime);
    }
}
