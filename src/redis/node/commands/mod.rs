//! Commands on one server. A command that cannot have run is retried as configured, and an error that means a dead
//! connection marks the server as down.
//!
//! A [`request`] is one command or several in one round trip. A [`script`] is called by its hash. In a
//! cluster [`asking`] names the server of a command.

pub(crate) mod asking;
pub(crate) mod request;
pub(crate) mod script;

use std::time::Instant;

use redis::{Cmd, RedisError, Value};

use crate::redis::node::cluster::Redirect;
use crate::redis::node::commands::request::{
    Request, Retry, executed, is_unknown_script, record_round_trip, transaction,
};
use crate::redis::node::connection;
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::{NotConnected, Shard};

impl Shard {
    /// Runs a command that does not block, or several in one round trip. While the layer is open, an attempt that
    /// cannot have run is retried as configured. If the server refuses one of several commands, the others run twice.
    /// Retries may take minutes: use this where a caller of the layer waits, and [`run_once`](Self::run_once) where
    /// other work waits too or a deadline applies.
    pub(crate) async fn run<R: Request>(&self, request: &R) -> Result<R::Answer, Fault> {
        let mut retry = self.retry();
        loop {
            match self.run_once(request).await {
                Err(fault) if !self.redirects(&fault) && retry.wait_after(&fault).await => {}
                result => return result,
            }
        }
    }

    /// Like [`run`](Self::run), for a request that only reads or that changes nothing when it is repeated. An attempt
    /// that may have run is retried too, and the fault never has `may_have_run`.
    pub(crate) async fn query<R: Request>(&self, request: &R) -> Result<R::Answer, Fault> {
        let mut retry = self.retry();
        loop {
            match self.run_once(request).await.map_err(Fault::before_sending) {
                Err(fault) if !self.redirects(&fault) && retry.wait_after(&fault).await => {}
                result => return result,
            }
        }
    }

    /// Like [`run`](Self::run), without retries.
    pub(crate) async fn run_once<R: Request>(&self, request: &R) -> Result<R::Answer, Fault> {
        self.attempt(request, false).await
    }

    /// Runs a command that does not block, or several in one round trip. With `asking`, each is preceded by `ASKING`.
    pub(super) async fn attempt<R: Request>(&self, request: &R, asking: bool) -> Result<R::Answer, Fault> {
        let mut connection = self.connection()?;
        let asked = Instant::now();
        let mut answer = request.send_over(&mut connection, asking).await;
        let round_trip = asked.elapsed();
        if answer.as_ref().is_err_and(is_unknown_script) {
            // A client flushed the scripts of the server. The script has not run.
            self.load_scripts(&mut connection).await?;
            answer = request.send_over(&mut connection, asking).await;
        }
        let result = answer.map_err(|error| self.judge(connection.generation, error));
        record_round_trip(round_trip);
        result
    }

    /// Runs `count` commands that do not block in one round trip, and returns the answer to each. If `generation` is
    /// given, they are sent only over the connection of that generation.
    pub(crate) async fn run_each(
        &self,
        commands: &redis::Pipeline,
        count: usize,
        generation: Option<u64>,
    ) -> Vec<Result<Value, Fault>> {
        let mut connection = match self.connection() {
            Ok(connection) if generation.is_none_or(|generation| connection.generation == generation) => connection,
            Ok(_) => return vec![Err(Fault::unsent(NotConnected)); count],
            Err(fault) => return vec![Err(fault); count],
        };
        let judge = |error| self.judge(connection.generation, error);
        let asked = Instant::now();
        let answers = connection.commands.send_packed_commands(commands, 0, count).await;
        let round_trip = asked.elapsed();
        let results = match answers {
            Ok(answers) if answers.len() == count => {
                answers.into_iter().map(|answer| answer.extract_error().map_err(judge)).collect()
            }
            Ok(_) => vec![Err(Fault::unexpected("another number of answers than of commands")); count],
            Err(error) => vec![Err(judge(error)); count],
        };
        record_round_trip(round_trip);
        results
    }

    /// Whether `fault` says that another node of the cluster runs the command.
    fn redirects(&self, fault: &Fault) -> bool {
        fault.redirect.as_ref().is_some_and(|redirect| *redirect != Redirect::Wait) && self.requirements.is_cluster()
    }

    /// Whether a command is retried while the server is down.
    pub(crate) fn retries_during_outage(&self) -> bool {
        self.requirements.retry_attempts > 0
    }

    /// The retries of a command that cannot have run.
    pub(crate) fn retry(&self) -> Retry<'_> {
        Retry::new(self.requirements.retry_attempts, self.requirements.timing.backoff, &self.retries_cancelled)
    }

    /// Loads the scripts again. A failure is reported as that of a command that has not run.
    async fn load_scripts(&self, connection: &mut ServerConnection) -> Result<(), Fault> {
        let loaded = connection::load_scripts(&mut connection.commands, self.requirements.scripts).await;
        loaded.map_err(|error| self.judge(connection.generation, error).before_sending())
    }

    fn judge(&self, generation: u64, error: RedisError) -> Fault {
        let fault = Fault::from(error);
        if fault.broken {
            self.mark_down(generation, fault.clone());
        }
        fault
    }

    /// Runs commands in one transaction, without retries, and returns their answers, including errors. With `asking`,
    /// it is preceded by `ASKING`.
    pub(super) async fn attempt_transaction(&self, commands: Vec<Cmd>, asking: bool) -> Result<Vec<Value>, Fault> {
        let mut connection = self.connection()?;
        let transaction = transaction(commands, asking);
        let skipped = usize::from(asking);
        let asked = Instant::now();
        let count = transaction.len() - skipped;
        let answers = connection.commands.send_packed_commands(&transaction, skipped, count).await;
        let round_trip = asked.elapsed();
        let result = answers.and_then(executed).map_err(|error| self.judge(connection.generation, error));
        record_round_trip(round_trip);
        result
    }
}
