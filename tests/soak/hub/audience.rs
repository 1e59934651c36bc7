//! The audience of a round: its sites, and the clients that visit them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::history::{Event, History};
use super::super::plan::{PROCESSES, stream};
use super::super::process::{CALL_DEADLINE, Process, chain};
use super::clients::Client;
use super::site::{Known, Site, broadcast};

/// Processes that run through the whole round, so that clients can stay.
pub const LASTING: usize = PROCESSES - 1;
const CLIENTS_THAT_STAY: u32 = 4;
const CLIENTS_THAT_GO: u32 = 6;

/// The clients of a round, and where they find its processes.
pub struct Audience {
    seed: u64,
    history: Arc<History>,
    places: Arc<Mutex<[Option<Place>; PROCESSES]>>,
    known: Known,
    /// Cancelled when nobody comes any more.
    visiting: CancellationToken,
    /// Cancelled when everybody goes.
    staying: CancellationToken,
    clients: tokio::sync::Mutex<JoinSet<()>>,
}

#[derive(Clone, Copy)]
struct Place {
    process: usize,
    address: SocketAddr,
}

impl Audience {
    pub fn new(seed: u64, history: Arc<History>) -> Self {
        Self {
            seed,
            history,
            places: Arc::default(),
            known: Known::default(),
            visiting: CancellationToken::new(),
            staying: CancellationToken::new(),
            clients: tokio::sync::Mutex::default(),
        }
    }

    /// Starts a hub in `process`, and what broadcasts there.
    pub async fn start_site(&self, process: &mut Process) {
        let (context, known) = (process.context.clone(), Arc::clone(&self.known));
        let starting = process.spawn(async move {
            loop {
                match Site::start(&context, Arc::clone(&known)).await {
                    Ok(site) => return site,
                    Err(error) => context.record(Event::Fault(format!("cannot start: {}", chain(&error)))),
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        let context = process.context.clone();
        let Ok(Ok(site)) = timeout(CALL_DEADLINE, starting).await else {
            return context.record(Event::Overdue { call: "the start of a hub".to_owned() });
        };
        self.places.lock()[context.slot] = Some(Place { process: context.process, address: site.address });
        for writer in 0..context.plan.settings[context.slot].writers {
            let writer = u32::try_from(context.process * 10 + writer).expect("there are few processes");
            let known = Arc::clone(&self.known);
            process.writers.push(process.spawn(broadcast(context.clone(), site.clone(), known, writer)));
        }
        process.site = Some(site);
    }

    /// Has clients come: some that stay, and others that follow each other.
    pub async fn open(&self) {
        let mut clients = self.clients.lock().await;
        for number in 0..CLIENTS_THAT_STAY {
            let mut rng = stream(self.seed, &format!("client {number} that stays"));
            let place = self.places.lock()[rng.random_range(0..LASTING)];
            let (history, stop) = (Arc::clone(&self.history), self.staying.clone());
            clients.spawn(async move {
                let Some(Place { process, address }) = place else { return };
                match Client::connect(Arc::clone(&history), process, address, true).await {
                    Some(client) => client.stay(rng, stop).await,
                    None => history.record(process, Event::Overdue { call: "the connect of a client".to_owned() }),
                }
            });
        }
        for number in 0..CLIENTS_THAT_GO {
            let mut rng = stream(self.seed, &format!("clients {number} that go"));
            let (history, places, stop) = (Arc::clone(&self.history), Arc::clone(&self.places), self.visiting.clone());
            clients.spawn(async move {
                while !stop.is_cancelled() {
                    let place = *places.lock().choose(&mut rng).expect("there are places");
                    sleep(Duration::from_millis(rng.random_range(0..50))).await;
                    let Some(Place { process, address }) = place else { continue };
                    if let Some(client) = Client::connect(Arc::clone(&history), process, address, false).await {
                        client.visit(&mut rng, &stop).await;
                    }
                }
            });
        }
    }

    /// Has nobody come any more.
    pub fn stop_visits(&self) {
        self.visiting.cancel();
    }

    /// Has all clients go.
    pub async fn close(&self) {
        self.visiting.cancel();
        self.staying.cancel();
        let mut clients = self.clients.lock().await;
        while let Ok(Some(ended)) = timeout(CALL_DEADLINE, clients.join_next()).await {
            ended.expect("a client ends without a panic");
        }
        if !clients.is_empty() {
            self.history.record(usize::MAX, Event::Overdue { call: "the end of a client".to_owned() });
        }
    }
}
