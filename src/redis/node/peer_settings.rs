//! `PeerSettings`: publishes the settings of this process, and compares them with those of the other processes of the
//! deployment.
//!
//! Each server has one sorted set for a deployment. A member describes one set of settings, and its score is the time,
//! in ms by the clock of the server, at which the description ends unless a process with these settings renews it.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{RedisError, Value};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, Format};
use crate::health::SettingDifference;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::shard::Shard;

/// How long a process is connected before it publishes its description. The settings of a short command concern no
/// other process.
const PUBLISH_AFTER: Duration = Duration::from_secs(5);
/// How often a process renews its description and compares it with the others.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// The time to live of a description. Two renewals may fail.
const TTL: Duration = Duration::from_mins(1);
/// The most descriptions that a server keeps. Those that end first are removed first.
const MAX_DESCRIPTIONS: isize = 64;
/// The size of the longest description that is read, in bytes.
const MAX_BYTES: usize = 4096;

/// The size of the longest value of an option in a description, in bytes, without the hash of a longer one.
const LONGEST_VALUE: usize = 1024;

/// The options that have to agree, so that messages arrive and live as long as their sender intends.
const AGREEING: [&str; 4] = ["format", "expiry", "group_expiry", "max_message_size"];
/// The additional one in a cluster. A reader with a smaller number of lists than a sender would never read some of
/// them.
const AGREEING_OF_CLUSTERS: [&str; 1] = ["spread"];
/// The additional ones of the format `channels_redis`.
const AGREEING_OF_CHANNELS_REDIS: [&str; 2] = ["serializer", "random_prefix_length"];

/// The settings of this process, and the key under which the deployment keeps its descriptions.
#[derive(Clone, Debug)]
pub(crate) struct PeerSettings {
    key: String,
    own: Description,
}

/// The published settings of a process. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    /// The options that have to agree, and their values as text.
    options: BTreeMap<String, String>,
    /// The ids of the keys that decrypt messages. The first key encrypts. Empty without encryption.
    keys: Vec<String>,
}

impl PeerSettings {
    pub(crate) fn of(config: &Config) -> Self {
        // No key of a deployment begins like this, so `flush` of this crate and of Python's layers does not delete it.
        Self { key: format!("channel-layer:settings:{}", config.key_prefix()), own: Description::of(config) }
    }

    /// The commands that remove the expired descriptions at `now_ms` by the server's clock and read the others. With
    /// `publishes` they renew the own description first.
    fn exchange(&self, now_ms: u64, publishes: bool) -> Result<redis::Pipeline, serde_json::Error> {
        let mut commands = redis::pipe();
        commands.cmd("ZREMRANGEBYSCORE").arg(&self.key).arg("-inf").arg(now_ms);
        if publishes {
            let member = serde_json::to_string(&self.own)?;
            commands.cmd("ZADD").arg(&self.key).arg(now_ms.saturating_add(milliseconds(TTL))).arg(member);
            commands.cmd("ZREMRANGEBYRANK").arg(&self.key).arg(0).arg(-MAX_DESCRIPTIONS - 1);
            commands.cmd("PEXPIRE").arg(&self.key).arg(milliseconds(TTL));
        }
        commands.cmd("ZRANGE").arg(&self.key).arg(0).arg(-1);
        Ok(commands)
    }

    /// The differences between the settings in `members` and the own ones, without repetitions.
    fn compare(&self, members: &[Vec<u8>]) -> Vec<SettingDifference> {
        let others = members.iter().filter_map(|member| Description::parse(member));
        let mut differences: Vec<_> = others.flat_map(|other| self.own.differences(&other)).collect();
        differences.sort();
        differences.dedup();
        differences
    }
}

impl Description {
    fn of(config: &Config) -> Self {
        let is_channels_redis = config.format == Format::ChannelsRedis;
        let agrees = |option| {
            AGREEING.contains(&option)
                || (is_channels_redis && AGREEING_OF_CHANNELS_REDIS.contains(&option))
                || (config.cluster && AGREEING_OF_CLUSTERS.contains(&option))
        };
        let settings = config.settings().into_iter().filter(|setting| agrees(setting.option));
        let options = settings.map(|setting| (setting.option.to_owned(), bounded(setting.value))).collect();
        Self { options, keys: config.key_ids().map(|id| format!("{id:08x}")).collect() }
    }

    /// The description that `member` holds. Returns `None` for an invalid description, which another program or a later
    /// version may have written, and for one with control characters, which would corrupt a log.
    fn parse(member: &[u8]) -> Option<Self> {
        let description: Self = serde_json::from_slice(Some(member).filter(|bytes| bytes.len() <= MAX_BYTES)?).ok()?;
        let mut texts = description.options.values().chain(&description.keys);
        texts.all(|text| !text.contains(char::is_control)).then_some(description)
    }

    /// The differences from `other`. Options that only one of the two names are not compared.
    fn differences(&self, other: &Self) -> Vec<SettingDifference> {
        let difference = |option: &str| {
            let (ours, theirs) = (self.options.get(option)?, other.options.get(option)?);
            (ours != theirs).then(|| SettingDifference::new(option, ours.as_str(), theirs.as_str()))
        };
        // The other options have another meaning in another format.
        if let Some(format) = difference("format") {
            return vec![format];
        }
        self.options.keys().filter_map(|option| difference(option)).chain(self.key_difference(other)).collect()
    }

    /// The difference in the keys. Lists of keys may differ, as they do while keys are rotated, if each side decrypts
    /// the messages of the other.
    fn key_difference(&self, other: &Self) -> Option<SettingDifference> {
        let agree = self.decrypts(other) && other.decrypts(self);
        let difference = || SettingDifference::new("symmetric_encryption_keys", self.shown_keys(), other.shown_keys());
        (!agree).then(difference)
    }

    /// Whether a process with these settings decrypts the messages of a process with the settings `other`.
    fn decrypts(&self, other: &Self) -> bool {
        match other.keys.first() {
            Some(encrypting) => self.keys.contains(encrypting),
            None => self.keys.is_empty(),
        }
    }

    fn shown_keys(&self) -> String {
        if self.keys.is_empty() { "none".to_owned() } else { format!("ids {}", self.keys.join(", ")) }
    }
}

/// `value`, or its beginning and a hash if it is long: a description is read up to [`MAX_BYTES`].
fn bounded(value: String) -> String {
    if value.len() <= LONGEST_VALUE {
        return value;
    }
    let hash = xxh3_64(value.as_bytes());
    format!("{}... (hash {hash:016x})", &value[..value.floor_char_boundary(LONGEST_VALUE)])
}

impl Shard {
    /// Compares the settings of this process with those that other processes have published on the server.
    pub(crate) async fn compare_settings(&self, connection: &ServerConnection) {
        self.exchange_settings(connection, false).await;
    }

    /// Publishes the settings of this process on a server to which it stays connected, and compares them with those of
    /// other processes, again and again.
    pub(crate) async fn keep_publishing_settings(&self, connection: &ServerConnection) {
        let mut pause = PUBLISH_AFTER;
        loop {
            tokio::time::sleep(pause).await;
            self.exchange_settings(connection, true).await;
            pause = RENEW_EVERY;
        }
    }

    /// An error is logged and waits for the next exchange, because messages do not depend on it.
    async fn exchange_settings(&self, connection: &ServerConnection, publishes: bool) {
        let (Some(settings), Some(now_ms)) = (&self.requirements.settings, self.clock.now_ms()) else { return };
        let Ok(commands) = settings.exchange(now_ms, publishes) else { return };
        if !self.holds(&settings.key) {
            return;
        }
        let answers = connection.commands.clone().send_packed_commands(&commands, 0, commands.len()).await;
        match answers.and_then(others) {
            Ok(members) => self.report_differences(settings.compare(&members)),
            Err(error) => {
                debug!(shard = self.index, host = self.host(), %error, "cannot compare the settings of processes");
            }
        }
    }

    fn report_differences(&self, differences: Vec<SettingDifference>) {
        for SettingDifference { option, ours, theirs } in self.status.record_differences(differences) {
            let (shard, host) = (self.index, self.host());
            warn!(shard, host, option, ours, theirs, "another process of this deployment has other settings");
        }
    }
}

/// The descriptions in the answers to [`PeerSettings::exchange`]. The other answers are ignored, because descriptions
/// can be read from a server that refuses writes.
pub(crate) fn others(answers: Vec<Value>) -> Result<Vec<Vec<u8>>, RedisError> {
    let last = answers.into_iter().next_back().unwrap_or(Value::Nil);
    Ok(redis::from_redis_value(last.extract_error()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread::SpreadRule;

    fn settings(change: impl FnOnce(Config) -> Config) -> PeerSettings {
        PeerSettings::of(&change(Config::new()))
    }

    fn member(settings: &PeerSettings) -> Vec<u8> {
        serde_json::to_vec(&settings.own).expect("texts have a JSON form")
    }

    /// How the settings of two processes differ for each of them.
    fn both(one: &PeerSettings, other: &PeerSettings) -> [Vec<SettingDifference>; 2] {
        [one.compare(&[member(other)]), other.compare(&[member(one)])]
    }

    fn assert_differ(one: &PeerSettings, other: &PeerSettings, option: &str, one_value: &str, other_value: &str) {
        let ours = SettingDifference::new(option, one_value, other_value);
        let theirs = SettingDifference::new(option, other_value, one_value);
        assert_eq!(both(one, other), [vec![ours], vec![theirs]]);
    }

    fn assert_agree(one: &PeerSettings, other: &PeerSettings) {
        assert_eq!(both(one, other), [vec![], vec![]]);
    }

    fn keys(encrypting: &[&str], accept_only: &[&str]) -> PeerSettings {
        let all = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
        settings(|config| config.symmetric_encryption_keys(all(encrypting)).accept_only_keys(all(accept_only)))
    }

    #[test]
    fn the_description_keeps_its_form_and_holds_no_key() {
        let described = String::from_utf8(member(&keys(&["correct horse battery staple"], &[]))).expect("it is text");
        let expected = r#"{"options":{"expiry":"60 s","format":"native","group_expiry":"86400 s","max_message_size":"8388608"},"keys":["1a58757d"]}"#;
        assert_eq!(described, expected);
        let python = settings(|config| config.format(Format::ChannelsRedis)).own.options;
        assert_eq!((&*python["serializer"], &*python["random_prefix_length"]), ("msgpack", "12"));
    }

    #[test]
    fn settings_that_need_not_agree_are_not_compared() {
        let other = settings(|config| config.capacity(1).pool_size(1).command_timeout(Duration::from_secs(1)));
        assert_agree(&settings(|config| config), &other);
    }

    #[test]
    fn an_option_that_has_to_agree_is_named_with_both_values() {
        let default = settings(|config| config);
        let short = Duration::from_secs(30);
        assert_differ(&default, &settings(|config| config.expiry(short)), "expiry", "60 s", "30 s");
        assert_differ(&default, &settings(|config| config.group_expiry(short)), "group_expiry", "86400 s", "30 s");
        let size = "max_message_size";
        assert_differ(&default, &settings(|config| config.max_message_size(1024)), size, "8388608", "1024");
        let python = |config: Config| config.format(Format::ChannelsRedis);
        let json = settings(|config| python(config).serializer(crate::config::Serializer::Json));
        assert_differ(&settings(python), &json, "serializer", "msgpack", "json");
    }

    #[test]
    fn the_rules_that_spread_channels_have_to_agree_in_a_cluster() {
        let rules = |lists| settings(|config| config.cluster(true).spread(SpreadRule::glob("jobs.*", lists)));
        assert_differ(&rules(2), &rules(8), "spread", r#""jobs.*" = 2"#, r#""jobs.*" = 8"#);
        let cluster = settings(|config| config.cluster(true));
        assert_differ(&cluster, &rules(8), "spread", "none", r#""jobs.*" = 8"#);
        assert_agree(&cluster, &settings(|config| config));
    }

    #[test]
    fn long_rules_differ_in_a_description_that_is_read() {
        let long = |last: usize| {
            let rules = (0..100).map(|number| SpreadRule::glob(format!("{number}{}", "\u{1F600}".repeat(200)), 2));
            let config = rules.fold(Config::new().cluster(true), Config::spread);
            PeerSettings::of(&config.spread(SpreadRule::glob("last", last)))
        };
        assert!(member(&long(2)).len() <= MAX_BYTES);
        assert_agree(&long(2), &long(2));
        assert_eq!(both(&long(2), &long(3)).map(|differences| differences.len()), [1, 1]);
    }

    #[test]
    fn with_another_format_no_other_option_is_compared() {
        let other = settings(|config| config.format(Format::ChannelsRedis).symmetric_encryption_keys(["a"]));
        assert_differ(&settings(|config| config), &other, "format", "native", "channels_redis");
    }

    #[test]
    fn a_process_without_keys_differs_from_one_with_keys() {
        let id = format!("ids {:08x}", crate::crypto::id_of_key("a"));
        assert_differ(&keys(&[], &[]), &keys(&["a"], &[]), "symmetric_encryption_keys", "none", &id);
    }

    #[test]
    fn keys_agree_if_each_side_decrypts_the_messages_of_the_other() {
        let steps = [
            keys(&["old"], &[]),
            keys(&["old"], &["new"]),
            keys(&["new", "old"], &[]),
            keys(&["new"], &["old"]),
            keys(&["new"], &[]),
        ];
        for (at, step) in steps.iter().enumerate() {
            for (other, other_step) in steps.iter().enumerate() {
                let differ = both(step, other_step).iter().all(|differences| !differences.is_empty());
                let agree = both(step, other_step).iter().all(Vec::is_empty);
                // The first step does not decrypt the messages of the last three, nor the last those of the first two.
                let expected = match (at.min(other), at.max(other)) {
                    (0, 2..) | (1, 4) => differ,
                    _ => agree,
                };
                assert!(expected, "steps {at} and {other}: {:?}", both(step, other_step));
            }
        }
    }

    #[test]
    fn a_difference_is_listed_once_for_any_number_of_processes() {
        let own = settings(|config| config);
        let short = settings(|config| config.expiry(Duration::from_secs(30)));
        let short_and_keyed =
            settings(|config| config.expiry(Duration::from_secs(30)).symmetric_encryption_keys(["a"]));
        let options: Vec<_> = own
            .compare(&[member(&short), member(&own), member(&short_and_keyed)])
            .into_iter()
            .map(|difference| difference.option)
            .collect();
        assert_eq!(options, ["expiry", "symmetric_encryption_keys"]);
    }

    #[test]
    fn an_invalid_description_is_ignored() {
        let own = settings(|config| config);
        let long = format!(r#"{{"options":{{"expiry":"{}"}},"keys":[]}}"#, "9".repeat(MAX_BYTES));
        for member in ["", "7", "{}", r#"{"options":{"expiry":"1\u001b[2J"},"keys":[]}"#, "\u{fffd}", &long] {
            assert_eq!(own.compare(&[member.as_bytes().to_vec()]), [], "{member}");
        }
        let later = br#"{"options":{"expiry":"60 s","new":"x"},"keys":[],"more":1}"#;
        assert_eq!(own.compare(&[later.to_vec()]), []);
    }
}
