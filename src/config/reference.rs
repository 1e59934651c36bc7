//! The reference of options, and the values that a configuration has.

use std::fmt::{self, Write};

use super::format::Format;
use super::options::{Config, DEFAULT_CAPACITY};
use super::pubsub::{Fallback, PUBSUB_CAPACITY};
use super::slot::Slot;
use super::table::{OPTIONS, Row};

/// The documentation of an option.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OptionInfo {
    /// The name in files.
    pub name: &'static str,
    /// The name of the environment variable.
    pub variable: String,
    /// The description, one or two sentences.
    pub summary: &'static str,
    /// The accepted values, with their unit.
    pub accepts: String,
    /// The default, in Markdown.
    pub default: String,
    /// Further names: names of Python's layers in files, and variables of other deployments.
    pub aliases: Vec<&'static str>,
    /// The ends of the range, or all words of a choice, in the form that [`Config::set`] accepts. Empty for other
    /// options.
    pub ends: Vec<String>,
}

/// The effective value of an option.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// The name of the option.
    pub option: &'static str,
    /// The value, without secrets.
    pub value: String,
    /// The environment variable that set the value, if any.
    pub variable: Option<String>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.option, self.value)?;
        self.variable.as_ref().map_or(Ok(()), |variable| write!(f, " (from {variable})"))
    }
}

impl Config {
    /// Returns the documentation of all options.
    pub fn options() -> impl Iterator<Item = OptionInfo> {
        OPTIONS.iter().map(|row| {
            let mut config = Self::new();
            let slot = (row.slot)(&mut config);
            OptionInfo {
                name: row.name,
                variable: row.variable(),
                summary: row.summary,
                accepts: slot.accepted(),
                default: row.default.map_or_else(|| slot.default(), str::to_owned),
                aliases: [row.aliases, row.variables].concat(),
                ends: slot.ends(),
            }
        })
    }

    /// Returns the effective value of each option, without secrets. Defaults are those of the configured format.
    pub fn settings(&self) -> Vec<Setting> {
        let mut filled = self.filled();
        let setting = |row: &'static Row| {
            let variable = self.origin(row).map(str::to_owned);
            Setting { option: row.name, value: (row.slot)(&mut filled).shown(), variable }
        };
        OPTIONS.iter().map(setting).collect()
    }

    /// Returns the reference of all options as a Markdown table.
    pub fn reference() -> String {
        let mut table = String::from("| option | variable | values | default | meaning |\n|---|---|---|---|---|\n");
        for OptionInfo { name, variable, summary, accepts, default, aliases, .. } in Self::options() {
            let also: Vec<_> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let also = if also.is_empty() { String::new() } else { format!(" Also {}.", also.join(", ")) };
            writeln!(table, "| `{name}` | `{variable}` | {accepts} | {default} | {summary}{also} |")
                .expect("a String takes every text");
        }
        table
    }

    /// This configuration with the defaults that depend on other options filled in.
    fn filled(&self) -> Self {
        let mut config = self.clone();
        config.prefix = Some(self.key_prefix().to_owned());
        config.stats_prefix = Some(self.stats_key_prefix());
        if self.sentinels.is_empty() {
            config.hosts = Some(self.host_list());
        }
        config.capacity = Some(self.capacity.unwrap_or(match self.format {
            Format::PubSub => PUBSUB_CAPACITY,
            _ => DEFAULT_CAPACITY,
        }));
        config.fallback = Some(self.fallback.unwrap_or(match self.format {
            Format::PubSub => Fallback::Local,
            _ => Fallback::Fail,
        }));
        config
    }
}

impl Slot<'_> {
    /// The value in a new configuration, in Markdown.
    fn default(&self) -> String {
        match self {
            Self::Word(_) => format!("`{}`", self.shown()),
            _ => self.shown(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        for Setting { option, value, .. } in self.settings() {
            shown.field(option, &format_args!("{value}"));
        }
        shown.finish()
    }
}
