//! One client of a hub, from its handshake to its disconnect.

use std::sync::Arc;

use axum::response::Response;
use tokio::time::Instant;

use crate::error::BoxError;
use crate::server::asgi::connections::Connection;
use crate::server::hub::inner::Inner;
use crate::server::hub::membership::index::Member;
use crate::server::hub::status::spans::Spans;
use crate::server::hub::{Client, ClientId, Closed, Handler, Hub};
use crate::server::options::LONGEST_TIMEOUT;
use crate::server::websocket::close_code as code;
use crate::server::websocket::frame::Data;
use crate::server::websocket::protocol::{self as websocket, Closing, MessageHandler};
use crate::server::websocket::reply::Reply;
use crate::server::websocket::upgrade::{Stream, Upgrade};

/// Removes a member from the index on drop. No other code removes one.
struct MemberGuard {
    hub: Arc<Inner>,
    member: Arc<Member>,
}

impl MemberGuard {
    /// Removes the member. Returns the rooms and the user that it had, without a close code.
    fn end(&self) -> Closed {
        let user = self.member.user();
        let (rooms, emptied) = self.hub.rooms.index.remove_all(&self.member);
        self.hub.rooms.reconciler.mark_empty(emptied);
        Closed { code: 0, reason: String::new(), rooms, user }
    }
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the response that opens the socket of a client. The socket is served in a task of its own.
pub(crate) fn open(hub: Hub, upgrade: Upgrade, connection: Connection, handler: impl Handler) -> Response {
    let running = hub.inner().tasks.sockets.token();
    let spans = Spans::new(hub.inner().settings.trace, upgrade.trace());
    upgrade.open(async move |stream| {
        serve(hub, stream, connection, handler, spans).await;
        drop(running);
    })
}

async fn serve(hub: Hub, stream: Stream, connection: Connection, handler: impl Handler, spans: Spans) {
    let Ok(id) = connection.name() else { return };
    let inner = hub.inner().clone();
    let member = Arc::new(Member::new(connection.id(), connection.queue().clone()));
    let guard = MemberGuard { hub: inner.clone(), member: member.clone() };
    let mut adapter = HandlerAdapter { handler, client: Client::new(hub, ClientId::new(id), member), spans };
    // The connection has no deadline from its groups, because the hub renews their memberships.
    let end = websocket::run(
        stream,
        &mut adapter,
        connection.queue(),
        &inner.settings.sockets,
        Instant::now() + LONGEST_TIMEOUT,
        Reply::default(),
    )
    .await;
    let closed = Closed { code: end.code(), reason: end.reason(), ..guard.end() };
    drop((guard, connection));
    adapter.disconnect(closed).await;
}

/// Calls the methods of a [`Handler`] for the events of its socket, in trace spans if the hub traces.
struct HandlerAdapter<H> {
    handler: H,
    client: Client,
    spans: Spans,
}

impl<H: Handler> HandlerAdapter<H> {
    async fn disconnect(mut self, closed: Closed) {
        let disconnect = self.handler.disconnect(&self.client, closed);
        self.spans.run(self.client.id(), disconnect).await;
    }
}

impl<H: Handler> MessageHandler for HandlerAdapter<H> {
    async fn opened(&mut self) -> Result<(), Closing> {
        self.spans.run(self.client.id(), self.handler.connect(&self.client)).await.map_err(failed)
    }

    async fn receive(&mut self, data: Data) -> Result<(), Closing> {
        let message = self.handler.message(&self.client, data.into());
        self.spans.run(self.client.id(), message).await.map_err(failed)
    }
}

fn failed(error: BoxError) -> Closing {
    tracing::warn!(error = &*error as &dyn std::error::Error, "a handler failed; its client is closed");
    Closing { code: code::INTERNAL_ERROR, reason: "internal error" }
}
