//! Writing a batch in the native format: the calls of `push.lua`, `push_one.lua` and `push_large.lua`.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::name::GroupName;
use crate::redis::groups::routes::Routes;
use crate::redis::native::body::BodyCodec;
use crate::redis::native::keys::Keys;
use crate::redis::native::scripts;
use crate::redis::native::send::outbound::OutboundBody;
use crate::redis::native::statistics::counters::Counters;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::fault::Fault;
use crate::redis::send::{Batch, Outgoing, Pushed};

/// How far the estimate of the server's clock may be off before the server stamps the entries anew. A smaller value
/// costs time on a busy server, where batches wait; a larger one shows in short expiries.
pub(in crate::redis::native) const STAMP_TOLERANCE: Duration = Duration::from_millis(50);
/// How much longer than its last message a list lives, so that a reader that comes soon counts the expired messages.
pub(crate) const SLACK: Duration = Duration::from_secs(30);

/// A batch of at least this many bytes, with entries of at least this many on average, is appended by a transaction:
/// its script is sent with it and hashed, but its entries are not.
const LARGE: usize = 1 << 15;
const LARGE_ENTRY: usize = 1 << 10;

/// The condition under which messages to the members of a group are sent: the group still has these routes.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) group: GroupName,
    pub(crate) routes: Routes,
}

/// The answer of a push with a condition.
pub(crate) enum Answer {
    Pushed(Pushed),
    /// The condition does not hold. This is the server's list of routes.
    OtherRoutes(Value),
}

/// One attempt to write a batch.
pub(crate) struct BatchWriter<'a> {
    codec: &'a BodyCodec,
    keys: &'a Keys,
    counters: &'a Counters,
    batch: &'a Batch<OutboundBody>,
    /// The time of the server by its estimate, and the time at which the messages expire.
    now_ms: u64,
    expires: u64,
}

impl<'a> BatchWriter<'a> {
    pub(crate) fn new(
        codec: &'a BodyCodec,
        keys: &'a Keys,
        counters: &'a Counters,
        batch: &'a Batch<OutboundBody>,
        now_ms: u64,
    ) -> Self {
        Self { codec, keys, counters, batch, now_ms, expires: now_ms + milliseconds(codec.expiry()) }
    }

    /// Writes the batch.
    pub(crate) async fn push(&self, node: Node<'_>) -> Result<Pushed, Fault> {
        if self.is_large() {
            return self.append(node).await;
        }
        if let Some(pushed) = self.push_one(node).await? {
            return Ok(pushed);
        }
        match self.call(node, &self.lists(), None).await? {
            Answer::Pushed(pushed) => Ok(pushed),
            Answer::OtherRoutes(_) => Err(Fault::unexpected("push.lua returned routes without a condition")),
        }
    }

    /// Writes the batch to a node of a cluster in one call, although its lists are in several slots. `None` if the
    /// batch is too large for that.
    pub(crate) async fn push_together(&self, node: Node<'_>) -> Result<Option<Pushed>, Fault> {
        if self.is_large() {
            return Ok(None);
        }
        match self.call(node, &[], None).await? {
            Answer::Pushed(pushed) => Ok(Some(pushed)),
            Answer::OtherRoutes(_) => Err(Fault::unexpected("push.lua returned routes without a condition")),
        }
    }

    /// Writes the batch if `condition` holds.
    pub(crate) async fn push_if(&self, condition: &Condition, node: Node<'_>) -> Result<Answer, Fault> {
        let mut keys = self.lists();
        keys.extend([self.keys.group(&condition.group), self.keys.route_ends(&condition.group)]);
        self.call(node, &keys, Some(condition)).await
    }

    /// Writes a batch that is a single message, if its channel has room for it. `None` if nothing was written.
    async fn push_one(&self, node: Node<'_>) -> Result<Option<Pushed>, Fault> {
        let [run] = self.batch.runs() else { return Ok(None) };
        if run.len() > 1 {
            return Ok(None);
        }
        let mut command = scripts::PUSH_ONE.call(&self.lists());
        command.arg(self.now_ms).arg(milliseconds(list_lifetime(self.codec))).arg(run[0].capacity);
        self.add_entries(&mut command, run);
        match node.run_once(&command).await? {
            Value::Nil => Ok(None),
            accepted => self.pushed(Value::Array(vec![accepted, Value::Int(0)])).map(Some),
        }
    }

    /// Calls `push.lua`. If there are no keys, the lists are arguments.
    async fn call(&self, node: Node<'_>, keys: &[String], condition: Option<&Condition>) -> Result<Answer, Fault> {
        let mut answer = node.run_once(&self.push_command(keys, condition)).await?;
        if let Value::Array(values) = &mut answer
            && matches!(&values[..], [Value::Array(_)])
            && let Some(routes) = values.pop()
        {
            return Ok(Answer::OtherRoutes(routes));
        }
        self.pushed(answer).map(Answer::Pushed)
    }

    /// Whether a transaction suits the batch better. A transaction can append to a channel only once.
    fn is_large(&self) -> bool {
        if self.batch.repeats_a_list() {
            return false;
        }
        let bytes: usize = self.batch.runs().iter().flatten().map(Outgoing::bytes).sum();
        bytes >= LARGE && bytes / self.batch.message_count() >= LARGE_ENTRY
    }

    async fn append(&self, node: Node<'_>) -> Result<Pushed, Fault> {
        let mut answers = node.run_transaction(self.transaction()).await?;
        let answer = answers.pop().ok_or_else(|| Fault::unexpected("an empty transaction"))?;
        self.pushed(answer.extract_error().map_err(Fault::from)?)
    }

    /// Parses the answer of a script that has run, and counts the messages.
    fn pushed(&self, answer: Value) -> Result<Pushed, Fault> {
        let pushed = Pushed::parse(answer, self.batch.runs().len())?;
        self.counters.add(self.batch, &pushed);
        Ok(pushed)
    }

    fn push_command(&self, keys: &[String], condition: Option<&Condition>) -> Cmd {
        let mut command = scripts::PUSH.call(keys);
        self.add_times(&mut command);
        match condition {
            Some(Condition { routes, .. }) => command.arg(routes.until).arg(&*routes.text),
            None => command.arg(0),
        };
        for run in self.batch.runs() {
            if keys.is_empty() {
                command.arg(self.keys.channel(run[0].list()));
            }
            command.arg(run[0].capacity).arg(run.len());
            self.add_entries(&mut command, run);
        }
        command
    }

    /// The commands that append the entries, and the call of `push_large.lua` that applies capacity and expiry to them.
    fn transaction(&self) -> Vec<Cmd> {
        // A transaction goes on after a script that is unknown, so the source comes with it.
        let lists = self.lists();
        let mut settling = scripts::PUSH_LARGE.call_with_source(&lists);
        self.add_times(&mut settling);
        let mut commands = Vec::with_capacity(self.batch.runs().len() + 1);
        for (run, list) in self.batch.runs().iter().zip(lists) {
            settling.arg(run[0].capacity).arg(run.len());
            let bytes: usize = run.iter().map(Outgoing::bytes).sum();
            let mut command = Cmd::with_capacity(run.len() + 2, bytes + run.len() * 128);
            command.arg("RPUSH").arg(list);
            self.add_entries(&mut command, run);
            commands.push(command);
        }
        commands.push(settling);
        commands
    }

    /// The key of each list.
    fn lists(&self) -> Vec<String> {
        self.batch.names().map(|name| self.keys.channel(name)).collect()
    }

    fn add_times(&self, command: &mut Cmd) {
        command.arg(milliseconds(self.codec.expiry())).arg(self.expires);
        command.arg(milliseconds(STAMP_TOLERANCE)).arg(milliseconds(list_lifetime(self.codec)));
    }

    fn add_entries(&self, command: &mut Cmd, messages: &[Outgoing<OutboundBody>]) {
        let mut entry = Vec::new();
        for Outgoing { channel, body, .. } in messages {
            body.write(channel, self.codec, self.now_ms, self.expires, &mut entry);
            command.arg(&entry[..]);
        }
    }
}

/// How long a list lives after a send.
pub(crate) fn list_lifetime(codec: &BodyCodec) -> Duration {
    codec.expiry() + SLACK
}
