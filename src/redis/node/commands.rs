//! Commands on one server, as long as it is there: run, tried again where they cannot have run, and judged by what became
//! of them.

use std::time::Instant;

use redis::{Cmd, RedisError, Value};

use crate::redis::node::answer::{Retry, answer, answers, executed, is_unknown_script, record_round_trip, transaction};
use crate::redis::node::connection;
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::{NotConnected, Shard};

impl Shard {
    /// Runs a command that does not block; tries again as configured while it cannot have run and the layer is open. That
    /// may take minutes: it is for what callers of the layer wait for, and not for what holds up others or has a limit.
    pub(crate) async fn run(&self, command: &Cmd) -> Result<Value, Fault> {
        let mut retry = self.retry();
        loop {
            match self.run_once(command).await {
                Err(fault) if retry.wait_after(&fault).await => {}
                result => return result,
            }
        }
    }

    /// Runs a command that does not block, once.
    pub(crate) async fn run_once(&self, command: &Cmd) -> Result<Value, Fault> {
        let mut link = self.link()?;
        let asked = Instant::now();
        let mut answer = answer(&mut link, command).await;
        record_round_trip(asked);
        if answer.as_ref().is_err_and(is_unknown_script) {
            // Somebody made the server forget its scripts; the command has not run.
            self.load_scripts(&mut link).await?;
            answer = self::answer(&mut link, command).await;
        }
        answer.map_err(|error| self.judge(link.generation, error))
    }

    /// Runs commands that do not block and may run twice, in one round trip.
    pub(crate) async fn run_all(&self, commands: &redis::Pipeline) -> Result<Vec<Value>, Fault> {
        let mut retry = self.retry();
        loop {
            match self.run_all_once(commands).await {
                Err(fault) if retry.wait_after(&fault).await => {}
                result => return result,
            }
        }
    }

    /// As [`run_all`](Self::run_all), once.
    pub(crate) async fn run_all_once(&self, commands: &redis::Pipeline) -> Result<Vec<Value>, Fault> {
        let mut link = self.link()?;
        let asked = Instant::now();
        let mut answers = answers(&mut link, commands).await;
        record_round_trip(asked);
        if answers.as_ref().is_err_and(is_unknown_script) {
            self.load_scripts(&mut link).await?;
            answers = self::answers(&mut link, commands).await;
        }
        answers.map_err(|error| self.judge(link.generation, error))
    }

    /// Runs `count` commands that do not block in one round trip, over the link of `generation` if that is given; gives the
    /// answer to each.
    pub(crate) async fn run_each(
        &self,
        commands: &redis::Pipeline,
        count: usize,
        generation: Option<u64>,
    ) -> Vec<Result<Value, Fault>> {
        let mut link = match self.link() {
            Ok(link) if generation.is_none_or(|generation| link.generation == generation) => link,
            Ok(_) => return vec![Err(Fault::unsent(NotConnected)); count],
            Err(fault) => return vec![Err(fault); count],
        };
        let judge = |error| self.judge(link.generation, error);
        let asked = Instant::now();
        let answers = link.commands.send_packed_commands(commands, 0, count).await;
        record_round_trip(asked);
        match answers {
            Ok(answers) if answers.len() == count => {
                answers.into_iter().map(|answer| answer.extract_error().map_err(judge)).collect()
            }
            Ok(_) => vec![Err(Fault::unexpected("not one answer for each command")); count],
            Err(error) => vec![Err(judge(error)); count],
        }
    }

    /// Whether a command waits for a server that is away.
    pub(crate) fn is_patient(&self) -> bool {
        self.needs.retry_attempts > 0
    }

    /// How a command that cannot have run is tried again.
    pub(crate) fn retry(&self) -> Retry<'_> {
        Retry::new(self.needs.retry_attempts, self.needs.timing.backoff, &self.hurry)
    }

    /// Loads the scripts again for a command that has not run without them.
    async fn load_scripts(&self, link: &mut ServerConnection) -> Result<(), Fault> {
        let loaded = connection::load_scripts(&mut link.commands, self.needs.scripts).await;
        loaded.map_err(|error| self.judge(link.generation, error).before_sending())
    }

    fn judge(&self, generation: u64, error: RedisError) -> Fault {
        let fault = Fault::from(error);
        if fault.broken {
            self.lost(generation, fault.clone());
        }
        fault
    }

    /// Runs commands in one transaction, once; gives what they gave, errors among it.
    pub(crate) async fn run_transaction(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, Fault> {
        let mut link = self.link()?;
        let transaction = transaction(commands);
        let asked = Instant::now();
        let answers = link.commands.send_packed_commands(&transaction, 0, transaction.len()).await;
        record_round_trip(asked);
        answers.and_then(executed).map_err(|error| self.judge(link.generation, error))
    }
}
