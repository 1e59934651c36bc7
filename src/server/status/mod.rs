//! The status page: what an operator wants to see of one interface server at a glance.

pub(crate) mod access_log;
mod counters;
pub(crate) mod gauges;
pub(crate) mod health;
mod history;
pub(crate) mod page;
pub(crate) mod view;
mod watch;

use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;

use crate::server::interface::shared::Shared;
use crate::server::status::page::Page;

pub(crate) use counters::{Count, Tally};
pub(crate) use watch::Watch;

/// Where the page is, and what it loads.
pub(crate) const PATH: &str = "/status";
pub(crate) const STYLE_PATH: &str = "/status.css";

/// Whether a path is one of the page's, which does not show its own requests.
pub(crate) fn is_own(shared: &Shared, path: &str) -> bool {
    shared.watch.is_some() && [PATH, STYLE_PATH].contains(&path)
}

/// The page or its style, if that is what a path asks for and the server has a status page.
pub(crate) fn answer(shared: &Shared, method: &Method, path: &str) -> Option<Response> {
    let watch = shared.watch.as_ref()?;
    let page = match path {
        PATH => page_of(view::render(&watch.look(shared))),
        STYLE_PATH => style(),
        _ => return None,
    };
    Some(page.answer(method))
}

pub(crate) fn page_of(html: String) -> Page {
    Page { content_type: "text/html; charset=utf-8", body: html.into() }
}

pub(crate) fn style() -> Page {
    let style = Bytes::from_static(include_bytes!("status.css"));
    Page { content_type: "text/css; charset=utf-8", body: style }
}
