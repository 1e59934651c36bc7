//! The commands of the program, with a real Redis server.

use std::process::{Output, Stdio};
use std::time::Duration;

use channel_layer::django::ChannelsRedisLayer;
use channel_layer::{ChannelLayer, Config, Format, PubSubLayer, RedisLayer, Value, message};
use redis::AsyncCommands;
use tokio::process::Command;

use crate::chat::get;
use crate::server::Program;
use crate::support::{
    DEADLINE, FORMATS, FakeServer, RedisServer, TestedFormat, eventually, name_of, python_formats, within,
};

/// A Redis server, and commands that use it.
struct Shell {
    redis: RedisServer,
}

impl Shell {
    fn start() -> Self {
        Self { redis: RedisServer::start() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
        command.args(arguments).args(["--redis", &self.redis.url()]).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    async fn output(&self, arguments: &[&str]) -> Output {
        within(DEADLINE, "the end of the command", self.command(arguments).output()).await.unwrap()
    }

    /// Runs a command that must succeed. Returns its standard output.
    async fn prints(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Runs a command with these environment variables only. Returns whether it succeeds, and all its output.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).kill_on_drop(true).stdin(Stdio::null());
    let output = within(DEADLINE, "the end of the command", command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[tokio::test]
async fn commands_use_the_layer_that_the_environment_configures() {
    let redis = RedisServer::start();
    let url = redis.url();
    let pubsub = [("REDIS_ENABLED", "true"), ("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_URL", &*url)];
    let layer = PubSubLayer::connect(Config::new().hosts([&*url])).await.unwrap();
    layer.subscribe(&["work"]).await.unwrap();
    assert!(run(&["send", "work", r#"{"number":1}"#], &pubsub).await.0);
    let delivery = within(DEADLINE, "the message", layer.receive(&["work"])).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(1));
    // The option changes the server and not the layer.
    let elsewhere = [pubsub[0], pubsub[1], ("REDIS_URL", "redis://127.0.0.1:1")];
    assert!(run(&["send", "work", r#"{"number":2}"#, "--redis", &url], &elsewhere).await.0);
    let delivery = within(DEADLINE, "the message", layer.receive(&["work"])).await.unwrap();
    assert_eq!(delivery.message.int("number"), Some(2));

    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["worker", "echo"], &["stats"]] {
        let (succeeds, output) = run(command, &[("REDIS_ENABLED", "false")]).await;
        assert!(!succeeds && output.contains("REDIS_ENABLED = false"), "{command:?}: {output}");
    }
}

#[tokio::test]
async fn send_fails_without_redis_and_servers_start_with_their_fallback() {
    let mut redis = RedisServer::start();
    redis.stop();
    let url = redis.url();
    for (server, variables) in [
        (
            &["serve", "--listen", "127.0.0.1:0", "--health"][..],
            [("CHANNEL_LAYER_FALLBACK", "local"), ("CHANNEL_LAYER_HOSTS", &*url)],
        ),
        (&["demo", "--port", "0"], [("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_URL", &*url)]),
    ] {
        assert!(!run(&["send", "work", "{}"], &variables).await.0, "{variables:?}");
        let server = Program::start(server, &variables).await;
        let health = get(server.address().trim_start_matches("http://"), "/health/redis").await;
        assert!(health.contains(r#""fallback_mode":true"#), "{health}");
    }
}

#[tokio::test]
async fn one_command_sends_to_another() {
    let shell = Shell::start();
    shell.prints(&["send", "tasks", r#"{"do":"sweep"}"#]).await;
    let received = shell.prints(&["receive", "tasks", "--count", "1"]).await;
    assert_eq!(received, "{\"channel\":\"tasks\",\"message\":{\"do\":\"sweep\"}}\n");

    shell.prints(&["group", "add", "everyone", "tasks"]).await;
    assert_eq!(shell.prints(&["group", "list", "everyone"]).await, "tasks\n");
    shell.prints(&["send", "--group", "everyone", "{}"]).await;
    assert!(shell.prints(&["stats", "tasks"]).await.contains(r#""messages_pending":1"#));
    shell.prints(&["flush"]).await;
    assert_eq!(shell.prints(&["group", "list", "everyone"]).await, "");
    assert!(shell.prints(&["stats", "tasks"]).await.contains(r#""messages_pending":0"#));
}

#[tokio::test]
async fn a_message_reaches_a_group_of_a_django_site() {
    let shell = Shell::start();
    let site = ChannelsRedisLayer::connect(Config::new().hosts([shell.redis.url()])).await.unwrap();
    let consumer = site.new_channel("specific").await.unwrap();
    site.group_add("chat", consumer.as_str()).await.unwrap();
    let text = r#"{"type":"chat.message","text":"hi"}"#;
    shell.prints(&["send", "--format", "channels_redis", "--group", "chat", text]).await;
    let delivery = within(DEADLINE, "the message", site.receive(&[consumer.non_local()])).await.unwrap();
    assert_eq!((delivery.channel, delivery.message.text("text")), (consumer, Some("hi")));

    for format in python_formats().map(name_of) {
        shell.prints(&["send", "--format", format, "tasks", text]).await;
        assert!(shell.prints(&["stats", "--format", format, "tasks"]).await.contains(r#""messages_pending":1"#));
        let received = shell.prints(&["receive", "--format", format, "tasks", "--count", "1"]).await;
        assert!(received.contains(r#""text":"hi""#), "{received}");
    }
}

#[tokio::test]
async fn messages_in_quarantine_are_listed_shown_restored_and_dropped() {
    const KEY: [&str; 2] = ["--encryption-key", "a secret of 32 bytes, not guessed"];
    let shell = Shell::start();
    let keyed = |arguments: &[&'static str]| [arguments, &KEY].concat();
    assert_eq!(shell.prints(&["quarantine", "list"]).await, "the quarantine is empty\n");
    for message in [r#"{"number":0}"#, r#"{"number":1}"#, r#"{"number":2}"#] {
        shell.prints(&keyed(&["send", "tasks", message])).await;
    }
    // A reader without the key.
    let layer = RedisLayer::connect(Config::new().hosts([shell.redis.url()])).await.unwrap();
    assert!(layer.try_receive(&["tasks"]).await.unwrap().is_none());
    layer.close().await.unwrap();

    let listed = shell.prints(&["quarantine", "list"]).await;
    assert!(listed.starts_with("shard 0: 3 entries, "), "{listed}");
    assert_eq!(listed.matches(" tasks: ").count(), 3, "{listed}");
    assert!(listed.contains("encrypted, but no keys are configured"), "{listed}");
    let lines = shell.prints(&keyed(&["quarantine", "list", "--json"])).await;
    let entries: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["state"] == "readable" && entry["channel"] == "tasks"), "{lines}");
    let id = |n: usize| entries[n]["id"].as_str().unwrap();

    let shown = shell.prints(&[&["quarantine", "show", id(0)][..], &KEY].concat()).await;
    assert!(shown.contains(r#""lifetime": 60.0"#) && !shown.contains("number"), "{shown}");
    let shown = shell.prints(&[&["quarantine", "show", id(0), "--payload"][..], &KEY].concat()).await;
    assert!(shown.contains(r#""number": 0"#), "{shown}");

    assert_eq!(shell.prints(&["quarantine", "drop", id(1)]).await, "1 of 1 entries deleted\n");
    assert!(!shell.output(&["quarantine", "drop", id(1)]).await.status.success());
    let unreadable = shell.output(&["quarantine", "restore", "--all"]).await;
    assert!(!unreadable.status.success());
    assert_eq!(String::from_utf8(unreadable.stdout).unwrap().matches("cannot be read").count(), 2);
    let restored = shell.prints(&keyed(&["quarantine", "restore", "--channel", "tasks"])).await;
    assert_eq!(restored, format!("{} restored\n{} restored\n2 of 2 entries restored\n", id(0), id(2)));
    let received = shell.prints(&keyed(&["receive", "tasks", "--count", "2"])).await;
    assert!(received.contains(r#"{"number":0}"#) && received.contains(r#"{"number":2}"#), "{received}");

    for TestedFormat { name, .. } in FORMATS.into_iter().filter(|tested| tested.format != Format::Native) {
        assert!(!shell.output(&["quarantine", "list", "--format", name]).await.status.success());
    }
    assert!(!shell.output(&["quarantine", "restore"]).await.status.success());
}

#[tokio::test]
async fn the_quarantine_of_the_servers_that_are_up_is_listed_and_emptied_and_the_others_are_named() {
    let (shell, mut down) = (Shell::start(), RedisServer::start());
    let record = ["asgi:quarantine", "*", "channel", "tasks", "entry", "no message"];
    let mut redis = shell.redis.connection().await;
    let id: String = redis::cmd("XADD").arg(&record).query_async(&mut redis).await.unwrap();
    let (up, stopped) = (shell.redis.url(), down.url());
    down.stop();
    let said = async |command: &[&str]| run(&[command, &["--redis", &up, "--redis", &stopped]].concat(), &[]).await;
    let named = format!("127.0.0.1:{}", down.port());
    for (command, done) in [
        (&["quarantine", "list"][..], format!("0:{id} tasks")),
        (&["quarantine", "restore", "--all"], format!("0:{id} cannot be read")),
        (&["quarantine", "drop", "--all"], "1 of 1 entries deleted".to_owned()),
        (&["quarantine", "list", "--json"], "not all servers were reached".to_owned()),
    ] {
        let (success, text) = said(command).await;
        assert!(!success && text.contains(&done) && text.contains(&named), "{command:?}: {text}");
    }
}

#[tokio::test]
async fn an_invalid_message_is_named() {
    for message in ["{", "[1]", "\"hello\""] {
        let (succeeds, output) = run(&["send", "work", message], &[]).await;
        assert!(!succeeds && output.contains(&format!("invalid JSON {message:?}: ")), "{output}");
    }
}

#[tokio::test]
async fn bytes_are_printed_as_numbers() {
    let shell = Shell::start();
    let layer = RedisLayer::connect(Config::new().hosts([shell.redis.url()])).await.unwrap();
    layer.send("http.request", message! { "body": b"\x00\xff", "headers": Value::list([&b"a"[..]]) }).await.unwrap();
    let received = shell.prints(&["receive", "http.request", "--count", "1"]).await;
    assert!(received.contains(r#"{"body":[0,255],"headers":[[97]]}"#), "{received}");
}

#[tokio::test]
async fn all_messages_but_the_one_whose_print_fails_are_put_back() {
    let shell = Shell::start();
    let layer = RedisLayer::connect(Config::new().hosts([shell.redis.url()])).await.unwrap();
    for number in 0..10 {
        layer.send("answers?a", message! { "number": number }).await.unwrap();
    }
    let mut receiving = shell.command(&["receive", "answers?a"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(receiving.stdout.take());
    let output = within(DEADLINE, "the end of the command", receiving.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let lost = "a message of channel answers?a is lost: cannot write to standard output: ";
    assert!(!output.status.success() && said.contains(lost), "{said}");
    // One message is lost: it may have been written in part.
    assert_eq!(layer.channel_statistics("answers?a").await.unwrap().messages_pending, 9);
}

#[tokio::test]
async fn doctor_prints_the_settings_and_whether_messages_arrive() {
    let mut shell = Shell::start();
    let said = shell.prints(&["doctor", "--encryption-key", "a secret of 32 bytes, not guessed"]).await;
    let version = said.split_once(", version ").expect("the output has the version").1;
    assert!(version.starts_with(char::is_numeric), "{said}");
    assert!(said.contains("probe arrived in") && said.contains("messages arrive through every server"), "{said}");
    assert!(said.contains("[1 redacted]") && !said.contains("secret"), "{said}");
    assert!(!said.contains("warning"), "{said}");
    shell.redis.stop();
    assert!(!shell.output(&["doctor"]).await.status.success());
}

#[tokio::test]
async fn doctor_prints_effective_settings_and_their_variables() {
    let redis = RedisServer::start();
    let url = redis.url();
    let variables = [("REDIS_URL", &*url), ("CHANNEL_LAYER_EXPIRY", "30")];
    let (succeeds, output) = run(&["doctor", "--format", "asgi_redis"], &variables).await;
    assert!(succeeds, "{output}");
    for line in [
        "option prefix = \"asgi:\"\n",
        "option stats_prefix = \"asgi-meta:\"\n",
        "option expiry = 30 s (from CHANNEL_LAYER_EXPIRY)\n",
        &format!("option hosts = {url} (from REDIS_URL)\n"),
        "option group_expiry = 86400 s\n",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
}

#[tokio::test]
async fn doctor_warns_about_short_keys_with_their_length() {
    let said = Shell::start().prints(&["doctor", "--encryption-key", "secret"]).await;
    assert!(said.contains("warning: symmetric_encryption_keys[0] has 6 bytes"), "{said}");
    assert!(!said.contains("secret\"") && !said.contains("= secret"), "{said}");
}

#[tokio::test]
async fn an_unknown_server_variable_is_refused() {
    for (variable, value, refused) in [
        ("CHANNEL_SERVER_LISTENS", "127.0.0.1:0", true),
        ("CHANNEL_SERVER_listen", "127.0.0.1:0", true),
        ("CHANNEL_SERVER_ACCEPT_TIMEOUT", "5", false),
        ("CHANNEL_SERVER_SERVICE_HOST", "10.0.0.1", false),
        ("CHANNEL_SERVER_PORT", "tcp://10.0.0.1:80", false),
    ] {
        // Redis is disabled, so that the command always fails.
        let variables = [(variable, value), ("REDIS_ENABLED", "false")];
        let (succeeds, output) = run(&["serve", "--listen", "127.0.0.1:0"], &variables).await;
        let fault = format!("{variable} = ...: unknown variable; no option has it");
        assert!(!succeeds && output.contains(&fault) == refused, "{output}");
    }
}

#[tokio::test]
async fn an_empty_prefix_works_in_the_formats_of_python() {
    let redis = RedisServer::start();
    let url = redis.url();
    for TestedFormat { name, .. } in FORMATS.into_iter().filter(|tested| tested.format != Format::Native) {
        let variables = [("CHANNEL_LAYER_PREFIX", ""), ("CHANNEL_LAYER_HOSTS", &*url)];
        let (succeeds, output) = run(&["send", "--format", name, name, r#"{"type":"a.b"}"#], &variables).await;
        assert!(succeeds, "{name}: {output}");
    }
    let layer = ChannelsRedisLayer::connect(Config::new().host(&*url).prefix("")).await.unwrap();
    layer.send("tasks", message! { "type": "a.b" }).await.unwrap();
    assert_eq!(redis::cmd("EXISTS").arg("tasks").query_async::<u8>(&mut redis.connection().await).await.unwrap(), 1);
    let delivery = within(DEADLINE, "the message", layer.receive(&["tasks"])).await.unwrap();
    assert_eq!(delivery.message.text("type"), Some("a.b"));
}

#[tokio::test]
async fn no_command_prints_a_password() {
    for host in [
        "cache.example.net:6380,password=geheim,ssl=True,abortConnect=False",
        "redis://127.0.0.1:1,password=geheim",
        "redis://:geheim#geheim@127.0.0.1:1",
        "redis://user:geheim",
        "redis://127.0.0.1:1?password=geheim",
        "unix:///nowhere/redis.sock?password=geheim",
    ] {
        for (arguments, variables) in [
            (&["doctor", "--redis", host][..], &[][..]),
            (&["doctor"], &[("CHANNEL_LAYER_HOSTS", host)]),
            (&["doctor"], &[("REDIS_URL", host)]),
            (&["send", "a", "{}"], &[("CHANNEL_LAYER_SENTINELS", host)]),
        ] {
            let (succeeds, output) = run(arguments, variables).await;
            assert!(!succeeds && !output.contains("geheim"), "{host}: {output}");
        }
    }
}

#[tokio::test]
async fn doctor_warns_about_a_maxmemory_policy_that_deletes_messages() {
    let shell = Shell { redis: RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]) };
    let said = shell.prints(&["doctor"]).await;
    assert!(said.contains("warning: shard 0 has the maxmemory-policy allkeys-lru"), "{said}");
}

#[tokio::test]
async fn doctor_warns_about_clocks_that_differ() {
    let server = FakeServer::of_version_and_clock("7.0.0", Duration::from_mins(2)).await;
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    doctor.args(["doctor", "--redis", &server.url()]).env_clear().kill_on_drop(true).stdin(Stdio::null());
    let output = within(DEADLINE, "the end of the command", doctor.output()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // The fake server returns whole seconds.
    let warned = ["119.", "120."].iter().any(|off| said.contains(&format!("warning: the clock of shard 0 is {off}")));
    assert!(warned && said.contains("s ahead of the clock of this machine"), "{said}");
}

#[tokio::test]
async fn servers_and_workers_on_pubsub_are_refused_with_the_reason() {
    for arguments in [["worker", "echo"], ["serve", "--listen=127.0.0.1:0"]] {
        for variables in [&[("REDIS_PUBSUB_ENABLED", "true")][..], &[]] {
            let (succeeds, reason) = run(&[arguments[0], arguments[1], "--format", "pubsub"], variables).await;
            assert!(!succeeds && reason.contains("every worker gets every message"), "{reason}");
        }
    }
}

#[tokio::test]
async fn serve_refuses_a_larger_message_limit_for_clients_than_for_the_layer() {
    let redis = RedisServer::start();
    let url = redis.url();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--redis", &*url];
    for (arguments, variables, size) in [
        (vec!["--max-message-size", "8388609"], vec![], "8388609"),
        (vec![], vec![("CHANNEL_LAYER_MAX_MESSAGE_SIZE", "1048575")], "1048575"),
        (vec![], vec![("CHANNEL_SERVER_MAX_MESSAGE_SIZE", "9000000")], "9000000"),
    ] {
        let (good, text) = run(&[&serve[..], &arguments].concat(), &variables).await;
        assert!(!good, "{text}");
        for part in ["--max-message-size", "CHANNEL_LAYER_MAX_MESSAGE_SIZE", size] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("Serving"), "{text}");
    }
    let equal = [&serve[..], &["--max-message-size", "8388608"]].concat();
    assert!(Program::start(&equal, &[]).await.line.starts_with("Serving"));
}

#[tokio::test]
async fn configured_capacities_take_precedence_over_those_of_the_program() {
    let redis = RedisServer::start();
    let url = redis.url();
    let cases = [
        ("CHANNEL_LAYER_CAPACITY", "2", 2),
        ("CHANNEL_LAYER_CHANNEL_CAPACITY", r#"{"websocket.*": 2}"#, 2),
        ("CHANNEL_LAYER_CHANNEL_CAPACITY", r#"{"http.*": 2}"#, 101),
    ];
    for (number, (variable, value, room)) in cases.into_iter().enumerate() {
        let layer = RedisLayer::connect(Config::new().hosts([&*url]).capacity(1_000)).await.unwrap();
        let channel = format!("websocket.of-case-{number}");
        for _ in 0..room - 1 {
            layer.send(&channel, message! {}).await.unwrap();
        }
        let send = ["send", &*channel, "{}", "--redis", &*url];
        let (fits, text) = run(&send, &[(variable, value)]).await;
        assert!(fits, "{variable}: {text}");
        let (fits, text) = run(&send, &[(variable, value)]).await;
        assert_eq!(fits, room == 101, "{variable}: {text}");
    }
}

#[tokio::test]
async fn doctor_warns_about_processes_with_other_settings() {
    let shell = Shell::start();
    let config = Config::new().hosts([shell.redis.url()]).expiry(Duration::from_secs(30));
    let _layer = RedisLayer::connect(config).await.unwrap();
    let described = async || {
        let described: usize = shell.redis.connection().await.zcard("channel-layer:settings:asgi").await.unwrap();
        (described == 1).then_some(())
    };
    eventually("the settings of the process", described).await;
    let said = shell.prints(&["doctor"]).await;
    let warning = "warning: shard 0: expiry is 60 s here and 30 s in another process of this deployment; ";
    assert!(said.contains(warning), "{said}");
    let said = shell.prints(&["doctor", "--format", "channels_redis"]).await;
    assert!(said.contains("warning: shard 0: format is channels_redis here and native in another process"), "{said}");
}
