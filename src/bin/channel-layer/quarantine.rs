//! `channel-layer quarantine`: lists, restores and deletes the messages that no reader could read.

use std::fmt::Write;
use std::time::Duration;

use channel_layer::redis::quarantine::{Partial, QuarantineEntry, QuarantineId, QuarantineState, Restored};
use channel_layer::{BoxError, ChannelLayer, ChannelName, Error, RedisLayer};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::layer::LayerOptions;
use crate::{chain, first_error, print_line};

#[derive(Subcommand)]
pub(crate) enum Quarantine {
    /// Print the entries of each server, the oldest first, without their messages
    List {
        /// Print one line of JSON for each entry
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        layer: LayerOptions,
    },
    /// Print the details of an entry as JSON
    Show {
        /// Id of the entry, as `list` prints it
        id: QuarantineId,
        /// Print the message too, if its key is configured; it may contain secrets of your users
        #[arg(long)]
        payload: bool,
        #[command(flatten)]
        layer: LayerOptions,
    },
    /// Put entries back at the heads of their channels
    ///
    /// Needs the keys that encrypted them. An entry that cannot be read stays in quarantine.
    Restore {
        #[command(flatten)]
        choice: Choice,
        /// Give each entry a new full lifetime, expired or not. An attacker with write access to Redis could have added
        /// a copy of an earlier message: it would be delivered again
        #[arg(long)]
        reset_expiry: bool,
        #[command(flatten)]
        layer: LayerOptions,
    },
    /// Delete entries
    Drop {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        layer: LayerOptions,
    },
}

/// The entries that a command applies to.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Choice {
    /// Ids of the entries, as `list` prints them
    #[arg(value_name = "ID")]
    ids: Vec<QuarantineId>,
    /// All entries of a channel
    #[arg(long)]
    channel: Option<String>,
    /// All entries
    #[arg(long)]
    all: bool,
}

impl Choice {
    /// Returns the ids of the chosen entries, and the errors of the servers that could not list their entries.
    async fn ids(&self, layer: &RedisLayer) -> Result<(Vec<QuarantineId>, Vec<Error>), BoxError> {
        if !self.ids.is_empty() {
            return Ok((self.ids.clone(), Vec::new()));
        }
        let channel = self.channel.as_deref().map(ChannelName::parse).transpose()?;
        let chosen = |entry: &QuarantineEntry| match &channel {
            Some(channel) => entry.channel.as_ref().is_some_and(|other| other.as_str() == channel.non_local()),
            None => true,
        };
        let Partial { results, errors, .. } = layer.quarantine().entries().await?;
        Ok((results.iter().filter(|entry| chosen(entry)).map(|entry| entry.id).collect(), errors))
    }
}

impl Quarantine {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let (Self::List { layer, .. }
        | Self::Show { layer, .. }
        | Self::Restore { layer, .. }
        | Self::Drop { layer, .. }) = &self;
        let layer = layer.connect_native().await?;
        let done = match &self {
            Self::List { json, .. } => list(&layer, *json).await,
            Self::Show { id, payload, .. } => show(&layer, *id, *payload).await,
            Self::Restore { choice, reset_expiry, .. } => restore(&layer, choice, *reset_expiry).await,
            Self::Drop { choice, .. } => drop_entries(&layer, choice).await,
        };
        first_error([done, layer.close().await.map_err(Into::into)])
    }
}

async fn list(layer: &RedisLayer, json: bool) -> Result<(), BoxError> {
    let Partial { results: entries, errors, .. } = layer.quarantine().entries().await?;
    if json {
        entries.iter().try_for_each(|entry| print_line(&describe(entry).to_string()))?;
    } else {
        if entries.is_empty() && errors.is_empty() {
            print_line("the quarantine is empty")?;
        }
        for entries in entries.chunk_by(|one, other| one.id.shard() == other.id.shard()) {
            let bytes: usize = entries.iter().map(|entry| entry.size).sum();
            print_line(&format!("shard {}: {} entries, {bytes} bytes", entries[0].id.shard(), entries.len()))?;
            entries.iter().try_for_each(|entry| print_line(&line(entry)))?;
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(failed(&errors).into()) }
}

async fn show(layer: &RedisLayer, id: QuarantineId, payload: bool) -> Result<(), BoxError> {
    let entry = layer.quarantine().entry(id).await?.ok_or_else(|| format!("{id} is not in quarantine"))?;
    let mut shown = describe(&entry);
    if payload {
        shown["message"] = serde_json::to_value(layer.quarantine().message(id).await?)?;
    }
    Ok(print_line(&format!("{shown:#}"))?)
}

async fn restore(layer: &RedisLayer, choice: &Choice, reset_expiry: bool) -> Result<(), BoxError> {
    let (ids, mut errors) = choice.ids(layer).await?;
    let quarantine = layer.quarantine();
    let restored = if reset_expiry { quarantine.restore_anew(&ids).await? } else { quarantine.restore(&ids).await? };
    for (id, outcome) in ids.iter().zip(&restored.results) {
        print_line(&format!("{id} {}", describe_outcome(outcome)))?;
    }
    errors.extend(restored.errors);
    let count = restored.results.iter().filter(|outcome| **outcome == Restored::Restored).count();
    verdict("restored", count, ids.len(), &errors)
}

async fn drop_entries(layer: &RedisLayer, choice: &Choice) -> Result<(), BoxError> {
    let (ids, mut errors) = choice.ids(layer).await?;
    let deleted = layer.quarantine().delete(&ids).await?;
    errors.extend(deleted.errors);
    verdict("deleted", deleted.results, ids.len(), &errors)
}

/// Returns an error unless the command succeeded for all entries and on all servers.
fn verdict(done: &str, count: usize, of: usize, errors: &[Error]) -> Result<(), BoxError> {
    let line = format!("{count} of {of} entries {done}");
    match errors {
        [] if count == of => Ok(print_line(&line)?),
        [] => Err(line.into()),
        errors => Err(format!("{line}; {}", failed(errors)).into()),
    }
}

/// Describes the errors of the servers that failed, in one line.
fn failed(errors: &[Error]) -> String {
    let errors: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    format!("not all servers were reached: {}", errors.join("; "))
}

fn describe_outcome(outcome: &Restored) -> String {
    match outcome {
        Restored::Restored => "restored".to_owned(),
        Restored::Gone => "is not in quarantine: it has been restored or deleted".to_owned(),
        Restored::Expired => "has expired: --reset-expiry gives it a new lifetime".to_owned(),
        Restored::Unreadable(reason) => format!("cannot be read: {}", reason.escape_debug()),
        Restored::Failed => "not restored: its server failed".to_owned(),
        _ => "not restored".to_owned(),
    }
}

fn state(state: &QuarantineState) -> (&'static str, Option<&str>) {
    match state {
        QuarantineState::Readable => ("readable", None),
        QuarantineState::Expired => ("expired", None),
        QuarantineState::Unreadable(reason) => ("unreadable", Some(reason)),
        _ => ("unknown", None),
    }
}

fn line(entry: &QuarantineEntry) -> String {
    let channel = entry.channel.as_ref().map_or("unknown channel", ChannelName::as_str);
    let (state, why) = state(&entry.state);
    let mut line = format!("{} {channel}: {} bytes, in quarantine for {} s", entry.id, entry.size, entry.age.as_secs());
    // Other programs may have written the record.
    let _ = write!(line, ", because {}; now {state}", entry.reason.escape_debug());
    if let Some(why) = why {
        let _ = write!(line, ": {}", why.escape_debug());
    }
    line
}

fn describe(entry: &QuarantineEntry) -> serde_json::Value {
    let (state, why) = state(&entry.state);
    let seconds = |time: &Duration| time.as_secs_f64();
    let head = entry.head.as_ref();
    json!({
        "id": entry.id.to_string(),
        "shard": entry.id.shard(),
        "channel": entry.channel.as_ref().map(ChannelName::as_str),
        "group": head.and_then(|head| head.group.as_deref()),
        "reason": entry.reason,
        "age": entry.age.as_secs_f64(),
        "bytes": entry.size,
        "sent": head.map(|head| seconds(&head.sent)),
        "lifetime": head.map(|head| seconds(&head.lifetime)),
        "key": head.and_then(|head| head.key_id).map(|id| format!("{id:08x}")),
        "state": state,
        "unreadable": why,
    })
}
