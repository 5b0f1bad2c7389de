//! An engine with everything round it made up: clock, kernel tables, servers, connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lb_common::flow::{FlowKey, Tick};
use lb_common::member::Slot;
use lb_userspace::config::{Config, ProbeKind};
use lb_userspace::engine::effect::{Effect, Write};
use lb_userspace::engine::event::{Asker, Event};
use lb_userspace::engine::kernel::{Address, KernelTables, backend_address, endpoint};
use lb_userspace::engine::{Engine, Moment};
use lb_userspace::protocol::{Request, Response};
use lb_userspace::report::{BackendReport, ServiceReport, StatusReport};

use super::invariants;
use super::server::Server;
use super::traffic::Traffic;

/// What the walker takes for a walk.
const WALK: Duration = Duration::from_millis(1);

/// Everything.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) kernel: KernelTables,
    pub(crate) now: Moment,
    pub(crate) servers: BTreeMap<SocketAddr, Server>,
    pub(crate) traffic: Traffic,
    /// The members (`service/backend`) that were reset, in the order of their slots.
    pub(crate) resets: Vec<String>,
    /// The connections that were reset one by one, by the flow of the client's packets.
    pub(crate) idle_resets: Vec<FlowKey<Address>>,
    pub(crate) answers: Vec<(Asker, Response)>,
    pub(crate) told: Vec<String>,
    /// Every write so far.
    pub(crate) writes: Vec<Write>,
    names: BTreeMap<Slot, String>,
    under_way: Vec<(Moment, Event)>,
    next_asker: u64,
}

impl World {
    /// A controller on a host that never had one.
    pub(crate) fn new(config: Config, servers: BTreeMap<SocketAddr, Server>) -> Self {
        let kernel = KernelTables::default();
        let mut world = Self {
            engine: Engine::new(config, kernel.clone(), Moment::ZERO),
            kernel,
            now: Moment::ZERO,
            servers,
            traffic: Traffic::default(),
            resets: Vec::new(),
            idle_resets: Vec::new(),
            answers: Vec::new(),
            told: Vec::new(),
            writes: Vec::new(),
            names: BTreeMap::new(),
            under_way: Vec::new(),
            next_asker: 0,
        };
        world.step(Event::Tick);
        world
    }

    /// Kills the controller and starts another one: what was under way is lost, and what is known
    /// is what the tables hold.
    pub(crate) fn restart(&mut self, config: Config) {
        self.engine = Engine::new(config, invariants::found(&self.kernel), self.now);
        self.under_way.clear();
        self.step(Event::Tick);
    }

    /// Reads the configuration again.
    pub(crate) fn reload(&mut self, config: Config) {
        self.step(Event::Configured(Box::new(config)));
    }

    /// Lets time pass, and everything happen that falls due.
    pub(crate) fn run_until(&mut self, end: Moment) {
        loop {
            let answer = self.under_way.iter().map(|(due, _)| *due).min();
            let deadline = self.engine.next_deadline();
            let next = answer.map_or(deadline, |due| due.min(deadline));
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            let due = self.under_way.iter().position(|(due, _)| *due <= self.now);
            let event = due.map_or(Event::Tick, |place| self.under_way.remove(place).1);
            self.step(event);
        }
        self.now = self.now.max(end);
    }

    /// Lets this much time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Lets something happen now.
    pub(crate) fn step(&mut self, event: Event) {
        let (slots, backends) = self.engine.counted();
        let tallies = self.traffic.tallies(&slots, &backends);
        self.take(Event::Counted(tallies));
        self.take(event);
    }

    /// Sends a request; the answer, when there is one, is in `answers`.
    pub(crate) fn ask(&mut self, request: Request) -> Asker {
        let asker = Asker(self.next_asker);
        self.next_asker += 1;
        self.step(Event::Asked(request, asker));
        asker
    }

    /// Opens a connection to a service.
    pub(crate) fn open(&mut self, service: &str) -> Option<Slot> {
        let vip = endpoint(self.service(service).vip);
        self.traffic.open(&self.kernel, vip, self.tick())
    }

    /// Sends a SYN to a service that no backend answers.
    pub(crate) fn half_open(&mut self, service: &str) -> Option<Slot> {
        let vip = endpoint(self.service(service).vip);
        self.traffic.half_open(&self.kernel, vip, self.tick())
    }

    /// The kernel's clock.
    pub(crate) fn tick(&self) -> Tick {
        Tick::from_nanoseconds(u64::try_from(self.now.as_nanos()).unwrap())
    }

    pub(crate) fn status(&self) -> StatusReport {
        self.engine.status(Vec::new(), 1, self.now)
    }

    pub(crate) fn service(&self, name: &str) -> ServiceReport {
        let services = self.status().services;
        services
            .into_iter()
            .find(|service| service.name == name)
            .unwrap_or_else(|| panic!("there is no service {name}"))
    }

    /// A member by `service/backend`.
    pub(crate) fn member(&self, name: &str) -> BackendReport {
        let (service, backend) = name.split_once('/').unwrap();
        let members = self.service(service).backends;
        members
            .into_iter()
            .find(|member| member.name == backend)
            .unwrap_or_else(|| panic!("there is no member {name}"))
    }

    /// The slot of a member, by `service/backend`.
    pub(crate) fn slot(&self, name: &str) -> Slot {
        let found = self.names.iter().find(|(_, known)| *known == name);
        *found.unwrap_or_else(|| panic!("{name} has no slot")).0
    }

    /// The generation of a member in the kernel, by `service/backend`.
    pub(crate) fn generation(&self, name: &str) -> u32 {
        self.kernel.members[&self.slot(name)].generation
    }

    /// Who is eligible for a service, as the kernel sees it.
    pub(crate) fn eligible(&self, service: &str) -> Vec<String> {
        let report = self.service(service);
        let places = invariants::eligible(&self.kernel, report.vip);
        let name = |place| {
            let found = report
                .backends
                .iter()
                .find(|backend| backend.address == place);
            found.map_or_else(|| format!("{place}"), |backend| backend.name.clone())
        };
        places.into_iter().map(|(_, place)| name(place)).collect()
    }

    /// One step of the engine alone, and what it asks for.
    fn take(&mut self, event: Event) {
        let before = self.kernel.clone();
        let effects = self.engine.step(event, self.now);
        for effect in &effects {
            self.perform(effect);
        }
        invariants::check_step(&self.engine, &self.kernel, &before, &effects, self.now);
        self.note_names();
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Write(write) => {
                let before = self.kernel.clone();
                invariants::apply(&mut self.kernel, write);
                invariants::check_write(&before, &self.kernel, self.engine.config());
                self.writes.push(write.clone());
            }
            Effect::Probe(id) => {
                let Some(backend) = self.engine.backend(*id) else {
                    return;
                };
                let server = self
                    .servers
                    .get(&backend.config.address)
                    .unwrap_or(&Server::Refusing);
                let (takes, handshake, session) = server.answer(backend.rules.timeout);
                let session = (backend.rules.kind == ProbeKind::Postgres).then_some(session);
                let event = Event::Probed {
                    backend: *id,
                    handshake,
                    session,
                };
                self.under_way.push((self.now + takes, event));
            }
            Effect::Watch(id) => {
                let Some(backend) = self.engine.backend(*id) else {
                    return;
                };
                let server = self
                    .servers
                    .get(&backend.config.address)
                    .unwrap_or(&Server::Refusing);
                let (takes, _, session) = server.answer(backend.rules.timeout);
                let event = Event::Watched {
                    backend: *id,
                    session,
                };
                self.under_way.push((self.now + takes, event));
            }
            Effect::Reset { slots, asker } => {
                let mut slots = slots.clone();
                slots.sort_unstable();
                self.resets
                    .extend(slots.iter().map(|slot| self.names[slot].clone()));
                let connections = self.traffic.reset(&self.kernel, &slots);
                let event = Event::WasReset {
                    connections,
                    took: WALK,
                    asker: *asker,
                };
                self.under_way.push((self.now + WALK, event));
            }
            Effect::ResetClients { asker, .. } => {
                let connections = BTreeMap::new();
                let event = Event::WasReset {
                    connections,
                    took: WALK,
                    asker: Some(*asker),
                };
                self.under_way.push((self.now + WALK, event));
            }
            Effect::ResetFlows(keys) => {
                self.idle_resets.extend(keys);
                let event = Event::WasReset {
                    connections: self.traffic.reset_flows(keys),
                    took: WALK,
                    asker: None,
                };
                self.under_way.push((self.now + WALK, event));
            }
            Effect::Walk => {
                let (slots, _) = self.engine.counted();
                let event = Event::Walked {
                    established: self.traffic.established.clone(),
                    transient: self.traffic.transient.clone(),
                    now: self.tick(),
                    before: self.traffic.tallies(&slots, &[]),
                };
                self.under_way.push((self.now + WALK, event));
            }
            Effect::Remove {
                established,
                transient,
            } => {
                for (key, _) in established {
                    self.traffic.established.remove(key);
                }
                for key in transient {
                    self.traffic.transient.remove(key);
                }
            }
            Effect::Answer(asker, response) => self.answers.push((*asker, response.clone())),
            Effect::Tell(_, text) => self.told.push(text.clone()),
        }
    }

    /// Remembers which member lives in which slot, also after it is gone.
    fn note_names(&mut self) {
        for service in self.status().services {
            let key = lb_common::service::ServiceKey::new(endpoint(service.vip));
            let Some(row) = self.kernel.services.get(&key) else {
                continue;
            };
            for (slot, member) in &self.kernel.members {
                let place = self
                    .kernel
                    .backends
                    .get(&member.backend)
                    .map(|row| backend_address(row.endpoint()));
                let is_its = |backend: &&BackendReport| Some(backend.address) == place;
                if slot.service() == row.id
                    && let Some(backend) = service.backends.iter().find(is_its)
                {
                    let name = format!("{}/{}", service.name, backend.name);
                    self.names.retain(|_, known| *known != name);
                    self.names.insert(*slot, name);
                }
            }
        }
    }
}
