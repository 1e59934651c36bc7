//! One client of a hub, from its handshake to its disconnect.

use std::sync::Arc;

use axum::response::Response;
use tokio::time::Instant;

use super::handler::HandlerInbox;
use super::inner::Inner;
use super::{Client, ClientId, Closed, Handler, Hub};
use crate::server::asgi::connections::Connection;
use crate::server::hub::membership::index::Member;
use crate::server::hub::status::spans::Spans;
use crate::server::options::LONGEST_TIMEOUT;
use crate::server::websocket::protocol as websocket;
use crate::server::websocket::reply::Reply;
use crate::server::websocket::upgrade::{Stream, Upgrade};

/// Keeps a member in the index. Dropping it is the only way in which a member is removed.
struct MemberGuard {
    hub: Arc<Inner>,
    member: Arc<Member>,
}

impl MemberGuard {
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
    let mut inbox = HandlerInbox { handler, client: Client::new(hub, ClientId::new(id), member), spans };
    // The connection has no deadline from its groups, because the hub renews their memberships.
    let end = websocket::run(
        stream,
        &mut inbox,
        connection.queue(),
        &inner.settings.sockets,
        Instant::now() + LONGEST_TIMEOUT,
        Reply::default(),
    )
    .await;
    let closed = Closed { code: end.code(), reason: end.reason(), ..guard.end() };
    drop((guard, connection));
    inbox.ended(closed).await;
}
