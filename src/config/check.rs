//! Validation of a configuration: the range of each option, and the options against each other.

use std::collections::HashSet;

use super::format::Format;
use super::host::Host;
use super::options::{Config, TlsFiles};
use super::server_url::Address;
use super::table::OPTIONS;
use super::value;
use crate::error::{Error, Result};
use crate::pattern::NameRule;
use crate::spread;

/// A key with fewer bytes causes a warning.
const SHORTEST_KEY: usize = 16;

impl Config {
    /// Checks all options without connecting to a server. A layer does the same when it is created.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the first invalid option, or with the environment variable that set it.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|error| self.with_origin(error))
    }

    /// Returns this configuration with `format`, validated for it. Logs the warnings.
    pub(crate) fn checked_for(self, format: Format) -> Result<Self> {
        let config = self.format(format);
        config.validate()?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(config)
    }

    /// Returns a warning for each setting that works but is unsafe: each key that is short enough to be guessed, and
    /// each rule that spreads channels over more lists than a process has connections for reads.
    pub fn warnings(&self) -> Vec<String> {
        let lists = [
            ("symmetric_encryption_keys", &self.symmetric_encryption_keys),
            ("accept_only_keys", &self.accept_only_keys),
        ];
        let keys = lists.into_iter().flat_map(|(option, keys)| {
            keys.iter().enumerate().map(move |(at, key)| (format!("{option}[{at}]"), key.len()))
        });
        let short = keys.filter(|(_, bytes)| *bytes < SHORTEST_KEY);
        let short = short.map(|(key, bytes)| format!("{key} has {bytes} bytes; use at least 32 random ones"));
        let wide = self.spread.iter().filter(|rule| rule.parts().value > self.pool_size).map(|rule| {
            let (lists, pool_size) = (rule.parts().value, self.pool_size);
            format!(
                "spread has {rule}: a reader may need {lists} connections to one master, and pool_size is {pool_size}"
            )
        });
        short.chain(wide).collect()
    }

    fn check(&self) -> Result<()> {
        let mut copy = self.clone();
        OPTIONS.iter().try_for_each(|row| (row.slot)(&mut copy).check(row.name))?;
        if self.sentinels.is_empty() {
            check_hosts(&self.host_list())?;
            if !self.services.is_empty() {
                let services: Vec<_> = self.services.iter().map(|name| value::shown(name)).collect();
                return Err(Error::config("services", services.join(", "), "services need sentinels"));
            }
        } else {
            self.check_sentinels()?;
        }
        if self.cluster {
            self.check_cluster()?;
        }
        self.check_tls()?;
        self.check_prefixes()?;
        self.capacities()?;
        self.check_spread()?;
        self.key_ring()?;
        Ok(())
    }

    fn check_sentinels(&self) -> Result<()> {
        if self.hosts.is_some() {
            return Err(Error::config("hosts", "...", "set either hosts or sentinels, not both"));
        }
        for (at, sentinel) in self.sentinels.iter().enumerate() {
            let refuse = |reason: &str| Error::config(format!("sentinels[{at}]"), sentinel, reason);
            match sentinel.address().map_err(|reason| refuse(&reason))? {
                Address::Tcp { db: 0, .. } => {}
                Address::Tcp { .. } => return Err(refuse("a sentinel has no databases")),
                Address::Unix { .. } => return Err(refuse("a sentinel needs a TCP address")),
            }
        }
        let mut seen = HashSet::new();
        for (at, service) in self.services.iter().enumerate() {
            let refuse =
                |reason| Err(Error::config(format!("services[{at}]"), value::shown(service).escape_debug(), reason));
            if service.is_empty() || service.chars().any(|char| char.is_whitespace() || char.is_control()) {
                return refuse("a name must not be empty or contain spaces or control characters");
            }
            if !seen.insert(service) {
                return refuse("duplicate name");
            }
        }
        Ok(())
    }

    fn check_cluster(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::config("cluster", "true", reason));
        if !self.sentinels.is_empty() {
            return refuse("a cluster has no sentinels; set hosts to some of its nodes");
        }
        if !matches!(self.format, Format::Native | Format::PubSub) {
            return refuse("only the formats native and pubsub can use a cluster");
        }
        let hosts = self.host_list();
        for (at, host) in hosts.iter().enumerate() {
            let refuse = |reason| Err(Error::config(format!("hosts[{at}]"), host, reason));
            match host.address() {
                Ok(Address::Tcp { db: 0, .. }) => {}
                Ok(Address::Tcp { .. }) => return refuse("a cluster has database 0 only"),
                _ => return refuse("a node of a cluster needs a TCP address"),
            }
            if !host.logs_in_as(&hosts[0]) {
                return refuse("all nodes of a cluster need the same user, password and scheme as hosts[0]");
            }
        }
        Ok(())
    }

    fn check_spread(&self) -> Result<()> {
        self.spreads()?;
        let refuse = |reason: &str| Err(Error::config(spread::OPTION, "...", reason));
        match self.format {
            _ if self.spread.is_empty() => Ok(()),
            _ if !self.cluster => refuse("only a cluster needs it; several hosts spread normal channels without it"),
            Format::Native => Ok(()),
            _ => refuse("only the format native can spread channels"),
        }
    }

    fn check_tls(&self) -> Result<()> {
        let (option, path) = match &self.tls {
            TlsFiles { cert: Some(path), key: None, .. } => {
                return Err(Error::config("tls_cert_file", path.display(), "tls_key_file is missing"));
            }
            TlsFiles { key: Some(path), cert: None, .. } => {
                return Err(Error::config("tls_key_file", path.display(), "tls_cert_file is missing"));
            }
            TlsFiles { ca: Some(path), .. } => ("tls_ca_file", path),
            TlsFiles { cert: Some(path), .. } => ("tls_cert_file", path),
            _ => return Ok(()),
        };
        let servers = if self.sentinels.is_empty() { self.host_list() } else { self.sentinels.clone() };
        if self.service_login.tls || servers.iter().any(Host::is_tls) {
            return Ok(());
        }
        Err(Error::config(option, path.display(), "no server uses TLS; use rediss:// URLs, or set service_tls"))
    }

    fn check_prefixes(&self) -> Result<()> {
        let (prefix, stats_prefix) = (self.key_prefix(), self.stats_key_prefix());
        let native = self.format == Format::Native;
        for (option, value) in [("prefix", prefix), ("stats_prefix", &stats_prefix)] {
            let refuse = |reason| Err(Error::config(option, value::shown(value).escape_debug(), reason));
            if value.is_empty() && (native || option == "stats_prefix") {
                return Err(Error::config(
                    option,
                    "\"\"",
                    "must not be empty; only prefix may be empty, in Python's formats",
                ));
            }
            if value.chars().any(|char| char.is_control() || matches!(char, '{' | '}')) {
                return refuse("must not contain braces or control characters");
            }
        }
        if self.format == Format::PubSub && prefix.contains(['!', '?', '*', '[', '\\']) {
            let reason = "must not contain !, ?, *, [ or \\ with format pubsub";
            return Err(Error::config("prefix", value::shown(prefix), reason));
        }
        let keys = format!("{prefix}:");
        if native && (keys.starts_with(&stats_prefix) || stats_prefix.starts_with(&keys)) {
            let reason = format!("its keys overlap with the keys of prefix = {}", value::shown(prefix));
            return Err(Error::config("stats_prefix", value::shown(&stats_prefix), reason));
        }
        Ok(())
    }
}

fn check_hosts(hosts: &[Host]) -> Result<()> {
    if hosts.is_empty() {
        return Err(Error::config("hosts", "[]", "at least one host is needed"));
    }
    let (mut addresses, mut identities) = (HashSet::new(), HashSet::new());
    for (at, host) in hosts.iter().enumerate() {
        let refuse = |reason: &str| Error::config(format!("hosts[{at}]"), host, reason);
        let address = host.address().map_err(|reason| refuse(&reason))?;
        if host.given_name().is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err(refuse("a name must not be empty or contain control characters"));
        }
        if !addresses.insert(address.to_string()) {
            return Err(refuse("another host has the same address and database"));
        }
        if !identities.insert(host.identity()) {
            return Err(refuse("another host has the same name"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capacity::CapacityRule;
    use crate::spread::SpreadRule;

    fn refusal(config: &Config) -> String {
        config.validate().expect_err("it is refused").to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        Config::new().validate().expect("they are good");
        assert_eq!(Config::new().host_list(), ["redis://127.0.0.1:6379/0".into()]);
    }

    #[test]
    fn a_host_replaces_the_default_and_a_second_host_is_added() {
        let config = Config::new().host("redis://a").host(("b", 1));
        assert_eq!(config.host_list(), [Host::from("redis://a"), Host::from("redis://b:1/0")]);
        config.validate().expect("they are good");
    }

    #[test]
    fn an_invalid_value_is_refused_with_the_name_of_its_option() {
        let new = Config::new;
        let hosts = |urls: &[&str]| new().hosts(urls.iter().copied());
        let named =
            |one: &str, two: &str| new().host(Host::new("redis://a").name(one)).host(Host::new("redis://b").name(two));
        assert!(new().symmetric_encryption_keys(["k"]).fernet_keys().is_ok_and(|keys| keys.is_some()));
        for (config, fault) in vec![
            (hosts(&[]), "hosts = []"),
            (hosts(&["redis://a", "http://u:secret@b"]), "hosts[1] = http://...: the scheme must be"),
            (
                hosts(&["redis://a", "redis://:x@A:6379/0"]),
                "hosts[1] = redis://A:6379/0: another host has the same address",
            ),
            (named("x", "x"), "hosts[1] = x (redis://b): another host has the same name"),
            (named("x", ""), "hosts[1] =  (redis://b): a name must not be empty"),
            (new().prefix(""), "prefix = \"\""),
            (new().prefix("a{b}"), "prefix = a{b}"),
            (new().prefix("a\n"), "prefix = a\\n"),
            (new().stats_prefix(""), "stats_prefix = \"\""),
            (new().prefix("shop").stats_prefix("shop:"), "stats_prefix = shop:"),
            (new().stats_prefix("asgi:stats"), "stats_prefix = asgi:stats"),
            (new().stats_prefix("as"), "stats_prefix = as: its keys overlap with the keys of prefix = asgi"),
            (new().expiry(Duration::ZERO), "expiry = 0 s"),
            (new().expiry(Duration::MAX), "expiry = "),
            (new().group_expiry(Duration::ZERO), "group_expiry = 0 s"),
            (new().connect_timeout(Duration::ZERO), "connect_timeout = 0 s"),
            (new().command_timeout(Duration::from_micros(999)), "command_timeout = 0.000999 s"),
            (new().blocking_timeout(Duration::ZERO), "blocking_timeout = 0 s"),
            (new().capacity(0), "capacity = 0"),
            (new().channel_capacity(CapacityRule::glob("*", 0)), "channel_capacity = *: capacity 0"),
            (new().channel_capacity(CapacityRule::regex("(", 1)), "channel_capacity = (: "),
            (new().cluster(true).spread(SpreadRule::glob("*", 0)), "spread = *: lists 0 must be from 1 to 64"),
            (new().cluster(true).spread(SpreadRule::glob("*", 65)), "spread = *: lists 65"),
            (new().cluster(true).spread(SpreadRule::regex("(", 2)), "spread = (: "),
            (new().spread(SpreadRule::glob("*", 2)), "spread = ...: only a cluster needs it"),
            (
                new().cluster(true).format(Format::PubSub).spread(SpreadRule::glob("*", 2)),
                "spread = ...: only the format native",
            ),
            (new().symmetric_encryption_keys(["secret", ""]), "symmetric_encryption_keys[1] = \"\""),
            (new().accept_only_keys(["secret"]), "symmetric_encryption_keys = []"),
            (new().max_message_size(1023), "max_message_size = 1023"),
            (new().max_message_size(usize::MAX), "max_message_size = "),
            (new().pool_size(0), "pool_size = 0"),
            (new().return_after(Duration::MAX), "return_after = "),
            (new().retry_backoff(Duration::ZERO), "retry_backoff = 0 s"),
            (new().tcp_keepalive(Duration::ZERO), "tcp_keepalive = 0 s: must be from 1 s"),
            (new().sentinel_refresh_interval(Duration::ZERO), "sentinel_refresh_interval = 0 s"),
            (new().services(["a"]), "services = a: services need sentinels"),
            (new().sentinel("redis://a").host("redis://b"), "hosts = ...: set either hosts or sentinels"),
            (new().sentinel("redis://a/1"), "sentinels[0] = redis://a/1: a sentinel has no databases"),
            (new().sentinel("unix:///s"), "sentinels[0] = unix:///s: a sentinel needs a TCP address"),
            (new().sentinel("http://:secret@a"), "sentinels[0] = http://...: the scheme must be"),
            (new().sentinel("redis://a").services(["x", "x"]), "services[1] = x: duplicate name"),
            (new().sentinel("redis://a").services(["x", " "]), "services[1] =  : a name must not be empty"),
            (new().host("rediss://a").tls_cert_file("/c"), "tls_cert_file = /c: tls_key_file is missing"),
            (new().host("rediss://a").tls_key_file("/k"), "tls_key_file = /k: tls_cert_file is missing"),
            (new().tls_ca_file("/ca"), "tls_ca_file = /ca: no server uses TLS"),
            (new().sentinel("redis://a").tls_ca_file("/ca"), "tls_ca_file = /ca: no server uses TLS"),
            (new().cluster(true).sentinel("redis://a"), "cluster = true: a cluster has no sentinels"),
            (new().cluster(true).format(Format::AsgiRedis), "cluster = true: only the formats native and pubsub"),
            (new().cluster(true).format(Format::ChannelsRedis), "cluster = true: only the formats native and pubsub"),
            (
                hosts(&["redis://a", "redis://b/1"]).cluster(true),
                "hosts[1] = redis://b/1: a cluster has database 0 only",
            ),
            (hosts(&["unix:///s"]).cluster(true), "hosts[0] = unix:///s: a node of a cluster needs a TCP address"),
            (
                hosts(&["redis://:secret@a", "redis://b"]).cluster(true),
                "hosts[1] = redis://b: all nodes of a cluster need",
            ),
            (hosts(&["redis://a", "rediss://b"]).cluster(true), "hosts[1] = rediss://b: all nodes of a cluster need"),
            (new().random_prefix_length(1025), "random_prefix_length = 1025: must be from 0 to 1024 bytes"),
        ] {
            let error = refusal(&config);
            assert!(error.contains(fault) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_rule_with_more_lists_than_connections_causes_a_warning() {
        let config = Config::new().cluster(true).pool_size(8).spread(SpreadRule::glob("a", 8));
        assert_eq!(config.warnings(), [""; 0]);
        let warnings = config.spread(SpreadRule::glob("b", 9)).warnings();
        assert_eq!(
            warnings,
            [r#"spread has "b" = 9: a reader may need 9 connections to one master, and pool_size is 8"#]
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = Config::new()
            .host("redis://user:secret@a")
            .symmetric_encryption_keys(["secret one"])
            .accept_only_keys(["secret two", "secret three"])
            .sentinel("redis://user:secret@b")
            .service_username("secret")
            .service_password("secret");
        let shown = format!("{config:?}");
        assert!(!shown.contains("secret") && !shown.contains("user:"), "{shown}");
        assert!(shown.contains("[2 redacted]") && shown.contains("redis://a"), "{shown}");
    }

    #[test]
    fn the_content_of_a_file_given_as_its_path_is_refused_and_not_shown() {
        let config =
            Config::new().host("rediss://a").tls_cert_file("/c").tls_key_file("-----BEGIN PRIVATE KEY-----secret");
        let error = refusal(&config);
        assert!(error.contains("tls_key_file = ...: must be the path") && !error.contains("secret"), "{error}");
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn encryption_is_on_when_there_are_keys() {
        assert!(Config::new().key_ring().expect("no keys are good").is_none());
        assert!(Config::new().symmetric_encryption_keys(["secret"]).key_ring().expect("the key is good").is_some());
    }
}
