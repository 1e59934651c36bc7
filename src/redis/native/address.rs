//! `Addressee`: the recipients of an entry, from its address and from the list in which it was.

use crate::name::{ChannelName, GroupName};
use crate::redis::entry::{Address, Entry, Locals, Text};

/// The recipients of an entry.
pub(crate) enum Addressee {
    /// One channel.
    Channel(ChannelName),
    /// The members of a group on this route at a version.
    Group(GroupName, u64),
    /// The local parts of group members that have not received the message. There may be none.
    Locals(Locals),
}

/// The recipients of `entry`, which was in the list of `source`. Fails with a reason if the address does not fit that
/// list.
pub(crate) fn addressee(entry: &Entry, source: &ChannelName) -> Result<Addressee, String> {
    let to_local = source.as_str().ends_with('!');
    let valid = |local: Option<Text>| local.is_some_and(|local| source.takes_local(&local));
    match &entry.address {
        Address::Local(local) if to_local => {
            let member = ChannelName::from_parts(source.as_str(), local);
            member.map(Addressee::Channel).map_err(|error| error.to_string())
        }
        Address::Rest { locals, .. } if to_local => {
            let all = locals.clone().all(valid).then(|| Addressee::Locals(locals.clone()));
            all.ok_or_else(|| "its address names a member with an invalid name".to_owned())
        }
        Address::Group { group, version } if to_local => match GroupName::parse(group) {
            Ok(group) => Ok(Addressee::Group(group, *version)),
            Err(_) => Err("its address names a group with an invalid name".to_owned()),
        },
        Address::Channel | Address::Group { .. } if !to_local => Ok(Addressee::Channel(source.clone())),
        _ => Err("its address does not match its channel".to_owned()),
    }
}
