//! Rooms and names: parsed from a path and checked, and the group of a room.

use channel_layer::worker::Context;

/// Maximum length of a room or a name, in characters.
const MAX_LENGTH: usize = 32;
const REPLY_PREFIX: &str = "websocket.send.";

/// A client in a room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Participant {
    /// The id of the connection, which other clients see.
    pub(super) id: String,
    pub(super) room: String,
    pub(super) name: String,
    /// The group of the room.
    pub(super) group: String,
}

impl Participant {
    /// Returns the participant whose socket a message is about, or `None` if the socket does not belong to the chat.
    ///
    /// # Errors
    ///
    /// A sentence for the user if the room or the name is invalid.
    pub(super) fn of(context: &Context) -> Result<Option<Self>, String> {
        let path = context.message().text("path").unwrap_or_default();
        let reply_channel = context.reply_channel().unwrap_or_default();
        match path.strip_prefix("/chat/").and_then(|rest| rest.split_once('/')) {
            Some((room, name)) => Self::new(reply_channel, room, name).map(Some),
            None => Ok(None),
        }
    }

    fn new(reply_channel: &str, room: &str, name: &str) -> Result<Self, String> {
        let room = validate("room", room)?;
        let name = validate("name", name)?;
        let id = reply_channel.strip_prefix(REPLY_PREFIX).unwrap_or(reply_channel).to_owned();
        Ok(Self { id, group: group(&room), room, name })
    }

    /// Returns the previous connection of this client, from the query of its URL.
    pub(super) fn before(&self, context: &Context) -> Option<String> {
        let query = std::str::from_utf8(context.message().bytes("query_string")?).ok()?;
        let id = query.strip_prefix("before=")?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'!';
        (id != self.id && id.len() <= 64 && id.bytes().all(is_allowed)).then(|| id.to_owned())
    }
}

/// Returns the trimmed text if it can be shown in a list.
fn validate(field: &str, text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(format!("Please choose a {field}.")),
        1..=MAX_LENGTH if text.chars().any(is_invisible) || text.chars().all(is_joining_or_blank) => {
            Err(format!("This {field} contains invisible characters."))
        }
        1..=MAX_LENGTH => Ok(text.to_owned()),
        _ => Err(format!("A {field} has at most {MAX_LENGTH} characters.")),
    }
}

/// Returns `true` for control characters, characters that change the direction of text, and blank characters that are
/// not white space. A name could consist of them alone, or look like another name. The joiners and selectors of emoji
/// are not included.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}')
}

/// Returns `true` for characters that show nothing on their own: joiners, variation selectors, white space.
fn is_joining_or_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e01ef}')
}

/// Returns the group of a room. A room name that is not valid in a group name is hashed with 128-bit FNV-1a. A
/// collision joins two rooms that any client may join anyway.
fn group(room: &str) -> String {
    if room.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
        return format!("chat.room.{room}");
    }
    let mix = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    format!("chat.hash.{:032x}", room.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, mix))
}

#[cfg(test)]
mod tests {
    use channel_layer::GroupName;

    use super::*;

    #[test]
    fn every_valid_room_has_a_group_of_its_own() {
        let widest = "\u{1f980}".repeat(MAX_LENGTH);
        let groups = ["lobby", "Lobby", "a.b-c_d", "tea room", "caf\u{e9}", "caf\u{e8}", &widest].map(group);
        for (at, name) in groups.iter().enumerate() {
            assert!(GroupName::parse(name).is_ok(), "{name}");
            assert!(!groups[..at].contains(name), "{name}");
        }
    }

    #[test]
    fn a_room_and_a_name_are_trimmed_and_validated() {
        let participant = Participant::new("websocket.send.p!1", " lobby ", "Ada / Bob").unwrap();
        assert_eq!((&*participant.id, &*participant.room, &*participant.name), ("p!1", "lobby", "Ada / Bob"));
        let longest = "\u{e9}".repeat(MAX_LENGTH);
        assert!(Participant::new("c", &longest, &longest).is_ok());
        for (room, name) in [("", "a"), ("a", "  "), ("a", &format!("{longest}e")), ("a", "a\u{202e}b"), ("a\nb", "a")]
        {
            assert!(Participant::new("c", room, name).is_err(), "{room:?} {name:?}");
        }
        for name in ["Ada\u{ad}", "\u{feff}", "\u{3164}", "\u{200d} \u{fe0f}"] {
            assert!(Participant::new("c", "lobby", name).is_err(), "{name:?}");
        }
        assert!(Participant::new("c", "lobby", "\u{1f469}\u{200d}\u{1f680} \u{2764}\u{fe0f}").is_ok());
    }
}
