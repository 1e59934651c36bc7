//! Names to Redis keys and back, as Python's layers make them.

use crate::name::{ChannelName, GroupName};

/// String: the random epoch of a server's data. No key of the site begins like this, so a flush by Python's layers does
/// not delete it.
pub(super) fn epoch(prefix: &str) -> String {
    format!("channel-layer:epoch:{prefix}")
}

/// The keys of one deployment. Python puts no separator between the prefix and a name. A prefix that begins with
/// another prefix, followed by characters of names, can therefore not be distinguished from it.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) prefix: String,
}

impl Keys {
    /// The messages of a channel, by the non-local part of its name.
    pub(super) fn channel(&self, non_local: &str) -> String {
        format!("{}{non_local}", self.prefix)
    }

    /// Sorted set: the members of a group, each with the time when it was added.
    pub(super) fn group(&self, group: &GroupName) -> String {
        format!("{}:group:{group}", self.prefix)
    }

    /// The channel that `key` belongs to.
    pub(super) fn parse_channel<'k>(&self, key: &'k str) -> Option<&'k str> {
        let name = key.strip_prefix(&self.prefix)?;
        ChannelName::parse(name).is_ok_and(|channel| channel.non_local() == name).then_some(name)
    }

    /// Whether `key` belongs to a group.
    pub(super) fn is_group(&self, key: &str) -> bool {
        let name = key.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(":group:"));
        name.is_some_and(|name| GroupName::parse(name).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(prefix: &str) -> Keys {
        Keys { prefix: prefix.to_owned() }
    }

    #[test]
    fn keys_are_those_of_python() {
        let group = GroupName::parse("test_group").expect("it is a name");
        assert_eq!(keys("asgi").group(&group), "asgi:group:test_group");
        assert_eq!(keys("asgi:").group(&group), "asgi::group:test_group");
        assert_eq!(keys("asgi").channel("specific.0123!"), "asgispecific.0123!");
        assert_eq!(keys("asgi:").channel("http.request"), "asgi:http.request");
    }

    #[test]
    fn keys_give_their_names_back() {
        assert_eq!(keys("asgi").parse_channel("asgispecific.0123!"), Some("specific.0123!"));
        for other in ["asgispecific.0123!local", "asgiwork$inflight", "asgi:group:a", "asgi", "other"] {
            assert_eq!(keys("asgi").parse_channel(other), None, "{other}");
        }
        assert!(keys("asgi").is_group("asgi:group:a") && !keys("asgi").is_group("asgi::group:a"));
    }
}
