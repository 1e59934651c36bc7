//! The rules of the source tree: who may import whom, where dependencies live, and how files begin.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// The modules of the crate in rows; a module imports only from rows before its own.
const ROWS: &[&[&str]] = &[
    &["name", "health", "supervise", "backoff"],
    &["message"],
    &["error", "trace"],
    &["drops", "pattern"],
    &["layer", "capacity", "spread", "crypto"],
    &["codec"],
    &["config"],
    &["memory"],
    &["hybrid", "redis"],
    &["fallback", "django"],
    &["deployment"],
    &["server", "worker"],
    &["fuzzing"],
];

/// The parts of the server in rows, with the same rule.
const SERVER_ROWS: &[&[&str]] = &[
    &["options", "counters", "reader"],
    &["limits"],
    &["transport"],
    &["websocket"],
    &["asgi"],
    &["http"],
    &["status"],
    &["hub"],
    &["interface"],
];

/// The parts of the Redis layers in rows, with the same rule.
const REDIS_ROWS: &[&[&str]] = &[
    &["closing", "driven", "entry"],
    &["node"],
    &["topology", "groups"],
    &["send", "receive"],
    &["stored", "pubsub"],
    &["native"],
];

/// The parts of the receive path in rows, with the same rule.
const RECEIVE_ROWS: &[&[&str]] = &[
    &["raw"],
    &["buffer"],
    &["format"],
    &["reader"],
    &["consumer", "put_back", "fetch"],
    &["outage"],
    &["task"],
    &["readers"],
];

/// Each dependency with the files and folders under `src` that may use it. The formats of Python's layers go through
/// the connections of the Redis layer.
const HOMES: &[(&str, &[&str])] = &[
    ("redis", &["redis/", "django/"]),
    ("deadpool_redis", &["redis/", "django/"]),
    ("rustls", &["redis/"]),
    ("rmp_serde", &["codec/"]),
    ("rmp", &["codec/"]),
    ("aes", &["crypto/"]),
    ("crc32fast", &["redis/"]),
    ("aes_gcm", &["crypto/"]),
    ("base64", &["crypto/"]),
    ("cbc", &["crypto/"]),
    ("hkdf", &["crypto/"]),
    ("hmac", &["crypto/"]),
    ("sha2", &["crypto/"]),
    ("globset", &["pattern.rs"]),
    ("regex", &["pattern.rs"]),
    ("metrics_exporter_prometheus", &["server/"]),
    ("axum", &["server/"]),
    ("governor", &["server/limits/"]),
    ("hyper", &["server/"]),
    ("hyper_util", &["server/"]),
    ("tokio_rustls", &["server/"]),
    ("ipnet", &["server/"]),
    ("filedescriptor", &["server/"]),
    ("tungstenite", &["server/"]),
    ("socket2", &["redis/", "server/transport/listener/"]),
    ("clap", &["bin/"]),
];

/// The files that update metrics without `supervise::update_metric`: that function itself counts panics, and in the
/// others a panic costs one entry, one command or one connection.
const UNCONTAINED: &[&str] = &[
    "src/supervise.rs",
    "src/redis/native/receive/read.rs",
    "src/redis/node/commands/request.rs",
    "src/redis/node/shard/mod.rs",
];

/// In lines, without a module of unit tests at the end.
const LONGEST_FILE: usize = 600;

#[test]
fn imports_run_one_way() {
    let exports = re_exports();
    let mut wrong = Vec::new();
    for file in Source::all_in("src") {
        let Some(row) = file.module().and_then(row_of) else { continue };
        let code = file.code_without_tests();
        for imported in imports(&code) {
            let module = exports.get(&imported).unwrap_or(&imported);
            if Some(module.as_str()) == file.module() {
                continue;
            }
            match row_of(module) {
                Some(other) if other < row => {}
                _ => wrong.push(format!("{} imports crate::{imported}", file.path)),
            }
        }
    }
    assert_clean("imports against the order of the modules", &wrong);
}

#[test]
fn each_part_of_the_server_imports_only_from_earlier_rows() {
    let wrong = imports_against("server", SERVER_ROWS);
    assert_clean("imports against the order of the parts of the server", &wrong);
}

#[test]
fn each_part_of_the_redis_layers_imports_only_from_earlier_rows() {
    let wrong = imports_against("redis", REDIS_ROWS);
    assert_clean("imports against the order of the parts of the Redis layers", &wrong);
}

#[test]
fn each_part_of_the_receive_path_imports_only_from_earlier_rows() {
    let wrong = imports_against("redis/receive", RECEIVE_ROWS);
    assert_clean("imports against the order of the parts of the receive path", &wrong);
}

/// The imports of the files in `folder` that are against the order of its parts in `rows`. A part is a file of the
/// folder or one of its folders.
fn imports_against(folder: &str, rows: &[&[&str]]) -> Vec<String> {
    let row_of = |part: &str| rows.iter().position(|row| row.contains(&part));
    let absolute = Regex::new(&format!("crate::{}::([a-z_]+)", folder.replace('/', "::"))).unwrap();
    let relative = Regex::new(r"\bsuper::([a-z_]+)").unwrap();
    let mut wrong = Vec::new();
    for file in Source::all_in(&format!("src/{folder}")) {
        let path = file.path.strip_prefix(&format!("src/{folder}/")).unwrap();
        let part = path.split(['/', '.']).next().unwrap();
        if ["mod", "fuzzing"].contains(&part) {
            continue;
        }
        let Some(row) = row_of(part) else {
            wrong.push(format!("{} has no row", file.path));
            continue;
        };
        let code = file.code();
        let beside = (!path.contains('/')).then(|| relative.captures_iter(&code)).into_iter().flatten();
        for imported in absolute.captures_iter(&code).chain(beside).map(|found| found[1].to_owned()) {
            if imported != part && row_of(&imported).is_none_or(|other| other >= row) {
                wrong.push(format!("{} imports {imported}", file.path));
            }
        }
    }
    wrong
}

#[test]
fn every_module_has_a_row() {
    let modules = Source::all_in("src").into_iter().filter_map(|file| file.module().map(str::to_owned));
    let without: Vec<_> = modules.filter(|module| row_of(module).is_none()).collect();
    assert_clean("modules without a place in the order of imports", &without);
}

#[test]
fn each_dependency_has_one_home() {
    let mut wrong = Vec::new();
    for (dependency, homes) in HOMES {
        // As the first part of a path: `redis::x`, `::redis::x`, `use redis as x`; not `crate::redis::x`.
        let used = Regex::new(&format!(r"(?m)(?:^|[^\w:])(?:::)?{dependency}::|\buse (?:::)?{dependency}\b")).unwrap();
        for file in Source::all_in("src") {
            let path = file.path.strip_prefix("src/").unwrap();
            let at_home = path == "lib.rs" || homes.iter().any(|home| path.starts_with(home));
            if !at_home && used.is_match(&file.code()) {
                wrong.push(format!("{} uses {dependency}", file.path));
            }
        }
    }
    assert_clean("dependencies away from home", &wrong);
}

#[test]
fn every_metric_is_updated_through_the_function_that_contains_its_recorder() {
    let macros = Regex::new(r"\b(counter|gauge|histogram)!").unwrap();
    let contained = Regex::new(r"update_metric\(\|\|\s*(\{\s*)?metrics::(counter|gauge|histogram)!").unwrap();
    let mut wrong = Vec::new();
    for file in Source::all_in("src").into_iter().filter(|file| !UNCONTAINED.contains(&&*file.path)) {
        let code = file.code_without_tests();
        if macros.find_iter(&code).count() != contained.find_iter(&code).count() {
            wrong.push(file.path);
        }
    }
    assert_clean("files that update metrics without `supervise::update_metric`", &wrong);
}

#[test]
fn every_rust_file_says_first_what_it_is_for() {
    let silent = |file: &Source| !file.text.starts_with("//! ");
    let silent: Vec<_> = Source::all().into_iter().filter(silent).map(|file| file.path).collect();
    assert_clean("files whose first line is no `//!`", &silent);
}

#[test]
fn every_script_has_a_header() {
    let blocking = Regex::new(r#"call\(\s*['"](?i:keys)['"]"#).unwrap();
    let mut wrong = Vec::new();
    for file in Source::of_kind("src", "lua") {
        let lines = file.text.lines().skip_while(|line| line.starts_with("#!"));
        let header: Vec<_> = lines.take_while(|line| line.starts_with("--")).collect();
        let header = header.join("\n");
        let purpose = header.lines().next().is_some_and(|line| line.len() > 10 && !line.contains("KEYS"));
        let said = ["KEYS", "ARGV", "Returns"].iter().all(|word| header.to_lowercase().contains(&word.to_lowercase()));
        if !purpose || !said {
            wrong.push(file.path.clone());
        }
        if blocking.is_match(&file.text) {
            wrong.push(format!("{} calls KEYS, which blocks the server", file.path));
        }
    }
    assert_clean("scripts without a header that names purpose, KEYS, ARGV and what they return", &wrong);
}

/// Redis runs a script that says nothing of itself on a server without memory until it adds data, and then refuses only
/// its first write. `#!lua`, which servers before 7.0 do not know, has everything checked before the script begins.
#[test]
fn no_script_adds_data_behind_another_write() {
    let command = Regex::new(r"call\(\s*'([A-Z]+)'").unwrap();
    let adding = ["SET", "RPUSH", "LPUSH", "ZADD", "HINCRBY", "INCRBY"];
    let reading = ["TIME", "GET", "EXISTS", "PTTL", "LLEN", "LINDEX", "ZCOUNT", "ZSCORE", "ZRANGE", "ZCARD"];
    let reading = [&reading[..], &["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"]].concat();
    let mut wrong = Vec::new();
    for file in Source::of_kind("src", "lua") {
        let commands = command.captures_iter(&file.text).map(|found| found[1].to_owned());
        let mut writes = commands.filter(|command| !reading.contains(&&**command)).peekable();
        let first_adds = writes.peek().is_none_or(|first| adding.contains(&&**first));
        let adds = writes.any(|command| adding.contains(&&*command));
        if adds && !first_adds && !file.text.starts_with("#!lua") {
            wrong.push(file.path.clone());
        }
        if file.path.starts_with("src/redis/") && !file.text.starts_with("#!lua") {
            wrong.push(format!("{} has no flags, though its servers know them", file.path));
        }
    }
    assert_clean("scripts that a server without memory does not refuse in time", &wrong);
}

#[test]
fn no_script_takes_an_error_for_an_answer() {
    let used = Regex::new(r"(\w+) = [^\n]*\bpcall\('").unwrap();
    let mut wrong = Vec::new();
    for file in Source::of_kind("src", "lua") {
        let unchecked = used
            .captures_iter(&file.text)
            .map(|found| found[1].to_owned())
            .filter(|name| !file.text.contains(&format!("string.find({name}.err, 'WRONGTYPE', 1, true)")));
        wrong.extend(unchecked.map(|name| format!("{}: {name}", file.path)));
    }
    assert_clean("answers that may be an error other than WRONGTYPE", &wrong);
}

#[test]
fn comments_are_wrapped() {
    let is_table = |line: &str| line.trim_start_matches(['/', '!', ' ']).starts_with('|');
    let mut long = Vec::new();
    for file in Source::all() {
        let lines = file.text.lines().enumerate();
        let comments = lines.filter(|(_, line)| line.trim_start().starts_with("//") && !is_table(line));
        let wide = comments.filter(|(_, line)| line.chars().count() > 120);
        long.extend(wide.map(|(number, _)| format!("{}:{}", file.path, number + 1)));
    }
    assert_clean("comment lines of more than 120 characters", &long);
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for file in Source::all().into_iter().chain(Source::of_kind("src", "lua")) {
        let tests = file.text.find("\n#[cfg(test)]\nmod ").unwrap_or(file.text.len());
        let lines = file.text[..tests].lines().count();
        if lines > LONGEST_FILE {
            long.push(format!("{} has {lines} lines", file.path));
        }
    }
    assert_clean("files that want splitting", &long);
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ign", "ore"), concat!("unimpl", "emented!")];
    let mut left = Vec::new();
    for file in Source::all().into_iter().chain(Source::of_kind("src", "lua")) {
        let found = words.iter().filter(|word| file.text.contains(**word));
        left.extend(found.map(|word| format!("{} has {word}", file.path)));
    }
    assert_clean("things left for later", &left);
}

/// Words that the code once invented or that read as if translated, each with a standard word in its place.
const RETIRED: &[&str] = &[
    "barred",
    "bequeath\\w*",
    "checkups?",
    "crews?",
    "crowds?",
    "departures?",
    "farewells?",
    "keepers?",
    "lanes?",
    "ledgers?",
    "nothing if",
    "outbox",
    "parcels?",
    "sorters?",
    "stations?",
    "surroundings",
    "tally",
    "those who",
    "vitals",
    "whoever",
    "wishes",
    "; gives",
];

#[test]
fn retired_words_do_not_come_back() {
    let retired = Regex::new(&format!(r"(?i)(?:^|[^a-z])(?:{})(?:$|[^a-z])", RETIRED.join("|"))).unwrap();
    let mut found = Vec::new();
    for file in Source::all().into_iter().chain(Source::of_kind("src", "lua")).chain(Source::of_kind("docs", "md")) {
        // This file lists the words, and a decision record is a text of its time.
        if file.path.ends_with("tests/tidy.rs") || file.path.starts_with("docs/decisions/") {
            continue;
        }
        let lines = file.text.lines().enumerate().filter(|(_, line)| retired.is_match(line));
        found.extend(lines.map(|(number, line)| format!("{}:{}: {}", file.path, number + 1, line.trim())));
    }
    assert_clean("retired words", &found);
}

#[test]
fn files_have_names_that_mean_something() {
    let vague = Regex::new(r"(utils?|helpers?|misc|common)(\.|/|_)").unwrap();
    let vague: Vec<_> = Source::all().into_iter().map(|file| file.path).filter(|path| vague.is_match(path)).collect();
    assert_clean("names that say nothing", &vague);
}

#[test]
fn the_parsers_of_these_tests_see_what_they_should() {
    let code = "use crate::{error::{Error, Result}, name::ChannelName, Message};\nlet x = crate::codec::encode(crate::message!{}, $crate::gone);";
    assert_eq!(imports(code), ["Message", "codec", "error", "message", "name"]);
    let file = Source {
        path: "src/redis/layer.rs".to_owned(),
        text: "use a; // crate::gone\n/// [`crate::gone`]\nb();\n#[cfg(test)]\nmod tests;\nc();\n#[cfg(test)]\nmod tests {\n    use crate::gone;\n}\n".to_owned(),
    };
    assert_eq!(file.module(), Some("redis"));
    assert_eq!(file.code_without_tests(), "use a; \nb();\nc();\n");
    assert_eq!(re_exports().get("ChannelName").map(String::as_str), Some("name"));
}

#[track_caller]
fn assert_clean(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// What follows `crate::` in `code`, sorted: the first part of each path, also where several stand in braces.
fn imports(code: &str) -> Vec<String> {
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?:^|[^$\w])crate::(\w+|\{)").unwrap());
    let mut found = Vec::new();
    for path in PATH.captures_iter(code) {
        let first = path.get(1).unwrap();
        if first.as_str() == "{" {
            found.extend(first_parts(&code[first.end()..]));
        } else {
            found.push(first.as_str().to_owned());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first part of each path in a list that ends with the closing brace.
fn first_parts(list: &str) -> Vec<String> {
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for character in list.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => part.push(character),
        }
    }
    parts.push(part);
    let first = |part: &String| part.trim().split("::").next().unwrap_or_default().to_owned();
    parts.iter().map(first).filter(|part| !part.is_empty()).collect()
}

/// What `lib.rs` exports again, each with the module that it comes from.
fn re_exports() -> BTreeMap<String, String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let line = Regex::new(r"(?s)pub use (?:crate::|self::)?(\w+)::(\{[^}]*\}|\w+)").unwrap();
    let mut exports = BTreeMap::new();
    for found in line.captures_iter(&lib) {
        let names = found[2].trim_matches(['{', '}']).split(',').map(str::trim).filter(|name| !name.is_empty());
        exports.extend(names.map(|name| (name.to_owned(), found[1].to_owned())));
    }
    // Types of other crates may come from anywhere.
    exports.retain(|_, module| row_of(module).is_some());
    exports
}

/// A file of the project.
struct Source {
    /// From the root of the project, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// All Rust files.
    fn all() -> Vec<Self> {
        ["src", "tests", "benches", "examples", "python/src"].into_iter().flat_map(Self::all_in).collect()
    }

    fn all_in(folder: &str) -> Vec<Self> {
        Self::of_kind(folder, "rs")
    }

    fn of_kind(folder: &str, extension: &str) -> Vec<Self> {
        let mut files = Vec::new();
        collect(&root().join(folder), extension, &mut files);
        files.sort();
        files.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
        Self { path: relative.replace('\\', "/"), text: fs::read_to_string(path).unwrap() }
    }

    /// The module of the crate that it belongs to; none for `lib.rs` and the program, which see all.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        let module = first.strip_suffix(".rs").unwrap_or(first);
        (!["lib", "bin"].contains(&module)).then_some(module)
    }

    /// The text without comments. A `//` in a string ends the line early, which these rules can bear.
    fn code(&self) -> String {
        let mut code = String::new();
        for line in self.text.lines() {
            let line = line.split("//").next().unwrap_or_default();
            if !line.trim().is_empty() {
                code.push_str(line);
                code.push('\n');
            }
        }
        code
    }

    /// The code without modules of unit tests, which may import what they like.
    fn code_without_tests(&self) -> String {
        static TESTS: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?ms)^#\[cfg\(test\)\]\nmod \w+(;\n| \{\n.*?^\}\n)").unwrap());
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return String::new();
        }
        TESTS.replace_all(&self.code(), "").into_owned()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}
