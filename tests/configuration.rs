//! The options of a layer: what the documents say of them.

use std::fs;
use std::path::Path;

use channel_layer::Config;

#[test]
fn the_table_of_options_in_the_documents_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("| option | variable |").expect("docs/configuration.md has a table of options");
    let end = start + text[start..].find("\n\n").expect("a paragraph follows the table") + 1;
    let reference = Config::reference();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, format!("{}{reference}{}", &text[..start], &text[end..])).unwrap();
    } else {
        assert!(text[start..end] == reference, "out of date: run WRITE_DOCS=1 cargo test --test lib configuration");
    }
}
