//! `Capacity`: the capacity of each channel, by ordered rules. The first glob or regex that matches the non-local part
//! decides.

use std::fmt;
use std::ops::RangeInclusive;

use crate::error::Result;
use crate::name::ChannelName;
use crate::pattern::{NameRule, Rule, Rules, Syntax};

/// Name of the option with the rules, for errors.
pub(crate) const OPTION: &str = "channel_capacity";

/// Valid capacities. A Redis list holds at most 2^32 - 1 entries.
pub(crate) const CAPACITIES: RangeInclusive<usize> = 1..=u32::MAX as usize;

/// The capacity of the channels whose non-local part matches a pattern.
///
/// ```
/// use channel_layer::{CapacityRule, Config};
///
/// let config = Config::new()
///     .channel_capacity(CapacityRule::glob("websocket.send.*", 10_000))
///     .channel_capacity(CapacityRule::regex(r"thumbnails\.(small|large)$", 20));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapacityRule {
    /// A glob with the semantics of Python's `fnmatch.fnmatchcase`: `*` matches any text, `?` one character, and
    /// `[ab]`, `[a-z]` and `[!a]` one character of a set. All other characters match themselves. The glob must match
    /// the whole name.
    Glob {
        /// The glob.
        pattern: String,
        /// Number of unread messages that a channel holds, at least 1.
        capacity: usize,
    },
    /// A regex that must match at the start of the name, as with `match` of Python's `re`.
    Regex {
        /// The regex, in the syntax of the crate `regex`.
        pattern: String,
        /// Number of unread messages that a channel holds, at least 1.
        capacity: usize,
    },
}

impl CapacityRule {
    /// Sets `capacity` for the channels that the glob `pattern` matches.
    pub fn glob(pattern: impl Into<String>, capacity: usize) -> Self {
        Self::Glob { pattern: pattern.into(), capacity }
    }

    /// Sets `capacity` for the channels that the regex `pattern` matches at their start.
    pub fn regex(pattern: impl Into<String>, capacity: usize) -> Self {
        Self::Regex { pattern: pattern.into(), capacity }
    }
}

impl fmt::Display for CapacityRule {
    /// Formats the rule as an entry of `channel_capacity` in a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

impl NameRule for CapacityRule {
    const VALUE: &'static str = "capacity";

    fn new(syntax: Syntax, pattern: &str, value: usize) -> Self {
        match syntax {
            Syntax::Glob => Self::glob(pattern, value),
            Syntax::Regex => Self::regex(pattern, value),
        }
    }

    fn parts(&self) -> Rule<'_> {
        match self {
            Self::Glob { pattern, capacity } => Rule { syntax: Syntax::Glob, pattern, value: *capacity },
            Self::Regex { pattern, capacity } => Rule { syntax: Syntax::Regex, pattern, value: *capacity },
        }
    }
}

/// The capacity of every channel: compiled rules, and the default capacity. Returned by
/// [`Config::capacities`](crate::Config::capacities).
#[derive(Clone, Debug)]
pub struct Capacity {
    rules: Rules,
    default: usize,
}

impl Capacity {
    /// Compiles `rules`, which are tried in order before `default`.
    pub(crate) fn new(rules: &[CapacityRule], default: usize) -> Result<Self> {
        Ok(Self { rules: Rules::compile(rules, OPTION, &CAPACITIES)?, default })
    }

    /// Returns the number of unread messages that `channel` holds.
    pub fn of(&self, channel: &ChannelName) -> usize {
        self.of_name(channel.non_local())
    }

    /// Returns the capacity for a channel whose `name` the rules match.
    pub(crate) fn of_name(&self, name: &str) -> usize {
        self.rules.value_of(name).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).expect("the name is good")
    }

    fn matches(rule: &CapacityRule, channel: &str) -> bool {
        Capacity::new(std::slice::from_ref(rule), 2).expect("the rule is good").of(&name(channel)) == 1
    }

    fn glob(pattern: &str, channel: &str) -> bool {
        matches(&CapacityRule::glob(pattern, 1), channel)
    }

    fn regex(pattern: &str, channel: &str) -> bool {
        matches(&CapacityRule::regex(pattern, 1), channel)
    }

    fn refusal(rule: CapacityRule) -> String {
        Capacity::new(&[rule], 100).expect_err("it is refused").to_string()
    }

    #[test]
    fn the_first_match_decides_and_the_default_covers_the_rest() {
        let rules = [
            CapacityRule::glob("http.request", 5),
            CapacityRule::regex(r"http\.", 6),
            CapacityRule::glob("http.*", 7),
            CapacityRule::glob("websocket.send.*", 8),
        ];
        let capacity = Capacity::new(&rules, 100).expect("the rules are good");
        assert_eq!(capacity.of(&name("http.request")), 5);
        assert_eq!(capacity.of(&name("http.requests")), 6);
        assert_eq!(capacity.of(&name("websocket.send.proc!client")), 8);
        assert_eq!(capacity.of(&name("websocket.receive")), 100);
        let plain = Capacity::new(&[], 3).expect("no rules are good");
        assert_eq!(plain.of(&name("http.request")), 3);
    }

    #[test]
    fn rules_match_the_non_local_part_only() {
        assert!(glob("websocket.send.proc!", "websocket.send.proc!client"));
        assert!(!glob("*client", "websocket.send.proc!client"));
        assert!(glob("*client", "websocket.send?client"));
        assert!(regex("^.*!$", "websocket.send.proc!client"));
        assert!(!regex(".*client", "websocket.send.proc!client"));
    }

    #[test]
    fn globs_match_as_in_fnmatch() {
        for (pattern, channel, expected) in [
            ("*", "a.b-c_d", true),
            ("a*", "a", true),
            ("a**c", "a.b.c", true),
            ("**", "a.b", true),
            ("a?c", "abc", true),
            ("a?c", "a!c", false),
            ("a?c", "a?c", true),
            ("a?c", "ac", false),
            ("[ab]c", "bc", true),
            ("[!ab]c", "bc", false),
            ("[!ab]c", "cc", true),
            ("[^a]c", "bc", false),
            ("[^a]c", "ac", true),
            ("[^-z]c", "ac", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[a-]x", "-x", true),
            ("[!]a]x", "bx", true),
            ("[]a]x", "ax", true),
            ("[a", "a", false),
            ("a[!", "a", false),
            ("{a,b}", "a", false),
            ("a}", "a", false),
            ("A", "a", false),
            ("a.c", "abc", false),
            ("http", "http.request", false),
            ("\\*", "a", false),
            ("*.x", "x", false),
        ] {
            assert_eq!(glob(pattern, channel), expected, "{pattern} on {channel}");
        }
    }

    #[test]
    fn regexes_match_at_the_start_only() {
        assert!(regex("http", "http.request"));
        assert!(!regex("request", "http.request"));
        assert!(regex("x|http", "http.request"));
        assert!(!regex("x|request", "http.request"));
        assert!(regex("(?x) http # the web", "http.request"));
        assert!(regex("(?i)HTTP", "http.request"));
        assert!(!regex("http$", "http.request"));
    }

    #[test]
    fn an_invalid_rule_is_refused_with_its_pattern() {
        for (rule, fault) in [
            (CapacityRule::glob("[z-a]", 1), "channel_capacity = [z-a]: invalid range"),
            (CapacityRule::regex("(", 1), "channel_capacity = (: "),
            (CapacityRule::regex("a)|(b", 1), "unopened group"),
            (CapacityRule::regex("((a{900}){900}){900}", 1), "size limit"),
            (CapacityRule::glob("*", 0), "channel_capacity = *: capacity 0"),
            (CapacityRule::regex("a", 0), "channel_capacity = a: capacity 0"),
            (CapacityRule::glob("*", usize::MAX), "must be from 1 to 4294967295"),
            (CapacityRule::glob("", 1), "1 to 1000 bytes"),
            (CapacityRule::glob("a".repeat(1_001), 1), "...: a pattern must have 1 to 1000 bytes"),
        ] {
            let error = refusal(rule);
            assert!(error.contains(fault), "{error}");
        }
    }

    /// Implements `fnmatch` by its definition, without sets.
    fn model(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => model(rest, name) || !name.is_empty() && model(pattern, &name[1..]),
            (Some((b'?', rest)), Some((_, others))) => model(rest, others),
            (Some((char, rest)), Some((other, others))) => char == other && model(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_a_model(pattern in "[ab.*?{},]{1,8}", channel in "[ab.]{1,8}") {
            prop_assert_eq!(glob(&pattern, &channel), model(pattern.as_bytes(), channel.as_bytes()));
        }

        #[test]
        fn no_pattern_panics(pattern in "\\PC{0,30}|[\\[\\]!^a*?{},-]{0,12}") {
            for rule in [CapacityRule::glob(&pattern, 1), CapacityRule::regex(&pattern, 1)] {
                if let Ok(capacity) = Capacity::new(&[rule], 100) {
                    capacity.of(&name("http.request"));
                }
            }
        }

        #[test]
        fn every_glob_without_a_range_compiles(pattern in "[\\[\\]!^ab*?{},\\\\]{1,12}") {
            Capacity::new(&[CapacityRule::glob(pattern, 1)], 100).expect("it is a glob");
        }
    }
}
