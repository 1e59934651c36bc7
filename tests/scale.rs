//! The unit costs, the page of the benchmarks and the page about scale agree.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

fn scale_model(arguments: &str) -> Output {
    Command::new("python3").arg("scripts/scale-model").args(arguments.split_whitespace()).output().unwrap()
}

fn unit_costs() -> Value {
    serde_json::from_slice(&fs::read("docs/unit-costs.json").unwrap()).unwrap()
}

/// The value of each unit cost on the page of the benchmarks, as it is printed there.
fn costs_of_page(page: &str) -> BTreeMap<String, String> {
    static ROW: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$").unwrap());
    let section = page.split("\n## ").find(|section| section.starts_with("Unit costs")).unwrap();
    ROW.captures_iter(section).map(|row| (row[1].to_owned(), row[2].to_owned())).collect()
}

#[test]
fn unit_costs_are_those_of_the_last_benchmarks() {
    let (costs, page) = (unit_costs(), fs::read_to_string("docs/benchmarks.md").unwrap());
    let revision = format!("| channel-layer | {} |", costs["revision"].as_str().unwrap());
    assert!(page.contains(&revision), "{revision}");
    let (costs, shown) = (costs["costs"].as_object().unwrap(), costs_of_page(&page));
    assert!(costs.keys().eq(shown.keys().collect::<std::collections::BTreeSet<_>>()) && costs.len() > 10, "{shown:?}");
    for (key, cost) in costs {
        let (value, text) = (cost["value"].as_f64().unwrap(), &shown[key]);
        let mut words = text.split(' ');
        let mut shown: f64 = words.next().unwrap().parse().unwrap();
        if words.next() == Some("k") {
            shown *= 1000.0;
        }
        // The page has three significant digits.
        assert!((shown - value).abs() <= value.abs() * 0.006, "{key}: {value} and {text}");
    }
}

#[test]
fn examples_are_what_the_scale_model_computes() {
    static EXAMPLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)```sh\nscripts/scale-model ([^\n]*)\n```\n\n```text\n(.*?)```").unwrap());
    let page = fs::read_to_string("docs/design/scale.md").unwrap();
    let mut count = 0;
    for example in EXAMPLE.captures_iter(&page) {
        let output = scale_model(&example[1]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), example[2], "{}: {output:?}", &example[1]);
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn more_load_never_needs_fewer_servers() {
    let count = |arguments: &str, of: &str| {
        let output = scale_model(&format!("{arguments} --json"));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()[of].as_u64().unwrap()
    };
    for layer in ["redis", "pubsub"] {
        for server in ["hub", "interface-server"] {
            for of in ["processes", "masters", "workers"] {
                let counts: Vec<_> = [1, 10, 100, 1000]
                    .map(|factor| {
                        let (sockets, rooms, messages) = (10_000 * factor, 500 * factor, 2000 * factor);
                        let load = format!("--sockets {sockets} --rooms {rooms} --messages {messages}");
                        count(&format!("{load} --layer {layer} --server {server}"), of)
                    })
                    .to_vec();
                assert!(counts.is_sorted(), "{layer} {server} {of}: {counts:?}");
                let has_any = of != "workers" || server == "interface-server";
                assert_eq!(counts[3] > 1, has_any, "{layer} {server} {of}: {counts:?}");
            }
        }
    }
}

#[test]
fn the_scale_model_names_a_bad_option() {
    for (arguments, named) in [
        ("--sockets 0 --rooms 1 --messages 1", "--sockets"),
        ("--sockets 10 --rooms 100 --messages 1", "--rooms"),
        ("--sockets 10 --rooms 1 --messages 1 --busy 2", "--busy"),
        ("--sockets 100 --rooms 1 --messages 1 --largest-room 5", "--largest-room"),
        ("--sockets 10 --rooms 1 --messages 1 --costs Cargo.toml", "Cargo.toml"),
    ] {
        let output = scale_model(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(named) && !text.contains("Traceback"), "{arguments}: {text}");
    }
}
