//! `ListName`: one of the lists in which a cluster stores a normal channel that a rule spreads.
//!
//! The first list has the name of the channel, so that processes with and without the rule share it. The others have
//! names that no channel can have, because a `/` occurs in none.

use std::sync::Arc;

use crate::name::ChannelName;
use crate::spread::LISTS;

/// The name of one of the lists of a channel. It is the hash tag of the key of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListName(
    /// `None` for the first list, which all channels have.
    Option<Arc<str>>,
);

impl ListName {
    /// The list of `channel` with this number, from 0 on.
    pub(crate) fn numbered(channel: &ChannelName, number: usize) -> Self {
        Self((number > 0).then(|| format!("{}/{number}", channel.non_local()).into()))
    }

    /// The name as text. `channel` is the channel of the list.
    pub(crate) fn text<'n>(&'n self, channel: &'n ChannelName) -> &'n str {
        self.0.as_deref().unwrap_or_else(|| channel.non_local())
    }

    pub(crate) fn is_first(&self) -> bool {
        self.0.is_none()
    }
}

/// The name of the channel of the list that has the name `list`.
pub(crate) fn channel_of(list: &str) -> Option<&str> {
    let Some((channel, number)) = list.split_once('/') else {
        return ChannelName::parse(list).is_ok().then_some(list);
    };
    let is_number = number.parse().is_ok_and(|parsed: usize| parsed.to_string() == number && is_further(parsed));
    (is_number && ChannelName::parse(channel).is_ok()).then_some(channel)
}

/// Whether a list with this number exists beside the first one.
fn is_further(number: usize) -> bool {
    (1..*LISTS.end()).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_of_a_list_is_that_of_its_name_and_of_no_other_text() {
        let channel: ChannelName = "jobs".parse().expect("the name is valid");
        for number in LISTS.start() - 1..*LISTS.end() {
            assert_eq!(channel_of(ListName::numbered(&channel, number).text(&channel)), Some("jobs"));
        }
        for other in ["jobs/0", "jobs/64", "jobs/01", "jobs/+1", "jobs/", "jobs/a", "/1", "jobs/1/2", "a:b"] {
            assert_eq!(channel_of(other), None, "{other}");
        }
    }
}
