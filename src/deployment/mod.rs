//! `Deployment`: the choice of a layer by environment variables or options. [`connect`](connect::connect): a layer on
//! Redis.
//!
//! The program starts here, and so does an application that is configured by its environment. `connect` chooses the
//! layer by the configured format; a deployment may instead use a layer in memory.

pub(crate) mod connect;
mod report;

use std::sync::Arc;

use crate::config::{Config, Format, RedisVariables};
use crate::error::{Error, Result};
use crate::layer::ChannelLayer;
use crate::memory::MemoryLayer;

pub use report::Report;

/// The options of a deployment and the layer that it uses.
///
/// [`from_env`](Self::from_env) reads two families of variables: those that begin with `CHANNEL_LAYER_`, which are the
/// options of [`Config`], and variables that begin with `REDIS_`, which are common in deployments of socket servers and
/// set some of the same options. `docs/configuration.md` lists both, and says which of them takes precedence.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The options of the layer.
    pub config: Config,
    /// The layer.
    pub layer: LayerKind,
    /// Whether Redis is enabled; `None` if the environment does not say.
    enabled: Option<bool>,
}

/// The kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerKind {
    /// [`MemoryLayer`]
    Memory,
    /// [`RedisLayer`](crate::RedisLayer), wrapped in a [`FallbackLayer`](crate::FallbackLayer) if `fallback` is
    /// `local`; or another layer in the [format](Config::format) of the configuration.
    Redis,
    /// [`PubSubLayer`](crate::PubSubLayer)
    PubSub,
}

/// Connects the layer that the environment configures, as [`Deployment::from_env`] reads it.
///
/// # Cancel safety
///
/// When dropped, all connections are closed.
///
/// # Errors
///
/// [`Error::InvalidConfig`] naming the variable and its value, and those of
/// [`RedisLayer::connect`](crate::RedisLayer::connect) and [`PubSubLayer::connect`](crate::PubSubLayer::connect).
pub async fn layer_from_env() -> Result<Arc<dyn ChannelLayer>> {
    Deployment::from_env()?.connect().await
}

/// Connects the layer that `config` describes: on Redis if it names hosts, sentinels or a format other than the native
/// one, otherwise in memory.
///
/// # Cancel safety
///
/// When dropped, all connections are closed.
///
/// # Errors
///
/// [`Error::InvalidConfig`], and those of [`RedisLayer::connect`](crate::RedisLayer::connect).
pub async fn layer_from_config(config: Config) -> Result<Arc<dyn ChannelLayer>> {
    Deployment::of(config).connect().await
}

impl Deployment {
    /// Chooses Redis if `config` names hosts, sentinels or a format other than the native one, otherwise memory.
    pub fn of(config: Config) -> Self {
        Self { layer: LayerKind::of(&config, None), config, enabled: None }
    }

    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the variable and its value; the value is omitted if it may be secret.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&Config::env_vars()?)
    }

    fn from_vars(variables: &[(String, String)]) -> Result<Self> {
        let enabled = RedisVariables::of(variables).enabled()?;
        let config = Config::from_vars(variables)?;
        Ok(Self { layer: LayerKind::of(&config, enabled), config, enabled })
    }

    /// Replaces the options by `config`, and chooses the layer that they describe.
    #[must_use]
    pub fn with_config(self, config: Config) -> Self {
        Self { layer: LayerKind::of(&config, self.enabled), config, ..self }
    }

    /// Whether the layer is a [`PubSubLayer`](crate::PubSubLayer). On it every process that reads a normal channel gets
    /// all its messages.
    pub fn is_pubsub(&self) -> bool {
        self.layer == LayerKind::PubSub
    }

    /// The format of messages in Redis.
    pub fn format(&self) -> Format {
        if self.is_pubsub() { Format::PubSub } else { self.config.format }
    }

    /// Requires a layer between processes: uses the default host if no server is named.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the environment disables Redis.
    pub fn on_servers(mut self) -> Result<Self> {
        if self.layer == LayerKind::Memory {
            if self.enabled == Some(false) {
                return Err(Error::config("REDIS_ENABLED", "false", "a server is needed to reach other processes"));
            }
            self.layer = LayerKind::Redis;
        }
        Ok(self)
    }

    /// Connects the layer.
    ///
    /// # Cancel safety
    ///
    /// When dropped, all connections are closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], and those of [`RedisLayer::connect`](crate::RedisLayer::connect).
    pub async fn connect(self) -> Result<Arc<dyn ChannelLayer>> {
        match self.layer {
            LayerKind::Memory => Ok(Arc::new(MemoryLayer::with_config(&self.config)?)),
            LayerKind::Redis => connect::connect(self.config).await,
            LayerKind::PubSub => connect::connect(self.config.format(Format::PubSub)).await,
        }
    }
}

impl LayerKind {
    fn of(config: &Config, enabled: Option<bool>) -> Self {
        let named = config.names_servers() || config.format != Format::Native;
        match enabled.unwrap_or(named) {
            false => Self::Memory,
            true if config.format == Format::PubSub => Self::PubSub,
            true => Self::Redis,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Deployment> {
        let variables: Vec<_> = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Deployment::from_vars(&variables)
    }

    fn chosen(variables: &[(&str, &str)]) -> LayerKind {
        read(variables).expect("they are good").layer
    }

    #[test]
    fn servers_that_are_named_are_used_unless_redis_is_disabled() {
        assert_eq!(chosen(&[]), LayerKind::Memory);
        assert_eq!(chosen(&[("REDIS_ENABLED", "false")]), LayerKind::Memory);
        assert_eq!(chosen(&[("REDIS_ENABLED", "true")]), LayerKind::Redis);
        assert_eq!(chosen(&[("REDIS_PUBSUB_ENABLED", "true")]), LayerKind::PubSub);
        assert_eq!(chosen(&[("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_ENABLED", "true")]), LayerKind::PubSub);
        assert_eq!(chosen(&[("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_ENABLED", "false")]), LayerKind::Memory);
        assert_eq!(chosen(&[("REDIS_PUBSUB_ENABLED", "false"), ("REDIS_URL", "redis://a")]), LayerKind::Redis);
        for servers in
            [("REDIS_URL", "redis://a"), ("CHANNEL_LAYER_HOSTS", "redis://a"), ("CHANNEL_LAYER_SENTINELS", "redis://a")]
        {
            assert_eq!(chosen(&[servers]), LayerKind::Redis, "{servers:?}");
            assert_eq!(chosen(&[servers, ("REDIS_ENABLED", "")]), LayerKind::Redis, "{servers:?}");
            assert_eq!(chosen(&[servers, ("REDIS_ENABLED", "0")]), LayerKind::Memory, "{servers:?}");
        }
    }

    #[test]
    fn a_format_of_redis_is_used_on_redis() {
        for (format, layer) in
            [("channels_redis", LayerKind::Redis), ("asgi_redis", LayerKind::Redis), ("pubsub", LayerKind::PubSub)]
        {
            let format = ("CHANNEL_LAYER_FORMAT", format);
            assert_eq!(chosen(&[format]), layer, "{format:?}");
            assert_eq!(chosen(&[format, ("REDIS_ENABLED", "false")]), LayerKind::Memory, "{format:?}");
        }
        assert_eq!(chosen(&[("CHANNEL_LAYER_FORMAT", "native")]), LayerKind::Memory);
        for format in ["channels_redis", "asgi_redis"] {
            let error = read(&[("CHANNEL_LAYER_FORMAT", format), ("REDIS_PUBSUB_ENABLED", "true")]);
            assert!(error.expect_err(format).to_string().contains("REDIS_PUBSUB_ENABLED = true: CHANNEL_LAYER_FORMAT"));
        }
    }

    #[test]
    fn the_names_of_other_deployments_work_as_they_stand() {
        let deployment = read(&[
            ("REDIS_URL", "rediss://:p@a:1/2"),
            ("REDIS_CHANNEL_PREFIX", "chat"),
            ("REDIS_POOL_SIZE", "20"),
            ("REDIS_SOCKET_TIMEOUT", "2.5"),
            ("REDIS_MAX_CONNECTIONS", "11"),
            ("REDIS_RETRY_ON_TIMEOUT", "true"),
            ("REDIS_RETRY_ATTEMPTS", "5"),
        ]);
        let expected = Config::new()
            .host("rediss://:p@a:1/2")
            .prefix("chat")
            .pool_size(10)
            .command_timeout(Duration::from_millis(2500))
            .connect_timeout(Duration::from_millis(2500))
            .retry_attempts(5);
        assert_eq!(deployment.expect("they are good").config, expected);
        let attempts = |variables: &[_]| read(variables).expect("they are good").config.retry_attempts;
        assert_eq!(attempts(&[("REDIS_RETRY_ON_TIMEOUT", "yes")]), 3);
        assert_eq!(attempts(&[("REDIS_RETRY_ATTEMPTS", "2")]), 2);
        assert_eq!(attempts(&[("REDIS_RETRY_ON_TIMEOUT", "no"), ("REDIS_RETRY_ATTEMPTS", "2")]), 0);
    }

    #[test]
    fn what_needs_servers_has_the_default_one_unless_redis_is_disabled() {
        let on_servers = |variables: &[_]| read(variables).expect("they are good").on_servers();
        assert_eq!(on_servers(&[]).expect("nothing is said of Redis").layer, LayerKind::Redis);
        let pubsub = on_servers(&[("REDIS_PUBSUB_ENABLED", "true")]).expect("it is enabled");
        assert_eq!(pubsub.layer, LayerKind::PubSub);
        let refused = on_servers(&[("REDIS_ENABLED", "false")]).expect_err("it is disabled").to_string();
        assert!(refused.contains("REDIS_ENABLED = false"), "{refused}");
    }

    #[test]
    fn our_own_names_win() {
        let both = [
            ("REDIS_URL", "redis://a"),
            ("CHANNEL_LAYER_HOSTS", "redis://b"),
            ("REDIS_POOL_SIZE", "20"),
            ("CHANNEL_LAYER_POOL_SIZE", "30"),
        ];
        let config = read(&both).expect("they are good").config;
        assert_eq!(config, Config::new().host("redis://b").pool_size(30));
        let sentinels = [("REDIS_URL", "redis://a"), ("CHANNEL_LAYER_SENTINELS", "redis://s")];
        assert_eq!(read(&sentinels).expect("they are good").config, Config::new().sentinel("redis://s"));
    }

    #[test]
    fn wrong_values_are_refused_by_variable_and_secrets_are_not_shown() {
        for (variable, value, fault) in [
            ("REDIS_ENABLED", "maybe", "REDIS_ENABLED = maybe: expected true or false"),
            ("REDIS_URL", "http://:secret@a", "REDIS_URL = http://...: the scheme"),
            ("REDIS_URL", "redis://user:secret", "REDIS_URL = redis://...: expected a URL"),
            ("REDIS_POOL_SIZE", "many", "REDIS_POOL_SIZE = \"many\": expected a whole number"),
            ("REDIS_POOL_SIZE", "0", "REDIS_POOL_SIZE = 0: must be from 1 to 65535"),
            ("REDIS_MAX_CONNECTIONS", "1", "REDIS_MAX_CONNECTIONS = 1: must be 2 or more"),
            ("REDIS_SOCKET_TIMEOUT", "-1", "REDIS_SOCKET_TIMEOUT = -1: expected a number of seconds"),
            ("REDIS_SOCKET_TIMEOUT", "0", "REDIS_SOCKET_TIMEOUT = 0 s: must be from"),
            ("REDIS_CHANNEL_PREFIX", "a{b}", "REDIS_CHANNEL_PREFIX = a{b}"),
            ("REDIS_RETRY_ON_TIMEOUT", "2", "REDIS_RETRY_ON_TIMEOUT = 2"),
            ("REDIS_RETRY_ATTEMPTS", "1.5", "REDIS_RETRY_ATTEMPTS = 1.5"),
            ("CHANNEL_LAYER_POOL_SIZE", "0", "CHANNEL_LAYER_POOL_SIZE = 0"),
        ] {
            let checked = read(&[(variable, value)]).and_then(|deployment| deployment.config.validate());
            let error = checked.expect_err(variable).to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_value_that_a_layer_refuses_is_named_by_its_variable() {
        let pubsub = ("REDIS_PUBSUB_ENABLED", "true");
        let tls = ("REDIS_URL", "rediss://127.0.0.1:1");
        for (variables, fault) in [
            (vec![pubsub, ("REDIS_CHANNEL_PREFIX", "a*")], "REDIS_CHANNEL_PREFIX = a*: must not contain"),
            (
                vec![pubsub, ("CHANNEL_LAYER_PREFIX", "a*"), ("REDIS_CHANNEL_PREFIX", "b")],
                "CHANNEL_LAYER_PREFIX = a*: ",
            ),
            (vec![tls, ("CHANNEL_LAYER_TLS_CA_FILE", "/nowhere")], "CHANNEL_LAYER_TLS_CA_FILE = /nowhere: "),
            (
                vec![("CHANNEL_LAYER_FORMAT", "asgi_redis"), ("CHANNEL_LAYER_FALLBACK", "local")],
                "CHANNEL_LAYER_FALLBACK = local: needs format",
            ),
        ] {
            let error = read(&variables).expect("each is good in itself").connect().await.map(drop).expect_err(fault);
            assert!(error.to_string().contains(fault), "{error}");
        }
    }

    #[tokio::test]
    async fn a_value_that_did_not_come_from_a_variable_is_named_by_option() {
        let mut deployment =
            read(&[("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_CHANNEL_PREFIX", "a")]).expect("it is good");
        deployment.config = deployment.config.prefix("b*");
        let error = deployment.connect().await.map(drop).expect_err("it is a pattern").to_string();
        assert!(error.contains("invalid configuration: prefix = b*"), "{error}");
    }
}
