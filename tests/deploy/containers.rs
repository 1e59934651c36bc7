//! The Dockerfile and the compose files agree with each other and with the program. No test runs a container.

use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value as Json;

use super::documents::{compose, texts};
use super::{MOUNTED, read};
use crate::chat::{Guest, Instance};
use crate::support::RedisServer;

const COMPOSE: [&str; 5] = [
    "deploy/compose.yaml",
    "deploy/compose.append-only.yaml",
    "deploy/compose.workers.yaml",
    "deploy/compose.sentinel.yaml",
    "deploy/compose.cluster.yaml",
];
/// The port of an instance.
pub const PORT: &str = "8000";

/// Returns all services of all compose files, each with its file.
fn services() -> Vec<(&'static str, String, Json)> {
    let in_file = |path| {
        let services = compose(path)["services"].as_object().unwrap().clone();
        services.into_iter().map(move |(name, service)| (path, name, service))
    };
    COMPOSE.into_iter().flat_map(in_file).collect()
}

/// Returns the services that run the program.
pub fn programs() -> Vec<(&'static str, String, Json)> {
    let programs: Vec<_> =
        services().into_iter().filter(|(_, _, service)| service["image"] == "channel-layer").collect();
    assert!(programs.len() >= 5, "{programs:?}");
    programs
}

/// Returns the services that are instances of the chat.
fn instances() -> Vec<(&'static str, String, Json)> {
    let instances: Vec<_> = programs().into_iter().filter(|(_, _, service)| service["command"][0] == "demo").collect();
    assert!(instances.len() >= 4, "{instances:?}");
    instances
}

/// Runs the program with the arguments and the environment of its container, except for addresses.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)], redis: &RedisServer) -> Instance {
    let address = |argument| match argument {
        "0.0.0.0" => "127.0.0.1",
        PORT => "0",
        other => other,
    };
    let arguments: Vec<_> = arguments.iter().copied().map(address).collect();
    let url = redis.url();
    let server = |name, value| if name == "CHANNEL_LAYER_HOSTS" { &*url } else { value };
    let variables: Vec<_> = variables.iter().map(|&(name, value)| (name, server(name, value))).collect();
    Instance::run(&arguments, &variables).await
}

/// `deploy::sentinel` and `deploy::cluster` start the instances that use sentinels or a cluster.
#[tokio::test]
async fn instances_start_with_the_settings_of_the_compose_files() {
    let redis = RedisServer::start();
    for (file, name, service) in instances() {
        let environment = service["environment"].as_object().unwrap();
        let variables: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        assert_known(&variables, &format!("{name} in {file}"));
        if environment.contains_key("CHANNEL_LAYER_HOSTS") && !environment.contains_key("CHANNEL_LAYER_CLUSTER") {
            let instance = run(&texts(&service["command"]), &variables, &redis).await;
            let ada = Guest::enter(&instance, "lobby", "Ada").await;
            ada.sees_line("Ada joined").await;
        }
    }
}

/// Checks that the program reads all of `variables`. It refuses unknown variables that begin with `CHANNEL_LAYER_`, and
/// ignores others.
pub fn assert_known(variables: &[(&str, &str)], whose: &str) {
    let known = |variable: &str| variable.starts_with("CHANNEL_LAYER_") || variable == "RUST_LOG";
    let unknown: Vec<_> = variables.iter().filter(|(variable, _)| !known(variable)).collect();
    assert!(unknown.is_empty(), "{whose} has {unknown:?}");
}

/// Returns the arguments of an instruction of the Dockerfile that is written as a list.
fn instruction(name: &str) -> Vec<String> {
    let line = Regex::new(&format!(r"(?m)^{name} (?:--\S+ )*(?:CMD )?(\[.*\])$")).unwrap();
    let text = read("deploy/Dockerfile");
    let list = &line.captures(&text).unwrap_or_else(|| panic!("{name} has a list"))[1];
    serde_json::from_str(list).unwrap()
}

#[tokio::test]
async fn the_image_starts_a_healthy_instance() {
    assert_eq!(instruction("ENTRYPOINT"), ["channel-layer"]);
    let command = instruction("CMD");
    let arguments: Vec<_> = command.iter().map(String::as_str).collect();
    let mut instance = run(&arguments, &[], &RedisServer::start()).await;

    let check = instruction("HEALTHCHECK");
    let [program, port, path] = &*check else { panic!("{check:?}") };
    assert_eq!((&**program, &**port), ("healthcheck", PORT));
    let port = instance.address.rsplit(':').next().unwrap().to_owned();
    let healthy =
        |path: &str| Command::new("deploy/healthcheck").args([&port, path]).output().unwrap().status.success();
    assert!(healthy(path));
    assert!(!healthy("/nothing"));
    instance.kill().await;
    assert!(!healthy(path));
}

#[test]
fn all_files_agree_on_the_port() {
    assert!(read("deploy/Dockerfile").contains(&format!("\nEXPOSE {PORT}\n")));
    assert!(instruction("CMD").contains(&PORT.to_owned()));
    let nginx = read("deploy/nginx/nginx.conf");
    let upstreams: Vec<_> = Regex::new(r"(?m)^ *server (\S+):(\d+)").unwrap().captures_iter(&nginx).collect();
    for file in ["deploy/compose.yaml", "deploy/compose.sentinel.yaml", "deploy/compose.cluster.yaml"] {
        let instances: Vec<_> = instances().into_iter().filter(|(path, ..)| *path == file).collect();
        assert_eq!((upstreams.len(), instances.len()), (2, 2));
        for (upstream, (_, name, service)) in upstreams.iter().zip(&instances) {
            assert_eq!((&upstream[1], &upstream[2]), (&**name, PORT));
            assert!(texts(&service["command"]).contains(&PORT));
        }
    }
}

/// Returns the volumes of a service: the path on the host or the name, and the path in the container.
fn volumes(service: &Json) -> Vec<(&str, &str)> {
    let Some(list) = service.get("volumes") else { return Vec::new() };
    texts(list)
        .into_iter()
        .map(|volume| {
            let mut parts = volume.split(':');
            (parts.next().unwrap(), parts.next().unwrap())
        })
        .collect()
}

#[test]
fn every_path_in_the_container_files_exists() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let root = |path: &str| deploy.parent().unwrap().join(path);
    let mut paths: Vec<PathBuf> = Vec::new();
    for (_, _, service) in services() {
        if let Some(build) = service.get("build") {
            assert_eq!(
                deploy.join(build["context"].as_str().unwrap()).canonicalize().unwrap(),
                root("").canonicalize().unwrap()
            );
            paths.push(root(build["dockerfile"].as_str().unwrap()));
        }
        let mounted = volumes(&service);
        paths.extend(mounted.iter().filter(|(from, _)| from.starts_with('.')).map(|(from, _)| deploy.join(from)));
        let command = service.get("command").map(texts).unwrap_or_default();
        let files = command.iter().filter(|argument| argument.starts_with(MOUNTED));
        paths.extend(files.map(|file| deploy.join("redis").join(&file[MOUNTED.len() + 1..])));
    }
    let copied = Regex::new(r"(?m)^COPY ([^-. ]\S*) ").unwrap();
    paths.extend(copied.captures_iter(&read("deploy/Dockerfile")).map(|copy| root(&copy[1])));
    let kept = Regex::new(r"(?m)^!(\S+)$").unwrap();
    paths.extend(kept.captures_iter(&read("deploy/Dockerfile.dockerignore")).map(|kept| root(&kept[1])));
    let missing: Vec<_> = paths.iter().filter(|path| !path.exists()).collect();
    assert!(missing.is_empty() && paths.len() > 10, "{missing:?} of {paths:?}");
}
