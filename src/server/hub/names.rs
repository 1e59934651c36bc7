//! `Names` and `ClientId`: the channels and groups of a hub.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::HubError;
use crate::crypto;
use crate::name::{ChannelName, GroupName, InvalidName, MAX_NAME_LENGTH};

/// The recipients of a message: a room or a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Audience {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Room,
    User,
}

impl Kind {
    /// Name of the kind in messages and groups.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::User => "user",
        }
    }
}

/// The names of one hub in one process.
#[derive(Debug)]
pub(crate) struct Names {
    /// `hub.<name>.`
    prefix: String,
    /// `hub.<name>.<process>!`
    channel: ChannelName,
    /// The member that represents this process in the groups of the hub. Its local part is not a number, so it differs
    /// from the channel of every client.
    member: ChannelName,
    /// The group of all processes.
    everyone: GroupName,
}

impl Names {
    /// # Errors
    ///
    /// [`HubError::Layer`] if `hub` is not valid as a part of a name.
    pub(crate) fn new(hub: &str, process: &str) -> Result<Self, HubError> {
        let prefix = format!("hub.{hub}.");
        let parse = |name: String| ChannelName::parse(&name).map_err(HubError::from);
        let names = Self {
            channel: parse(format!("{prefix}{process}!"))?,
            member: parse(format!("{prefix}{process}!process"))?,
            everyone: GroupName::parse(&format!("{prefix}all")).map_err(HubError::from)?,
            prefix,
        };
        // Ensures that no room gets a group name that is too long.
        GroupName::parse(&names.group_text(Kind::Room, &"\u{e9}".repeat(MAX_NAME_LENGTH))).map_err(HubError::from)?;
        Ok(names)
    }

    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(crate) fn member(&self) -> &str {
        self.member.as_str()
    }

    pub(crate) fn everyone(&self) -> &str {
        self.everyone.as_str()
    }

    /// Whether `client` belongs to this hub, in any process.
    pub(crate) fn has(&self, client: &ClientId) -> bool {
        // The name of another hub may begin with the name of this one and a dot. The name of a process has no dot.
        client.0.non_local().strip_prefix(&self.prefix).is_some_and(|process| !process.contains('.'))
    }

    /// Returns the group of a room or a user. The name may be any text; one that is not valid in a group name is
    /// replaced by its digest.
    pub(crate) fn group(&self, kind: Kind, name: &str) -> String {
        let plain = format!("{}{}.is.{name}", self.prefix, kind.label());
        if GroupName::parse(&plain).is_ok() { plain } else { self.group_text(kind, name) }
    }

    fn group_text(&self, kind: Kind, name: &str) -> String {
        format!("{}{}.of.{:032x}", self.prefix, kind.label(), crypto::digest(name.as_bytes()))
    }
}

/// The id of a client, unique among all processes of a hub. An id is never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(ChannelName);

impl ClientId {
    pub(crate) fn new(channel: ChannelName) -> Self {
        Self(channel)
    }

    pub(crate) fn channel(&self) -> &ChannelName {
        &self.0
    }

    /// Whether the channel has the form `hub.<name>.<process>!<number>`, with the number in hexadecimal digits.
    fn is_client(&self) -> bool {
        let process = self.0.non_local().strip_prefix("hub.").and_then(|process| process.strip_suffix('!'));
        let named = process.and_then(|process| process.rsplit_once('.'));
        let number = self.0.local().and_then(|local| Some((local, u64::from_str_radix(local, 16).ok()?)));
        named.is_some_and(|(hub, process)| !hub.is_empty() && !process.is_empty())
            && number.is_some_and(|(local, number)| format!("{number:x}") == local)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses the text form of an id. Rejects the names of all other channels, because ids may come from untrusted sources.
impl FromStr for ClientId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Self(ChannelName::parse_target(text)?);
        if id.is_client() { Ok(id) } else { Err(InvalidName::new("client", text, "it is not the id of a hub client")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_may_have_any_name() {
        let names = Names::new("chat", "p1").unwrap();
        assert_eq!(names.group(Kind::Room, "lobby"), "hub.chat.room.is.lobby");
        let long = "x".repeat(1_000);
        let odd = ["", "café", "user:1/inbox", "a!b", &long];
        let mut groups: Vec<_> = odd.iter().map(|room| names.group(Kind::Room, room)).collect();
        for group in &groups {
            GroupName::parse(group).unwrap();
        }
        groups.sort();
        groups.dedup();
        assert_eq!(groups.len(), odd.len());
        assert_ne!(names.group(Kind::Room, "ada"), names.group(Kind::User, "ada"));
    }

    #[test]
    fn an_id_is_that_of_a_client_and_no_other_channel() {
        let id = "hub.chat.v2.p1!2f".parse::<ClientId>().unwrap();
        assert_eq!(id.to_string(), "hub.chat.v2.p1!2f");
        for (hub, its) in [("chat.v2", true), ("chat", false), ("other", false)] {
            assert_eq!(Names::new(hub, "p2").unwrap().has(&id), its, "{hub}");
        }
        for other in [
            "asgi.delay",
            "websocket.receive",
            "websocket.send.p1!2f",
            "hub.chat.p1!process",
            "hub.chat.p1!2F",
            "hub.chat.p1!02f",
            "hub.chat.p1!",
            "hub.chat.p1?2f",
            "hub.p1!2f",
            "hub..p1!2f",
            "",
        ] {
            assert!(other.parse::<ClientId>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_hub_whose_name_cannot_be_part_of_others_is_refused() {
        assert!(Names::new("with space", "p").is_err());
        assert!(Names::new(&"x".repeat(90), "p").is_err());
    }
}
