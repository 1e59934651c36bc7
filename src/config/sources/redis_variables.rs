//! Options from variables that deployments of other programs use: `REDIS_URL` and similar.

use std::collections::BTreeMap;

use crate::config::format::Format;
use crate::config::host::{Host, Parts};
use crate::config::options::Config;
use crate::config::sources::environment;
use crate::config::sources::environment::is_service_link;
use crate::config::sources::raw::Raw;
use crate::config::table::{OPTIONS, Row};
use crate::config::value::{number_in, truth_in};
use crate::error::{Error, Result};

/// Prefix of these variables.
pub(crate) const PREFIX: &str = "REDIS_";

/// Number of retries if a variable only switches retries on.
const RETRY_ATTEMPTS: usize = 3;

/// The non-empty variables that begin with `REDIS_`.
pub(crate) struct RedisVariables<'v> {
    values: BTreeMap<&'v str, &'v str>,
    /// Whether a `CHANNEL_LAYER_` variable sets servers. It takes precedence over the host of these variables.
    servers_named: bool,
    /// The value of `CHANNEL_LAYER_FORMAT`.
    format: Option<&'v str>,
}

impl<'v> RedisVariables<'v> {
    pub(crate) fn of(variables: &'v [(String, String)]) -> Self {
        let get = |option: &str| {
            let found = variables.iter().find(|(name, _)| name.strip_prefix(environment::PREFIX) == Some(option));
            found.map(|(_, value)| value.as_str())
        };
        let redis = variables.iter().filter(|(name, value)| {
            name.strip_prefix(PREFIX).is_some_and(|rest| !value.trim().is_empty() && !is_service_link(rest, value))
        });
        Self {
            values: redis.map(|(name, value)| (name.as_str(), value.trim())).collect(),
            servers_named: get("HOSTS").is_some() || get("SENTINELS").is_some(),
            format: get("FORMAT"),
        }
    }

    /// The value of `REDIS_ENABLED`: whether to use Redis; `None` if it is not set.
    pub(crate) fn enabled(&self) -> Result<Option<bool>> {
        self.truth("REDIS_ENABLED")
    }

    /// Sets the options of the variables in `config`.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<()> {
        for row in OPTIONS {
            for variable in row.variables {
                if let Some(value) = self.values.get(variable) {
                    config.assign_variable(row, variable, value)?;
                }
            }
        }
        if let (Some((variable, host)), false) = (self.host()?, self.servers_named) {
            config.hosts = Some(vec![host]);
            Row::named("hosts").inspect(|row| config.record_origin(row, variable));
        }
        if self.truth("REDIS_PUBSUB_ENABLED")? == Some(true) && self.enabled()? != Some(false) {
            if self.format.is_some_and(|format| format != "pubsub") {
                return Err(self.refuse("REDIS_PUBSUB_ENABLED", "CHANNEL_LAYER_FORMAT is another format"));
            }
            config.format = Format::PubSub;
        }
        if let Some(most) = self.whole::<usize>("REDIS_MAX_CONNECTIONS")? {
            let Some(blocking @ 1..) = most.checked_sub(1) else {
                let reason = "must be 2 or more: one connection for commands and one for reads";
                return Err(self.refuse("REDIS_MAX_CONNECTIONS", reason));
            };
            config.pool_size = config.pool_size.min(blocking);
        }
        match self.truth("REDIS_RETRY_ON_TIMEOUT")? {
            Some(false) => config.retry_attempts = 0,
            Some(true) if !self.values.contains_key("REDIS_RETRY_ATTEMPTS") => config.retry_attempts = RETRY_ATTEMPTS,
            _ => {}
        }
        Ok(())
    }

    /// The host, with the variable that set it.
    fn host(&self) -> Result<Option<(&'static str, Host)>> {
        let text = |variable: &str| self.values.get(variable).map(|value| (*value).to_owned());
        let (username, password) = (text("REDIS_USERNAME"), text("REDIS_PASSWORD"));
        let (port, db) = (self.whole("REDIS_PORT")?, self.whole("REDIS_DB")?);
        if let Some(url) = text("REDIS_URL") {
            // Validation refuses an invalid URL later.
            let parts = Parts { url: Some(url.clone()), db, username, password, ..Parts::default() };
            let host = parts.into_host().unwrap_or_else(|_| url.into());
            return Ok(Some(("REDIS_URL", host)));
        }
        let variables = ["REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB"];
        let Some(variable) = variables.into_iter().find(|variable| self.values.contains_key(variable)) else {
            return Ok(None);
        };
        let parts = Parts { host: text("REDIS_HOST"), port, db, username, password, ..Parts::default() };
        let host = parts.into_host().map_err(|reason| self.refuse(variable, &reason))?;
        Ok(Some((variable, host)))
    }

    fn truth(&self, variable: &str) -> Result<Option<bool>> {
        let Some(value) = self.values.get(variable) else { return Ok(None) };
        match truth_in(value) {
            Raw::Bool(truth) => Ok(Some(truth)),
            _ => Err(self.refuse(variable, "expected true or false")),
        }
    }

    fn whole<N: TryFrom<i128>>(&self, variable: &str) -> Result<Option<N>> {
        let Some(value) = self.values.get(variable) else { return Ok(None) };
        let number = match number_in(value) {
            Raw::Integer(number) => N::try_from(number).ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.refuse(variable, "expected a whole number in range"))
    }

    fn refuse(&self, variable: &str, reason: &str) -> Error {
        let value = self.values.get(variable).filter(|_| !matches!(variable, "REDIS_PASSWORD" | "REDIS_USERNAME"));
        Error::config(variable, value.map_or("...", |value| crate::config::value::shown(value)), reason)
    }
}
