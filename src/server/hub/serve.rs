//! One client of a hub, from its handshake to its disconnect.

use std::sync::Arc;

use axum::response::Response;
use tokio::time::Instant;

use super::handle::Inner;
use super::handler::Handling;
use super::{Client, ClientId, Closed, Handler, Hub};
use crate::server::asgi::connections::Connection;
use crate::server::asgi::messages::Reply;
use crate::server::hub::membership::index::Member;
use crate::server::hub::status::spans::Steps;
use crate::server::websocket::heartbeat::LONGEST;
use crate::server::websocket::protocol as websocket;
use crate::server::websocket::upgrade::{Stream, Upgrade};

/// A member of the index for as long as it is kept. The only place that takes a member out.
struct Stay {
    hub: Arc<Inner>,
    member: Arc<Member>,
}

impl Stay {
    fn end(&self) -> Closed {
        let user = self.member.user();
        let (rooms, emptied) = self.hub.index.depart(&self.member);
        self.hub.keeper.emptied(emptied);
        Closed { code: 0, reason: String::new(), rooms, user }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn open(hub: Hub, upgrade: Upgrade, connection: Connection, handler: impl Handler) -> Response {
    let running = hub.inner().tracker.token();
    let steps = Steps::new(hub.inner().trace, upgrade.trace());
    upgrade.open(async move |stream| {
        serve(hub, stream, connection, handler, steps).await;
        drop(running);
    })
}

async fn serve(hub: Hub, stream: Stream, connection: Connection, handler: impl Handler, steps: Steps) {
    let Ok(id) = connection.name() else { return };
    let inner = hub.inner().clone();
    let member = Arc::new(Member::new(connection.id(), connection.queue().clone()));
    let stay = Stay { hub: inner.clone(), member: member.clone() };
    let mut handling = Handling { handler, client: Client::new(hub, ClientId::new(id), member), steps };
    // Nothing of a hub ends with its groups: memberships are renewed.
    let end = websocket::run(
        stream,
        &mut handling,
        connection.queue(),
        &inner.options,
        Instant::now() + LONGEST,
        Reply::default(),
    )
    .await;
    let closed = Closed { code: end.code(), reason: end.reason(), ..stay.end() };
    drop((stay, connection));
    handling.ended(closed).await;
}
