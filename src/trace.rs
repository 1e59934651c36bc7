//! Traces across processes: where a message stands in one, as W3C Trace Context says it.

use std::fmt;
use std::future::Future;

use rand::Rng;
use tokio::task_local;

use crate::message::Message;

/// The key of a message under which it is carried, as text. Applications see it as any other key.
pub const KEY: &str = "traceparent";

/// The target of the events, at level debug, that tell of the steps of a trace in this crate.
pub const TARGET: &str = "channel_layer::trace";

/// A place in a trace: which trace, which step of it, and whether it is recorded (`traceparent`, version 00, of
/// [W3C Trace Context](https://www.w3.org/TR/trace-context/)).
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
    /// The first step of a new trace, which is recorded.
    pub fn root() -> Self {
        let mut random = rand::rng();
        Self { trace: random.random_range(1..=u128::MAX), span: random.random_range(1..=u64::MAX), flags: SAMPLED }
    }

    /// A further step of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: rand::rng().random_range(1..=u64::MAX), ..self }
    }

    /// Runs `future` at this place: what a [`Hub`](crate::hub::Hub) sends in it is a further step. A task that it spawns
    /// is not part of it.
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
    /// let place = TraceParent::root();
    /// place.scope(async { assert_eq!(TraceParent::current(), Some(place)) }).await;
    /// assert_eq!(TraceParent::current(), None);
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// The place at which the task runs, if it is in the [`scope`](Self::scope) of one. Handlers of a hub that
    /// [traces](crate::hub::HubBuilder::trace) are, and those of a worker whose message has one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|place| *place).ok()
    }

    /// Reads the text form; nothing if it is none of a version that is known.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace) = (hexadecimal::<2>(parts.next()?)?, hexadecimal::<32>(parts.next()?)?);
        let (span, flags) = (hexadecimal::<16>(parts.next()?)?, hexadecimal::<2>(parts.next()?)?);
        // Later versions may have more at the end; 255 is none.
        if version == 0xff || (version == 0 && parts.next().is_some()) || trace == 0 || span == 0 {
            return None;
        }
        Some(Self { trace, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? & SAMPLED })
    }

    /// Where `message` stands, if it says so.
    pub fn of(message: &Message) -> Option<Self> {
        Self::parse(message.text(KEY)?)
    }

    /// `message` as a further step of this one, unless it has a place of its own.
    #[must_use]
    pub fn carried_by(self, message: Message) -> Message {
        if message.get(KEY).is_some() {
            return message;
        }
        message.with(KEY, self.child().to_string())
    }

    /// Tells `tracing` that this step is done.
    pub(crate) fn tell(self, step: &'static str, channel: &str) {
        if is_told() {
            tracing::debug!(target: TARGET, trace_id = self.trace_id(), span_id = self.span_id(), channel, "{step}");
        }
    }

    /// The trace, in hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The step, in hexadecimal digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Whether anybody listens to what is told of steps.
pub(crate) fn is_told() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Exactly so many lower-case digits.
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
    fn a_message_carries_its_place_and_keeps_one_that_it_has() {
        let parent = TraceParent::root();
        let carried = parent.carried_by(message! { "text": "hi" });
        let place = TraceParent::of(&carried).unwrap();
        assert_eq!(place.trace_id(), parent.trace_id());
        assert_ne!(place.span_id(), parent.span_id());
        assert_eq!(TraceParent::root().carried_by(carried.clone()), carried);
        assert_eq!(TraceParent::of(&message! {}), None);
    }
}
