//! The history of a round: what every actor did and saw, in the order in which it was recorded.

use std::fmt;
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The numbers of one process are those with its own upper bits.
const NUMBERS: u32 = 20;

/// A point in time, counted from the start of the round.
pub type Moment = Duration;

/// Names a message: its writer, and its position among the messages of that writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId {
    pub writer: u32,
    pub number: u32,
}

/// Where a message is sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    Channel(String),
    Group(String),
}

/// How a call ended, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It returned `Ok`.
    Done,
    /// It was refused because the channel was full.
    Full,
    /// It failed, and the error says that nothing has run.
    NotRun,
    /// It was cancelled, or failed with an error that says that it may have run.
    Unknown,
}

/// How a reader reads, until it changes that.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ReaderKind {
    Receive,
    TryReceive,
    Receiver,
    Stream,
}

/// One thing that happened in a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub at: Moment,
    /// Which start of which process; processes are numbered in the order in which they start.
    pub process: usize,
    pub event: Event,
}

/// What happened. Reports show it as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A writer calls `send` or `group_send`. The message may be dropped when `expiry` has passed.
    Sending { id: MessageId, to: Target, expiry: Duration },
    /// That call has ended.
    Sent { id: MessageId, outcome: Outcome },
    /// A reader begins to read these routes in this way. What it did before has ended.
    Reading { routes: Vec<String>, kind: ReaderKind },
    /// A reader got a message from a call that began at `asked`.
    Received { id: MessageId, channel: String, asked: Moment },
    /// A reader got a message and requeues it. The message may be dropped when `expiry` has passed.
    Requeueing { id: MessageId, expiry: Duration },
    /// That call has ended.
    Requeued { id: MessageId, outcome: Outcome },
    /// The only reader of a message has ended.
    Abandoned { id: MessageId },
    /// `new_channel` returned this name.
    Named { channel: String },
    /// A call failed, and not because a channel was full or the layer closed.
    CallFailed { call: String, reason: String },
    /// A reader got an error in place of a message.
    ReadFailed { reader: String, reason: String },
    /// A call to `group_add` (if `joins`) or `group_discard` begins. A membership lasts for `expiry`.
    Changing { change: u32, group: String, channel: String, joins: bool, expiry: Duration },
    /// That call has ended.
    Changed { change: u32, outcome: Outcome },
    /// From now on messages and memberships may be deleted: a flush, or a server that restarts without its data.
    Wiping { wipe: u32, reason: String },
    /// The end of that.
    Wiped { wipe: u32 },
    /// The layer announced that a connection broke while it read these routes.
    Interrupted { routes: Vec<String> },
    /// The process is cut off from others on a server, or on all, as far as its layer says so: it hears nobody, or
    /// keeps its messages.
    CutOff { shard: Option<usize> },
    /// The process is connected to the others again.
    Connected { shard: usize },
    /// A fault was injected, or ended.
    Fault(String),
    /// From now on a server cannot be used: by the process in a slot, or by none.
    ServerAway { server: usize, slot: Option<usize> },
    /// The end of that.
    ServerBack { server: usize, slot: Option<usize> },
    /// The replica of a killed master of the cluster took over its slots. Until `since`, it had all that the master had
    /// acknowledged. The master was dead at `until`.
    MasterReplaced { since: Moment, until: Moment, slots: Vec<RangeInclusive<u16>> },
    /// A master of the cluster was killed at some moment after `since`, and came back without its data before its
    /// replica took over.
    MasterEmptied { since: Moment },
    /// The nodes of the cluster have replaced a master that no fault has killed, because the machine was too slow.
    Disturbed,
    /// The clock of a server was set.
    ClockStepped { server: usize },
    /// The process was started in a slot, reading these routes.
    Started { slot: usize, routes: Vec<String> },
    /// The process closes its layer; it may already be partly closed.
    Closing,
    /// The process was killed while it read these routes.
    Killed { routes: Vec<String> },
    /// The process counted dropped messages outside of the futures of group sends.
    Counted { reason: String, messages: u64 },
    /// The group send of the messages `ids` counted dropped messages.
    GroupSendCounted { ids: Vec<MessageId>, reason: String, messages: u64 },
    /// So many messages wait on a route.
    Waiting { route: String, messages: u64 },
    /// A call did not end within its deadline.
    Overdue { call: String },
    /// Something is left that should be gone, or is wrong with what is left.
    Left { what: String },
}

/// Whether the machine has disturbed a round, so that it shows nothing.
pub fn is_disturbed(records: &[Record]) -> bool {
    records.iter().any(|record| matches!(record.event, Event::Disturbed))
}

/// Collects the records of a round.
pub struct History {
    start: Instant,
    /// The start by the clock of the system, which all processes share.
    began: SystemTime,
    records: Mutex<Records>,
    numbers: AtomicU32,
}

enum Records {
    Kept(Vec<Record>),
    /// In a child, which writes them to its parent.
    Sent(UnixStream),
}

impl History {
    pub fn new() -> Self {
        let (start, began) = both_clocks();
        Self { start, began, records: Mutex::new(Records::Kept(Vec::new())), numbers: AtomicU32::new(0) }
    }

    /// The history of a round that began at `began`, in the child that is its process `process`.
    pub fn of_child(began: SystemTime, process: usize, parent: UnixStream) -> Self {
        let (now, system) = both_clocks();
        let start = now - system.duration_since(began).expect("a round begins before its children");
        let first = u32::try_from(process + 1).expect("there are few processes") << NUMBERS;
        Self { start, began, records: Mutex::new(Records::Sent(parent)), numbers: AtomicU32::new(first) }
    }

    /// When the history began.
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// A number that names something in the history of all processes, and nothing else.
    pub fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// Appends `event`. A caller without an `await` between the event and this call cannot be interrupted in between.
    pub fn record(&self, process: usize, event: Event) {
        let mut records = self.records.lock();
        // Under the lock, so that times never decrease.
        let record = Record { at: self.start.elapsed(), process, event };
        match &mut *records {
            Records::Kept(records) => records.push(record),
            Records::Sent(parent) => send(parent, Some(&record)),
        }
    }

    /// Tells the parent that this process is ready for a command.
    pub fn report_ready(&self) {
        if let Records::Sent(parent) = &mut *self.records.lock() {
            send(parent, None);
        }
    }

    /// Appends a record of a child.
    pub fn keep(&self, record: Record) {
        if let Records::Kept(records) = &mut *self.records.lock() {
            records.push(record);
        }
    }

    /// How many events there are, without readers that only change how they read.
    pub fn events(&self) -> usize {
        match &*self.records.lock() {
            Records::Kept(records) => {
                records.iter().filter(|record| !matches!(record.event, Event::Reading { .. })).count()
            }
            Records::Sent(_) => 0,
        }
    }

    /// All records in the order of their times.
    pub fn records(&self) -> Vec<Record> {
        let mut records = match &*self.records.lock() {
            Records::Kept(records) => records.clone(),
            Records::Sent(_) => Vec::new(),
        };
        // Those of children arrive a little later than they were made.
        records.sort_by_key(|record| record.at);
        records
    }
}

/// Writes to the parent in one call, so that a process that is killed has written the whole record, or has not gone on.
fn send(parent: &mut UnixStream, record: Option<&Record>) {
    let bytes = rmp_serde::to_vec(&record).expect("a record is MessagePack");
    // A parent that has ended reads nothing, and its child ends too.
    let _ = parent.write_all(&bytes);
}

/// The same moment by the clocks of this process and of the system.
fn both_clocks() -> (Instant, SystemTime) {
    loop {
        let (now, system) = (Instant::now(), SystemTime::now());
        // A message takes longer than this from one process to another.
        if now.elapsed() < Duration::from_micros(50) {
            return (now, system);
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.writer, self.number)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) => f.write_str(name),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// The part of a channel's name up to and including the `!`, which decides where its messages are kept.
pub fn route(channel: &str) -> &str {
    channel.find('!').map_or(channel, |at| &channel[..=at])
}

/// Whether a channel has one reader, which gets messages in order.
pub fn has_one_reader(channel: &str) -> bool {
    channel.contains(['!', '?'])
}
