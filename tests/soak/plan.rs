//! The plan of a round: everything that its seed decides before it starts.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::backend::Backend;
use super::hub;
use crate::support::Cluster;

/// Processes of a round. Each has its own routes, and all share the normal channels.
pub const PROCESSES: usize = 3;
pub const GROUPS: [&str; 3] = ["room.a", "room.b", "room.c"];
pub const NORMAL: [&str; 2] = ["work.a", "work.b"];
/// The command timeout of a round with planned faults only.
const PLANNED_TIMEOUT: Duration = Duration::from_secs(20);
const LOCAL_PARTS: [&str; 3] = ["x", "y", "z"];

/// What one seed makes of one kind of layer.
#[derive(Clone, Debug)]
pub struct Plan {
    pub backend: Backend,
    pub seed: u64,
    /// How long writers write and faults are injected.
    pub length: Duration,
    /// Whether servers keep their data when they are killed.
    pub durable: bool,
    /// Whether servers have a clock that can be set.
    pub steps_clock: bool,
    /// The settings of each process.
    pub settings: [Settings; PROCESSES],
    /// The capacity of routes that nobody reads before the end.
    pub silent_capacity: usize,
    /// What else a message carries.
    pub sizes: Sizes,
    /// Each with the time at which it is injected.
    pub faults: Vec<(Duration, Fault)>,
}

/// The settings in which processes differ.
#[derive(Clone, Debug)]
pub struct Settings {
    pub expiry: Duration,
    pub group_expiry: Duration,
    pub capacity: usize,
    pub command_timeout: Duration,
    pub blocking_timeout: Duration,
    pub retry_attempts: usize,
    /// The threads of the process.
    pub threads: usize,
    /// Whether one reader reads all routes of the process that have one reader.
    pub joins_readers: bool,
    pub writers: usize,
    /// The longest pause between two calls of a writer.
    pub pause: Duration,
    /// Of 100 calls, those that are cancelled on the way.
    pub cancelled: u32,
}

/// How large messages are.
#[derive(Clone, Copy, Debug)]
pub enum Sizes {
    Small,
    /// A few of 10 KB.
    Mixed,
    /// Some of 300 KB.
    Large,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// SIGKILL; the server starts again after a time.
    KillServer { server: usize, away: Duration },
    /// SIGSTOP, then SIGCONT.
    FreezeServer { server: usize, frozen: Duration },
    /// `CLIENT PAUSE`.
    PauseClients { server: usize, paused: Duration, writes_only: bool },
    /// `CLIENT KILL TYPE normal`.
    KillClients { server: usize },
    /// `SCRIPT FLUSH`.
    FlushScripts { server: usize },
    /// `CONFIG SET maxmemory 1`.
    FillMemory { server: usize, full: Duration },
    /// `CONFIG SET min-replicas-to-write 1`.
    LackReplicas { server: usize, lacking: Duration },
    /// `REPLICAOF` a server that is not there, then `REPLICAOF NO ONE`.
    Demote { server: usize, demoted: Duration },
    /// Sets the clock of a server.
    StepClock { server: usize, seconds: i64 },
    /// Closes the connections of a process to a server.
    Cut { process: usize, server: usize },
    /// Lets connections of a process to a server carry nothing any more, and stay open.
    HalfOpen { process: usize, server: usize },
    /// Lets nothing come back over the connections of a process to a server.
    Deafen { process: usize, server: usize },
    /// Reads nothing from the server for some time.
    Stall { process: usize, server: usize, stalled: Duration },
    /// Lets few bytes a second come back from the server for some time.
    Throttle { process: usize, server: usize, pace: u32, throttled: Duration },
    /// Makes everything arrive later for some time.
    Delay { process: usize, server: usize, delay: Duration, delayed: Duration },
    /// Refuses connections for some time.
    Refuse { process: usize, server: usize, refused: Duration },
    /// Closes the layer of a process and starts another one in its place.
    Restart { process: usize },
    /// Ends a process without closing its layer and starts another one in its place.
    KillProcess { process: usize },
    /// Flushes the layer.
    Flush { process: usize },
    /// Moves some slots of a cluster with their keys, which the number chooses.
    MoveSlots { choice: u64 },
    /// `CLUSTER FAILOVER` on the replica of a shard of the cluster.
    FailOver { shard: usize },
    /// Adds a master to the cluster, which gets some slots, and removes it again.
    AddNode { choice: u64, stay: Duration },
    /// SIGKILL for a node of the cluster. It starts again after a time, before or after its replica has taken over.
    KillNode { server: usize, away: Duration },
}

impl Plan {
    pub fn new(backend: Backend, seed: u64) -> Self {
        let rng = &mut stream(seed, "plan");
        let length = Duration::from_millis(rng.random_range(3000..9000));
        let durable = rng.random_bool(0.8);
        let steps_clock = backend.servers() > 0 && rng.random_bool(0.15);
        let has_short_lives = rng.random_bool(0.25);
        let has_small_capacity = rng.random_bool(0.3);
        // The drops of cancelled sends are counted too, and could explain other losses. Half of the rounds have none.
        let cancels_calls = rng.random_bool(0.5);
        let settings =
            std::array::from_fn(|_| Settings::random(backend, has_short_lives, has_small_capacity, cancels_calls, rng));
        let silent_capacity = rng.random_range(1..12);
        let sizes = *[Sizes::Small, Sizes::Small, Sizes::Mixed, Sizes::Large].choose(rng).expect("it has choices");
        let mut plan =
            Self { backend, seed, length, durable, steps_clock, settings, silent_capacity, sizes, faults: Vec::new() };
        plan.faults = if backend.is_cluster() { plan.cluster_faults(rng) } else { plan.random_faults(rng) };
        if backend.is_cluster() && plan.is_planned() {
            // A master that waits for the votes of a planned failover takes no writes for up to 10 s.
            plan.settings.iter_mut().for_each(|settings| settings.command_timeout = PLANNED_TIMEOUT);
        }
        plan
    }

    /// Whether an operator of a cluster may cause all faults without an error for a caller.
    pub fn is_planned(&self) -> bool {
        self.faults.iter().all(|(_, fault)| {
            matches!(
                fault,
                Fault::MoveSlots { .. } | Fault::FailOver { .. } | Fault::AddNode { .. } | Fault::FlushScripts { .. }
            )
        })
    }

    /// Faults of the nodes of a cluster. Half of the rounds have planned faults only.
    fn cluster_faults(&self, rng: &mut StdRng) -> Vec<(Duration, Fault)> {
        let count = if rng.random_bool(0.1) { 0 } else { rng.random_range(1..6) };
        let kinds = if rng.random_bool(0.5) { 0..6 } else { 0..12 };
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = self.length.mul_f64(rng.random_range(0.05..0.8));
                (at, self.cluster_fault(rng.random_range(kinds.clone()), rng))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    fn cluster_fault(&self, kind: u32, rng: &mut StdRng) -> Fault {
        let (process, server) = (rng.random_range(0..PROCESSES), rng.random_range(0..self.backend.servers()));
        let mut time = |longest: u64| Duration::from_millis(rng.random_range(50..longest));
        match kind {
            0 | 1 => Fault::MoveSlots { choice: rng.random() },
            2 | 3 => Fault::FailOver { shard: server % Cluster::MASTERS },
            4 => Fault::AddNode { stay: time(2000), choice: rng.random() },
            5 => Fault::FlushScripts { server },
            6..9 => Fault::KillNode { server, away: time(8000) },
            9 => Fault::KillClients { server },
            10 => Fault::KillProcess { process },
            _ => Fault::Restart { process },
        }
    }

    fn random_faults(&self, rng: &mut StdRng) -> Vec<(Duration, Fault)> {
        // Some rounds have none, so that every loss in them is a fault of the layer.
        let count = if rng.random_bool(0.15) { 0 } else { rng.random_range(1..10) };
        // Of several kinds at the most, so that each is tried in depth by some rounds.
        let kinds: Vec<_> = (0..rng.random_range(1..6)).map(|_| rng.random_range(0..Fault::KINDS)).collect();
        let mut faults: Vec<_> = (0..count)
            .filter_map(|_| {
                let at = self.length.mul_f64(rng.random_range(0.05..0.95));
                Some((at, self.random_fault(*kinds.choose(rng)?, rng)?))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// A fault of some kind; `None` if it cannot happen to this layer.
    fn random_fault(&self, kind: u32, rng: &mut StdRng) -> Option<Fault> {
        let process = rng.random_range(0..PROCESSES);
        let servers = self.backend.servers();
        if servers == 0 {
            return Some(Fault::Flush { process });
        }
        let server = rng.random_range(0..servers);
        let mut time = |longest: u64| Duration::from_millis(rng.random_range(50..longest));
        Some(match kind {
            0 => Fault::KillServer { server, away: time(3000) },
            1 => Fault::FreezeServer { server, frozen: time(6000) },
            2 => {
                let paused = time(3000);
                Fault::PauseClients { server, paused, writes_only: rng.random() }
            }
            3 => Fault::KillClients { server },
            4 => Fault::FlushScripts { server },
            5 => Fault::FillMemory { server, full: time(3000) },
            6 => Fault::LackReplicas { server, lacking: time(3000) },
            7 => Fault::Demote { server, demoted: time(3000) },
            8 if self.steps_clock => Fault::StepClock { server, seconds: rng.random_range(-20..20) },
            9 => Fault::Cut { process, server },
            10 => Fault::HalfOpen { process, server },
            11 => Fault::Deafen { process, server },
            12 => Fault::Stall { process, server, stalled: time(3000) },
            13 => {
                let throttled = time(4000);
                Fault::Throttle { process, server, pace: rng.random_range(20_000..2_000_000), throttled }
            }
            14 => Fault::Delay { process, server, delay: time(300), delayed: time(4000) },
            15 => Fault::Refuse { process, server, refused: time(3000) },
            // Clients that stay have to have a process that lasts, and a hub finds out late that it was flushed.
            16 | 17 if self.backend == Backend::Hub && process < hub::LASTING => return None,
            18 if self.backend == Backend::Hub => return None,
            16 => Fault::Restart { process },
            17 => Fault::KillProcess { process },
            18 => Fault::Flush { process },
            _ => return None,
        })
    }

    /// The routes of a process that have one reader and are read all the time.
    pub fn single_routes(process: usize) -> [String; 2] {
        [format!("socket.p{process}!"), format!("answer.p{process}?a")]
    }

    /// The route of a process that nobody reads before the end.
    pub fn silent_route(process: usize) -> String {
        format!("full.p{process}!")
    }

    /// With what the names of the new channels of a process begin.
    pub fn reply_pattern(process: usize) -> String {
        format!("reply.p{process}?")
    }

    /// All routes that a process reads in the end, but for its new channels.
    pub fn routes(process: usize) -> Vec<String> {
        let single = Self::single_routes(process).into_iter();
        single.chain([Self::silent_route(process)]).chain(NORMAL.map(str::to_owned)).collect()
    }

    /// The names that decide in which slots of a cluster the messages and the groups of a round are, except for new
    /// channels.
    pub fn names() -> Vec<String> {
        (0..PROCESSES).flat_map(Self::routes).chain(GROUPS.map(str::to_owned)).collect()
    }

    /// The channels of a process that are sent to directly and become members of groups.
    pub fn channels(process: usize) -> Vec<String> {
        let sockets = LOCAL_PARTS.iter().map(|part| format!("socket.p{process}!{part}"));
        sockets.chain([format!("answer.p{process}?a"), format!("full.p{process}!a")]).collect()
    }
}

impl Settings {
    fn random(
        backend: Backend,
        has_short_lives: bool,
        has_small_capacity: bool,
        cancels_calls: bool,
        rng: &mut StdRng,
    ) -> Self {
        let seconds =
            |choices: &[u64], rng: &mut StdRng| Duration::from_secs(*choices.choose(rng).expect("there are choices"));
        let lives: &[u64] = if has_short_lives { &[1, 3, 600] } else { &[120, 300, 600] };
        let (mixes_messages, mixes_memberships) = backend.mixes_expiries();
        Self {
            expiry: if mixes_messages { seconds(lives, rng) } else { Duration::from_mins(2) },
            group_expiry: if mixes_memberships { seconds(lives, rng) } else { Duration::from_mins(10) },
            capacity: if has_small_capacity { rng.random_range(3..60) } else { 100_000 },
            command_timeout: seconds(&[1, 2, 4], rng),
            blocking_timeout: seconds(&[1, 2, 5], rng),
            retry_attempts: *[0, 0, 0, 2].choose(rng).expect("there are choices"),
            threads: rng.random_range(1..3),
            joins_readers: rng.random_bool(0.3),
            writers: rng.random_range(1..4),
            pause: Duration::from_micros(*[500, 5_000, 20_000].choose(rng).expect("there are choices")),
            cancelled: if cancels_calls { rng.random_range(1..40) } else { 0 },
        }
    }
}

impl Sizes {
    /// The bytes that the next message carries beside its id.
    pub fn draw(self, rng: &mut StdRng) -> usize {
        match (self, rng.random_range(0..100)) {
            (Self::Mixed, 0..5) => 10_000,
            (Self::Large, 0..3) => 300_000,
            _ => rng.random_range(0..100),
        }
    }
}

impl Fault {
    const KINDS: u32 = 19;

    /// The server that cannot be used while the fault lasts, and the process to which this applies; `None` for all. A
    /// process whose connections break can connect again at once.
    pub fn outage(self) -> Option<(usize, Option<usize>)> {
        match self {
            Self::KillServer { server, .. }
            | Self::FreezeServer { server, .. }
            | Self::PauseClients { server, .. }
            | Self::FillMemory { server, .. }
            | Self::LackReplicas { server, .. }
            | Self::Demote { server, .. } => Some((server, None)),
            Self::Stall { process, server, .. }
            | Self::Throttle { process, server, .. }
            | Self::Delay { process, server, .. }
            | Self::Refuse { process, server, .. } => Some((server, Some(process))),
            _ => None,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, durable, steps_clock, silent_capacity, sizes, .. } = self;
        writeln!(f, "{length:?}, durable: {durable}, clock can step: {steps_clock}, sizes: {sizes:?}")?;
        writeln!(f, "capacity of routes that are read at the end: {silent_capacity}")?;
        for (process, settings) in self.settings.iter().enumerate() {
            writeln!(f, "process {process}: {settings:?}")?;
        }
        self.faults.iter().try_for_each(|(at, fault)| writeln!(f, "at {at:?}: {fault:?}"))
    }
}

/// The random numbers of one actor: they depend on the seed and its name, and not on what other actors draw.
pub fn stream(seed: u64, name: &str) -> StdRng {
    // FNV-1a, which stays the same in every version of Rust.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    StdRng::seed_from_u64(seed ^ hash)
}
