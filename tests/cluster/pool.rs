//! Connections of readers: in a cluster each channel needs one.

use channel_layer::{ChannelLayer, Error};

use super::tools::{config, connect, name_in};
use crate::support::{DEADLINE, Log, shared_cluster, within};

#[tokio::test]
async fn readers_of_more_channels_than_connections_get_an_error_and_the_log_says_so_once() {
    let log = Log::default();
    let _kept = log.keep();
    let layer = connect(config(shared_cluster()).pool_size(1)).await;
    let names: Vec<_> = (0..3_u16).map(|number| name_in("jobs.", number..number + 1, 'x')).collect();
    let mut receiver = layer.receiver(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for _ in 0..2 {
        let error = within(DEADLINE, "an error", receiver.recv()).await.unwrap_err();
        assert!(matches!(error, Error::Redis { .. }) && error.to_string().contains("pool_size"), "{error}");
    }
    assert_eq!(log.text().matches("raise pool_size").count(), 1);
}
