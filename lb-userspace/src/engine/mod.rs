//! The functional core: `step(event, now) -> effects`. No tokio, no aya, no files, no clock.
//!
//! Reading order: [`event`] (what can happen), [`model`] (what is known), [`health`] and
//! [`verdict`] (what follows), [`wanted`] (the kernel's tables as they should be), [`plan`] (the
//! writes that get there), [`effect`] (what the shell does).

pub mod adopt;
pub mod effect;
pub mod event;
pub mod explain;
pub mod health;
pub mod host_tables;
pub mod kernel;
pub mod model;
pub mod observation;
mod operator;
pub mod plan;
pub mod recount;
pub mod ring;
pub mod verdict;
pub mod view;
pub mod wanted;

use std::time::Duration;

use lb_common::member::{BackendId, Slot};

use crate::config::{Config, OnDown};
use crate::report::Admin;
use effect::{Effect, Weight};
use event::{Event, Tallies};
use kernel::{KernelTables, Surroundings};
use model::{Backend, Reaped, Service};
use observation::Outcome;
use recount::Error;
use verdict::{Primary, Verdict};

/// A point in time: since the controller was started.
pub type Moment = Duration;

/// Time between two walks of the connection tables.
const WALK_INTERVAL: Duration = Duration::from_secs(5);

/// Everything that the controller knows and has decided.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    backends: Vec<Backend>,
    services: Vec<Service>,
    /// Connections of the whole gateway that the controller ended or found gone.
    reaped: Reaped,
    /// What the last walk found wrong with the count of the whole gateway.
    miscounted: Error,
    next_hop_generation: u32,
    surroundings: Surroundings,
    /// What the kernel's tables hold, as far as they are known.
    applied: KernelTables,
    /// Whether a write has failed since, so that each entry has to be written again.
    is_doubtful: bool,
    tallies: Tallies,
    next_walk: Moment,
    /// When the last event was taken in.
    now: Moment,
}

impl Engine {
    /// An engine over the tables that were found; nothing is written before the first step.
    pub fn new(config: Config, found: KernelTables, now: Moment) -> Self {
        let mut engine = Self {
            config,
            backends: Vec::new(),
            services: Vec::new(),
            reaped: adopt::gateway_reaped(&found),
            miscounted: Error::default(),
            // Whatever was cached while no controller watched the routes is looked up again.
            surroundings: Surroundings::of(&found),
            next_hop_generation: found.gateway.next_hop_generation.wrapping_add(1).max(1),
            applied: found,
            is_doubtful: false,
            tallies: Tallies::default(),
            next_walk: now + WALK_INTERVAL,
            now,
        };
        engine.adopt(now);
        engine
    }

    /// Takes an event in and says what is to be done about it.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now = now;
        match event {
            Event::Tick => {}
            Event::Configured(config) => {
                self.config = *config;
                self.adopt(now);
                effects.push(tell("the configuration was read again"));
            }
            Event::Probed {
                backend,
                handshake,
                session,
            } => {
                self.take_round(backend, &handshake, session.as_ref(), now, &mut effects);
            }
            Event::Watched { backend, session } => {
                if let Some(backend) = self.backend_mut(backend) {
                    let rules = backend.rules.clone();
                    backend.health.take_watch(&session, &rules, now);
                }
            }
            Event::SessionLost(backend) => {
                if let Some(backend) = self.backend_mut(backend) {
                    backend.health.hurry(now);
                }
            }
            Event::Suspected(slot) => self.suspect(slot, now, &mut effects),
            Event::Counted(tallies) => {
                self.tallies = tallies;
                self.count_from_here();
            }
            Event::Walked {
                established,
                transient,
                now: tick,
                before,
            } => {
                self.recount(&established, &transient, tick, &before, &mut effects);
            }
            Event::WasReset {
                connections,
                took,
                asker,
            } => {
                self.count_reset(&connections, took, asker, &mut effects);
            }
            Event::NextHopsChanged(surroundings) => {
                self.surroundings = surroundings;
                self.next_hop_generation = self.next_hop_generation.wrapping_add(1).max(1);
            }
            Event::WriteFailed => self.is_doubtful = true,
            Event::Asked(request, asker) => self.answer(request, asker, now, &mut effects),
        }
        self.decide(now, &mut effects);
        self.ask(now, &mut effects);
        effects
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Moment {
        let asks = self
            .backends
            .iter()
            .filter_map(|backend| backend.health.next_deadline(&backend.rules));
        let holds = self
            .services
            .iter()
            .filter_map(|service| service.hold_ends())
            .filter(|ends| *ends > self.now);
        asks.chain(holds)
            .chain([self.next_walk])
            .min()
            .unwrap_or(self.next_walk)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether every backend has been probed at least once.
    pub fn is_warm(&self) -> bool {
        self.backends
            .iter()
            .all(|backend| backend.health.health != crate::report::Health::Unknown)
    }

    /// The slots and backends in use, whose tallies count.
    pub fn counted(&self) -> (Vec<Slot>, Vec<BackendId>) {
        let slots = self.services.iter().flat_map(|service| &service.members);
        let backends = self.backends.iter().map(|backend| backend.id);
        (
            slots.map(|member| member.slot).collect(),
            [BackendId::GATEWAY].into_iter().chain(backends).collect(),
        )
    }

    /// Where and how a backend is probed.
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.id == id)
    }

    fn backend_mut(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.iter_mut().find(|backend| backend.id == id)
    }

    fn take_round(
        &mut self,
        id: BackendId,
        handshake: &Outcome,
        session: Option<&Outcome>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.backends.iter().position(|backend| backend.id == id) else {
            return;
        };
        let backend = &mut self.backends[place];
        let rules = backend.rules.clone();
        let before = backend.health.health;
        let check_before = backend.health.check.clone();
        if backend.health.take_round(handshake, session, &rules, now) {
            let state = &backend.health;
            let text = format!(
                "{} is {} (was {before}): {}",
                backend.name(),
                state.health,
                state.check
            );
            effects.push(Effect::Tell(Weight::Info, text));
        }
        if let Outcome::Misconfigured { message } = handshake
            && *message != check_before
        {
            let text = format!(
                "the probe of {} is misconfigured, and its role is unknown: {message}",
                backend.name()
            );
            effects.push(Effect::Tell(Weight::Warning, text));
        }
        if backend.health.has_answered() {
            self.forgive(place);
        }
    }

    /// Clears the suspicions that are older than the round that has just gone well. One that came
    /// while it ran is reported again by the kernel's next refused SYN.
    fn forgive(&mut self, place: usize) {
        for member in self
            .services
            .iter_mut()
            .flat_map(|service| &mut service.members)
        {
            if member.backend == place
                && let Some(tally) = self.tallies.slots.get(&member.slot)
            {
                #[expect(clippy::cast_possible_truncation, reason = "compared modulo 2^32")]
                let suspicions = tally.suspicions as u32;
                member.forgiven = suspicions;
            }
        }
    }

    fn suspect(&mut self, slot: Slot, now: Moment, effects: &mut Vec<Effect>) {
        let members = self.services.iter().flat_map(|service| &service.members);
        let Some(place) = members
            .filter(|member| member.slot == slot)
            .map(|m| m.backend)
            .next()
        else {
            return;
        };
        let backend = &mut self.backends[place];
        if !backend.health.is_suspect {
            let text = format!(
                "{} did not take a connection: probing it now",
                backend.name()
            );
            effects.push(Effect::Tell(Weight::Info, text));
        }
        backend.health.is_suspect = true;
        backend.health.hurry(now);
    }

    /// Judges every member anew, and writes what follows.
    fn decide(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        for at in 0..self.services.len() {
            let primary = self.primary_of(&self.services[at].config.cluster);
            let verdicts = self.judge_service(at, &primary, now);
            let service = &mut self.services[at];
            for (member, verdict) in service.members.iter_mut().zip(verdicts) {
                let backend = &self.backends[member.backend];
                if verdict.is_eligible() != member.verdict.is_eligible() {
                    let word = if verdict.is_eligible() {
                        "eligible"
                    } else {
                        "not eligible"
                    };
                    let text = format!(
                        "{} is {word} for {}: {}",
                        backend.name(),
                        service.config.name,
                        verdict.reason
                    );
                    effects.push(Effect::Tell(Weight::Info, text));
                }
                let is_reset =
                    backend.admin == Admin::Maint || service.config.on_down == OnDown::Reset;
                member.accept(verdict, backend.health.role, is_reset);
            }
            service.reshape(&self.backends, &self.tallies, now);
        }
        let slots = self.write(now, effects);
        if !slots.is_empty() {
            effects.push(Effect::Reset { slots, asker: None });
        }
    }

    fn judge_service(&self, at: usize, primary: &Primary, now: Moment) -> Vec<Verdict> {
        let service = &self.services[at];
        let judge = |member| verdict::judge(service, member, &self.backends, primary, now);
        let mut verdicts: Vec<Verdict> = service.members.iter().map(judge).collect();
        let Service {
            config, members, ..
        } = service;
        verdict::fall_back(config, &mut verdicts, members, &self.backends, primary);
        verdicts
    }

    fn primary_of(&self, cluster: &str) -> Primary {
        let members = self.backends.iter().enumerate();
        let cluster: Vec<(usize, &Backend)> = members
            .filter(|(_, backend)| backend.cluster == cluster)
            .collect();
        verdict::find_primary(&cluster)
    }

    /// Starts the questions that are due.
    fn ask(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        for backend in &mut self.backends {
            if backend.health.start_round(now) {
                effects.push(Effect::Probe(backend.id));
            } else if backend.health.start_watch(&backend.rules, now) {
                effects.push(Effect::Watch(backend.id));
            }
        }
        if self.next_walk <= now {
            self.next_walk = now + WALK_INTERVAL;
            effects.push(Effect::Walk);
        }
    }
}

fn tell(text: impl Into<String>) -> Effect {
    Effect::Tell(Weight::Info, text.into())
}
