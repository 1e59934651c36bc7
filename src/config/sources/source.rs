//! The variable that set an option. An error about an invalid value names that variable.

use crate::config::options::Config;
use crate::config::table::Row;
use crate::error::{Error, Result};

/// The variables that set options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    option: &'static str,
    variable: String,
    /// The displayed value. If the option now has another value, a setter has replaced it.
    shown: String,
}

impl PartialEq for Sources {
    /// Always equal: configurations with the same values are equal, wherever the values came from.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Config {
    /// Sets the option of `row` to the value of `variable`.
    pub(crate) fn assign_variable(&mut self, row: &'static Row, variable: &str, value: &str) -> Result<()> {
        for row in self.assign_text(row, variable, value)? {
            self.record_source(row, variable);
        }
        Ok(())
    }

    /// Records that `variable` set the option of `row`.
    pub(crate) fn record_source(&mut self, row: &'static Row, variable: &str) {
        let shown = (row.slot)(self).shown();
        self.sources.0.retain(|source| source.option != row.name);
        self.sources.0.push(Source { option: row.name, variable: variable.to_owned(), shown });
    }

    /// Returns the variable that set the current value of the option of `row`.
    pub(crate) fn source(&self, row: &Row) -> Option<&str> {
        let source = self.sources.0.iter().find(|source| source.option == row.name)?;
        (source.shown == (row.slot)(&mut self.clone()).shown()).then_some(&source.variable)
    }

    /// Replaces the name of the option in `error` with the variable that set it.
    pub(crate) fn with_source(&self, error: Error) -> Error {
        let Error::InvalidConfig { option, value, reason } = error else { return error };
        let (name, place) = option.split_at(option.find(['[', '.']).unwrap_or(option.len()));
        let option = match Row::named(name).and_then(|row| self.source(row)) {
            // This variable has one host, so that an index would be wrong.
            Some(variable) if variable.starts_with("REDIS_") => variable.to_owned(),
            Some(variable) => format!("{variable}{place}"),
            None => option,
        };
        Error::InvalidConfig { option, value, reason }
    }
}
