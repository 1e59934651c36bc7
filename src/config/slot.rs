//! `Slot`: the field of an option, with its type and range. Parsing, range checks and display depend only on it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::host::Host;
use super::table::{CENTURY, DAY};
use super::value;
use crate::capacity::CapacityRule;
use crate::config::sources::raw::Raw;
use crate::error::{Error, Result};
use crate::spread::{LISTS, SpreadRule};

/// Accepted database numbers. Redis allocates memory for each database when it starts, so no server has more.
pub(crate) const DATABASES: RangeInclusive<u32> = 0..=65_535;

/// The field of an option, with its type and accepted values.
pub(crate) enum Slot<'c> {
    Time(&'c mut Duration, RangeInclusive<Duration>),
    /// The last field is the unit.
    Count(&'c mut usize, RangeInclusive<usize>, &'static str),
    Database(&'c mut u32),
    Truth(&'c mut bool),
    Word(&'c mut dyn Word),
    Text(&'c mut Option<String>),
    Secret(&'c mut Option<String>),
    Path(&'c mut Option<PathBuf>),
    Names(&'c mut Vec<String>),
    Keys(&'c mut Vec<String>),
    Hosts(&'c mut Option<Vec<Host>>),
    Sentinels(&'c mut Vec<Host>),
    Rules(&'c mut Vec<CapacityRule>),
    Spread(&'c mut Vec<SpreadRule>),
}

/// An option whose value is one of several words.
pub(crate) trait Word {
    /// All words of the choice.
    fn words(&self) -> Vec<&'static str>;
    /// The word of the current value; `None` if no value is set.
    fn word(&self) -> Option<&'static str>;
    /// Sets the value to `word`. Returns `false` if `word` is not one of the words.
    fn choose(&mut self, word: &str) -> bool;
}

/// An enumeration whose values are words in a configuration.
pub(crate) trait Words: Copy + PartialEq + 'static {
    /// Each value with its word.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Word for Option<T> {
    fn words(&self) -> Vec<&'static str> {
        T::WORDS.iter().map(|(word, _)| *word).collect()
    }

    fn word(&self) -> Option<&'static str> {
        T::WORDS.iter().find(|(_, value)| Some(*value) == *self).map(|(word, _)| *word)
    }

    fn choose(&mut self, word: &str) -> bool {
        let found = T::WORDS.iter().find(|(other, _)| *other == word);
        found.inspect(|(_, value)| *self = Some(*value)).is_some()
    }
}

impl<T: Words> Word for T {
    fn words(&self) -> Vec<&'static str> {
        Some(*self).words()
    }

    fn word(&self) -> Option<&'static str> {
        Some(*self).word()
    }

    fn choose(&mut self, word: &str) -> bool {
        let mut chosen = None;
        let found = chosen.choose(word);
        *self = chosen.unwrap_or(*self);
        found
    }
}

impl Slot<'_> {
    /// Sets the field from the value that a file has for `option`.
    pub(crate) fn set(self, option: &str, raw: Raw) -> Result<()> {
        match self {
            Self::Time(time, _) => *time = value::seconds(option, &raw)?,
            Self::Count(count, ..) => *count = value::whole(option, &raw)?,
            Self::Database(db) => *db = value::database(option, &raw)?,
            Self::Truth(truth) => *truth = value::truth(option, &raw)?,
            Self::Word(word) => {
                let text = value::text(option, raw)?;
                if !word.choose(&text) {
                    let reason = format!("must be {}", either(&word.words()));
                    return Err(Error::config(option, value::shown(&text), reason));
                }
            }
            Self::Text(text) => *text = Some(value::text(option, raw)?),
            Self::Secret(secret) => *secret = Some(value::secret(option, raw)?),
            Self::Path(path) => *path = Some(value::text(option, raw)?.into()),
            Self::Names(names) => *names = value::names(option, raw)?,
            Self::Keys(keys) => *keys = value::keys(option, raw)?,
            Self::Hosts(hosts) => *hosts = Some(value::hosts(option, raw)?),
            Self::Sentinels(sentinels) => *sentinels = value::hosts(option, raw)?,
            Self::Rules(rules) => *rules = value::rules(option, raw)?,
            Self::Spread(rules) => *rules = value::rules(option, raw)?,
        }
        Ok(())
    }

    /// Parses the `text` of a variable into the value that a file would have.
    pub(crate) fn raw_of(&self, text: &str) -> Result<Raw, String> {
        let json = || serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}"));
        let list = |parts: Vec<&str>| Raw::List(parts.into_iter().map(|part| Raw::Text(part.into())).collect());
        let is_list = text.trim_start().starts_with('[');
        Ok(match self {
            Self::Time(..) | Self::Count(..) | Self::Database(_) => value::number_in(text),
            Self::Truth(_) => value::truth_in(text),
            Self::Word(_) | Self::Text(_) | Self::Secret(_) | Self::Path(_) => Raw::Text(text.into()),
            Self::Names(_) | Self::Keys(_) | Self::Hosts(_) | Self::Sentinels(_) if is_list => json()?,
            Self::Rules(_) | Self::Spread(_) => json()?,
            Self::Keys(_) => list(vec![text]),
            Self::Names(_) | Self::Hosts(_) | Self::Sentinels(_) => {
                list(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect())
            }
        })
    }

    /// Checks that the value of `option` is in its range.
    pub(crate) fn check(&self, option: &str) -> Result<()> {
        if let Self::Path(Some(path)) = self
            && path.to_string_lossy().contains(value::PEM)
        {
            return Err(Error::config(option, "...", "must be the path of a file, not its content"));
        }
        let in_range = match self {
            Self::Time(time, range) => range.contains(time),
            Self::Count(count, range, _) => range.contains(count),
            Self::Database(db) => DATABASES.contains(db),
            _ => true,
        };
        if in_range {
            return Ok(());
        }
        Err(Error::config(option, self.shown(), format!("must be {}", self.accepted())))
    }

    /// The value for display, without secrets.
    pub(crate) fn shown(&self) -> String {
        let text = |text: &Option<String>| text.as_ref().map_or_else(none, |text| format!("{:?}", value::shown(text)));
        let redacted = |count: usize| if count == 0 { none() } else { format!("[{count} redacted]") };
        let list = |hosts: &[Host]| hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Time(time, _) => seconds(**time),
            Self::Count(count, ..) => count.to_string(),
            Self::Database(db) => db.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::Word(word) => word.word().map_or_else(none, str::to_owned),
            Self::Text(value) => text(value),
            Self::Secret(secret) => redacted(secret.iter().count()),
            Self::Path(path) => path.as_ref().map_or_else(none, |path| value::shown(&path.to_string_lossy()).into()),
            Self::Names(names) if names.is_empty() => none(),
            Self::Names(names) => names.iter().map(|name| value::shown(name)).collect::<Vec<_>>().join(", "),
            Self::Keys(keys) => redacted(keys.len()),
            Self::Hosts(hosts) => hosts.as_ref().map_or_else(none, |hosts| list(hosts)),
            Self::Sentinels(sentinels) if sentinels.is_empty() => none(),
            Self::Sentinels(sentinels) => list(sentinels),
            Self::Rules(rules) => rules_or_none(rules),
            Self::Spread(rules) => rules_or_none(rules),
        }
    }

    /// The accepted values, with their unit.
    pub(crate) fn accepted(&self) -> String {
        match self {
            Self::Time(_, range) => format!("from {} to {}", rounded(*range.start()), rounded(*range.end())),
            Self::Count(_, range, unit) => format!("from {} to {} {unit}", range.start(), range.end()),
            Self::Database(_) => format!("from {} to {}", DATABASES.start(), DATABASES.end()),
            Self::Truth(_) => "true or false".into(),
            Self::Word(word) => either(&word.words()),
            Self::Text(_) => "a string".into(),
            Self::Secret(_) => "a string, secret".into(),
            Self::Path(_) => "the path of a file".into(),
            Self::Names(_) => "a list of names".into(),
            Self::Keys(_) => "a list of strings, secret".into(),
            Self::Hosts(_) | Self::Sentinels(_) => "a list of hosts".into(),
            Self::Rules(_) => "a table of patterns and capacities".into(),
            Self::Spread(_) => format!("a table of patterns and numbers from {} to {}", LISTS.start(), LISTS.end()),
        }
    }

    /// The ends of the range, or all words of a choice, as the text of a variable. Empty for other options.
    pub(crate) fn ends(&self) -> Vec<String> {
        match self {
            Self::Time(_, range) => [range.start(), range.end()].map(|time| time.as_secs_f64().to_string()).into(),
            Self::Count(_, range, _) => vec![range.start().to_string(), range.end().to_string()],
            Self::Database(_) => vec![DATABASES.start().to_string(), DATABASES.end().to_string()],
            Self::Truth(_) => vec!["false".into(), "true".into()],
            Self::Word(word) => word.words().into_iter().map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }
}

fn rules_or_none<R: ToString>(rules: &[R]) -> String {
    if rules.is_empty() { none() } else { rules.iter().map(R::to_string).collect::<Vec<_>>().join(", ") }
}

fn none() -> String {
    "none".into()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// Formats the end of a range in its largest unit.
fn rounded(time: Duration) -> String {
    match time {
        CENTURY => "100 years".into(),
        DAY => "1 day".into(),
        time if time.subsec_millis() > 0 => format!("{} ms", time.as_millis()),
        time => seconds(time),
    }
}

/// Joins words with commas, and with "or" before the last word.
fn either(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
