//! `ChannelName` and `GroupName`: the grammar of names. No other code interprets `!` and `?`.
//!
//! The grammar is that of the ASGI 1.x channel layer specification: ASCII letters, digits, `_`, `.` and `-`. A channel
//! name may contain one `!` or `?`, with at least one character before it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Maximal length of a name, in bytes.
pub const MAX_NAME_LENGTH: usize = 100;

/// A valid channel name. Cheap to clone.
///
/// | kind | example | read by |
/// |---|---|---|
/// | normal | `http.request` | any number of workers |
/// | single-reader | `http.request.body?AbCd` | one reader, in order |
/// | process-local | `websocket.send.proc!client` | the process that reads `websocket.send.proc!`, in order |
///
/// ```
/// use channel_layer::{ChannelKind, ChannelName};
///
/// let name: ChannelName = "websocket.send.proc!client".parse().unwrap();
/// assert_eq!(name.kind(), ChannelKind::ProcessLocal);
/// assert_eq!(name.non_local(), "websocket.send.proc!");
/// assert_eq!(name.local(), Some("client"));
/// ```
#[derive(Clone)]
pub struct ChannelName {
    text: Arc<str>,
    kind: ChannelKind,
    /// Length of the non-local part; the whole length if there is no local part.
    non_local: u8,
}

/// The kind of a channel, given by its type character. It determines the readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// No type character: any number of readers.
    Normal,
    /// `?`: exactly one reader.
    SingleReader,
    /// `!`: one reader per process, which reads all local parts together.
    ProcessLocal,
}

impl ChannelKind {
    /// Whether the channel has a single reader, so that order can be guaranteed.
    pub fn has_one_reader(self) -> bool {
        self != Self::Normal
    }

    /// Returns the kind of `name` by its type character, without checking the rest of the name.
    pub(crate) fn of(name: &str) -> Self {
        match name.bytes().find(|byte| matches!(byte, b'!' | b'?')) {
            Some(b'!') => Self::ProcessLocal,
            Some(_) => Self::SingleReader,
            None => Self::Normal,
        }
    }
}

/// The error for an invalid channel or group name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} name {name:?}: {reason}")]
pub struct InvalidName {
    what: &'static str,
    /// Cut to a printable length if the input was longer.
    name: String,
    reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, name: &str, reason: &'static str) -> Self {
        let cut = name.floor_char_boundary(MAX_NAME_LENGTH + 20);
        let name = if cut < name.len() { format!("{}...", &name[..cut]) } else { name.to_owned() };
        Self { what, name, reason }
    }

    /// Returns the refused name, shortened if it was too long.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the reason.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl ChannelName {
    /// Parses a channel name, complete or up to its type character.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is empty, longer than [`MAX_NAME_LENGTH`] bytes, has a character outside the
    /// grammar, or has more than one type character.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let (kind, non_local) = scan(name).map_err(|reason| InvalidName::new("channel", name, reason))?;
        Ok(Self { text: name.into(), kind, non_local })
    }

    /// Parses the name of a channel to send to or to add to a group: as [`parse`](Self::parse), and a process-local
    /// name must have a local part.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as for [`parse`](Self::parse), and for names that end in a type character.
    pub fn parse_target(name: &str) -> Result<Self, InvalidName> {
        let channel = Self::parse(name)?;
        match name.as_bytes().last() {
            Some(b'!') => Err(InvalidName::new("channel", name, "a target needs a local part after '!'")),
            Some(b'?') => Err(InvalidName::new("channel", name, "a target needs a name after '?'")),
            _ => Ok(channel),
        }
    }

    /// Parses the name of a channel to receive from. A process-local name must end in its `!`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as for [`parse`](Self::parse), for process-local names with a local part, and for single-reader
    /// names without a character after the `?`.
    pub fn parse_source(name: &str) -> Result<Self, InvalidName> {
        let channel = Self::parse(name)?;
        if channel.local().is_some() {
            return Err(InvalidName::new("channel", name, "a process-local channel is read by its name up to the '!'"));
        }
        if name.ends_with('?') {
            return Err(InvalidName::new("channel", name, "a single-reader channel needs a name after '?'"));
        }
        Ok(channel)
    }

    /// Parses the names of channels to receive from. At least one is required.
    pub(crate) fn parse_sources(names: &[&str]) -> Result<Vec<Self>, InvalidName> {
        if names.is_empty() {
            return Err(InvalidName::new("channel", "", "need at least one channel to receive from"));
        }
        names.iter().map(|name| Self::parse_source(name)).collect()
    }

    /// Parses a pattern for a new single-reader channel, which ends in `?`, and appends `suffix`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the pattern does not end in `?`, or the resulting name is invalid.
    pub fn from_pattern(pattern: &str, suffix: &str) -> Result<Self, InvalidName> {
        if !pattern.ends_with('?') {
            return Err(InvalidName::new("channel", pattern, "a pattern for a new channel must end in '?'"));
        }
        Self::parse(&format!("{pattern}{suffix}")).map_err(|error| InvalidName::new("channel", pattern, error.reason))
    }

    /// Whether [`from_parts`](Self::from_parts) of this name, which ends in `!`, and `local` is a valid name.
    pub(crate) fn takes_local(&self, local: &str) -> bool {
        !local.is_empty() && self.text.len() + local.len() <= MAX_NAME_LENGTH && local.bytes().all(is_name_byte)
    }

    /// Returns the name of a group member: `non_local`, which ends in `!`, followed by its local part.
    pub(crate) fn from_parts(non_local: &str, local: &str) -> Result<Self, InvalidName> {
        let mut name = String::with_capacity(non_local.len() + local.len());
        name.push_str(non_local);
        name.push_str(local);
        Self::parse_target(&name)
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the kind of the channel.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// Returns the part up to and including `!` of a process-local name, and the whole name otherwise. It alone
    /// determines where messages are stored and which capacity applies.
    pub fn non_local(&self) -> &str {
        &self.text[..usize::from(self.non_local)]
    }

    /// Returns the non-local part as a name.
    pub(crate) fn to_non_local(&self) -> Self {
        if self.local().is_none() {
            return self.clone();
        }
        Self { text: self.non_local().into(), ..*self }
    }

    /// Returns the part after `!` of a process-local name.
    pub fn local(&self) -> Option<&str> {
        let local = &self.text[usize::from(self.non_local)..];
        (!local.is_empty()).then_some(local)
    }
}

/// Checks the grammar in one pass. Returns the kind and the length of the non-local part.
fn scan(name: &str) -> Result<(ChannelKind, u8), &'static str> {
    let length = checked_length(name)?;
    let mut kind = ChannelKind::Normal;
    let mut non_local = length;
    for (at, byte) in (0u8..).zip(name.bytes()) {
        if is_name_byte(byte) {
            continue;
        }
        let marked = match byte {
            b'!' => ChannelKind::ProcessLocal,
            b'?' => ChannelKind::SingleReader,
            _ => return Err("only ASCII letters, digits, '_', '.', '-' and one '!' or '?' are allowed"),
        };
        if kind != ChannelKind::Normal {
            return Err("only one '!' or '?' is allowed");
        }
        if at == 0 {
            return Err("a name must not begin with '!' or '?'");
        }
        kind = marked;
        if kind == ChannelKind::ProcessLocal {
            non_local = at + 1;
        }
    }
    Ok((kind, non_local))
}

fn checked_length(name: &str) -> Result<u8, &'static str> {
    match u8::try_from(name.len()) {
        Ok(0) => Err("a name must not be empty"),
        Ok(length) if usize::from(length) <= MAX_NAME_LENGTH => Ok(length),
        _ => Err("a name must have at most 100 bytes"),
    }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// A valid group name. Cheap to clone.
///
/// It may contain the characters of a channel name, without a type character.
///
/// ```
/// use channel_layer::GroupName;
///
/// let group = GroupName::try_from("chat.room-17")?;
/// assert_eq!(group, "chat.room-17");
/// # Ok::<(), channel_layer::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// Parses a group name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is empty, longer than [`MAX_NAME_LENGTH`] bytes, or has a character outside the
    /// grammar.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let refuse = |reason| InvalidName::new("group", name, reason);
        checked_length(name).map_err(refuse)?;
        if !name.bytes().all(is_name_byte) {
            return Err(refuse("only ASCII letters, digits, '_', '.' and '-' are allowed"));
        }
        Ok(Self(name.into()))
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for ChannelName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ChannelName {}

impl std::hash::Hash for ChannelName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for ChannelName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ChannelName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for GroupName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ChannelName {
    fn eq(&self, other: &str) -> bool {
        &*self.text == other
    }
}

impl PartialEq<&str> for ChannelName {
    fn eq(&self, other: &&str) -> bool {
        &*self.text == *other
    }
}

impl PartialEq<str> for GroupName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for GroupName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl TryFrom<&str> for ChannelName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }
}

impl TryFrom<&str> for GroupName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }
}

impl std::str::FromStr for ChannelName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }
}

impl std::str::FromStr for GroupName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
