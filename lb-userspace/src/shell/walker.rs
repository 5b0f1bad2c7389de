//! A thread that walks the connection tables: to recount, to report, and to end connections by
//! RST to both ends. It has handles of its own, so that a long walk delays no decision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::flow::{Direction, Flow, FlowKey};
use lb_common::member::Slot;
use lb_common::service::Forwarding;
use lb_common::source::SourceKey;
use log::warn;
use tokio::sync::{mpsc, oneshot};

use self::sources::source_of;
use super::bpf_tables::Tables;
use super::resets::{Probe, Reset, ResetSender};
use super::{clock, restore};
use crate::engine::effect::Effect;
use crate::engine::event::{Asker, Event};
use crate::engine::kernel::{Address, Flows, socket_address};
use crate::protocol::ClientRef;

mod sources;

/// After this pause those who have not heard the RST are asked for a segment that runs into one.
const SECOND_CALL: Duration = Duration::from_millis(200);

/// Something to walk the tables for.
#[derive(Debug)]
pub enum Job {
    /// End the flows of these slots that are of an older generation.
    Reset {
        /// The slots.
        slots: Vec<Slot>,
        /// When it was decided.
        decided: Instant,
        /// Who waits for it.
        asker: Option<Asker>,
    },
    /// End the flows of these clients.
    ResetClients {
        /// Whose.
        client: ClientRef,
        /// When it was decided.
        decided: Instant,
        /// Who waits for it.
        asker: Asker,
    },
    /// End these connections, named by the flow of the client's packets.
    ResetFlows {
        /// Which.
        keys: HashSet<FlowKey<Address>>,
        /// When it was decided.
        decided: Instant,
    },
    /// Hold the tallies of these slots against the flows.
    Recount(Vec<Slot>),
    /// Hand both tables to a report.
    Report(oneshot::Sender<(Flows, Flows)>),
    /// Remove flows.
    Remove {
        /// From the established table.
        established: Vec<(FlowKey<Address>, Forwarding)>,
        /// From the transient table.
        transient: Vec<FlowKey<Address>>,
    },
}

/// One end of a connection that is being ended.
#[derive(Clone, Copy, Debug)]
struct End {
    reset: Reset,
    /// What the other end has acknowledged of this one's bytes.
    acknowledgment: u32,
}

struct Walker {
    tables: Tables,
    sender: ResetSender,
    events: mpsc::Sender<Event>,
    second_calls: Vec<(Instant, Vec<End>)>,
    /// What the last recount found wrong with the counts of client addresses.
    miscounted: BTreeMap<SourceKey, i64>,
}

/// Starts the thread; it ends when the sender is dropped.
pub fn start(pin_dir: &Path, events: mpsc::Sender<Event>) -> Result<Sender<Job>> {
    let sender = ResetSender::open().context("cannot open a raw socket to send resets from")?;
    let tables = Tables::open(pin_dir)?;
    let mut walker = Walker {
        tables,
        sender,
        events,
        second_calls: Vec::new(),
        miscounted: BTreeMap::new(),
    };
    let (jobs, queue) = channel();
    thread::Builder::new()
        .name("walker".to_owned())
        .spawn(move || walker.work(&queue))?;
    Ok(jobs)
}

/// The job for an effect that takes a walk.
pub fn job(effect: Effect, slots: Vec<Slot>) -> Option<Job> {
    let decided = clock::now();
    match effect {
        Effect::Reset { slots, asker } => Some(Job::Reset {
            slots,
            decided,
            asker,
        }),
        Effect::ResetClients { client, asker } => Some(Job::ResetClients {
            client,
            decided,
            asker,
        }),
        Effect::ResetFlows(keys) => Some(Job::ResetFlows {
            keys: keys.into_iter().collect(),
            decided,
        }),
        Effect::Walk => Some(Job::Recount(slots)),
        Effect::Remove {
            established,
            transient,
        } => Some(Job::Remove {
            established,
            transient,
        }),
        Effect::Write(_)
        | Effect::Probe(_)
        | Effect::Watch(_)
        | Effect::Answer(..)
        | Effect::Tell(..) => None,
    }
}

impl Walker {
    fn work(&mut self, queue: &Receiver<Job>) {
        loop {
            let now = clock::now();
            let due = self.second_calls.iter().map(|(due, _)| *due).min();
            let wait = due.map_or(Duration::from_secs(3600), |due| {
                due.saturating_duration_since(now)
            });
            match queue.recv_timeout(wait) {
                Ok(job) => {
                    if let Err(error) = self.run(job) {
                        warn!("a walk of the connection tables failed: {error:#}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.call_again(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn run(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Reset {
                slots,
                decided,
                asker,
            } => {
                let mut generations = HashMap::new();
                for slot in slots {
                    generations.insert(slot, self.tables.member(slot)?.generation);
                }
                let is_meant = |_: &FlowKey<Address>, flow: &Flow<Address>| {
                    let current = generations.get(&flow.slot);
                    current
                        .is_some_and(|current| flow.generation != *current && flow.generation != 0)
                };
                let flows = self.tables.established()?;
                self.end(&flows, is_meant, decided, asker)?;
                // What has been ended and counted once is not to be again.
                self.disown(&flows, is_meant)
            }
            Job::ResetClients {
                client,
                decided,
                asker,
            } => {
                let is_meant = |key: &FlowKey<Address>, flow: &Flow<Address>| {
                    flow.generation != 0 && client.names(socket_address(key.sender()))
                };
                let flows = self.tables.established()?;
                self.disown(&flows, is_meant)?;
                self.end(&flows, is_meant, decided, Some(asker))
            }
            Job::ResetFlows { keys, decided } => {
                let is_meant = |key: &FlowKey<Address>, flow: &Flow<Address>| {
                    flow.generation != 0 && keys.contains(key)
                };
                let flows = self.tables.established()?;
                self.disown(&flows, is_meant)?;
                self.end(&flows, is_meant, decided, None)
            }
            Job::Recount(slots) => {
                let now = clock::kernel_tick();
                let before = restore::count(&self.tables, &slots, &[])?;
                let sources = self.tables.sources()?;
                let established = self.tables.established()?;
                self.recount_sources(&sources, &established)?;
                self.tables.free_ports(now)?;
                let event = Event::Walked {
                    before,
                    established,
                    transient: self.tables.transient()?,
                    now,
                };
                self.tell(event)
            }
            Job::Report(reply) => {
                // Whoever asked may have given up.
                let _ = reply.send((self.tables.established()?, self.tables.transient()?));
                Ok(())
            }
            Job::Remove {
                established,
                transient,
            } => {
                let now = clock::kernel_tick();
                for (key, forwarding) in established {
                    // The backend may not have heard of the end.
                    if forwarding == Forwarding::FullNat {
                        self.tables.linger(key, now)?;
                    }
                    self.tables.remove_established(&key)?;
                }
                for key in transient {
                    self.tables.remove_transient(&key)?;
                }
                Ok(())
            }
        }
    }

    /// Sends RSTs to both ends of the connections that are meant, and reports how many.
    fn end(
        &mut self,
        flows: &Flows,
        is_meant: impl Fn(&FlowKey<Address>, &Flow<Address>) -> bool,
        decided: Instant,
        asker: Option<Asker>,
    ) -> Result<()> {
        let mut connections: BTreeMap<Slot, u64> = BTreeMap::new();
        let mut sources: BTreeMap<SourceKey, u64> = BTreeMap::new();
        let (mut ends, mut backends) = (Vec::new(), Vec::new());
        for (key, flow) in flows {
            if flow.direction() == Direction::ToBackend && is_meant(key, flow) {
                *connections.entry(flow.slot).or_default() += 1;
                *sources.entry(source_of(key, flow)).or_default() += 1;
                let (client, backend) = both_ends(key, flow, flows);
                ends.push(client);
                backends.extend(backend);
            }
        }
        // Those who hear of it connect again at once, and must not meet their own limit.
        self.release_sources(&sources)?;
        // The clients first: they wait, and the backend may be what is gone.
        ends.append(&mut backends);
        let tally = self.sender.send_all(ends.iter().map(|end| end.reset));
        if let Some(error) = tally.first_error {
            warn!(
                "{} of {} resets could not be sent: {error}",
                tally.failed,
                ends.len()
            );
        }
        let took = clock::now().saturating_duration_since(decided);
        if !ends.is_empty() {
            self.second_calls.push((clock::now() + SECOND_CALL, ends));
        }
        self.tell(Event::WasReset {
            connections,
            took,
            asker,
        })
    }

    /// Gives flows the generation that no member has, so that their next packet meets an RST.
    fn disown(
        &mut self,
        flows: &Flows,
        is_meant: impl Fn(&FlowKey<Address>, &Flow<Address>) -> bool,
    ) -> Result<()> {
        for (key, flow) in flows {
            if flow.direction() == Direction::ToBackend && is_meant(key, flow) {
                self.tables.disown(key)?;
                self.tables.disown(&flow.leaving.reversed())?;
            }
        }
        Ok(())
    }

    /// Asks those for a segment that may not have taken the RST, because bytes were under way.
    fn call_again(&mut self) {
        let now = clock::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.second_calls)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.second_calls = later;
        for (_, ends) in due {
            self.sender.send_all(ends.iter().map(|end| end.reset));
            self.sender.probe_all(ends.iter().map(|end| Probe {
                source: end.reset.source,
                destination: end.reset.destination,
                sequence: end.reset.sequence,
                acknowledgment: end.acknowledgment,
            }));
        }
    }

    fn tell(&self, event: Event) -> Result<()> {
        self.events
            .blocking_send(event)
            .context("the controller is gone")
    }
}

/// Both ends of the connection of a flow to a backend: the client, and the backend if its flow is
/// known.
fn both_ends(key: &FlowKey<Address>, flow: &Flow<Address>, flows: &Flows) -> (End, Option<End>) {
    let client = socket_address(key.sender());
    let vip = socket_address(key.receiver());
    let opposite = flows.get(&flow.leaving.reversed()).copied();
    let answered = opposite.map_or(0, |opposite| opposite.last_ack);
    let to_client = End {
        reset: Reset {
            source: vip,
            destination: client,
            sequence: flow.last_ack,
        },
        acknowledgment: answered,
    };
    let to_backend = opposite.map(|opposite| End {
        reset: Reset {
            source: socket_address(flow.leaving.sender()),
            destination: socket_address(flow.leaving.receiver()),
            sequence: opposite.last_ack,
        },
        acknowledgment: flow.last_ack,
    });
    (to_client, to_backend)
}
