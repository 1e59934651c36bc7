//! `Redirect`: the answer of a node that does not serve a slot now. The command has not run.

use super::{Address, Slot};

/// Where a command has to be sent instead, or when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The node at this address serves the slot.
    Moved(Slot, Target),
    /// The slot is being migrated to the node at this address, which has the key already or will get it. Only this
    /// command goes there, behind `ASKING`.
    Ask(Slot, Target),
    /// Another node serves the slot, and the answer does not name it. The layout does.
    Unnamed,
    /// No node serves the slot for a moment: the keys of the command are being migrated, or a master is being replaced.
    Wait,
}

/// The address of a node in a redirection. Its host is empty if it is the one of the node that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

impl Redirect {
    /// Reads an error answer by its code and its text. Returns `None` for all other errors.
    pub(crate) fn parse(code: &str, text: &str) -> Option<Self> {
        match code {
            "MOVED" => target(text).map(|(slot, target)| target.map_or(Self::Unnamed, |node| Self::Moved(slot, node))),
            "ASK" => target(text).map(|(slot, target)| target.map_or(Self::Unnamed, |node| Self::Ask(slot, node))),
            "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN" => Some(Self::Wait),
            _ => None,
        }
    }
}

impl Target {
    /// The address, for an answer of the node on `host`.
    pub(crate) fn seen_from(&self, host: &str) -> Address {
        let host = if self.host.is_empty() { host } else { &self.host };
        (host.to_owned(), self.port)
    }
}

/// The slot and the address in `3999 127.0.0.1:6381`. The port follows the last colon, because an IPv6 address has
/// more. The host is `?` if the node was told to announce host names, and knows none of the other node.
fn target(text: &str) -> Option<(Slot, Option<Target>)> {
    let (slot, address) = text.split_once(' ')?;
    let (host, port) = address.split_whitespace().next()?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let target = Target { host, port: port.parse().ok()? };
    Some((Slot::numbered(slot.parse().ok()?)?, Some(target).filter(|target| target.host != "?")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read_with_every_form_of_address() {
        for (address, host, port) in [
            ("127.0.0.1:6381", "127.0.0.1", 6381),
            (":6381", "here", 6381),
            ("2001:db8::1:6381", "2001:db8::1", 6381),
            ("[2001:db8::1]:6381", "2001:db8::1", 6381),
            ("node-3.example:1", "node-3.example", 1),
        ] {
            let Some(Redirect::Moved(slot, target)) = Redirect::parse("MOVED", &format!("3999 {address}")) else {
                panic!("{address} is not read");
            };
            assert_eq!((slot.index(), target.seen_from("here")), (3999, (host.to_owned(), port)), "{address}");
        }
        assert!(matches!(Redirect::parse("ASK", "1 a:2"), Some(Redirect::Ask(..))));
        for code in ["MOVED", "ASK"] {
            assert_eq!(Redirect::parse(code, "1 ?:2"), Some(Redirect::Unnamed), "{code}");
        }
    }

    #[test]
    fn other_answers_are_no_redirections() {
        for code in ["TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"] {
            assert_eq!(Redirect::parse(code, "..."), Some(Redirect::Wait), "{code}");
        }
        for (code, text) in
            [("OOM", ""), ("MOVED", ""), ("MOVED", "1"), ("MOVED", "1 a"), ("ASK", "16384 a:1"), ("ASK", "1 a:70000")]
        {
            assert_eq!(Redirect::parse(code, text), None, "{code} {text}");
        }
    }
}
