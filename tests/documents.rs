//! Every relative link in the documents leads to a file and a heading, in the repository and in the packaged crate.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;

static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^()\s]+)\)").unwrap());

#[test]
fn every_link_has_a_target() {
    let files = listed("git", &["ls-files"]);
    let pages: Vec<_> = files.iter().filter(|file| is_page(file)).collect();
    assert!(pages.len() > 10, "{pages:?}");
    let broken: Vec<_> = pages.iter().flat_map(|page| broken(page, &files)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_link_has_a_target_in_the_packaged_crate() {
    let files = listed(env!("CARGO"), &["package", "--list", "--allow-dirty", "--offline"]);
    let pages: Vec<_> = files.iter().filter(|file| is_page(file)).collect();
    assert!(pages.len() > 10, "{pages:?}");
    let broken: Vec<_> = pages.iter().flat_map(|page| broken(page, &files)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_file_that_a_page_names_exists() {
    static SPAN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"`([\w./*{},-]+\.(?:rs|lua))(?:::\w+)?`").unwrap());
    let files = rooted_files();
    let (mut named, mut missing) = (0, Vec::new());
    for page in pages_about_code(&files) {
        for span in SPAN.captures_iter(&prose(Path::new(page))) {
            named += 1;
            let name = format!("/{}", &span[1]);
            let (start, end) = name.split_once('*').unwrap_or(("", &name));
            if !files.iter().any(|file| file.ends_with(end) && file.contains(start)) {
                missing.push(format!("{page}: {}", &span[1]));
            }
        }
    }
    assert!(named > 100 && missing.is_empty(), "{missing:#?} of {named}");
}

/// A page names a test as `module::test` below `tests/`, or after its file or module: `file.rs`: `test`, `test`.
#[test]
fn every_test_that_a_page_names_exists() {
    const MODULES: &str = "[a-z0-9_]+(?:::[a-z0-9_]+)+";
    static TEST: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("`({MODULES})`")).unwrap());
    static LIST: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&format!(r"`({MODULES}|[a-z0-9_/]+\.rs)`: ((?:`\w+`(?:, )?)+)")).unwrap());
    static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"`(\w+)`").unwrap());
    let files = rooted_files();
    let below_tests = |modules: &str| format!("/tests/{}", modules.replace("::", "/"));
    let (mut count, mut missing) = (0, Vec::new());
    for page in pages_about_code(&files) {
        let text = prose(Path::new(page));
        let mut named = Vec::new();
        for test in TEST.captures_iter(&text) {
            let (modules, name) = test[1].rsplit_once("::").unwrap();
            named.push((below_tests(modules), name.to_owned()));
        }
        // Other paths are those of the crate.
        named.retain(|(place, _)| {
            let first = place.split('/').nth(2).unwrap();
            files
                .iter()
                .any(|file| *file == format!("/tests/{first}.rs") || file.starts_with(&format!("/tests/{first}/")))
        });
        for list in LIST.captures_iter(&text) {
            let place = list[1].strip_suffix(".rs").map_or_else(|| below_tests(&list[1]), |file| format!("/{file}"));
            named.extend(NAME.captures_iter(&list[2]).map(|name| (place.clone(), name[1].to_owned())));
        }
        count += named.len();
        let absent = named.iter().filter(|(place, name)| !has_test(&files, place, name));
        missing.extend(absent.map(|(place, name)| format!("{page}: {name} in {place}")));
    }
    assert!(count > 100, "{count}");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_summary_and_the_contents_name_every_page() {
    let files = listed("git", &["ls-files"]);
    for contents in ["docs/SUMMARY.md", "docs/README.md"] {
        let linked: HashSet<_> = links(Path::new(contents)).into_iter().map(|link| target(contents, &link).0).collect();
        let missing: Vec<_> = files
            .iter()
            .filter(|file| is_page(file) && file.parent() == Some(Path::new("docs")))
            .filter(|file| !file.ends_with("README.md") && !file.ends_with("SUMMARY.md") && !linked.contains(*file))
            .collect();
        assert!(missing.is_empty(), "{contents} does not name {missing:?}");
    }
}

#[test]
fn anchors_are_made_of_headings_as_hosting_sites_make_them() {
    assert_eq!(anchor("When something fails"), "when-something-fails");
    assert_eq!(anchor("`RedisLayer`: the way in, and out"), "redislayer-the-way-in-and-out");
}

/// Returns the files of the project, with a slash before each.
fn rooted_files() -> Vec<String> {
    listed("git", &["ls-files"]).iter().map(|file| format!("/{}", file.display())).collect()
}

/// Returns the pages that name files and tests of the project. Other pages name files of their readers, and decision
/// records name the files of their time.
fn pages_about_code(files: &[String]) -> impl Iterator<Item = &str> {
    let pages = files.iter().map(|file| file.trim_start_matches('/'));
    pages.filter(|page| page.starts_with("docs/design/") || ["ARCHITECTURE.md", "CONTRIBUTING.md"].contains(page))
}

/// Whether the module at `place`, a path without `.rs`, has the test or the module `name`.
fn has_test(files: &[String], place: &str, name: &str) -> bool {
    let function = Regex::new(&format!(r"\bfn {name}\b")).unwrap();
    let is_there = |file: &&String| file.ends_with(&format!("{place}.rs")) || file.contains(&format!("{place}/"));
    files.iter().filter(is_there).any(|file| {
        let is_module = [".", "/"].iter().any(|end| file.contains(&format!("{place}/{name}{end}")));
        is_module || function.is_match(&read(Path::new(file.trim_start_matches('/'))))
    })
}

/// Returns the links of a page that lead to no file among `files`, or to no heading in it.
fn broken(page: &Path, files: &HashSet<PathBuf>) -> Vec<String> {
    let name = page.display().to_string();
    let leads = |link: &str| {
        let (file, heading) = target(&name, link);
        let there = files.contains(&file) || files.iter().any(|other| other.starts_with(&file));
        there && heading.is_none_or(|heading| anchors(&file).contains(&heading))
    };
    links(page).into_iter().filter(|link| !leads(link)).map(|link| format!("{name}: {link}")).collect()
}

/// Returns the relative links of a page, outside of code blocks.
fn links(page: &Path) -> Vec<String> {
    let text = prose(page);
    let links = LINK.captures_iter(&text).map(|link| link[1].to_owned());
    links.filter(|link| !link.contains("://") && !link.starts_with("mailto:")).collect()
}

/// Splits a link into its file and its heading, if it names one.
fn target(page: &str, link: &str) -> (PathBuf, Option<String>) {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading.to_owned())));
    if file.is_empty() {
        return (page.into(), heading);
    }
    let mut path = PathBuf::new();
    for part in Path::new(page).parent().unwrap().join(file).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{page}: {link} leaves the project"),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    (path, heading)
}

fn anchors(page: &Path) -> HashSet<String> {
    prose(page).lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Returns the anchor of a heading: lower case, hyphens for spaces, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Returns a page without its code blocks.
fn prose(page: &Path) -> String {
    let text = read(page);
    let blocks = text.split("\n```").enumerate().filter(|(number, _)| number % 2 == 0);
    blocks.map(|(_, block)| block).collect::<Vec<_>>().join("\n")
}

fn read(file: &Path) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    text.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn is_page(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "md")
}

fn listed(program: &str, arguments: &[&str]) -> HashSet<PathBuf> {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}
