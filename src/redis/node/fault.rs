//! What can go wrong between here and one server.

use std::fmt;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::error::ServerFault;
use crate::redis::node::connect_error::ConnectError;
use crate::redis::node::connect_error::tls;

/// Why a command did not succeed; cheap to clone, so that each caller of a batch gets it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub struct Fault {
    /// Whether the command may have taken place all the same.
    pub(crate) may_have_run: bool,
    /// Whether the connection is of no more use.
    pub(crate) broken: bool,
    /// Whether there is no server to talk to, rather than one that refused.
    pub(crate) outage: bool,
    /// Whether the same command may succeed later.
    pub(crate) transient: bool,
    /// What is said before the address of the server.
    failed: &'static str,
    cause: Arc<str>,
}

impl Fault {
    /// A command that was not sent for want of a connection.
    pub(crate) fn unsent(cause: impl fmt::Display) -> Self {
        let cause = cause.to_string().into();
        Self { may_have_run: false, broken: false, outage: true, transient: true, failed: "Redis", cause }
    }

    /// A command that was not sent, though the server is there.
    pub(crate) fn busy(cause: impl fmt::Display) -> Self {
        Self { outage: false, ..Self::unsent(cause) }
    }

    /// An answer that the command cannot give, from a server that is not what it should be.
    pub(crate) fn unexpected(answer: &str) -> Self {
        let cause = format!("unexpected answer: {answer}");
        Self { may_have_run: true, transient: false, ..Self::busy(cause) }
    }

    /// The same cause, of commands that have no server until it ends.
    pub(crate) fn of_an_outage(self) -> Self {
        Self { outage: true, transient: true, ..self }
    }

    /// A command whose sender panicked.
    pub(crate) fn panicked() -> Self {
        Self { may_have_run: true, transient: false, ..Self::busy("the task that sent it panicked") }
    }

    /// The same cause for a command that will not be sent because of it.
    pub(crate) fn before_sending(self) -> Self {
        Self { may_have_run: false, ..self }
    }

    /// What is told of it when it concerns the server at `address`.
    pub(crate) fn at(self, address: &str) -> ServerFault {
        let Self { may_have_run, outage, transient, .. } = self;
        ServerFault { may_have_run, outage, transient, text: self.line(address) }
    }

    /// It and the address of its server, in one line.
    pub(crate) fn line(&self, address: &str) -> String {
        format!("{} at {address}: {}", self.failed, self.cause)
    }
}

/// What a server answered, as its code and its words. An error inside a script comes with its place: behind the words since
/// Redis 7.0, as in `READONLY You can't write. script: ..., on @user_script:1.`, and before the code in older ones, as in
/// `ERR Error running script (...): @user_script:1: @user_script: 1: -READONLY You can't write.`
pub(crate) fn answer(error: &RedisError) -> Option<(&str, &str)> {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        return None;
    }
    let (code, words) = (error.code()?, error.detail().unwrap_or_default());
    // It repeats what was sent, which may be secret.
    let words = words.split(", with args beginning with").next().unwrap_or(words);
    let is_of_a_script = code == "@user_script:" || words.contains("@user_script:");
    let inside = words.split_once(": -").and_then(|(_, inside)| inside.split_once(' '));
    match inside {
        Some(inside) if is_of_a_script => Some(inside),
        _ => Some((code, words.rsplit_once(" script: ").filter(|_| is_of_a_script).map_or(words, |(words, _)| words))),
    }
}

/// What has happened, in one line, and the server's own words if it answered.
pub(crate) fn words(error: &RedisError) -> String {
    if let Some((code, words)) = answer(error) {
        return format!("{code} {words}");
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "authentication failed: wrong user name or password".into();
    }
    if error.is_timeout() {
        return "no answer in time".into();
    }
    match (tls::broken(error), tls::io_error(error)) {
        (Some(fault), _) => tls::words(fault),
        (None, Some(fault)) => io_words(&fault.to_string()),
        (None, None) => error.to_string(),
    }
}

/// A fault of the system without its number, as in `Connection refused (os error 111)`, and as part of a sentence.
fn io_words(text: &str) -> String {
    let text = text.split(" (os error ").next().unwrap_or(text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Whether an error with this code says that the server is starting, is a replica now, or has lost its master.
fn is_away(code: &str) -> bool {
    ["LOADING", "MASTERDOWN", "READONLY"].contains(&code)
}

/// Whether an error with this code is the answer to a command that has not run, and may run later.
fn is_passing(code: &str) -> bool {
    is_shortage(code) || is_away(code) || ["NOSCRIPT", "EXECABORT", "BUSY", "CLUSTERDOWN", "TRYAGAIN"].contains(&code)
}

/// Whether an error with this code says that a server takes no writes for want of memory, disk or replicas.
pub(crate) fn is_shortage(code: &str) -> bool {
    ["OOM", "MISCONF", "NOREPLICAS"].contains(&code)
}

/// Whether an error says that the user may not run a command, which then has not run. A script may have run up to a command
/// in it that the user may not run.
fn is_forbidden(code: &str, words: &str) -> bool {
    code == "NOAUTH" || (code == "NOPERM" && !words.contains("in script"))
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let (may_have_run, broken, transient, failed) = match answer(&error) {
            Some((code, words)) => {
                (!is_passing(code) && !is_forbidden(code, words), is_away(code), is_passing(code), "Redis")
            }
            None => (!error.is_connection_refusal(), true, true, "lost the connection to Redis"),
        };
        Self { may_have_run, broken, outage: broken, transient, failed, cause: words(&error).into() }
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let (outage, transient) = (!error.is_refusal(), !error.is_permanent());
        Self { outage, transient, failed: "cannot connect to Redis", ..Self::unsent(error) }
    }
}

#[cfg(test)]
mod tests {
    use redis::{RedisError, Value};

    use super::Fault;

    fn fault(answer: &str) -> Fault {
        match redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).expect("it is an answer") {
            Value::ServerError(error) => RedisError::from(error).into(),
            value => panic!("{value:?} is no error"),
        }
    }

    #[test]
    fn an_error_inside_a_script_is_the_one_of_the_server_in_every_version() {
        let place = "script: e42b219adb530be371a041bd9852ac32a854e14e, on @user_script:1.";
        let raised = "ERR Error running script (call to f_e42b): @user_script:1: @user_script: 1: -";
        for refusal in [
            "READONLY You can't write against a read only replica.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            for answer in [
                refusal.to_owned(),
                format!("{refusal} {place}"),
                format!("{raised}{refusal}"),
                format!("@user_script: 1: -{refusal}"),
            ] {
                let fault = fault(&answer);
                assert!(fault.transient && !fault.may_have_run, "{answer}");
                assert_eq!(fault.broken, refusal.starts_with("READONLY"), "{answer}");
                assert_eq!(fault.line("a:1"), format!("Redis at a:1: {refusal}"));
            }
        }
    }

    #[test]
    fn a_command_that_is_forbidden_has_not_run_and_a_script_with_one_may_have() {
        for (answer, may_have_run) in [
            ("NOPERM User u has no permissions to run the 'evalsha' command", false),
            ("NOPERM ACL failure in script: User u has no permissions to run the 'get' command", true),
            (
                "ERR The user executing the script can't run this command or subcommand script: e4, on @user_script:1.",
                true,
            ),
            ("NOAUTH Authentication required.", false),
        ] {
            let fault = fault(answer);
            assert_eq!((fault.may_have_run, fault.broken, fault.transient), (may_have_run, false, false), "{answer}");
        }
    }
}
