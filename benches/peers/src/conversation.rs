//! One JSON object per line: commands on standard input, answers on standard output.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};

/// Why a command failed, for the process that sent it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A program that answers commands.
pub trait Program {
    type Command: DeserializeOwned;

    fn answer(&mut self, command: Self::Command) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// Answers commands until the input ends, which also happens when `scripts/bench` ends.
pub async fn hold(mut program: impl Program) {
    let (mut lines, mut out) = (BufReader::new(stdin()).lines(), stdout());
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str(&line) {
            Ok(command) => program.answer(command).await,
            Err(error) => Err(format!("{error} in {line}").into()),
        };
        let mut answer = answer.unwrap_or_else(|error| json!({ "error": chain(&*error) })).to_string();
        answer.push('\n');
        if out.write_all(answer.as_bytes()).await.and(out.flush().await).is_err() {
            return;
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
