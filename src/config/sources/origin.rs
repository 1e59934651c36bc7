//! `Origins`: the variable that set each option. An error about an invalid value names that variable.

use crate::config::options::Config;
use crate::config::table::Row;
use crate::error::{Error, Result};

/// The variables that set the options of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Vec<Origin>);

#[derive(Clone, Debug)]
struct Origin {
    option: &'static str,
    variable: String,
    /// The displayed value. If the option now has another value, a setter has replaced it.
    shown: String,
}

impl PartialEq for Origins {
    /// Always equal: configurations with the same values are equal, wherever the values came from.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Config {
    /// Sets the option of `row` to the value of `variable`.
    pub(crate) fn assign_variable(&mut self, row: &'static Row, variable: &str, value: &str) -> Result<()> {
        for row in self.assign_text(row, variable, value)? {
            self.record_origin(row, variable);
        }
        Ok(())
    }

    /// Records that `variable` set the option of `row`.
    pub(crate) fn record_origin(&mut self, row: &'static Row, variable: &str) {
        let shown = (row.slot)(self).shown();
        self.origins.0.retain(|origin| origin.option != row.name);
        self.origins.0.push(Origin { option: row.name, variable: variable.to_owned(), shown });
    }

    /// Returns the variable that set the current value of the option of `row`.
    pub(crate) fn origin(&self, row: &Row) -> Option<&str> {
        let origin = self.origins.0.iter().find(|origin| origin.option == row.name)?;
        (origin.shown == (row.slot)(&mut self.clone()).shown()).then_some(&origin.variable)
    }

    /// Replaces the name of the option in `error` with the variable that set it.
    pub(crate) fn with_origin(&self, error: Error) -> Error {
        let Error::InvalidConfig { option, value, reason } = error else { return error };
        let (name, place) = option.split_at(option.find(['[', '.']).unwrap_or(option.len()));
        let option = match Row::named(name).and_then(|row| self.origin(row)) {
            // This variable has one host, so that an index would be wrong.
            Some(variable) if variable.starts_with("REDIS_") => variable.to_owned(),
            Some(variable) => format!("{variable}{place}"),
            None => option,
        };
        Error::InvalidConfig { option, value, reason }
    }
}
