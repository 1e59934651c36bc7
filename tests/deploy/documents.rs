//! YAML files, checked against their schemas.

use std::process::Command;

use serde_json::Value as Json;

use crate::django::python;

/// A compose file of the project.
pub fn compose(path: &str) -> Json {
    documents("compose", path).remove(0)
}

/// The documents of a Kubernetes file of the project.
pub fn kubernetes(path: &str) -> Vec<Json> {
    documents("kubernetes", path)
}

fn documents(kind: &str, path: &str) -> Vec<Json> {
    let output = Command::new(python("deploy"))
        .args(["tests/deploy/documents.py", kind, path])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The texts in a list.
pub fn texts(list: &Json) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("{list} is a list")).iter().map(|text| text.as_str().unwrap()).collect()
}
