//! Translates the server settings of Python's configurations into options of [`Config`](crate::Config).
//!
//! | form | used by |
//! |---|---|
//! | `host`, `port`, `db`, `username`, `password` beside the other options | `asgi_redis` |
//! | `connection_kwargs` for all hosts | `asgi_redis` |
//! | a host with `sentinels`, `master_name` and `sentinel_kwargs` | `channels_redis` |
//! | parts of a host that are global options here, such as `socket_timeout` | redis-py |

use crate::config::sources::raw::Raw;
use crate::config::value::shown;
use crate::error::{Error, Result};

type Table = Vec<(String, Raw)>;

/// Names of redis-py, each with the global option of the same meaning.
const SAME: [(&str, &str); 5] = [
    ("socket_timeout", "command_timeout"),
    ("socket_connect_timeout", "connect_timeout"),
    ("ssl_ca_certs", "tls_ca_file"),
    ("ssl_certfile", "tls_cert_file"),
    ("ssl_keyfile", "tls_key_file"),
];

/// Names of redis-py, each with an option of a different meaning. They are refused with a hint at the option.
const SIMILAR: [(&str, &str); 7] = [
    ("max_connections", "pool_size"),
    ("retry_on_timeout", "retry_attempts"),
    ("socket_keepalive", "tcp_keepalive"),
    ("health_check_interval", "tcp_keepalive"),
    ("sentinels", "sentinels"),
    ("master_name", "services"),
    ("sentinel_kwargs", "sentinels"),
];

/// Parts of a host with sentinels, each with its option.
const OF_SERVICE: [(&str, &str); 4] =
    [("username", "service_username"), ("password", "service_password"), ("db", "service_db"), ("ssl", "service_tls")];

/// Parts of a single host, which may be at the top level of a configuration.
const OF_HOST: [&str; 5] = ["host", "port", "db", "username", "password"];

/// Returns the option that corresponds to `name` of redis-py.
pub(crate) fn option_for(name: &str) -> Option<&'static str> {
    SAME.iter().chain(&SIMILAR).find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

/// Translates `options` into the names and forms of [`Config`](crate::Config).
pub(crate) fn translated(mut options: Table) -> Result<Table> {
    let mut shared = entries_of("connection_kwargs", take(&mut options, "connection_kwargs"))?;
    let beside: Table =
        OF_HOST.iter().filter_map(|part| Some(((*part).to_owned(), take(&mut options, part)?))).collect();
    let hosts = match take(&mut options, "hosts") {
        None | Some(Raw::Null) if beside.is_empty() && shared.is_empty() => return Ok(options),
        None | Some(Raw::Null) => vec![Raw::Table(beside)],
        Some(Raw::List(hosts)) => {
            if let Some((part, _)) = beside.iter().find(|(part, _)| matches!(&**part, "host" | "port")) {
                return Err(Error::config(part, "...", "set either host and port, or hosts, not both"));
            }
            shared.extend(beside);
            hosts
        }
        Some(other) => {
            options.push(("hosts".into(), other));
            return Ok(options);
        }
    };
    let none_given = hosts.is_empty();
    let (mut plain, mut services) = (Vec::new(), Vec::new());
    for (at, host) in hosts.into_iter().enumerate() {
        let place = format!("hosts[{at}]");
        let with_parts = matches!(host, Raw::Table(_)) || !shared.is_empty();
        let mut parts = match if with_parts { parts_of(host) } else { Err(host) } {
            Ok(parts) => parts,
            Err(host) => {
                plain.push(host);
                continue;
            }
        };
        let missing = shared.iter().filter(|(part, _)| get(&parts, part).is_none()).cloned().collect::<Vec<_>>();
        parts.extend(missing);
        for (theirs, ours) in SAME {
            set_once(&mut options, ours, take(&mut parts, theirs), &place)?;
        }
        match take(&mut parts, "master_name") {
            Some(name) => {
                services.push(name);
                set_service(&mut options, parts, &place)?;
            }
            None => plain.push(Raw::Table(parts)),
        }
    }
    if !services.is_empty() {
        set_once(&mut options, "services", Some(Raw::List(services)), "hosts")?;
    }
    if none_given || !plain.is_empty() {
        options.push(("hosts".into(), Raw::List(plain)));
    }
    Ok(options)
}

/// Sets the options for a master that is found through sentinels, from the `parts` of a host.
fn set_service(options: &mut Table, mut parts: Table, place: &str) -> Result<()> {
    let login = entries_of("sentinel_kwargs", take(&mut parts, "sentinel_kwargs"))?;
    let Some(Raw::List(sentinels)) = take(&mut parts, "sentinels") else {
        return Err(Error::config(format!("{place}.sentinels"), "...", "expected a list of sentinels"));
    };
    let with_login = |sentinel: Raw| match parts_of(sentinel) {
        Ok(parts) => Raw::Table(parts.into_iter().chain(login.iter().cloned()).collect()),
        Err(other) => other,
    };
    let sentinels = sentinels.into_iter().map(with_login).collect();
    set_once(options, "sentinels", Some(Raw::List(sentinels)), place)?;
    for (part, option) in OF_SERVICE {
        set_once(options, option, take(&mut parts, part), place)?;
    }
    match parts.iter().find(|(_, raw)| *raw != Raw::Null) {
        Some((part, _)) => {
            Err(Error::config(format!("{place}.{}", shown(part)), "...", "unknown part of a host with sentinels"))
        }
        None => Ok(()),
    }
}

/// Sets a global option from one host. Fails if another host has set it to another value.
fn set_once(options: &mut Table, option: &str, raw: Option<Raw>, place: &str) -> Result<()> {
    match (raw, get(options, option)) {
        (None | Some(Raw::Null), _) => {}
        (Some(raw), Some(other)) if raw == *other => {}
        (Some(_), Some(_)) => {
            let reason = format!("{option} must be the same for all hosts");
            return Err(Error::config(place, "...", reason));
        }
        (Some(raw), None) => options.push((option.to_owned(), raw)),
    }
    Ok(())
}

/// Splits a host of any form into parts. Returns the value as the error if it is not a host.
fn parts_of(host: Raw) -> Result<Table, Raw> {
    match host {
        Raw::Text(_) => Ok(vec![("url".into(), host)]),
        Raw::List(pair) => match <[Raw; 2]>::try_from(pair) {
            Ok([host, port]) => Ok(vec![("host".into(), host), ("port".into(), port)]),
            Err(list) => Err(Raw::List(list)),
        },
        Raw::Table(parts) => Ok(parts),
        other => Err(other),
    }
}

fn entries_of(option: &str, raw: Option<Raw>) -> Result<Table> {
    match raw {
        None | Some(Raw::Null) => Ok(Table::new()),
        Some(Raw::Table(entries)) => Ok(entries),
        Some(other) => Err(Error::config(option, other.kind(), "expected a table")),
    }
}

fn get<'t>(table: &'t Table, name: &str) -> Option<&'t Raw> {
    table.iter().find(|(other, _)| other == name).map(|(_, raw)| raw)
}

fn take(table: &mut Table, name: &str) -> Option<Raw> {
    let at = table.iter().position(|(other, _)| other == name)?;
    Some(table.remove(at).1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::{Config, Format};

    fn json(json: &str) -> Config {
        let config = Config::from_json(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        config.validate().unwrap_or_else(|error| panic!("{json}: {error}"));
        config
    }

    #[test]
    fn the_examples_of_asgi_redis_work() {
        assert_eq!(json(r#"{"host": "redis", "db": 4}"#), Config::new().host("redis://redis:6379/4"));
        let parts = r#"{"host": "a", "port": "7", "db": "2", "password": "p/w"}"#;
        assert_eq!(json(parts), Config::new().host("redis://:p%2Fw@a:7/2"));
        let kwargs = r#"{"hosts": ["redis://a:1", ["b", 2], "redis://:own@c:3/0"],
                         "connection_kwargs": {"password": "p", "socket_timeout": 3, "socket_connect_timeout": null}}"#;
        let expected = Config::new()
            .hosts(["redis://:p@a:1", "redis://:p@b:2/0", "redis://:own@c:3/0"])
            .command_timeout(Duration::from_secs(3));
        assert_eq!(json(kwargs), expected);
        let shared = r#"{"hosts": ["redis://a:1"], "db": 4}"#;
        assert_eq!(json(shared), Config::new().host("redis://a:1/4"));
    }

    #[test]
    fn hosts_of_channels_redis_work() {
        let tls = r#"{"hosts": [{"address": "rediss://a:1", "ssl_cert_reqs": null, "socket_timeout": 2},
                                {"address": "rediss://b:1", "ssl_cert_reqs": "required", "socket_timeout": 2,
                                 "socket_connect_timeout": 3, "ssl_ca_certs": "/ca"}]}"#;
        let expected = Config::new()
            .hosts(["rediss://a:1#insecure", "rediss://b:1"])
            .command_timeout(Duration::from_secs(2))
            .connect_timeout(Duration::from_secs(3))
            .tls_ca_file("/ca");
        assert_eq!(json(tls), expected);
        let forms = r#"{"hosts": ["valkeys://a:1", "redis://b:1?db=3", "unix:///s?password=p", ["c", "7"],
                                  {"unix_socket_path": "/t", "db": "1"}, {"host": "d", "port": 1, "ssl": true}]}"#;
        let shown: Vec<_> = json(forms).host_list().iter().map(ToString::to_string).collect();
        let expected =
            ["rediss://a:1", "redis://b:1/3", "unix:///s", "redis://c:7/0", "unix:///t?db=1", "rediss://d:1/0"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn sentinels_of_channels_redis_work() {
        let hosts = r#"[
            {"sentinels": [["s", 26379], ["t", 26379]], "master_name": "one", "sentinel_kwargs": {"password": "w"},
             "db": 2, "username": "u", "password": "p", "ssl": true},
            {"sentinels": [["s", 26379], ["t", 26379]], "master_name": "two", "sentinel_kwargs": {"password": "w"}}]"#;
        let expected = Config::new()
            .sentinels(["redis://:w@s:26379/0", "redis://:w@t:26379/0"])
            .services(["one", "two"])
            .service_username("u")
            .service_password("p")
            .service_db(2)
            .service_tls(true);
        assert_eq!(json(&format!(r#"{{"hosts": {hosts}}}"#)), expected);
        let variables = [("CHANNEL_LAYER_HOSTS".to_owned(), hosts.to_owned())];
        assert_eq!(Config::from_vars(&variables).expect("they are good"), expected);
    }

    #[test]
    fn an_empty_prefix_is_taken_in_the_formats_of_python() {
        for (format, valid) in
            [(Format::PubSub, true), (Format::ChannelsRedis, true), (Format::AsgiRedis, true), (Format::Native, false)]
        {
            assert_eq!(Config::new().prefix("").format(format).validate().is_ok(), valid, "{format:?}");
        }
    }

    #[test]
    fn an_unsupported_setting_is_refused_with_the_name_of_the_option_to_use() {
        for (text, fault) in [
            (r#"{"host": "a", "hosts": ["redis://b"]}"#, "host = ...: set either host and port, or hosts"),
            (r#"{"host": "a", "port": "many"}"#, "hosts[0] = {port = ...}: expected a whole number"),
            (r#"{"connection_kwargs": 5}"#, "connection_kwargs = a number: expected a table"),
            (
                r#"{"connection_kwargs": {"max_connections": 5}}"#,
                "{max_connections = ...}: not a part of a host; set the option pool_size instead",
            ),
            (r#"{"hosts": [{"host": "a", "retry_on_timeout": true}]}"#, "set the option retry_attempts"),
            (r#"{"hosts": [{"host": "a", "sentinels": []}]}"#, "set the option sentinels"),
            (
                r#"{"hosts": [{"host": "a", "socket_timeout": 1}, {"host": "b", "socket_timeout": 2}]}"#,
                "hosts[1] = ...: command_timeout must be the same for all hosts",
            ),
            (r#"{"hosts": [{"master_name": "a"}]}"#, "hosts[0].sentinels = ...: expected a list of sentinels"),
            (
                r#"{"hosts": [{"master_name": "a", "sentinels": [], "retry": 1}]}"#,
                "hosts[0].retry = ...: unknown part of a host with sentinels",
            ),
            (
                r#"{"socket_timeout": 5}"#,
                "socket_timeout = ...: unknown option; set the option command_timeout instead",
            ),
            (r#"{"hosts": [{"host": "a", "ssl_cert_reqs": "optional"}]}"#, "ssl_cert_reqs must be required or none"),
            (r#"{"hosts": ["redis://a?ssl_ca_certs=/ca"]}"#, "set the option tls_ca_file"),
        ] {
            let refused = Config::from_json(text).and_then(|config| config.validate()).expect_err(text).to_string();
            assert!(refused.contains(fault), "{text}: {refused}");
        }
    }
}
