//! Options from environment variables.

use crate::config::options::Config;
use crate::config::sources::redis_variables;
use crate::config::sources::redis_variables::RedisVariables;
use crate::config::table::Row;
use crate::error::{Error, Result};

/// Prefix of the variables of options.
pub(crate) const PREFIX: &str = "CHANNEL_LAYER_";

impl Config {
    /// Reads options from the environment. The variable of an option is `CHANNEL_LAYER_` followed by the name of the
    /// option in capitals. The variables that begin with `REDIS_` are listed at [`Deployment`](crate::Deployment). An
    /// option without a variable keeps its default. Values are not validated before [`validate`](Self::validate) or the
    /// creation of a layer, so that setters may still change them.
    ///
    /// Times are numbers of seconds. Hosts, sentinels and services are lists separated by commas, or JSON lists. Keys
    /// are a JSON list, or one key as plain text. `CHANNEL_LAYER_CHANNEL_CAPACITY` and
    /// `CHANNEL_LAYER_SPREAD` are JSON.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the variable, if no option has this variable or its value has the wrong type.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&Self::env_vars()?)
    }

    /// Returns all environment variables with one of the two prefixes.
    pub(crate) fn env_vars() -> Result<Vec<(String, String)>> {
        let mut variables = Vec::new();
        for (variable, value) in std::env::vars_os() {
            // A name that is not Unicode has neither prefix.
            let Some(variable) = variable.to_str() else { continue };
            if !variable.starts_with(PREFIX) && !variable.starts_with(redis_variables::PREFIX) {
                continue;
            }
            let value = value.into_string().map_err(|_| Error::config(variable, "...", "not valid Unicode"))?;
            variables.push((variable.to_owned(), value));
        }
        Ok(variables)
    }

    /// As [`from_env`](Self::from_env), from the given variables. Variables with other prefixes are ignored.
    pub(crate) fn from_vars(variables: &[(String, String)]) -> Result<Self> {
        let mut config = Self::new();
        RedisVariables::of(variables).apply(&mut config)?;
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX).filter(|name| !is_service_link(name, value)) else {
                continue;
            };
            let row = Row::named(&name.to_ascii_lowercase()).filter(|_| name == name.to_ascii_uppercase());
            let row = row.ok_or_else(|| unknown(variable))?;
            config.assign_variable(row, variable, value)?;
        }
        Ok(config)
    }
}

/// Checks that every environment variable with `prefix` is one of `known`. Variables that Kubernetes sets for a Service
/// with such a name are ignored.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the unknown variable.
pub fn check_variables(prefix: &str, known: &[&str]) -> Result<()> {
    for (variable, value) in std::env::vars_os() {
        let (variable, value) = (variable.to_string_lossy(), value.to_string_lossy());
        let ours = variable.strip_prefix(prefix).is_some_and(|name| !is_service_link(name, &value));
        if ours && !known.contains(&&*variable) {
            return Err(unknown(&variable));
        }
    }
    Ok(())
}

fn unknown(variable: &str) -> Error {
    Error::config(variable, "...", "unknown variable; no option has it")
}

/// Whether Kubernetes set the variable. `name` is its name without the prefix. For a Service whose name begins like the
/// prefix, Kubernetes sets `..._SERVICE_HOST`, `..._PORT`, `..._PORT_80_TCP_ADDR` and so on in each container of the
/// namespace.
pub(crate) fn is_service_link(name: &str, value: &str) -> bool {
    let ends = |end: &str| name == end || name.strip_suffix(end).is_some_and(|before| before.ends_with('_'));
    let has = |part: &str| name.starts_with(part) || name.contains(&format!("_{part}"));
    let of_port = ["TCP", "UDP", "SCTP"].iter().any(|protocol| {
        name.split('_').collect::<Vec<_>>().windows(3).any(|parts| {
            parts[0] == "PORT" && parts[1].bytes().all(|byte| byte.is_ascii_digit()) && parts[2] == *protocol
        })
    });
    ends("SERVICE_HOST") || has("SERVICE_PORT") || of_port || (ends("PORT") && value.contains("://"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::table::OPTIONS;
    use crate::config::{Format, Host};

    fn read(variables: &[(&str, &str)]) -> Result<Config> {
        let variables: Vec<_> = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Config::from_vars(&variables)
    }

    #[test]
    fn hosts_may_be_json() {
        let config = read(&[("CHANNEL_LAYER_HOSTS", r#"[["a", 1], {"url": "redis://b", "name": "b"}]"#)]);
        let expected = [Host::from(("a", 1)), Host::from("redis://b").name("b")];
        assert_eq!(config.expect("they are good").host_list(), expected);
    }

    #[test]
    fn wrong_values_are_refused_by_variable_and_secrets_are_not_shown() {
        for (variable, value, fault) in [
            ("CHANNEL_LAYER_PREFIXES", "secret", "CHANNEL_LAYER_PREFIXES = ...: unknown variable"),
            ("CHANNEL_LAYER_expiry", "5", "CHANNEL_LAYER_expiry"),
            ("CHANNEL_LAYER_EXPIRY", "soon", "CHANNEL_LAYER_EXPIRY = \"soon\": expected a number of seconds"),
            ("CHANNEL_LAYER_EXPIRY", "NaN", "CHANNEL_LAYER_EXPIRY = NaN"),
            ("CHANNEL_LAYER_EXPIRY", "", "CHANNEL_LAYER_EXPIRY = \"\""),
            ("CHANNEL_LAYER_EXPIRY", "0", "CHANNEL_LAYER_EXPIRY = 0 s: must be from"),
            ("CHANNEL_LAYER_HOSTS", "", "CHANNEL_LAYER_HOSTS = []: at least one host"),
            ("CHANNEL_LAYER_HOSTS", "redis://a,b://:secret@c", "CHANNEL_LAYER_HOSTS[1] = ...: the scheme"),
            (
                "CHANNEL_LAYER_SENTINELS",
                "redis://:secret@a/1",
                "CHANNEL_LAYER_SENTINELS[0] = redis://a/1: a sentinel has",
            ),
            ("CHANNEL_LAYER_SERVICES", "a", "CHANNEL_LAYER_SERVICES = a: services need sentinels"),
            ("CHANNEL_LAYER_SERVICE_TLS", "maybe", "CHANNEL_LAYER_SERVICE_TLS = \"maybe\": expected true or false"),
            ("CHANNEL_LAYER_CAPACITY", "-1", "CHANNEL_LAYER_CAPACITY = -1"),
            ("CHANNEL_LAYER_CHANNEL_CAPACITY", "{", "CHANNEL_LAYER_CHANNEL_CAPACITY = ...: invalid JSON"),
            ("CHANNEL_LAYER_CHANNEL_CAPACITY", r#"{"a": 1.5}"#, "CHANNEL_LAYER_CHANNEL_CAPACITY.a = 1.5"),
            ("CHANNEL_LAYER_SYMMETRIC_ENCRYPTION_KEYS", r#"["secret", 5]"#, "not a number"),
            ("CHANNEL_LAYER_SYMMETRIC_ENCRYPTION_KEYS", r#"["secret""#, "invalid JSON"),
            ("CHANNEL_LAYER_HOSTS", r#"["redis://a", ["secret"]]"#, "CHANNEL_LAYER_HOSTS[1] = a list"),
        ] {
            let checked = read(&[(variable, value)]).and_then(|config| config.validate());
            let error = checked.expect_err(variable).to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn sources_are_merged_before_anything_is_checked() {
        let ca = read(&[("CHANNEL_LAYER_TLS_CA_FILE", "/ca")]).expect("another source may name a server");
        let error = ca.validate().expect_err("no server is reached over TLS").to_string();
        assert!(error.contains("CHANNEL_LAYER_TLS_CA_FILE = /ca: no server"), "{error}");
        ca.host("rediss://a").validate().expect("the server is reached over TLS");
        let services = read(&[("CHANNEL_LAYER_SERVICES", "a")]).expect("another source may name sentinels");
        services.sentinel("redis://s").validate().expect("there is a sentinel");
        let expiry = read(&[("CHANNEL_LAYER_EXPIRY", "0")]).expect("a setter may replace it");
        expiry.expiry(Duration::from_secs(1)).validate().expect("it is replaced");
        let error = read(&[("CHANNEL_LAYER_EXPIRY", "5")]).expect("it is good").expiry(Duration::ZERO).validate();
        assert!(error.expect_err("it is replaced").to_string().contains("configuration: expiry = 0 s"));
    }

    #[test]
    fn the_variables_of_other_deployments_are_read_too() {
        let url =
            read(&[("REDIS_URL", "redis://a"), ("REDIS_PASSWORD", "p/w"), ("REDIS_DB", "2"), ("REDIS_HOST", "b")]);
        assert_eq!(url.expect("they are good"), Config::new().host("redis://:p%2Fw@a/2"));
        let own = read(&[("REDIS_URL", "redis://u:own@a/1"), ("REDIS_PASSWORD", "p"), ("REDIS_DB", "2")]);
        assert_eq!(own.expect("they are good"), Config::new().host("redis://u:own@a/1"));
        let parts = [
            ("REDIS_HOST", "a"),
            ("REDIS_PORT", "7"),
            ("REDIS_USERNAME", "u"),
            ("REDIS_PASSWORD", "p"),
            ("REDIS_DB", "2"),
        ];
        assert_eq!(read(&parts).expect("they are good"), Config::new().host("redis://u:p@a:7/2"));
        let linked = [("REDIS_HOST", "a"), ("REDIS_PORT", "tcp://10.0.0.1:6379")];
        assert_eq!(read(&linked).expect("Kubernetes has made the port"), Config::new().host("redis://a:6379/0"));
        let pubsub = [("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_CHANNEL_PREFIX", "c")];
        assert_eq!(read(&pubsub).expect("they are good"), Config::new().format(Format::PubSub).prefix("c"));
        for (variable, value, fault) in [
            ("REDIS_PORT", "70000", "REDIS_PORT = 70000: expected a whole number in range"),
            ("REDIS_DB", "first", "REDIS_DB = first: expected a whole number"),
            ("REDIS_HOST", "a b", "REDIS_HOST = a b: expected a URL"),
            ("REDIS_HOST", "a,password=secret", "REDIS_HOST = ...: invalid character in the host"),
        ] {
            let error = read(&[(variable, value)]).expect_err(variable).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_ignored() {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("REDIS_SERVICE_HOST", "10.0.0.1"),
            ("PORT", "tcp://10.0.0.1:80"),
            ("REDIS_PORT", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP_ADDR", "10.0.0.1"),
            ("REDIS_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [("PORT", "6379"), ("SERVICE_USERNAME", "a"), ("SUPPORT", "a://b"), ("PORT_TCP", "1")] {
            assert!(!is_service_link(name, value), "{name}");
        }
        for row in OPTIONS {
            assert!(!is_service_link(&row.name.to_ascii_uppercase(), "a://b"), "{}", row.name);
        }
    }
}
