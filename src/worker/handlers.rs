//! `Handlers`: the handler of each channel, by name or by pattern.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::context::Context;
use crate::error::{BoxError, Error, Result};
use crate::name::ChannelName;

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Context) -> HandlerFuture + Send + Sync>;

/// Boxes a function of the application as a handler.
pub(crate) fn boxed<H, F, E>(handler: H) -> Handler
where
    H: Fn(Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    let handler = Arc::new(handler);
    Arc::new(move |context| {
        let handler = handler.clone();
        // The call is made inside the future, so that a panic of the call itself is contained too.
        Box::pin(async move { handler(context).await.map_err(Into::into) })
    })
}

/// Handlers in the order of registration, and the channels to read.
#[derive(Default)]
pub(crate) struct Handlers {
    handlers: Vec<(Pattern, Handler)>,
    channels: BTreeSet<String>,
}

impl Handlers {
    /// Adds a handler. A name also becomes a channel to read, and replaces an earlier handler of that name. A pattern
    /// adds no channel.
    pub(crate) fn insert(&mut self, pattern: &str, handler: Handler) {
        let pattern = Pattern::new(pattern);
        if let Pattern::Name(name) = &pattern {
            self.channels.insert(name.clone());
            self.handlers.retain(|(other, _)| *other != pattern);
        }
        self.handlers.push((pattern, handler));
    }

    /// Adds a channel to read.
    pub(crate) fn add_channel(&mut self, channel: &str) {
        self.channels.insert(channel.to_owned());
    }

    /// Returns the channels to read.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a channel has no handler, or a handler no channel.
    pub(crate) fn channels(&self) -> Result<Vec<&str>> {
        let channels: Vec<_> = self.channels.iter().map(String::as_str).collect();
        if let Some(channel) = channels.iter().find(|channel| self.find(channel).is_none()) {
            return Err(Error::config("channels", channel, "no handler matches it"));
        }
        let unused = |(pattern, _): &&(Pattern, Handler)| !channels.iter().any(|channel| pattern.matches(channel));
        if let Some((pattern, _)) = self.handlers.iter().find(unused) {
            return Err(Error::config(
                "on",
                pattern,
                "it matches no channel that the worker reads: add one with channels()",
            ));
        }
        Ok(channels)
    }

    /// Returns the handler of `channel`: the one with its name, otherwise the first whose pattern matches.
    pub(crate) fn of(&self, channel: &ChannelName) -> Option<&Handler> {
        self.find(channel.non_local())
    }

    fn find(&self, channel: &str) -> Option<&Handler> {
        let named = self.handlers.iter().find(|(pattern, _)| matches!(pattern, Pattern::Name(name) if name == channel));
        named.or_else(|| self.handlers.iter().find(|(pattern, _)| pattern.matches(channel))).map(|(_, handler)| handler)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Name(String),
    /// The text before, between and after the stars.
    Stars(Vec<String>),
}

impl Pattern {
    /// Parses a name or a pattern. `*`, which no name contains, matches any text. `?` matches itself, because names may
    /// contain it.
    fn new(pattern: &str) -> Self {
        if pattern.contains('*') {
            return Self::Stars(pattern.split('*').map(str::to_owned).collect());
        }
        Self::Name(pattern.to_owned())
    }

    fn matches(&self, channel: &str) -> bool {
        match self {
            Self::Name(name) => name == channel,
            Self::Stars(parts) => match &parts[..] {
                [first, middle @ .., last] => matches_stars(channel, first, middle, last),
                _ => false,
            },
        }
    }
}

/// Matches each middle part at its first occurrence, which leaves the most text for the parts after it.
fn matches_stars(channel: &str, first: &str, middle: &[String], last: &str) -> bool {
    let Some(mut rest) = channel.strip_prefix(first) else { return false };
    for part in middle {
        match rest.split_once(part.as_str()) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Stars(parts) => f.write_str(&parts.join("*")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_star_matches_any_text() {
        for (pattern, channel) in [
            ("websocket.*", "websocket.receive"),
            ("*", "anything"),
            ("*.make", "thumbnails.make"),
            ("a*b*c", "a-b-b-c"),
            ("a*b*c", "abc"),
            ("jobs.*", "jobs."),
            ("http.request.body?a", "http.request.body?a"),
        ] {
            assert!(Pattern::new(pattern).matches(channel), "{pattern} {channel}");
        }
        for (pattern, channel) in [
            ("websocket.*", "http.request"),
            ("a*b*c", "acb"),
            ("ab*bc", "abc"),
            ("websocket?receive", "websocket.receive"),
            ("websocket.receive", "websocket.receive2"),
        ] {
            assert!(!Pattern::new(pattern).matches(channel), "{pattern} {channel}");
        }
    }

    fn handlers(patterns: &[&str], channels: &[&str]) -> Handlers {
        let mut handlers = Handlers::default();
        for pattern in patterns {
            handlers.insert(pattern, boxed(|_: Context| async { Ok::<_, BoxError>(()) }));
        }
        for channel in channels {
            handlers.add_channel(channel);
        }
        handlers
    }

    #[test]
    fn names_precede_patterns_and_earlier_patterns_precede_later_ones() {
        let handlers = handlers(&["web*", "websocket.*", "websocket.receive"], &["websocket.connect"]);
        let of = |channel: &str| handlers.of(&channel.parse().unwrap()).map(Arc::as_ptr);
        let at = |index: usize| Some(Arc::as_ptr(&handlers.handlers[index].1));
        assert!(std::ptr::addr_eq(of("websocket.connect").unwrap(), at(0).unwrap()));
        assert!(std::ptr::addr_eq(of("websocket.receive").unwrap(), at(2).unwrap()));
        assert!(of("http.request").is_none());
        assert_eq!(handlers.channels().unwrap(), ["websocket.connect", "websocket.receive"]);
    }

    #[test]
    fn a_channel_without_a_handler_and_a_handler_without_a_channel_are_errors() {
        for (patterns, channels, named) in
            [(&["a.*"], &["b.c"], "b.c"), (&["a.*"], &[] as &[&str], "a.*")] as [(&[&str], &[&str], &str); 2]
        {
            let error = handlers(patterns, channels).channels().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
