//! The tables in docs/operations.md list the metrics that the code records and the reasons for which it drops messages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;

/// The metrics of the table, each with its kind.
pub fn documented() -> BTreeMap<String, String> {
    let page = page();
    let row = Regex::new(r"(?m)^\| `(channel_layer_\w+)` \| (counter|gauge|histogram)").unwrap();
    row.captures_iter(&page).map(|row| (row[1].to_owned(), row[2].to_owned())).collect()
}

#[test]
fn the_table_of_metrics_has_those_of_the_code_and_nothing_else() {
    let call = Regex::new(r#"(counter|gauge|histogram)!\(\s*"(channel_layer_\w+)""#).unwrap();
    let mut recorded = BTreeMap::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for call in call.captures_iter(&text) {
            recorded.insert(call[2].to_owned(), call[1].to_owned());
        }
    }
    assert!(recorded.len() > 5, "{recorded:?}");
    assert_eq!(documented(), recorded);
}

#[test]
fn the_table_of_drop_reasons_has_those_of_the_code_and_nothing_else() {
    let label = Regex::new(r#"DropReason::\w+ => "(\w+)""#).unwrap();
    let mut counted = BTreeSet::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        counted.extend(label.captures_iter(&text).map(|label| label[1].to_owned()));
    }
    assert!(counted.len() > 5, "{counted:?}");
    let page = page();
    let (_, table) = page.split_once("\n| reason | ").expect("docs/operations.md has a table of drop reasons");
    let row = Regex::new(r"^\| `(\w+)` \| \w").unwrap();
    let explained = table.lines().skip(2).map_while(|line| Some(row.captures(line)?[1].to_owned()));
    assert_eq!(explained.collect::<BTreeSet<_>>(), counted);
}

fn page() -> String {
    fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => rust_files(&path),
            Some(extension) if extension == "rs" => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
