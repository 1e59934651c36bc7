//! `Spread`: over how many lists of a cluster each normal channel is spread, by ordered rules.

use std::fmt;
use std::ops::RangeInclusive;

use crate::error::Result;
use crate::name::{ChannelKind, ChannelName};
use crate::pattern::{NameRule, Rule, Rules, Syntax};

/// Name of the option with the rules, for errors.
pub(crate) const OPTION: &str = "spread";

/// Valid numbers of lists. A reader needs a connection for each.
pub(crate) const LISTS: RangeInclusive<usize> = 1..=64;

/// The number of lists over which a Redis Cluster spreads the normal channels whose names match a pattern.
///
/// A cluster stores a list on one of its masters. A normal channel has one list, so that one master does all its work,
/// unless a rule spreads it. See [`Config::spread`](crate::Config::spread).
///
/// ```
/// use channel_layer::{Config, SpreadRule};
///
/// let config = Config::new()
///     .cluster(true)
///     .spread(SpreadRule::glob("jobs.rare", 1))
///     .spread(SpreadRule::glob("jobs.*", 8));
/// config.validate()?;
/// # Ok::<(), channel_layer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpreadRule {
    /// A glob as in [`CapacityRule::Glob`](crate::CapacityRule::Glob).
    Glob {
        /// The glob.
        pattern: String,
        /// Number of lists, from 1 to 64.
        lists: usize,
    },
    /// A regex that must match at the start of the name, as in [`CapacityRule::Regex`](crate::CapacityRule::Regex).
    Regex {
        /// The regex, in the syntax of the crate `regex`.
        pattern: String,
        /// Number of lists, from 1 to 64.
        lists: usize,
    },
}

impl SpreadRule {
    /// Spreads the channels that the glob `pattern` matches over `lists` lists.
    pub fn glob(pattern: impl Into<String>, lists: usize) -> Self {
        Self::Glob { pattern: pattern.into(), lists }
    }

    /// Spreads the channels that the regex `pattern` matches at their start over `lists` lists.
    pub fn regex(pattern: impl Into<String>, lists: usize) -> Self {
        Self::Regex { pattern: pattern.into(), lists }
    }
}

impl fmt::Display for SpreadRule {
    /// Formats the rule as an entry of `spread` in a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

impl NameRule for SpreadRule {
    const VALUE: &'static str = "lists";

    fn new(syntax: Syntax, pattern: &str, value: usize) -> Self {
        match syntax {
            Syntax::Glob => Self::glob(pattern, value),
            Syntax::Regex => Self::regex(pattern, value),
        }
    }

    fn parts(&self) -> Rule<'_> {
        match self {
            Self::Glob { pattern, lists } => Rule { syntax: Syntax::Glob, pattern, value: *lists },
            Self::Regex { pattern, lists } => Rule { syntax: Syntax::Regex, pattern, value: *lists },
        }
    }
}

/// The number of lists of every channel: compiled rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Rules);

impl Spread {
    /// Compiles `rules`, which are tried in order.
    pub(crate) fn new(rules: &[SpreadRule]) -> Result<Self> {
        Rules::compile(rules, OPTION, &LISTS).map(Self)
    }

    /// Returns the number of lists of `channel`.
    pub(crate) fn lists_of(&self, channel: &ChannelName) -> usize {
        // The order on other channels is promised, so they have one list.
        let spread = (channel.kind() == ChannelKind::Normal).then(|| self.0.value_of(channel.as_str()));
        spread.flatten().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_spreads_a_normal_channel_and_no_other() {
        let rules = [SpreadRule::glob("jobs.rare", 1), SpreadRule::regex("jobs", 8), SpreadRule::glob("*", 2)];
        let spread = Spread::new(&rules).expect("the rules are good");
        for (channel, lists) in [("jobs.rare", 1), ("jobs.mail", 8), ("mail", 2), ("jobs!a", 1), ("jobs?a", 1)] {
            assert_eq!(spread.lists_of(&channel.parse().expect("the name is good")), lists, "{channel}");
        }
    }
}
