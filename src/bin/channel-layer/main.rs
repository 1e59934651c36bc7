//! The program `channel-layer`.

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

use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Channels and groups between processes, on Redis or in memory.
///
/// Without a command it runs the demo.
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
    /// Serve a chat: a web page, its sockets, and the worker that answers them.
    Demo(demo::Demo),
    /// Hold the connections of clients and pass what they say to workers.
    Serve(Box<serve::Serve>),
    /// Answer the clients of interface servers, and carry out delayed messages.
    Worker(worker::Work),
    /// Send a message to a channel or a group.
    Send(send::Send),
    /// Print messages of channels as they come, byte strings as lists of numbers.
    Receive(receive::Receive),
    /// Look at or change the members of a group.
    #[command(subcommand)]
    Group(group::Group),
    /// Print figures of a channel, or of all together.
    Stats(stats::Stats),
    /// Look at the options and the servers, and send a message through each of them.
    Doctor(doctor::Doctor),
    /// List, restore or delete the messages that no reader could read.
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// Delete all messages, groups and statistics.
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

/// Refuses a variable of the interface server that none of its options has.
fn check_server_variables() -> channel_layer::Result<()> {
    let arguments = Arguments::command();
    let serve = arguments.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    let known: Vec<_> = serve.filter_map(|argument| argument.get_env()?.to_str()).collect();
    channel_layer::config::check_variables("CHANNEL_SERVER_", &known)
}

/// An error and its causes in one line; some libraries repeat a cause in the text of what it caused.
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

/// The status of a process that was told a second time to end, as of one that an interrupt has ended.
const IMPATIENT: i32 = 130;

/// Prints to standard output at once; the log is on standard error.
fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Cancelled by Ctrl-C or SIGTERM. A second one ends the process at once.
fn stop_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let mut told = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        told().await;
        stopping.cancel();
        told().await;
        tracing::warn!("told twice to end: ending at once");
        std::process::exit(IMPATIENT);
    });
    Ok(stop)
}

/// The longest time that an option takes. Clocks can add it to the present.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// Parses a time in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST);
    time.ok_or_else(|| "it must be from 0 to 100 years".into())
}
