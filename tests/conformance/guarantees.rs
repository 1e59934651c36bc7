//! Each layer lacks exactly the guarantees that docs/guarantees.md says it lacks.

use super::backend::Kind;

/// A row of the table of guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    AtMostOnce,
    Order,
    Expiry,
    Capacity,
    Cancellation,
    NoSilentLoss,
    Groups,
    BetweenProcesses,
    Drain,
    /// A group message takes one place of a process, whatever the number of its members there.
    OnePlacePerProcess,
    /// Statistics count sent and refused messages.
    Counters,
}

impl Promise {
    const ALL: [Self; 11] = [
        Self::AtMostOnce,
        Self::Order,
        Self::Expiry,
        Self::Capacity,
        Self::Cancellation,
        Self::NoSilentLoss,
        Self::Groups,
        Self::BetweenProcesses,
        Self::Drain,
        Self::OnePlacePerProcess,
        Self::Counters,
    ];

    /// The name of the guarantee in the table.
    fn name(self) -> &'static str {
        match self {
            Self::AtMostOnce => "at most once",
            Self::Order => "order",
            Self::Expiry => "expiry",
            Self::Capacity => "capacity",
            Self::Cancellation => "cancellation",
            Self::NoSilentLoss => "no silent loss",
            Self::Groups => "groups",
            Self::BetweenProcesses => "between processes",
            Self::Drain => "drain",
            Self::OnePlacePerProcess => "one place per process",
            Self::Counters => "counters",
        }
    }
}

impl Kind {
    /// Checks that a layer has the tests of the guarantees that it keeps, and of no others. Only guarantees with
    /// dedicated tests are checked.
    pub fn has_tests_of(&self, tested: &[&str]) {
        let tested_alone =
            [Promise::Capacity, Promise::Drain, Promise::NoSilentLoss, Promise::OnePlacePerProcess, Promise::Order];
        let made = tested_alone.into_iter().filter(|promise| self.promises(*promise));
        let mut made: Vec<_> = made.map(|promise| format!("{promise:?}")).collect();
        // Not in the table, but impossible for a layer without its server.
        made.extend(self.flushes.then(|| "Flush".to_owned()));
        made.sort();
        assert_eq!(tested, made, "the promises of this layer in tests/conformance/mod.rs, by name");
    }
}

pub async fn the_guarantees_are_those_of_the_page(kind: &Kind) {
    let table = Table::of_the_page();
    let names: Vec<_> = table.rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, Promise::ALL.map(Promise::name), "the rows of the table in docs/guarantees.md");
    for (promise, row) in Promise::ALL.into_iter().zip(&table.rows) {
        let expected = if kind.promises(promise) { "yes" } else { "no" };
        assert_eq!(
            row[table.column(kind.column)],
            expected,
            "{} for {} in docs/guarantees.md",
            promise.name(),
            kind.column
        );
    }
}

/// The first table of docs/guarantees.md. Backticks, and the text after a comma in a cell, are removed, so that
/// a cell can contain its reason.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn of_the_page() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guarantees.md");
        let page = std::fs::read_to_string(path).expect("docs/guarantees.md can be read");
        let mut lines = page.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let head = cells(lines.next().expect("docs/guarantees.md has a table"));
        let rows: Vec<_> = lines.skip(1).map(cells).collect();
        assert!(rows.iter().all(|row| row.len() == head.len()), "every row of the guarantees has {} cells", head.len());
        Self { head, rows }
    }

    fn column(&self, name: &str) -> usize {
        let at = self.head.iter().position(|cell| cell == name);
        at.unwrap_or_else(|| panic!("the table of guarantees in docs/guarantees.md has no column {name}"))
    }
}

fn cells(line: &str) -> Vec<String> {
    let cell = |text: &str| text.split(',').next().unwrap_or_default().trim().replace('`', "");
    line.trim().trim_matches('|').split('|').map(cell).collect()
}
