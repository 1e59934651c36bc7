//! Options from JSON and TOML, by their names.

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
    /// Reads options from a JSON object; those that are missing or null keep their defaults.
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
    /// [`Error::InvalidConfig`] if it is not JSON, an option is unknown, or a value has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_str(json).map_err(|error| unreadable("JSON", error))?;
        Self::from_raw(raw)
    }

    /// Reads options from a TOML document; those that are missing keep their defaults.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if it is not TOML, an option is unknown, or a value has the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            // Its whole text would quote the line, which may hold a key.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            unreadable("TOML", format_args!("{} at line {line}", error.message()))
        })?;
        Self::from_raw(raw)
    }

    fn from_raw(raw: Raw) -> Result<Self> {
        let Raw::Table(options) = raw else {
            return Err(Error::config("configuration", raw.kind(), "a table of options is expected"));
        };
        let mut config = Self::new();
        for (option, raw) in python::translated(options)? {
            config.assign(Row::named(&option).ok_or_else(|| unknown(&option))?, &option, raw)?;
        }
        Ok(config)
    }

    /// Sets an option by its name, from a text as its variable has it.
    ///
    /// ```
    /// let config = channel_layer::Config::new().set("expiry", "2.5")?.set("hosts", "redis://a, redis://b")?;
    /// # Ok::<(), channel_layer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the option is unknown, or the text is no value for it.
    pub fn set(mut self, option: &str, text: &str) -> Result<Self> {
        let row = Row::named(option).ok_or_else(|| unknown(option))?;
        self.assign_text(row, option, text)?;
        Ok(self)
    }

    /// Sets the option of `row` from a text. Returns the options that were set: a host may set several. Errors
    /// call it `name`.
    pub(crate) fn assign_text(&mut self, row: &Row, name: &str, text: &str) -> Result<Vec<&'static Row>> {
        let raw = (row.slot)(self).raw_of(text).map_err(|reason| Error::config(name, "...", reason))?;
        let options = python::translated(vec![(row.name.to_owned(), raw)])?;
        let set = |(option, raw): (String, Raw)| {
            let row = Row::named(&option).ok_or_else(|| unknown(&option))?;
            self.assign(row, name, raw).map(|()| row)
        };
        options.into_iter().map(set).collect()
    }

    /// Sets the option of `row`; null leaves it as it is. Errors call it `name`.
    fn assign(&mut self, row: &Row, name: &str, raw: Raw) -> Result<()> {
        if raw == Raw::Null { Ok(()) } else { (row.slot)(self).set(name, raw) }
    }
}

fn unreadable(format: &str, fault: impl fmt::Display) -> Error {
    Error::config("configuration", format!("{format} text"), fault)
}

/// The value is left out: a misspelt option may well hold a key.
fn unknown(option: &str) -> Error {
    let hint = python::option_for(option).map_or_else(
        || format!("there are {}", OPTIONS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")),
        |ours| format!("set the option {ours}"),
    );
    Error::config(shown(option), "...", format_args!("there is no such option; {hint}"))
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
    fn every_option_has_its_name_and_null_keeps_the_default() {
        let nulls: Vec<_> = OPTIONS.iter().map(|row| format!("{:?}: null", row.name)).collect();
        assert_eq!(json(&format!("{{{}}}", nulls.join(","))), Config::new());
        let config = json(
            r#"{"accept_only_keys": ["k"], "max_message_size": 2000, "connect_timeout": 2, "command_timeout": 3,
                "blocking_timeout": 0.25, "pool_size": 9, "retry_attempts": 3, "retry_backoff": 0.1,
                "tcp_keepalive": 60, "tls_ca_file": "/ca", "tls_cert_file": "/cert", "tls_key_file": "/key",
                "sentinels": [["s", 1], "redis://:p@t"], "services": ["a", "b"], "service_username": "u",
                "service_password": "w", "service_db": 2, "service_tls": true, "sentinel_refresh_interval": 5}"#,
        );
        let expected = Config::new()
            .accept_only_keys(["k"])
            .max_message_size(2000)
            .connect_timeout(Duration::from_secs(2))
            .command_timeout(Duration::from_secs(3))
            .blocking_timeout(Duration::from_millis(250))
            .pool_size(9)
            .retry_attempts(3)
            .retry_backoff(Duration::from_millis(100))
            .tcp_keepalive(Duration::from_mins(1))
            .tls_ca_file("/ca")
            .tls_cert_file("/cert")
            .tls_key_file("/key")
            .sentinel(("s", 1))
            .sentinel("redis://:p@t")
            .services(["a", "b"])
            .service_username("u")
            .service_password("w")
            .service_db(2)
            .service_tls(true)
            .sentinel_refresh_interval(Duration::from_secs(5));
        assert_eq!(config, expected);
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
            (r#"{"prefixes": "secret"}"#, "prefixes = ...: there is no such option; there are hosts, prefix"),
            (r#"{"prefix": 5}"#, "prefix = 5: text is expected"),
            (r#"{"format": "redis"}"#, "format = redis: it must be native, asgi_redis, channels_redis or pubsub"),
            (r#"{"serializer": "yaml"}"#, "serializer = yaml: it must be msgpack or json"),
            (r#"{"expiry": "5"}"#, "expiry = \"5\": a number of seconds"),
            (r#"{"expiry": -1}"#, "expiry = -1: a number of seconds"),
            (r#"{"expiry": -0.5}"#, "expiry = -0.5: a number of seconds"),
            (r#"{"expiry": 1e300}"#, "expiry = "),
            (r#"{"group_expiry": true}"#, "group_expiry = true"),
            (r#"{"capacity": 1.5}"#, "capacity = 1.5: a whole number"),
            (r#"{"capacity": -5}"#, "capacity = -5: a whole number"),
            (r#"{"capacity": 1, "capacity": 2}"#, "\"capacity\" is given twice"),
            (r#"{"channel_capacity": 5}"#, "channel_capacity = 5: a table of patterns"),
            (r#"{"channel_capacity": {"a*": "5"}}"#, "channel_capacity.a* = \"5\": a whole number"),
            (r#"{"channel_capacity": {"a*": 5, "a*": 6}}"#, "\"a*\" is given twice"),
            (r#"{"channel_capacity": [{"glob": "a"}]}"#, "channel_capacity = {\"glob\": \"a\"}: a table of capacity"),
            (r#"{"channel_capacity": [{"glob": "a", "regex": "b", "capacity": 1}]}"#, "either glob or regex"),
            (
                r#"{"symmetric_encryption_keys": "secret"}"#,
                "symmetric_encryption_keys = ...: a list of texts is expected, not a text",
            ),
            (
                r#"{"accept_only_keys": [["secret"]]}"#,
                "accept_only_keys = ...: a list of texts is expected, not a list",
            ),
            (r#"{"hosts": "redis://:secret@a"}"#, "hosts = a text: a list is expected"),
            (r#"{"hosts": [5]}"#, "hosts[0] = a number"),
            (r#"{"sentinels": [5]}"#, "sentinels[0] = a number"),
            (r#"{"services": "a"}"#, "services = \"a\": a list of names"),
            (r#"{"services": [5]}"#, "services[0] = 5: text is expected"),
            (r#"{"service_password": ["secret"]}"#, "service_password = ...: text is expected, not a list"),
            (r#"{"service_tls": "true"}"#, "service_tls = \"true\": true or false"),
            (r#"{"service_db": 1e3}"#, "service_db = 1000"),
            (r#"{"hosts": [["a", 1, "secret"]]}"#, "hosts[0] = a list: a host and a port"),
            (r#"{"hosts": [["a", 65536]]}"#, "hosts[0] = {port = ...}: 65536 is out of range"),
            (
                r#"{"hosts": ["redis://a", {"address": "redis://b", "max_connections": 5}]}"#,
                "hosts[1] = {max_connections = ...}: it is no part of a host: set the option pool_size",
            ),
            (
                r#"{"hosts": [{"host": "a", "password": 5}]}"#,
                "hosts[0] = {password = ...}: text is expected, not a number",
            ),
            (r#"{"hosts": [{"host": "a", "port": 70000}]}"#, "hosts[0] = {port = ...}: 70000 is out of range"),
            (r#"{"hosts": [{"host": "a", "url": "redis://b"}]}"#, "hosts[0] = a table: it has both"),
            (
                r#"{"hosts": [{"url": "redis://b", "address": "redis://c"}]}"#,
                "hosts[0] = {address = ...}: it is given twice",
            ),
            (r#"{"hosts": [{"url": "http://:secret@b", "db": 1}]}"#, "hosts[0] = a table: the scheme must be"),
        ] {
            let error = Config::from_json(text).expect_err(text);
            assert!(matches!(error, Error::InvalidConfig { .. }));
            let error = error.to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{text}: {error}");
        }
        let error =
            Config::from_toml("prefix = 'a'\naccept_only_keys = ['secret").expect_err("it is no TOML").to_string();
        assert!(error.contains("TOML") && error.contains("line 2") && !error.contains("secret"), "{error}");
    }
}
