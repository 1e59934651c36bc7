//! The status page of one interface server, and the health and metrics routes.
//!
//! [`collector`] collects the data of the page in the background, so that a request for the page does not wait.
//! [`view`] renders the page, also for the hub.

mod collector;
pub(crate) mod gauges;
pub(crate) mod health;
mod history;
pub(crate) mod page;
pub(crate) mod view;

use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;

use crate::server::status::page::Page;

pub(crate) use collector::{StatusCollector, StatusSources};

/// Path of the page.
pub(crate) const PATH: &str = "/status";

/// Path of the style sheet of the page.
pub(crate) const STYLE_PATH: &str = "/status.css";

/// Returns the page or its style sheet if `path` is one of them.
pub(crate) fn answer(collector: &StatusCollector, method: &Method, path: &str) -> Option<Response> {
    let page = match path {
        PATH => page_of(view::render(&collector.snapshot())),
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
