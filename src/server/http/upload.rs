//! `BodyUpload`: the task that sends the rest of a request body to the application, over a channel of its own.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body::RequestBody;
use crate::error::Result;
use crate::message;
use crate::name::ChannelName;
use crate::server::asgi::application::Application;

/// The channel of the rest of a request body. Created right before the `http.request` that names it. When dropped
/// before the end of the body was sent, it sends `closed`, so that no worker waits for the rest. No other code does.
pub(crate) struct BodyChannel {
    application: Arc<Application>,
    name: ChannelName,
    /// Whether the application may wait for the rest of the body.
    awaited: bool,
    _token: TaskTrackerToken,
}

impl BodyChannel {
    pub(crate) async fn new(application: &Arc<Application>) -> Result<Self> {
        let name = application.layer.new_channel("http.request.body?").await?;
        Ok(Self { name, awaited: true, _token: application.token(), application: application.clone() })
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Drops the channel without `closed`: the application does not wait for the rest of the body.
    pub(crate) fn forget(mut self) {
        self.awaited = false;
    }
}

impl Drop for BodyChannel {
    fn drop(&mut self) {
        if !self.awaited {
            return;
        }
        let (application, name) = (self.application.clone(), self.name.clone());
        self.application.spawn(async move {
            application.send_disconnect(name.as_str(), message! { "content": b"", "closed": true }).await;
        });
    }
}

/// The task that sends the rest of a request body. Aborted on drop.
pub(crate) struct BodyUpload {
    outcome: oneshot::Receiver<Result<(), StatusCode>>,
    _task: AbortOnDropHandle<()>,
}

impl BodyUpload {
    pub(crate) fn start(channel: BodyChannel, rest: RequestBody, timeout: Duration) -> Self {
        let (sender, outcome) = oneshot::channel();
        let task = tokio::spawn(async move {
            let sent = rest.send(&*channel.application.layer, channel.name(), timeout).await;
            if sent.is_ok() {
                channel.forget();
            }
            // The outcome is ignored once the request is answered.
            let _ = sender.send(sent);
        });
        Self { outcome, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until sending the body fails. Never returns if it succeeds.
    pub(crate) async fn failed(upload: &mut Option<Self>) -> StatusCode {
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
}
