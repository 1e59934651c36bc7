//! The body of a request: its beginning goes with the request, the rest over a channel of its own.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::settings::HttpSettings;
use crate::error::Result;
use crate::layer::{ChannelLayer, send_while_full};
use crate::message;

/// How much of a body goes with the request, and at most in one message after it.
const CHUNK: usize = 256 * 1024;

/// A body that is being read, within its limits.
pub(crate) struct Upload {
    body: axum::body::BodyDataStream,
    /// How much of it is in one message.
    chunk: usize,
    /// Read, and not given out yet.
    rest: Bytes,
    /// For each part.
    patience: Duration,
    /// How long the client may still take. The application's time is not its.
    time: Duration,
    /// How many more bytes the client may send.
    allowance: usize,
    ended: bool,
}

impl Upload {
    /// Its chunks fit into messages of `max_message_size` with the head of the request.
    pub(crate) fn new(body: Body, settings: &HttpSettings, max_message_size: usize) -> Self {
        Self {
            body: body.into_data_stream(),
            chunk: (max_message_size / 2).clamp(1, CHUNK),
            rest: Bytes::new(),
            patience: settings.body_timeout,
            time: settings.upload_timeout,
            allowance: settings.max_body_size,
            ended: false,
        }
    }

    /// Whether everything has been given out.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// Reads until there is a whole chunk or the body ends.
    ///
    /// # Errors
    ///
    /// The status for a client that is too slow, sends too much, or breaks off.
    pub(crate) async fn chunk(&mut self) -> Result<Bytes, StatusCode> {
        let first = std::mem::take(&mut self.rest);
        // Most bodies are one frame, which is passed on as it is.
        let first = if first.is_empty() { self.frame().await?.unwrap_or_default() } else { first };
        let mut chunk = first;
        if chunk.len() < self.chunk && !self.ended {
            let mut whole = BytesMut::from(chunk);
            while whole.len() < self.chunk
                && let Some(frame) = self.frame().await?
            {
                whole.extend_from_slice(&frame);
            }
            chunk = whole.freeze();
        }
        if chunk.len() > self.chunk {
            self.rest = chunk.split_off(self.chunk);
        }
        Ok(chunk)
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, StatusCode> {
        if self.ended {
            return Ok(None);
        }
        let (begun, patience) = (Instant::now(), self.patience.min(self.time));
        let frame = timeout(patience, self.body.next()).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
        self.time = self.time.saturating_sub(begun.elapsed());
        let Some(frame) = frame else {
            self.ended = true;
            return Ok(None);
        };
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        self.allowance = self.allowance.checked_sub(frame.len()).ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
        Ok(Some(frame))
    }

    /// Sends the rest to `channel`, waiting while that is full.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk), and 503 if the application does not take it. The application does not hear of that
    /// here.
    pub(crate) async fn send(
        mut self,
        layer: &dyn ChannelLayer,
        channel: &str,
        patience: Duration,
    ) -> Result<(), StatusCode> {
        while !self.is_done() {
            let content = self.chunk().await?;
            let message = message! { "content": content, "more_content": !self.is_done() };
            send_while_full(layer, channel, message, patience).await.map_err(|error| {
                tracing::debug!(%error, "the application does not take the rest of a body");
                StatusCode::SERVICE_UNAVAILABLE
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::time::sleep;

    use super::*;

    fn upload(pause: Duration) -> Upload {
        let parts = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![0; CHUNK])));
        let body = parts.then(move |part| async move {
            sleep(pause).await;
            part
        });
        let settings = HttpSettings { max_body_size: usize::MAX, ..HttpSettings::default() };
        Upload::new(Body::from_stream(body), &settings, usize::MAX)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_so_much_time_for_all_parts_together() {
        let mut upload = upload(Duration::from_secs(29));
        let mut chunks = 0;
        while upload.chunk().await.is_ok() {
            chunks += 1;
        }
        assert_eq!(chunks, 10, "29 s for each, and 5 minutes for all");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_the_application_takes_is_not_the_clients() {
        let mut upload = upload(Duration::from_secs(1));
        for _ in 0..100 {
            assert!(upload.chunk().await.is_ok());
            sleep(Duration::from_mins(1)).await;
        }
    }
}
