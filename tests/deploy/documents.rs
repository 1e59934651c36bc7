//! YAML files, checked against their schemas.

use std::collections::HashMap;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::django::python;

/// The documents of each YAML file in `deploy`. Python runs once for all tests.
static DOCUMENTS: LazyLock<HashMap<String, Vec<Json>>> = LazyLock::new(|| {
    let output = Command::new(python("deploy"))
        .arg("tests/deploy/documents.py")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

/// Returns a compose file of the project.
pub fn compose(path: &str) -> Json {
    DOCUMENTS[path][0].clone()
}

/// Returns the documents of a Kubernetes file of the project.
pub fn kubernetes(path: &str) -> &'static [Json] {
    &DOCUMENTS[path]
}

/// Returns the texts of a list.
pub fn texts(list: &Json) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("{list} is a list")).iter().map(|text| text.as_str().unwrap()).collect()
}
