//! The size of the heavy tests, and the system limits that they need.

/// Set to `full` in continuous integration.
const VARIABLE: &str = "TEST_LOAD";

/// Returns a number of clients: `full` if the heavy tests are enabled, a tenth otherwise.
///
/// # Panics
///
/// If the value of the variable is unknown.
pub fn scaled(full: usize) -> usize {
    match std::env::var(VARIABLE).as_deref() {
        Ok("full") => full,
        Err(std::env::VarError::NotPresent) => full / 10,
        other => panic!("{VARIABLE} can be \"full\" or unset, and is {other:?}"),
    }
}

/// Fails early if this process may not open as many files as a test needs.
///
/// # Panics
///
/// If there is room for fewer than `needed` files besides some hundreds for other tests.
pub fn needs_files(needed: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux tells the limits of a process");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("files are limited");
    let soft = line.split_whitespace().next().expect("the soft limit comes first");
    let enough = soft.parse::<usize>().map_or(soft == "unlimited", |soft| soft >= needed + 500);
    assert!(enough, "the test needs {needed} files open at once, and {soft} may be: ulimit -n \"$(ulimit -Hn)\"");
}
