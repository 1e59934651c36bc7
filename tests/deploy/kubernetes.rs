//! The Kubernetes manifests agree with each other and with the program. No test runs a cluster.

use std::fmt::Write;

use serde_json::Value as Json;

use super::containers;
use super::documents::{kubernetes, texts};
use super::{layer_default, read, server_default};
use crate::chat::Instance;
use crate::support::{RedisServer, eventually};

const FILE: &str = "deploy/kubernetes.yaml";

fn manifest(kind: &str) -> Json {
    kubernetes(FILE).iter().find(|document| document["kind"] == kind).unwrap().clone()
}

#[tokio::test]
async fn the_container_starts_and_answers_its_probes() {
    let mut redis = RedisServer::start();
    let container = &manifest("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let mut variables = Vec::new();
    for variable in container["env"].as_array().unwrap() {
        variables.push((variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("from a secret")));
    }
    containers::assert_known(&variables, FILE);
    let instance = containers::run(&texts(&container["args"]), &variables, &redis).await;
    let asks = async |probe: &str, status: &str| {
        let request = &container[probe]["httpGet"];
        assert_eq!(request["port"], "http");
        let answer = async || instance.get(request["path"].as_str().unwrap()).await.starts_with(status).then_some(());
        eventually(&format!("{status} of the {probe}"), answer).await;
    };
    asks("readinessProbe", "HTTP/1.1 200 ").await;
    redis.stop();
    asks("readinessProbe", "HTTP/1.1 503 ").await;
    asks("livenessProbe", "HTTP/1.1 200 ").await;
    let timeout = container["readinessProbe"]["timeoutSeconds"].as_u64().unwrap();
    assert!(timeout > layer_default("command_timeout"));
}

/// Each container of the namespace gets these variables unless its pod disables service links.
#[tokio::test]
async fn variables_that_kubernetes_makes_from_the_service_are_ignored() {
    let service = manifest("Service");
    let (name, port) = (service["metadata"]["name"].as_str().unwrap(), &service["spec"]["ports"][0]);
    let upper = name.to_uppercase().replace('-', "_");
    assert_eq!(upper, "CHANNEL_LAYER", "the name of the service is the prefix of the options");
    let (number, port_name) = (port["port"].to_string(), port["name"].as_str().unwrap().to_uppercase());
    let url = format!("tcp://10.0.0.1:{number}");
    let made = [
        ("SERVICE_HOST".to_owned(), "10.0.0.1"),
        ("SERVICE_PORT".to_owned(), &*number),
        (format!("SERVICE_PORT_{port_name}"), &number),
        ("PORT".to_owned(), &url),
        (format!("PORT_{number}_TCP"), &url),
        (format!("PORT_{number}_TCP_PROTO"), "tcp"),
        (format!("PORT_{number}_TCP_PORT"), &number),
        (format!("PORT_{number}_TCP_ADDR"), "10.0.0.1"),
    ]
    .map(|(name, value)| (format!("{upper}_{name}"), value));
    let made: Vec<_> = made.iter().map(|(name, value)| (&**name, *value)).collect();
    let instance = Instance::run(&["demo", "--port", "0"], &made).await;
    assert!(instance.get("/live").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(manifest("Deployment")["spec"]["template"]["spec"]["enableServiceLinks"], false);
}

#[test]
fn ports_and_labels_agree() {
    let (service, deployment) = (manifest("Service"), manifest("Deployment"));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let port = &container["ports"][0];
    assert_eq!(port["containerPort"].to_string(), containers::PORT);
    assert!(texts(&container["args"]).contains(&containers::PORT));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], labels);
}

#[test]
fn the_file_says_how_to_create_its_secrets() {
    let container = &manifest("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let secrets =
        container["env"].as_array().unwrap().iter().filter_map(|variable| variable.pointer("/valueFrom/secretKeyRef"));
    let mut command = String::new();
    for secret in secrets {
        let (name, key) = (secret["name"].as_str().unwrap(), secret["key"].as_str().unwrap());
        write!(command, "kubectl create secret generic {name} --from-literal={key}=").unwrap();
    }
    assert!(!command.is_empty() && read(FILE).contains(&command), "{command}");
}

/// A shutdown takes the drain timeout, the disconnect notices, and up to 10 s in which the layer puts back undelivered
/// messages.
#[test]
fn an_instance_has_time_to_shut_down() {
    let end = server_default("drain_timeout") + 11;
    let pod = &manifest("Deployment")["spec"]["template"]["spec"];
    let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > pause + end);
    for (file, name, service) in containers::programs() {
        let grace = service["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap();
        assert!(grace.parse::<u64>().unwrap() > end, "{name} in {file}");
    }
}
