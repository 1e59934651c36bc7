//! The option `format` chooses the layer, in a configuration and in the environment.

use std::sync::Arc;

use channel_layer::django::{AsgiRedisLayer, ChannelsRedisLayer};
use channel_layer::{ChannelLayer, Config, Fallback, Format, layer_from_config, message};
use tokio::process::Command;

use super::site::{Site, take};
use crate::support::{DEADLINE, RedisServer, name_of, python_formats, within};

/// A layer of each of Python's formats, by its own name.
async fn named(format: Format, config: Config) -> Arc<dyn ChannelLayer> {
    match format {
        Format::AsgiRedis => Arc::new(AsgiRedisLayer::connect(config).await.unwrap()),
        Format::ChannelsRedis => Arc::new(ChannelsRedisLayer::connect(config).await.unwrap()),
        other => panic!("name the layer of {other:?} here"),
    }
}

#[tokio::test]
async fn the_format_of_a_configuration_chooses_the_layer() {
    for format in python_formats() {
        let config = Site::start().await.config();
        let chosen = layer_from_config(config.clone().format(format)).await.unwrap();
        let message = message! { "type": "a.b" };
        chosen.send("work", message.clone()).await.unwrap();
        assert_eq!(take(&*named(format, config).await, "work").await.message, message);
    }
}

#[tokio::test]
async fn a_fallback_is_refused_in_the_formats_of_python() {
    for format in python_formats() {
        let config = Site::start().await.config().fallback(Fallback::Local);
        let error = layer_from_config(config.format(format)).await.err().expect("it is refused");
        assert!(error.to_string().contains("fallback = local"), "{error}");
    }
}

#[tokio::test]
async fn the_format_in_the_environment_chooses_the_layer() {
    let server = RedisServer::start();
    for format in python_formats() {
        let name = name_of(format);
        let site = named(format, Config::new().host(server.url()).prefix(name)).await;
        let run = async |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
            command.args(arguments).env_clear().kill_on_drop(true).envs([
                ("CHANNEL_LAYER_FORMAT", name),
                ("CHANNEL_LAYER_HOSTS", &server.url()),
                ("CHANNEL_LAYER_PREFIX", name),
            ]);
            let output = within(DEADLINE, "the end of the command", command.output()).await.unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["send", "work", r#"{"type":"a.b"}"#]).await;
        assert_eq!(take(&*site, "work").await.message, message! { "type": "a.b" });
        let said = run(&["doctor"]).await;
        assert!(said.contains("probe arrived in") && said.contains("messages arrive through every server"), "{said}");
    }
}
