//! The status page of a hub, for operators.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;

use crate::server::hub::{Hub, Mode, Status};
use crate::server::status;
use crate::server::status::view;
use crate::server::status::view::thousands;
use crate::server::status::{PATH, STYLE_PATH};

/// Number of rooms that the page shows, the largest first.
const ROOMS: usize = 20;

/// Returns a router with a status page at `/status` and its style sheet: the clients, users, largest rooms and queued
/// messages of this process. The page reloads every 2 s, runs no script, and follows the colour scheme of the browser.
/// It shows the names of rooms; restrict access to it in your proxy or in a layer of the app.
///
/// ```
/// # fn mount(hub: channel_layer::Hub) -> axum::Router {
/// axum::Router::new().merge(channel_layer::hub::status_page(hub))
/// # }
/// ```
pub fn status_page(hub: Hub) -> Router {
    let page = async |State(hub): State<Hub>, method: Method| {
        let (status, rooms) = (hub.status(), hub.inner().rooms.index.largest_rooms(ROOMS));
        status::page_of(render(&status, &rooms)).answer(&method)
    };
    let style = async |method: Method| status::style().answer(&method);
    Router::new().route(PATH, get(page)).route(STYLE_PATH, get(style)).with_state(hub)
}

fn render(status: &Status, rooms: &[(Arc<str>, usize)]) -> String {
    let mut page = String::with_capacity(8 * 1024);
    // Writing to a string does not fail.
    let _ = write(&mut page, status, rooms);
    page
}

fn write(page: &mut String, status: &Status, rooms: &[(Arc<str>, usize)]) -> std::fmt::Result {
    let (word, kind) = match status.mode {
        Mode::Alone => ("on its own", "good"),
        Mode::Together => ("with other processes", "good"),
        Mode::CutOff => ("cut off from the others", "bad"),
    };
    view::begin(page, word, kind, &format!("hub {}", escaped(&status.name)))?;
    page.push_str("<section class=\"cards\" aria-label=\"Clients\">\n");
    for (title, value) in [("Clients", status.connections), ("Users", status.users), ("Rooms", status.rooms)] {
        writeln!(page, r#"<article><h2>{title}</h2><p class="value">{}</p></article>"#, thousands(value as u64))?;
    }
    page.push_str("</section>\n<div class=\"tables\">\n");
    page.push_str("<section class=\"wide\"><h2>The largest rooms</h2>");
    if rooms.is_empty() {
        page.push_str("<p class=\"muted\">Nobody is in a room.</p></section>\n");
    } else {
        page.push_str("<table><thead><tr><th>room<th>clients here</tr></thead><tbody>\n");
        for (room, clients) in rooms {
            writeln!(page, "<tr><th>{}<td>{}</tr>", escaped(room), thousands(*clients as u64))?;
        }
        page.push_str("</tbody></table></section>\n");
    }
    view::queues(page, status.queues)?;
    page.push_str(view::END);
    Ok(())
}

/// Escapes HTML. Clients choose the names of rooms.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
