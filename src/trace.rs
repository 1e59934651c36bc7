//! `TraceParent`: the trace context of a message, as defined by W3C Trace Context.

use std::fmt;
use std::future::Future;

use rand::Rng;
use tokio::task_local;

use crate::message::Message;

/// The message key that carries the trace context, as text. Applications see it like any other key.
pub const KEY: &str = "traceparent";

/// The `tracing` target of the events that report the spans of this crate, at level debug.
pub const TARGET: &str = "channel_layer::trace";

/// A span of a trace: its trace, its id, and whether the trace is recorded (`traceparent`, version 00, of [W3C Trace
/// Context](https://www.w3.org/TR/trace-context/)).
///
/// ```
/// use channel_layer::trace::TraceParent;
///
/// let from_a_browser = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
/// let next = from_a_browser.child();
/// assert_eq!(next.trace_id(), "0af7651916cd43dd8448eb211c80319c");
/// assert_ne!(next.span_id(), from_a_browser.span_id());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

const SAMPLED: u8 = 1;

task_local! {
    static CURRENT: TraceParent;
}

impl TraceParent {
    /// Creates the root span of a new, recorded trace.
    pub fn root() -> Self {
        let mut random = rand::rng();
        Self { trace: random.random_range(1..=u128::MAX), span: random.random_range(1..=u64::MAX), flags: SAMPLED }
    }

    /// Creates a child span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: rand::rng().random_range(1..=u64::MAX), ..self }
    }

    /// Runs `future` in this span. Messages that a [`Hub`](crate::hub::Hub) sends in it get child spans. Tasks that the
    /// future spawns are not in the span.
    ///
    /// # Cancel safety
    ///
    /// That of `future`.
    ///
    /// ```
    /// use channel_layer::trace::TraceParent;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let span = TraceParent::root();
    /// span.scope(async { assert_eq!(TraceParent::current(), Some(span)) }).await;
    /// assert_eq!(TraceParent::current(), None);
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Returns the span of the current task; `None` outside of a [`scope`](Self::scope). Handlers of a hub with
    /// [`trace`](crate::hub::HubBuilder::trace) run in a scope, and so do handlers of a worker whose message carries a
    /// span.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|span| *span).ok()
    }

    /// Parses the text form. Returns `None` for invalid text or an unknown version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace) = (hexadecimal::<2>(parts.next()?)?, hexadecimal::<32>(parts.next()?)?);
        let (span, flags) = (hexadecimal::<16>(parts.next()?)?, hexadecimal::<2>(parts.next()?)?);
        // Later versions may append fields. Version 255 is invalid.
        if version == 0xff || (version == 0 && parts.next().is_some()) || trace == 0 || span == 0 {
            return None;
        }
        Some(Self { trace, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? & SAMPLED })
    }

    /// Returns the span that `message` carries.
    pub fn of(message: &Message) -> Option<Self> {
        Self::parse(message.text(KEY)?)
    }

    /// Returns `message` with a child of this span, unless it carries a span already.
    #[must_use]
    pub fn carried_by(self, message: Message) -> Message {
        if message.get(KEY).is_some() {
            return message;
        }
        message.with(KEY, self.child().to_string())
    }

    /// Records a step of this span as a `tracing` event.
    pub(crate) fn record(self, step: &'static str, channel: &str) {
        if is_enabled() {
            tracing::debug!(target: TARGET, trace_id = self.trace_id(), span_id = self.span_id(), channel, "{step}");
        }
    }

    /// Returns the trace id, in hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Returns the span id, in hexadecimal digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Whether a subscriber records the steps of spans.
pub(crate) fn is_enabled() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Parses exactly `DIGITS` lower-case hexadecimal digits.
fn hexadecimal<const DIGITS: usize>(text: &str) -> Option<u128> {
    let proper = text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if proper { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_text_form_is_that_of_the_w3c() {
        assert_eq!(TraceParent::parse(TEXT).unwrap().to_string(), TEXT);
        assert!(TraceParent::parse(&TEXT.replace("00-", "01-")).is_some());
        assert!(TraceParent::parse(&TEXT.replace("00-", "01-").replace("-01", "-01-more")).is_some());
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_message_carries_a_child_span_unless_it_has_one() {
        let parent = TraceParent::root();
        let carried = parent.carried_by(message! { "text": "hi" });
        let span = TraceParent::of(&carried).unwrap();
        assert_eq!(span.trace_id(), parent.trace_id());
        assert_ne!(span.span_id(), parent.span_id());
        assert_eq!(TraceParent::root().carried_by(carried.clone()), carried);
        assert_eq!(TraceParent::of(&message! {}), None);
    }
}
