//! `Fault`: the failure of a command on one server, and its meaning.

use std::fmt;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::error::ServerFault;
use crate::redis::node::cluster::Redirect;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::connection::connect_error::tls;

/// Why a command failed. Cheap to clone, because each caller of a batch gets it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Fault {
    /// Whether the command may have run.
    pub(crate) may_have_run: bool,
    /// Whether the connection has to be replaced.
    pub(crate) broken: bool,
    /// Whether the server is unreachable, rather than refusing the command.
    pub(crate) outage: bool,
    /// Whether the same command may succeed later.
    pub(crate) transient: bool,
    /// Whether the server has answered with an error that names no place in a script. A script has not run then.
    pub(crate) refuses_script: bool,
    /// Where or when a cluster runs the command instead. It has not run.
    pub(crate) redirect: Option<Redirect>,
    /// The part of the text before the address of the server.
    subject: &'static str,
    cause: Arc<str>,
}

impl Fault {
    /// A permanent fault of a server that is up.
    fn new(may_have_run: bool, cause: impl fmt::Display) -> Self {
        let cause = cause.to_string().into();
        let (broken, outage, transient, refuses_script, redirect) = (false, false, false, false, None);
        Self { may_have_run, broken, outage, transient, refuses_script, redirect, subject: "Redis", cause }
    }

    /// The fault of a command that was not sent, because there is no connection.
    pub(crate) fn unsent(cause: impl fmt::Display) -> Self {
        Self { outage: true, transient: true, ..Self::new(false, cause) }
    }

    /// The fault of a command that was not sent, though the server is up.
    pub(crate) fn busy(cause: impl fmt::Display) -> Self {
        Self { transient: true, ..Self::new(false, cause) }
    }

    /// The fault of an answer that the command cannot have. Such a server is not compatible.
    pub(crate) fn unexpected(answer: &str) -> Self {
        Self::new(true, format!("unexpected answer: {answer}"))
    }

    /// The same fault, for a server of a cluster that is being replaced: another node serves its slots soon.
    pub(crate) fn while_replaced(self) -> Self {
        Self { redirect: Some(Redirect::Wait), ..self }
    }

    /// The same fault, for a server whose return no call waits for.
    pub(crate) fn without_redirect(self) -> Self {
        Self { redirect: None, ..self }
    }

    /// The same cause, marked as an outage. Later commands fail with it while the shard reconnects.
    pub(crate) fn into_outage(self) -> Self {
        Self { outage: true, transient: true, ..self }
    }

    /// The fault of a command whose sending task panicked.
    pub(crate) fn panicked() -> Self {
        Self::new(true, "the task that sent it panicked")
    }

    /// A command whose outcome is unknown, because its task ended with its runtime.
    pub(crate) fn abandoned() -> Self {
        Self::new(true, "the task that sent it has ended")
    }

    /// The same fault, for a command that is not sent because of it, or that can be repeated.
    pub(crate) fn before_sending(self) -> Self {
        Self { may_have_run: false, ..self }
    }

    /// Whether the command can be sent again: it has not run, and may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        self.transient && !self.may_have_run
    }

    /// The public form of this fault of the server at `address`.
    pub(crate) fn at(self, address: &str) -> ServerFault {
        let Self { may_have_run, outage, transient, .. } = self;
        ServerFault { may_have_run, outage, transient, text: self.line(address) }
    }

    /// The fault and the address of its server in one line.
    pub(crate) fn line(&self, address: &str) -> String {
        format!("{} at {address}: {}", self.subject, self.cause)
    }
}

/// The code and the text of an error answer. Returns `None` for an error of the client. The answer to a script names
/// the place of the error: since Redis 7.0 behind the text, as in `READONLY You can't write. script: ..., on
/// @user_script:1.`, and in older versions before the code, as in `ERR Error running script (...): @user_script:1:
/// @user_script: 1: -READONLY You can't write.`
pub(crate) fn answer(error: &RedisError) -> Option<(&str, &str)> {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        return None;
    }
    let (code, text) = (error.code()?, error.detail().unwrap_or_default());
    // The rest repeats the arguments of the command, which may be secret.
    let text = text.split(", with args beginning with").next().unwrap_or(text);
    let is_of_a_script = code == "@user_script:" || text.contains("@user_script:");
    let inside = text.split_once(": -").and_then(|(_, inside)| inside.split_once(' '));
    match inside {
        Some(inside) if is_of_a_script => Some(inside),
        _ => Some((code, text.rsplit_once(" script: ").filter(|_| is_of_a_script).map_or(text, |(text, _)| text))),
    }
}

/// The text of an error in one line. The answer of a server is quoted.
pub(crate) fn text(error: &RedisError) -> String {
    if let Some((code, text)) = answer(error) {
        return format!("{code} {text}");
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "authentication failed: wrong user name or password".into();
    }
    if error.is_timeout() {
        return "no answer in time".into();
    }
    match (tls::tls_error(error), tls::io_error(error)) {
        (Some(fault), _) => tls::text(fault),
        (None, Some(fault)) => io_text(&fault.to_string()),
        (None, None) => error.to_string(),
    }
}

/// The text of an error of the system as part of a sentence. Removes the number, as in `Connection refused (os error
/// 111)`.
fn io_text(text: &str) -> String {
    let text = text.split(" (os error ").next().unwrap_or(text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Whether the code means that the server is starting, has become a replica, or has lost its master.
fn is_unavailable(code: &str) -> bool {
    ["LOADING", "MASTERDOWN", "READONLY"].contains(&code)
}

/// Whether the code means that the command has not run and may succeed later.
fn is_transient(code: &str) -> bool {
    is_shortage(code) || is_unavailable(code) || ["NOSCRIPT", "EXECABORT", "BUSY"].contains(&code)
}

/// Whether the code means that the server refuses writes because it lacks memory, disk space or replicas.
pub(crate) fn is_shortage(code: &str) -> bool {
    ["OOM", "MISCONF", "NOREPLICAS"].contains(&code)
}

/// Whether the user lacks the permission to run the command, which has not run then. A script may have run up to a
/// forbidden command in it.
fn is_forbidden(code: &str, text: &str) -> bool {
    code == "NOAUTH" || (code == "NOPERM" && !text.contains("in script"))
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let Some((code, answered)) = answer(&error) else {
            let (may_have_run, subject) = (!error.is_connection_refusal(), "lost the connection to Redis");
            let fault = Self { subject, broken: true, ..Self::new(may_have_run, text(&error)) };
            return fault.into_outage();
        };
        let redirect = Redirect::parse(code, answered);
        let (broken, transient) = (is_unavailable(code), redirect.is_some() || is_transient(code));
        let may_have_run = !transient && !is_forbidden(code, answered);
        let refuses_script = code == "ERR" && !error.to_string().contains("@user_script");
        let cause = match redirect {
            Some(Redirect::Moved(..) | Redirect::Unnamed) => "another node of the cluster has the slot".to_owned(),
            // `TRYAGAIN` too: only some of the keys of the command exist on the node.
            _ if ["ASK", "TRYAGAIN"].contains(&code) => {
                "the slot is being migrated to another node of the cluster".to_owned()
            }
            _ => text(&error),
        };
        Self { broken, outage: broken, transient, refuses_script, redirect, ..Self::new(may_have_run, cause) }
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let (outage, transient) = (!error.is_refusal(), !error.is_permanent());
        let redirect = match &error {
            // It may be about to become the master.
            ConnectError::Replica => Some(Redirect::Wait),
            // A server that loads its data, for example.
            ConnectError::Redis(error) => {
                answer(error).and_then(|(code, text)| Redirect::parse(code, text)).filter(|it| *it == Redirect::Wait)
            }
            _ => None,
        };
        Self { outage, transient, redirect, subject: "cannot connect to Redis", ..Self::unsent(error) }
    }
}

#[cfg(test)]
mod tests {
    use redis::{RedisError, Value};

    use super::{ConnectError, Fault, Redirect};

    fn fault(answer: &str) -> Fault {
        match redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).expect("it is an answer") {
            Value::ServerError(error) => RedisError::from(error).into(),
            value => panic!("{value:?} is no error"),
        }
    }

    #[test]
    fn a_server_that_loads_its_data_while_a_connection_is_opened_is_waited_for() {
        for (answer, redirect) in
            [("LOADING Redis is loading the dataset in memory", Some(Redirect::Wait)), ("ERR no", None)]
        {
            let Value::ServerError(error) = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap()
            else {
                panic!("{answer} is an error");
            };
            assert_eq!(Fault::from(ConnectError::from(RedisError::from(error))).redirect, redirect, "{answer}");
        }
    }

    #[test]
    fn an_error_inside_a_script_is_read_alike_from_every_version() {
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
    fn an_error_that_names_no_place_in_a_script_refuses_the_script() {
        for (answer, refuses) in [
            ("ERR Lua scripts without any input keys are not supported.", true),
            ("ERR for redis cluster, eval/evalsha number of keys can't be negative or zero", true),
            ("ERR value is not an integer or out of range script: e4, on @user_script:9.", false),
            ("ERR Error running script (call to f_e4): @user_script:1: @user_script: 1: -ERR no", false),
            ("NOPERM ACL failure in script: User u has no permissions to run the 'get' command", false),
        ] {
            assert_eq!(fault(answer).refuses_script, refuses, "{answer}");
        }
    }

    #[test]
    fn a_forbidden_command_has_not_run_and_a_script_with_one_may_have_run() {
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
