//! The program `channel-layer`: commands and their options.

mod chat;
mod demo;
mod doctor;
mod flush;
mod group;
mod layer;
mod quarantine;
mod receive;
mod send;
mod serve;
mod stats;
mod worker;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use channel_layer::BoxError;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Channels and groups between processes, on Redis or in memory.
///
/// Without a command, the program runs the demo.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Demo,
}

#[derive(Subcommand)]
enum Command {
    /// Run a chat: a web page, its WebSockets, and the worker behind them
    Demo(demo::Demo),
    /// Run an interface server: hold the connections of clients and pass their messages to workers
    Serve(Box<serve::Serve>),
    /// Run a worker: answer the clients of interface servers, and deliver delayed messages
    Worker(worker::Work),
    /// Send a message to a channel or a group
    Send(send::Send),
    /// Print messages of channels as they arrive, with byte strings as lists of numbers
    Receive(receive::Receive),
    /// Show or change the members of a group
    #[command(subcommand)]
    Group(group::Group),
    /// Print statistics of a channel, or of all channels together
    Stats(stats::Stats),
    /// Show the options and the servers, and send a message through each server
    Doctor(doctor::Doctor),
    /// List, restore or delete the messages that no reader could read
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// Delete all messages, groups and statistics
    Flush(flush::Flush),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let arguments = Arguments::parse();
    let done = match arguments.command.unwrap_or(Command::Demo(arguments.demo)) {
        Command::Demo(demo) => demo.run().await,
        Command::Serve(serve) => match check_server_variables() {
            Ok(()) => serve.run().await,
            Err(error) => Err(error.into()),
        },
        Command::Worker(worker) => worker.run().await,
        Command::Send(send) => send.run().await,
        Command::Receive(receive) => receive.run().await,
        Command::Group(group) => group.run().await,
        Command::Stats(stats) => stats.run().await,
        Command::Doctor(doctor) => doctor.run().await,
        Command::Quarantine(quarantine) => quarantine.run().await,
        Command::Flush(flush) => flush.run().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("channel-layer: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Rejects environment variables with the prefix of the interface server that no option has.
fn check_server_variables() -> channel_layer::Result<()> {
    let arguments = Arguments::command();
    let serve = arguments.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    let known: Vec<_> = serve.filter_map(|argument| argument.get_env()?.to_str()).collect();
    channel_layer::config::check_variables("CHANNEL_SERVER_", &known)
}

/// Formats an error and its causes in one line. Some libraries repeat a cause in the text of the error.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// Returns the first error of a command and its clean-up, and logs the others.
fn first_error(results: impl IntoIterator<Item = Result<(), BoxError>>) -> Result<(), BoxError> {
    let mut errors = results.into_iter().filter_map(Result::err);
    let first = errors.next();
    errors.for_each(|error| tracing::error!("{}", chain(&*error)));
    first.map_or(Ok(()), Err)
}

/// Exit status after a second signal, as of a process ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Prints a line to standard output and flushes it. The log goes to standard error.
fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| io::Error::new(error.kind(), format!("cannot write to standard output: {error}")))
}

/// Returns a token that Ctrl-C or SIGTERM cancels. A second signal ends the process immediately.
fn stop_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let mut signalled = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        signalled().await;
        stopping.cancel();
        signalled().await;
        tracing::warn!("second signal: exiting immediately");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(stop)
}

/// Longest duration that an option accepts. Clocks can add it to the current time without an overflow.
const MAX_DURATION: Duration = Duration::from_hours(100 * 366 * 24);

/// Parses a duration in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= MAX_DURATION);
    time.ok_or_else(|| "expected 0 to 100 years, in seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_close_does_not_hide_the_error_of_the_command() {
        let failed = |text: &str| Err(BoxError::from(text.to_owned()));
        let text = |results: [Result<(), BoxError>; 3]| first_error(results).err().map(|error| error.to_string());
        assert_eq!(text([Ok(()), failed("command"), failed("close")]).as_deref(), Some("command"));
        assert_eq!(text([Ok(()), Ok(()), failed("close")]).as_deref(), Some("close"));
        assert_eq!(text([Ok(()), Ok(()), Ok(())]), None);
    }
}
