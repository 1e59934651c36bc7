//! The documented options of a layer agree with the code.

use std::fs;
use std::path::Path;

use channel_layer::Config;

#[test]
fn the_documented_table_of_options_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("| option | variable |").expect("docs/configuration.md has a table of options");
    let end = start + text[start..].find("\n\n").expect("a paragraph follows the table") + 1;
    let reference = Config::reference();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, format!("{}{reference}{}", &text[..start], &text[end..])).unwrap();
    } else {
        assert!(
            text[start..end] == reference,
            "docs/configuration.md is out of date: run WRITE_DOCS=1 cargo test --test lib configuration"
        );
    }
}

#[test]
fn the_doc_of_every_setter_has_the_range_and_the_default() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let sources: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut ranges = 0;
    for option in Config::options() {
        let setter = sources.find(&format!("    pub fn {}", option.name)).unwrap_or_else(|| panic!("{}", option.name));
        let lines = sources[..setter].lines().rev().skip_while(|line| !line.contains("///"));
        let mut lines: Vec<_> = lines.map_while(|line| line.trim().strip_prefix("///")).map(str::trim).collect();
        lines.reverse();
        let said = lines.join(" ");
        assert!(said.contains("Defaults to "), "{}: {said}", option.name);
        let has_range = option.accepts.starts_with("from ");
        ranges += usize::from(has_range);
        assert!(!has_range || said.contains(&option.accepts), "{}: {said} lacks {}", option.name, option.accepts);
    }
    assert!(ranges > 10, "{ranges}");
}
