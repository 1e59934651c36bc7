//! The Kubernetes manifests: whether the parts fit each other and the program. Nothing here runs a cluster.

use std::fmt::Write;

use serde_json::Value as Json;

use super::containers;
use super::documents::{kubernetes, texts};
use super::{read, server_default};
use crate::support::RedisServer;

const FILE: &str = "deploy/kubernetes.yaml";

fn manifest(kind: &str) -> Json {
    kubernetes(FILE).into_iter().find(|document| document["kind"] == kind).unwrap()
}

#[tokio::test]
async fn the_container_starts_and_answers_its_probes() {
    let redis = RedisServer::start();
    let container = &manifest("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let mut variables = Vec::new();
    for variable in container["env"].as_array().unwrap() {
        variables.push((variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("from a secret")));
    }
    containers::assert_known(&variables, FILE);
    let instance = containers::run(&texts(&container["args"]), &variables, &redis).await;
    for probe in ["readinessProbe", "livenessProbe"] {
        let request = &container[probe]["httpGet"];
        assert_eq!(request["port"], "http");
        let answer = instance.get(request["path"].as_str().unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{probe}: {answer}");
    }
}

#[test]
fn ports_and_labels_fit() {
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
fn secrets_are_those_that_the_file_says_to_make() {
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

/// The drain, the last words, and up to 10 s in which the layer gives back what was not delivered.
#[test]
fn an_instance_has_time_to_end() {
    let end = server_default("drain_timeout") + 11;
    let pod = &manifest("Deployment")["spec"]["template"]["spec"];
    let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > pause + end);
    for (file, name, service) in containers::instances() {
        let grace = service["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap();
        assert!(grace.parse::<u64>().unwrap() > end, "{name} in {file}");
    }
}
