//! What operators ask for: wishes about backends, weights, resets.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::limits::MAX_WEIGHT;
use lb_common::member::Slot;

use super::effect::Effect;
use super::event::Asker;
use super::recount::Error;
use super::{Engine, Moment, tell};
use crate::protocol::{BackendRef, KillTarget, Request, Response};
use crate::report::Admin;

impl Engine {
    /// Does what a request asks for, or refuses it. Reports are made by the shell, which can
    /// read the kernel's tables for them.
    pub(super) fn answer(
        &mut self,
        request: Request,
        asker: Asker,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let done = match request {
            Request::Drain { backend } => self.set_admin(&backend, Admin::Drain, effects),
            Request::Maint { backend } => self.set_admin(&backend, Admin::Maint, effects),
            Request::Ready { backend } => self.set_admin(&backend, Admin::Ready, effects),
            Request::Weight { backend, weight } => self.set_weight(&backend, weight, effects),
            Request::Kill {
                target: KillTarget::Client(client),
            } => {
                effects.push(Effect::ResetClients { client, asker });
                return;
            }
            Request::Kill { target } => match self.slots_of(&target) {
                Ok(slots) => {
                    for member in self.services.iter_mut().flat_map(|s| &mut s.members) {
                        if slots.contains(&member.slot) {
                            member.generation += 1;
                        }
                    }
                    // The raised generations must be written before the walk.
                    self.write(now, effects);
                    effects.push(Effect::Reset {
                        slots,
                        asker: Some(asker),
                    });
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            Request::Status | Request::Connections { .. } | Request::Explain { .. } => {
                Err("this request is a report".to_owned())
            }
        };
        let response = match done {
            Ok(message) => Response::Done { message },
            Err(message) => Response::Refused { message },
        };
        effects.push(Effect::Answer(asker, response));
    }

    /// The place of the one backend that an operator means.
    fn find(&self, reference: &BackendRef) -> Result<usize, String> {
        let places: Vec<usize> = (0..self.backends.len())
            .filter(|place| {
                let backend = &self.backends[*place];
                reference.names(&backend.cluster, &backend.config.name)
            })
            .collect();
        match places.as_slice() {
            [place] => Ok(*place),
            [] => {
                let names: Vec<String> = self.backends.iter().map(super::Backend::name).collect();
                Err(format!(
                    "there is no backend {reference}; there are {}",
                    names.join(", ")
                ))
            }
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|place| self.backends[*place].name())
                    .collect();
                Err(format!(
                    "{reference} is one of {}: say which",
                    names.join(", ")
                ))
            }
        }
    }

    fn set_admin(
        &mut self,
        reference: &BackendRef,
        admin: Admin,
        effects: &mut Vec<Effect>,
    ) -> Result<String, String> {
        let place = self.find(reference)?;
        let backend = &mut self.backends[place];
        if backend.admin == admin {
            return Ok(format!("{} is set to {admin} already", backend.name()));
        }
        backend.admin = admin;
        let text = format!("{} is set to {admin}", backend.name());
        effects.push(tell(format!("{text}, by the operator")));
        Ok(text)
    }

    fn set_weight(
        &mut self,
        reference: &BackendRef,
        weight: u16,
        effects: &mut Vec<Effect>,
    ) -> Result<String, String> {
        if weight > MAX_WEIGHT {
            return Err(format!("weight {weight} is more than {MAX_WEIGHT}"));
        }
        let place = self.find(reference)?;
        let backend = &mut self.backends[place];
        let before = backend.weight();
        backend.weight = (weight != backend.config.weight).then_some(weight);
        let text = format!("{} has weight {weight} now (was {before})", backend.name());
        effects.push(tell(format!("{text}, by the operator")));
        Ok(text)
    }

    fn slots_of(&self, target: &KillTarget) -> Result<Vec<Slot>, String> {
        let place = match target {
            KillTarget::Backend(reference) => Some(self.find(reference)?),
            KillTarget::Service(_) | KillTarget::Client(_) => None,
        };
        let services = self.services.iter().filter(|service| match target {
            KillTarget::Service(name) => service.config.name == *name,
            KillTarget::Backend(_) | KillTarget::Client(_) => true,
        });
        let mut members = services.flat_map(|service| &service.members).peekable();
        if let (KillTarget::Service(name), None) = (target, members.peek()) {
            let names: Vec<&str> = self
                .services
                .iter()
                .map(|s| s.config.name.as_str())
                .collect();
            return Err(format!(
                "there is no service {name}; there are {}",
                names.join(", ")
            ));
        }
        let is_meant = |backend: usize| place.is_none_or(|place| place == backend);
        Ok(members
            .filter(|member| is_meant(member.backend))
            .map(|member| member.slot)
            .collect())
    }

    /// Counts the connections that were ended as no longer there.
    pub(super) fn count_reset(
        &mut self,
        connections: &BTreeMap<Slot, u64>,
        took: Duration,
        asker: Option<Asker>,
        effects: &mut Vec<Effect>,
    ) {
        for (slot, count) in connections {
            let gone = Error {
                half_open: 0,
                established: i64::try_from(*count).unwrap_or(i64::MAX),
            };
            self.reap(*slot, gone);
        }
        let total: u64 = connections.values().sum();
        let noun = if total == 1 {
            "connection"
        } else {
            "connections"
        };
        let message = format!(
            "{total} {noun} reset in {:.0} ms",
            took.as_secs_f64() * 1000.0
        );
        if total > 0 {
            effects.push(tell(message.clone()));
        }
        if let Some(asker) = asker {
            effects.push(Effect::Answer(asker, Response::Done { message }));
        }
    }

    /// Takes connections off the count of a slot, its backend and the gateway. A slot that has no
    /// member any more counts for the gateway alone.
    pub(super) fn reap(&mut self, slot: Slot, gone: Error) {
        let members = self
            .services
            .iter_mut()
            .flat_map(|service| &mut service.members);
        for member in members.filter(|member| member.slot == slot) {
            member.reaped.add(gone);
            self.backends[member.backend].reaped.add(gone);
        }
        self.reaped.add(gone);
    }
}
