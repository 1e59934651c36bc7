//! The program `channel-layer`.

mod chat;
mod demo;
mod layer;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
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
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let arguments = Arguments::parse();
    let done = match arguments.command.unwrap_or(Command::Demo(arguments.demo)) {
        Command::Demo(demo) => demo.run().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("channel-layer: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
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
