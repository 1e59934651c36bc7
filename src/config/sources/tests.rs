//! Tests that all sources read all options.

use std::time::Duration;

use crate::capacity::CapacityRule;
use crate::config::table::{OPTIONS, Row};
use crate::config::{Config, Fallback, Format, Host, Overflow, Serializer};
use crate::spread::SpreadRule;

/// An option with a value other than its default.
struct Case {
    option: &'static str,
    json: &'static str,
    /// The value as the text of a variable.
    text: &'static str,
    setter: fn(Config) -> Config,
}

const fn case(option: &'static str, json: &'static str, text: &'static str, setter: fn(Config) -> Config) -> Case {
    Case { option, json, text, setter }
}

const CASES: &[Case] = &[
    case("hosts", r#"[["a", 1], "redis://b/1"]"#, "redis://a:1/0, redis://b/1,", |c| {
        c.hosts([Host::from(("a", 1)), Host::from("redis://b/1")])
    }),
    case("cluster", "true", "true", |c| c.cluster(true)),
    case("prefix", r#""p""#, "p", |c| c.prefix("p")),
    case("format", r#""channels_redis""#, "channels_redis", |c| c.format(Format::ChannelsRedis)),
    case("expiry", "2.5", "2.5", |c| c.expiry(Duration::from_millis(2500))),
    case("group_expiry", "10", "10", |c| c.group_expiry(Duration::from_secs(10))),
    case("capacity", "7", "7", |c| c.capacity(7)),
    case("channel_capacity", r#"{"z*": 1, "re:a": 2}"#, r#"{"z*": 1, "re:a": 2}"#, |c| {
        c.channel_capacity(CapacityRule::glob("z*", 1)).channel_capacity(CapacityRule::regex("a", 2))
    }),
    case("spread", r#"{"z*": 1, "re:a": 2}"#, r#"{"z*": 1, "re:a": 2}"#, |c| {
        c.spread(SpreadRule::glob("z*", 1)).spread(SpreadRule::regex("a", 2))
    }),
    case("symmetric_encryption_keys", r#"["one", "two"]"#, r#"["one", "two"]"#, |c| {
        c.symmetric_encryption_keys(["one", "two"])
    }),
    case("accept_only_keys", r#"["three, four"]"#, "three, four", |c| c.accept_only_keys(["three, four"])),
    case("serializer", r#""json""#, "json", |c| c.serializer(Serializer::Json)),
    case("random_prefix_length", "8", "8", |c| c.random_prefix_length(8)),
    case("stats_prefix", r#""s:""#, "s:", |c| c.stats_prefix("s:")),
    case("max_message_size", "2000", "2000", |c| c.max_message_size(2000)),
    case("connect_timeout", "2", "2", |c| c.connect_timeout(Duration::from_secs(2))),
    case("command_timeout", "3", "3", |c| c.command_timeout(Duration::from_secs(3))),
    case("blocking_timeout", "0.25", "0.25", |c| c.blocking_timeout(Duration::from_millis(250))),
    case("pool_size", "9", "9", |c| c.pool_size(9)),
    case("retry_attempts", "3", "3", |c| c.retry_attempts(3)),
    case("retry_backoff", "0.1", "0.1", |c| c.retry_backoff(Duration::from_millis(100))),
    case("tcp_keepalive", "60", "60", |c| c.tcp_keepalive(Duration::from_mins(1))),
    case("overflow", r#""drop_newest""#, "drop_newest", |c| c.overflow(Overflow::DropNewest)),
    case("max_queue_size", "2000", "2000", |c| c.max_queue_size(2000)),
    case("fallback", r#""local""#, "local", |c| c.fallback(Fallback::Local)),
    case("return_after", "0.5", "0.5", |c| c.return_after(Duration::from_millis(500))),
    case("sharded_pubsub", "true", "true", |c| c.sharded_pubsub(true)),
    case("tls_ca_file", r#""/ca""#, "/ca", |c| c.tls_ca_file("/ca")),
    case("tls_cert_file", r#""/cert""#, "/cert", |c| c.tls_cert_file("/cert")),
    case("tls_key_file", r#""/key""#, "/key", |c| c.tls_key_file("/key")),
    case("sentinels", r#"["redis://a", ["b", 1]]"#, "redis://a, redis://b:1/0", |c| {
        c.sentinel("redis://a").sentinel(("b", 1))
    }),
    case("services", r#"["x", "y"]"#, "x, y", |c| c.services(["x", "y"])),
    case("service_username", r#""u""#, "u", |c| c.service_username("u")),
    case("service_password", r#""[p""#, "[p", |c| c.service_password("[p")),
    case("service_db", "2", "2", |c| c.service_db(2)),
    case("service_tls", "true", "true", |c| c.service_tls(true)),
    case("sentinel_refresh_interval", "5", "5", |c| c.sentinel_refresh_interval(Duration::from_secs(5))),
];

#[test]
fn every_option_is_read_from_files_variables_and_texts() {
    for Case { option, json, text, setter } in CASES {
        let expected = setter(Config::new());
        assert_ne!(expected, Config::new(), "{option}: the value is the default");
        let from_json = Config::from_json(&format!("{{{option:?}: {json}}}"));
        assert_eq!(from_json.expect(option), expected, "{option}");
        let variable = Row::named(option).expect(option).variable();
        let from_vars = Config::from_vars(&[("PATH".to_owned(), "/bin".to_owned()), (variable, (*text).to_owned())]);
        assert_eq!(from_vars.expect(option), expected, "{option}");
        assert_eq!(Config::new().set(option, text).expect(option), expected, "{option}");
    }
    assert_eq!(Config::from_vars(&[]).expect("no variable is needed"), Config::new());
}

#[test]
fn every_option_has_a_case() {
    let tested: Vec<_> = CASES.iter().map(|case| case.option).collect();
    let options: Vec<_> = OPTIONS.iter().map(|row| row.name).collect();
    assert_eq!(tested, options);
}
