//! Every option at both ends of its range, on a real server.

use channel_layer::config::OptionInfo;
use channel_layer::{Config, Error, Fallback, Format, connect};

use super::first_contact::cluster;
use super::tls::{ANY_CLIENT, TlsServer};
use super::tools::{number, numbered};
use crate::support::{FORMATS, RedisServer, TestedFormat, eventually, python_formats, random_prefix};

/// A server with plain and TLS connections and as many databases as an option can name, a sentinel that knows both of
/// its ports, and a cluster of one node.
struct Servers {
    redis: TlsServer,
    sentinel: RedisServer,
    cluster: RedisServer,
}

impl Servers {
    async fn start() -> Self {
        let redis = TlsServer::start("server", &[&ANY_CLIENT[..], &["--databases", "65536"]].concat());
        let (plain, tls) = (redis.server.port(), redis.port.number());
        let lines = format!("sentinel monitor plain 127.0.0.1 {plain} 1\nsentinel monitor tls 127.0.0.1 {tls} 1\n");
        Self { redis, sentinel: RedisServer::sentinel(&lines), cluster: cluster().await }
    }

    /// Returns a configuration in which `option` has the value `value` and takes effect.
    fn config(&self, option: &OptionInfo, value: &str, format: Format) -> Config {
        let config = Config::new().format(format).prefix(random_prefix());
        let config = if option.name.starts_with("service") || option.name.starts_with("sentinel") {
            let tls = (option.name, value) == ("service_tls", "true");
            let config = config.sentinel(self.sentinel.url()).services([if tls { "tls" } else { "plain" }]);
            if tls { config.tls_ca_file(self.redis.files.path("ca.pem")) } else { config }
        } else {
            let server = if (option.name, value) == ("cluster", "true") { &self.cluster } else { &self.redis.server };
            config.host(server.url()).fallback(Fallback::Fail)
        };
        config.set(option.name, value).unwrap()
    }
}

/// Sends and reads a message. The message or a membership may have expired if a lifetime has its lowest value.
async fn exercise(config: Config, expires: bool) -> Result<(), Error> {
    let layer = connect(config).await?;
    let channel = layer.new_channel("end?").await?;
    layer.send(channel.as_str(), numbered(1)).await?;
    if expires {
        layer.try_receive(&[channel.as_str()]).await?;
    } else {
        assert_eq!(number(&layer.receive(&[channel.as_str()]).await?), 1);
    }
    layer.group_add("group", channel.as_str()).await?;
    layer.group_send("group", numbered(2)).await?;
    if !expires {
        assert_eq!(number(&layer.receive(&[channel.as_str()]).await?), 2);
    }
    layer.close().await
}

#[tokio::test]
async fn every_option_works_at_both_ends_of_its_range() {
    let servers = Servers::start().await;
    let mut ends = 0;
    for option in Config::options().filter(|option| option.name != "format") {
        for (at, end) in option.ends.iter().enumerate() {
            for TestedFormat { format, .. } in FORMATS {
                if end == "local" && python_formats().any(|python| python == format) {
                    // These formats have no fallback.
                    continue;
                }
                if (option.name, &**end) == ("cluster", "true") && format != Format::Native {
                    // Only the native format can use a cluster.
                    continue;
                }
                let expires = at == 0 && option.name.ends_with("expiry");
                let what = format!("{} = {end} in the format {format:?}", option.name);
                // With the shortest timeouts on a busy machine, some attempts fail.
                eventually(&what, async || match exercise(servers.config(&option, end, format), expires).await {
                    Ok(()) => Some(()),
                    Err(error) if error.is_transient() => None,
                    Err(error) => panic!("{what}: {error:?}"),
                })
                .await;
            }
            ends += 1;
        }
    }
    assert!(ends >= 40, "{ends}");
}

#[test]
fn every_option_is_refused_beyond_its_range() {
    let refused = |option: &OptionInfo, value: String| {
        let checked = Config::new().set(option.name, &value).and_then(|config| config.validate());
        let error = checked.expect_err(option.name).to_string();
        assert!(error.contains(option.name), "{value}: {error}");
    };
    let mut ranges = 0;
    for option in Config::options() {
        let ends: Vec<f64> = option.ends.iter().filter_map(|end| end.parse().ok()).collect();
        let [lowest, highest] = ends[..] else { continue };
        refused(&option, format!("{}", highest + 1.0));
        refused(&option, format!("{}", if lowest == 0.0 { -1.0 } else { lowest / 2.0 }));
        ranges += 1;
    }
    assert!(ranges > 10, "{ranges}");
}
