//! The tests named in the table of topologies in docs/operations.md exist.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use regex::Regex;

/// Returns the names of all tests of this binary.
fn tests() -> HashSet<String> {
    let listed = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn the_tests_of_the_table_of_topologies_exist() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let section = page.split("### Which layer runs on what").nth(1).unwrap().split("\n## ").next().unwrap();
    let tests = tests();
    let named: Vec<_> = Regex::new(r"`(\w+(?:::\w+)+)`").unwrap().captures_iter(section).collect();
    assert!(named.len() > 20 && tests.len() > 1000, "{} of {}", named.len(), tests.len());
    let there = |name: &str| tests.contains(name) || tests.iter().any(|test| test.starts_with(&format!("{name}::")));
    let missing: Vec<_> = named.iter().map(|name| &name[1]).filter(|name| !there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
