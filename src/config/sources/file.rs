//! Options from JSON, TOML and texts, by their names.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::options::Config;
use crate::config::sources::python;
use crate::config::sources::raw::Raw;
use crate::config::table::{OPTIONS, Row};
use crate::config::value::shown;
use crate::error::{Error, Result};

impl Config {
    /// Reads options from a JSON object. An option that is missing or null keeps its default. Values are not validated:
    /// see [`validate`](Self::validate).
    ///
    /// ```
    /// let config = channel_layer::Config::from_json(r#"{
    ///     "hosts": [["127.0.0.1", 6379], "redis://10.0.0.2", {"address": "redis://10.0.0.3", "name": "c"}],
    ///     "expiry": 30,
    ///     "channel_capacity": {"http.request": 200, "re:^websocket\\.send\\.": 10000, "*": 50}
    /// }"#)?;
    /// config.validate()?;
    /// # Ok::<(), channel_layer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the text is not JSON, an option is unknown, or a value has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_str(json).map_err(|error| unreadable("JSON", error))?;
        Self::from_raw(raw)
    }

    /// Reads options from a TOML document. An option that is missing keeps its default. Values are not validated: see
    /// [`validate`](Self::validate).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the text is not TOML, an option is unknown, or a value has the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            // The full text of the error would quote the line, which may contain a key.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            unreadable("TOML", format_args!("{} at line {line}", error.message()))
        })?;
        Self::from_raw(raw)
    }

    fn from_raw(raw: Raw) -> Result<Self> {
        let Raw::Table(options) = raw else {
            return Err(Error::config("configuration", raw.kind(), "expected a table of options"));
        };
        let mut config = Self::new();
        for (option, raw) in python::translated(options)? {
            config.assign(Row::named(&option).ok_or_else(|| unknown(&option))?, &option, raw)?;
        }
        Ok(config)
    }

    /// Sets an option by its name, from a text in the syntax of its environment variable.
    ///
    /// ```
    /// let config = channel_layer::Config::new().set("expiry", "2.5")?.set("hosts", "redis://a, redis://b")?;
    /// # Ok::<(), channel_layer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the option is unknown, or the text has the wrong type.
    pub fn set(mut self, option: &str, text: &str) -> Result<Self> {
        let row = Row::named(option).ok_or_else(|| unknown(option))?;
        self.assign_text(row, option, text)?;
        Ok(self)
    }

    /// Sets the option of `row` from a text. Errors call the option `name`. Returns the options that were set: a host
    /// may set several.
    pub(crate) fn assign_text(&mut self, row: &Row, name: &str, text: &str) -> Result<Vec<&'static Row>> {
        let raw = (row.slot)(self).raw_of(text).map_err(|reason| Error::config(name, "...", reason))?;
        let options = python::translated(vec![(row.name.to_owned(), raw)])?;
        let set = |(option, raw): (String, Raw)| {
            let row = Row::named(&option).ok_or_else(|| unknown(&option))?;
            self.assign(row, name, raw).map(|()| row)
        };
        options.into_iter().map(set).collect()
    }

    /// Sets the option of `row`. Null leaves it unchanged. Errors call the option `name`.
    fn assign(&mut self, row: &Row, name: &str, raw: Raw) -> Result<()> {
        if raw == Raw::Null { Ok(()) } else { (row.slot)(self).set(name, raw) }
    }
}

fn unreadable(format: &str, fault: impl fmt::Display) -> Error {
    Error::config("configuration", format!("{format} text"), fault)
}

/// The error for an unknown option. It leaves the value out, because the value of a misspelt option may be a key.
fn unknown(option: &str) -> Error {
    let hint = python::option_for(option).map_or_else(
        || format!("the options are {}", OPTIONS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")),
        |ours| format!("set the option {ours} instead"),
    );
    Error::config(shown(option), "...", format_args!("unknown option; {hint}"))
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_raw(Raw::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capacity::CapacityRule;
    use crate::config::{Host, Serializer};
    use crate::spread::SpreadRule;

    fn json(json: &str) -> Config {
        Config::from_json(json).expect("it is a configuration")
    }

    #[test]
    fn the_options_of_a_django_site_have_their_names() {
        let config = json(
            r#"{
                "hosts": [["localhost", 6379], "rediss://:pw@b:1/2", {"address": "redis://c", "db": 3},
                          {"host": "d", "port": 4, "password": "p w", "name": "four"}, {"address": "unix:///s"}],
                "prefix": "site", "expiry": 1.5, "group_expiry": 10, "capacity": 7,
                "channel_capacity": {"z*": 1, "re:^a": 2, "*": 3, "a*": 4},
                "symmetric_encryption_keys": ["one", "two"], "serializer_format": "json",
                "random_prefix_length": 8, "stats_prefix": "stats:"
            }"#,
        );
        let hosts = [
            Host::from("redis://localhost:6379/0"),
            Host::from("rediss://:pw@b:1/2"),
            Host::from("redis://c/3"),
            Host::from("redis://:p%20w@d:4/0").name("four"),
            Host::from("unix:///s"),
        ];
        let rules = [
            CapacityRule::glob("z*", 1),
            CapacityRule::regex("^a", 2),
            CapacityRule::glob("*", 3),
            CapacityRule::glob("a*", 4),
        ];
        let expected = Config::new()
            .hosts(hosts)
            .prefix("site")
            .expiry(Duration::from_millis(1500))
            .group_expiry(Duration::from_secs(10))
            .capacity(7)
            .symmetric_encryption_keys(["one", "two"])
            .serializer(Serializer::Json)
            .random_prefix_length(8)
            .stats_prefix("stats:");
        assert_eq!(config, rules.into_iter().fold(expected, Config::channel_capacity));
        config.validate().expect("it is good");
    }

    #[test]
    fn rules_keep_their_order_in_toml() {
        let expected = [CapacityRule::glob("z*", 1), CapacityRule::regex("a", 2), CapacityRule::glob("*", 3)];
        for text in [
            "channel_capacity = { 'z*' = 1, 're:a' = 2, '*' = 3 }",
            "[channel_capacity]\n'z*' = 1\n're:a' = 2\n'*' = 3",
            "channel_capacity = [{ glob = 'z*', capacity = 1 }, { regex = 'a', capacity = 2 }, { glob = '*', capacity = 3 }]",
        ] {
            let config = Config::from_toml(text).expect("it is a configuration");
            assert_eq!(config.channel_capacity, expected, "{text}");
        }
    }

    #[test]
    fn spread_rules_have_the_forms_of_capacity_rules() {
        let expected = [SpreadRule::glob("z*", 1), SpreadRule::regex("a", 2)];
        for text in [
            "spread = { 'z*' = 1, 're:a' = 2 }",
            "[spread]\n'z*' = 1\n're:a' = 2",
            "spread = [{ glob = 'z*', lists = 1 }, { regex = 'a', lists = 2 }]",
        ] {
            assert_eq!(Config::from_toml(text).expect("it is a configuration").spread, expected, "{text}");
        }
    }

    #[test]
    fn null_keeps_the_default_of_every_option() {
        let nulls: Vec<_> = OPTIONS.iter().map(|row| format!("{:?}: null", row.name)).collect();
        assert_eq!(json(&format!("{{{}}}", nulls.join(","))), Config::new());
    }

    #[test]
    fn a_configuration_embeds_in_the_types_of_a_program() {
        #[derive(Deserialize)]
        struct Program {
            layer: Config,
        }
        let program: Program = toml::from_str("[layer]\nprefix = 'x'").expect("it is a configuration");
        assert_eq!(program.layer, Config::new().prefix("x"));
        let error = toml::from_str::<Program>("[layer]\nprefixes = 'x'").err().expect("it is refused").to_string();
        assert!(error.contains("prefixes"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_by_name_and_secrets_are_not_shown() {
        for (text, fault) in [
            ("5", "configuration = a number"),
            ("{", "configuration = JSON text: EOF"),
            (r#"{"prefixes": "secret"}"#, "prefixes = ...: unknown option; the options are hosts, cluster"),
            (r#"{"prefix": 5}"#, "prefix = 5: expected a string"),
            (r#"{"format": "redis"}"#, "format = redis: must be native, asgi_redis, channels_redis or pubsub"),
            (r#"{"serializer": "yaml"}"#, "serializer = yaml: must be msgpack or json"),
            (r#"{"expiry": "5"}"#, "expiry = \"5\": expected a number of seconds"),
            (r#"{"expiry": -1}"#, "expiry = -1: expected a number of seconds"),
            (r#"{"expiry": -0.5}"#, "expiry = -0.5: expected a number of seconds"),
            (r#"{"expiry": 1e300}"#, "expiry = "),
            (r#"{"group_expiry": true}"#, "group_expiry = true"),
            (r#"{"capacity": 1.5}"#, "capacity = 1.5: expected a whole number"),
            (r#"{"capacity": -5}"#, "capacity = -5: expected a whole number"),
            (r#"{"capacity": 1, "capacity": 2}"#, "\"capacity\" is set twice"),
            (r#"{"channel_capacity": 5}"#, "channel_capacity = 5: expected a table of patterns"),
            (r#"{"channel_capacity": {"a*": "5"}}"#, "channel_capacity.a* = \"5\": expected a whole number"),
            (r#"{"channel_capacity": {"a*": 5, "a*": 6}}"#, "\"a*\" is set twice"),
            (
                r#"{"channel_capacity": [{"glob": "a"}]}"#,
                "channel_capacity = {\"glob\": \"a\"}: expected a table with capacity",
            ),
            (r#"{"channel_capacity": [{"glob": "a", "regex": "b", "capacity": 1}]}"#, "either glob or regex"),
            (r#"{"spread": [{"glob": "a", "capacity": 2}]}"#, "expected a table with lists and either glob or regex"),
            (
                r#"{"symmetric_encryption_keys": "secret"}"#,
                "symmetric_encryption_keys = ...: expected a list of strings, not a string",
            ),
            (r#"{"accept_only_keys": [["secret"]]}"#, "accept_only_keys = ...: expected a list of strings, not a list"),
            (r#"{"hosts": "redis://:secret@a"}"#, "hosts = a string: expected a list"),
            (r#"{"hosts": [5]}"#, "hosts[0] = a number"),
            (r#"{"sentinels": [5]}"#, "sentinels[0] = a number"),
            (r#"{"services": "a"}"#, "services = \"a\": expected a list of names"),
            (r#"{"services": [5]}"#, "services[0] = 5: expected a string"),
            (r#"{"service_password": ["secret"]}"#, "service_password = ...: expected a string, not a list"),
            (r#"{"service_tls": "true"}"#, "service_tls = \"true\": expected true or false"),
            (r#"{"service_db": 1e3}"#, "service_db = 1000"),
            (r#"{"hosts": [["a", 1, "secret"]]}"#, "hosts[0] = a list: expected a host and a port"),
            (r#"{"hosts": [["a", 65536]]}"#, "hosts[0] = {port = ...}: 65536 is out of range"),
            (
                r#"{"hosts": ["redis://a", {"address": "redis://b", "max_connections": 5}]}"#,
                "hosts[1] = {max_connections = ...}: not a part of a host; set the option pool_size instead",
            ),
            (
                r#"{"hosts": [{"host": "a", "password": 5}]}"#,
                "hosts[0] = {password = ...}: expected a string, not a number",
            ),
            (r#"{"hosts": [{"host": "a", "port": 70000}]}"#, "hosts[0] = {port = ...}: 70000 is out of range"),
            (r#"{"hosts": [{"host": "a", "url": "redis://b"}]}"#, "hosts[0] = a table: set either url or host"),
            (r#"{"hosts": [{"url": "redis://b", "address": "redis://c"}]}"#, "hosts[0] = {address = ...}: set twice"),
            (r#"{"hosts": [{"url": "http://:secret@b", "db": 1}]}"#, "hosts[0] = a table: the scheme must be"),
        ] {
            let error = Config::from_json(text).expect_err(text);
            assert!(matches!(error, Error::InvalidConfig { .. }));
            let error = error.to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{text}: {error}");
        }
        let error =
            Config::from_toml("prefix = 'a'\naccept_only_keys = ['secret").expect_err("it is not TOML").to_string();
        assert!(error.contains("TOML") && error.contains("line 2") && !error.contains("secret"), "{error}");
    }
}
