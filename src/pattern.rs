//! `Rules`: ordered rules with a value for each pattern of names. The first pattern that matches decides.

use std::fmt;
use std::ops::RangeInclusive;

use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Limit of a compiled regex and of its cache, in bytes. Patterns such as `(a{1000}){1000}` need far more.
const REGEX_SIZE: usize = 1 << 20;

/// Limit of a pattern, in bytes. Names have at most 100.
const PATTERN_LENGTH: usize = 1_000;

/// Prefix of a pattern in a configuration that is a regex and not a glob.
const REGEX_MARK: &str = "re:";

/// A rule of an option, in the form of its public type.
pub(crate) trait NameRule: Sized {
    /// What the rule sets.
    const VALUE: &'static str;

    fn new(syntax: Syntax, pattern: &str, value: usize) -> Self;

    fn parts(&self) -> Rule<'_>;

    /// The rule that the `key` of a table in a configuration stands for.
    fn keyed(key: &str, value: usize) -> Self {
        match key.strip_prefix(REGEX_MARK) {
            Some(regex) => Self::new(Syntax::Regex, regex, value),
            None => Self::new(Syntax::Glob, key, value),
        }
    }
}

/// The parts of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule<'r> {
    pub(crate) syntax: Syntax,
    pub(crate) pattern: &'r str,
    pub(crate) value: usize,
}

/// How a pattern is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Syntax {
    /// As in Python's `fnmatch`, for the whole name.
    Glob,
    /// As in the crate `regex`, for the beginning of the name.
    Regex,
}

impl fmt::Display for Rule<'_> {
    /// Formats the rule as an entry of a table in a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.syntax {
            Syntax::Glob => "",
            Syntax::Regex => REGEX_MARK,
        };
        write!(f, "{:?} = {}", format!("{mark}{}", self.pattern), self.value)
    }
}

/// Compiled rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<(Pattern, usize)>);

#[derive(Clone, Debug)]
enum Pattern {
    Glob(GlobMatcher),
    Regex(Regex),
}

impl Rules {
    /// Compiles the rules of `option`, whose values have to be in `range`.
    pub(crate) fn compile<R: NameRule>(rules: &[R], option: &str, range: &RangeInclusive<usize>) -> Result<Self> {
        let compiled = rules.iter().map(|rule| {
            let Rule { syntax, pattern, value } = rule.parts();
            let refuse = |reason: String| Error::config(option, shorten(pattern), reason);
            if !range.contains(&value) {
                let (what, least, most) = (R::VALUE, range.start(), range.end());
                return Err(refuse(format!("{what} {value} must be from {least} to {most}")));
            }
            Ok((Pattern::compile(syntax, pattern).map_err(refuse)?, value))
        });
        compiled.collect::<Result<_>>().map(Self)
    }

    /// The value of the first rule whose pattern matches `name`.
    pub(crate) fn value_of(&self, name: &str) -> Option<usize> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).map(|(_, value)| *value)
    }
}

impl Pattern {
    fn compile(syntax: Syntax, pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() || pattern.len() > PATTERN_LENGTH {
            return Err(format!("a pattern must have 1 to {PATTERN_LENGTH} bytes"));
        }
        match syntax {
            Syntax::Glob => GlobBuilder::new(&from_fnmatch(pattern))
                .literal_separator(false)
                .backslash_escape(false)
                .build()
                .map(|glob| Self::Glob(glob.compile_matcher()))
                .map_err(|error| error.kind().to_string()),
            Syntax::Regex => RegexBuilder::new(pattern)
                .size_limit(REGEX_SIZE)
                .dfa_size_limit(REGEX_SIZE)
                .build()
                .map(Self::Regex)
                .map_err(|error| error.to_string()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Glob(glob) => glob.is_match(name),
            // If any match starts at 0, `find` returns it. A `^` before the pattern could change the meaning of
            // alternatives, flags or comments in it.
            Self::Regex(regex) => regex.find(name).is_some_and(|found| found.start() == 0),
        }
    }
}

fn shorten(pattern: &str) -> String {
    let cut = pattern.floor_char_boundary(100);
    if cut < pattern.len() { format!("{}...", &pattern[..cut]) } else { pattern.to_owned() }
}

/// Translates `pattern` of Python's `fnmatch` into a glob of globset.
///
/// The two differ in braces, which are literal in `fnmatch`; in `[` without its `]`, which is literal; in `[^`, which
/// does not negate; and in `**`, which equals `*`.
fn from_fnmatch(pattern: &str) -> String {
    let mut glob = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars();
    while let Some(char) = rest.next() {
        match char {
            '*' if glob.ends_with('*') => {}
            '[' => match split_class(rest.as_str()) {
                Some((class, after)) => {
                    // A character that occurs in no name keeps `^` from coming first.
                    let guard = if class.starts_with('^') { "\0" } else { "" };
                    glob.extend(["[", guard, class, "]"]);
                    rest = after.chars();
                }
                None => glob.push_str("[[]"),
            },
            '{' => glob.push_str("[{]"),
            '}' => glob.push_str("[}]"),
            _ => glob.push(char),
        }
    }
    glob
}

/// Splits the text after a `[` at the closing `]`. A `]` that comes first, or first after `!`, is a member of the set.
fn split_class(rest: &str) -> Option<(&str, &str)> {
    let first = usize::from(rest.starts_with('!'));
    let skip = first + usize::from(rest[first..].starts_with(']'));
    let end = skip + rest[skip..].find(']')?;
    Some((&rest[..end], &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_of_fnmatch_are_translated() {
        for (pattern, expected) in [
            ("a{b}**[^c][d", "a[{]b[}]*[\0^c][[]d"),
            ("[]]x", "[]]x"),
            ("[!]]x", "[!]]x"),
            ("[]", "[[]]"),
            ("[!]", "[[]!]"),
        ] {
            assert_eq!(from_fnmatch(pattern), expected, "{pattern}");
        }
    }
}
