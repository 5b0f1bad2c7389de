//! Putting a configuration over what is there already: rows of the tables, health, the
//! operator's wishes. At a start what is there comes from the kernel's tables alone.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use lb_common::limits::{MAX_BACKENDS, MAX_MEMBERS, MAX_SERVICES};
use lb_common::member::{BackendId, Member as MemberRow, Slot};
use lb_common::service::{ServiceId, ServiceKey};

use super::health::HealthState;
use super::kernel::{KernelTables, endpoint, wide_endpoint};
use super::model::{Backend, Member, Reaped, Service};
use super::recount::Error;
use super::verdict::{Stance, Verdict};
use super::{Engine, Moment};
use crate::config::{self, Role};
use crate::report::{Admin, BackendRole};

/// The operator's wish as a number in the backend table.
pub fn admin_number(admin: Admin) -> u8 {
    match admin {
        Admin::Ready => 0,
        Admin::Drain => 1,
        Admin::Maint => 2,
    }
}

fn admin_of(number: u8) -> Admin {
    match number {
        1 => Admin::Drain,
        2 => Admin::Maint,
        _ => Admin::Ready,
    }
}

/// What an earlier controller has counted for the whole gateway.
pub fn gateway_reaped(found: &KernelTables) -> Reaped {
    let gateway = found
        .backends
        .get(&BackendId::GATEWAY)
        .copied()
        .unwrap_or_default();
    Reaped {
        half_open: gateway.half_reaped,
        established: gateway.reaped,
    }
}

impl Engine {
    /// Builds backends and services from the configuration. A backend is known again by its
    /// address, a service by its VIP; both keep their rows.
    pub(super) fn adopt(&mut self, now: Moment) {
        let old_backends = std::mem::take(&mut self.backends);
        let old_services = std::mem::take(&mut self.services);
        let total: usize = self.config.clusters.iter().map(|c| c.backends.len()).sum();
        let mut rows = self.free_backend_rows();
        for cluster in &self.config.clusters {
            for backend in &cluster.backends {
                let old = old_backends
                    .iter()
                    .find(|old| old.config.address == backend.address);
                let place = self.backends.len();
                // The first rounds are spread over the interval, so that backends are not all
                // asked at the same instant for ever.
                let first = now + first_pause(&cluster.health, place, total);
                let adopted = adopt_backend(&self.applied, old, cluster, backend, first, &mut rows);
                self.backends.push(adopted);
            }
        }
        for config in &self.config.services {
            let old = old_services.iter().find(|old| old.config.vip == config.vip);
            let service = self.adopt_service(config, old);
            self.services.push(service);
        }
    }

    /// The rows for new backends. Those that members still refer to come last: somebody's
    /// connections are counted there.
    fn free_backend_rows(&self) -> VecDeque<BackendId> {
        let configured: BTreeSet<_> = self
            .config
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.backends)
            .map(|backend| wide_endpoint(backend.address))
            .collect();
        let applied = &self.applied;
        let is_configured = |id: &BackendId| {
            let row = applied.backends.get(id);
            row.is_some_and(|row| configured.contains(&row.endpoint()))
        };
        let referred: BTreeSet<_> = applied.members.values().map(|row| row.backend).collect();
        let mut rows: Vec<BackendId> = (1..MAX_BACKENDS).map(BackendId).collect();
        rows.retain(|id| !is_configured(id));
        rows.sort_by_key(|id| referred.contains(id));
        rows.into()
    }

    fn adopt_service(&self, config: &config::Service, old: Option<&Service>) -> Service {
        let key = ServiceKey::new(endpoint(config.vip));
        let row = self.applied.services.get(&key).map(|service| service.id);
        let id = row.unwrap_or_else(|| self.free_service_row());
        let mut free = self.free_slots(id);
        let members = self.backends.iter().enumerate();
        let known = old.filter(|old| old.config.role == config.role);
        let adopt = |(place, backend): (usize, &Backend)| {
            let own = self.slot_of(id, backend).filter(|_| row.is_some());
            let slot = own.or_else(|| free.pop_front())?;
            if own.is_none() {
                return Some(self.fresh_member(place, slot));
            }
            let known = known.and_then(|old| old.members.iter().find(|it| it.slot == slot));
            Some(match known {
                Some(known) => Member {
                    backend: place,
                    ..known.clone()
                },
                None => self.restored_member(place, slot, config.role),
            })
        };
        let mut members: Vec<Member> = members
            .filter(|(_, backend)| backend.cluster == config.cluster)
            .filter_map(adopt)
            .collect();
        let eligible = members.iter().filter(|it| it.verdict.is_eligible()).count();
        // What was eligible in another role is not so "as before".
        if old.is_some() && known.is_none() || config.role == Role::Primary && eligible > 1 {
            for member in &mut members {
                member.verdict = Verdict::new(Stance::NoNew, "not probed yet");
                member.served_as = None;
            }
        }
        let is_alike = |old: &&Service| old.config.algorithm == config.algorithm;
        let alike = old.filter(is_alike);
        Service {
            id,
            config: config.clone(),
            members,
            without_backend_since: old.and_then(|old| old.without_backend_since),
            shape: alike.map_or_else(Vec::new, |old| old.shape.clone()),
            ring: alike.map_or_else(Vec::new, |old| old.ring.clone()),
        }
    }

    /// Where a backend lives in the row of a service. The address decides: a row of the backend
    /// table may have been given to another server.
    fn slot_of(&self, service: ServiceId, backend: &Backend) -> Option<Slot> {
        let row = self.applied.backends.get(&backend.id)?;
        let is_known = row.endpoint() == wide_endpoint(backend.config.address);
        let is_its = |slot: &Slot| {
            let member = self.applied.members.get(slot);
            member.is_some_and(|member| member.backend == backend.id && member.generation > 0)
        };
        slots(service).find(is_its).filter(|_| is_known)
    }

    /// The slots for new members. Those that another member leaves only now come last: their
    /// connections have yet to be reset.
    fn free_slots(&self, service: ServiceId) -> VecDeque<Slot> {
        let staying: BTreeSet<Slot> = self
            .backends
            .iter()
            .filter_map(|backend| self.slot_of(service, backend))
            .collect();
        let is_live = |slot: &Slot| {
            let row = self.applied.members.get(slot);
            row.is_some_and(|row| row.backend != BackendId::GATEWAY)
        };
        let mut free: Vec<Slot> = slots(service).filter(|it| !staying.contains(it)).collect();
        free.sort_by_key(is_live);
        free.into()
    }

    /// A member in a slot that was nobody's, or another's whose flows end with their generation.
    fn fresh_member(&self, backend: usize, slot: Slot) -> Member {
        let row = self.applied.members.get(&slot).copied().unwrap_or_default();
        Member {
            generation: row.generation + 1,
            verdict: Verdict::new(Stance::NoNew, "not probed yet"),
            has_served: false,
            is_fresh: true,
            ..member_of(backend, slot, &row)
        }
    }

    /// A member as its row says that an earlier controller has left it.
    fn restored_member(&self, backend: usize, slot: Slot, role: Role) -> Member {
        let row = self.applied.members.get(&slot).copied().unwrap_or_default();
        let is_maint = self.backends[backend].admin == Admin::Maint;
        let stance = if row.is_eligible() {
            Stance::Eligible
        } else {
            Stance::NoNew
        };
        Member {
            verdict: Verdict::new(stance, "not probed yet"),
            // Into maint it went by a reset.
            has_served: !is_maint,
            served_as: (row.is_eligible() && role == Role::Primary).then_some(BackendRole::Primary),
            ..member_of(backend, slot, &row)
        }
    }

    fn free_service_row(&self) -> ServiceId {
        let is_taken = |id: &ServiceId| self.services.iter().any(|service| service.id == *id);
        let is_configured = |key: &ServiceKey<_>| {
            let mut services = self.config.services.iter();
            services.any(|service| ServiceKey::new(endpoint(service.vip)) == *key)
        };
        let applied = self.applied.services.iter();
        let kept: BTreeSet<_> = applied
            .clone()
            .filter(|(key, _)| is_configured(key))
            .map(|(_, row)| row.id)
            .collect();
        let left: BTreeSet<_> = applied.map(|(_, row)| row.id).collect();
        let mut rows: Vec<ServiceId> = (0..MAX_SERVICES).map(ServiceId).collect();
        rows.retain(|id| !is_taken(id) && !kept.contains(id));
        // The row of a service that is only now removed comes last.
        rows.sort_by_key(|id| left.contains(id));
        rows.first().copied().unwrap_or_default()
    }
}

/// The slots of a service's row.
fn slots(service: ServiceId) -> impl Iterator<Item = Slot> {
    (0..MAX_MEMBERS).map(move |index| Slot::of(service, index))
}

/// What the row of a member says of it.
fn member_of(backend: usize, slot: Slot, row: &MemberRow) -> Member {
    Member {
        backend,
        slot,
        generation: row.generation,
        verdict: Verdict::new(Stance::NoNew, ""),
        has_served: true,
        served_as: None,
        forgiven: row.forgiven,
        baseline: row.baseline,
        reaped: Reaped {
            half_open: row.half_reaped,
            established: row.reaped,
        },
        miscounted: Error::default(),
        is_fresh: false,
    }
}

fn adopt_backend(
    applied: &KernelTables,
    old: Option<&Backend>,
    cluster: &config::Cluster,
    config: &config::Backend,
    first: Moment,
    rows: &mut VecDeque<BackendId>,
) -> Backend {
    let here = wide_endpoint(config.address);
    let row = applied
        .backends
        .iter()
        .find(|(id, row)| **id != BackendId::GATEWAY && row.endpoint() == here);
    let is_fresh = row.is_none();
    let id = row.map(|(id, _)| *id).or_else(|| rows.pop_front());
    let row = row.map(|(_, row)| *row).unwrap_or_default();
    Backend {
        id: id.unwrap_or_default(),
        cluster: cluster.name.clone(),
        config: config.clone(),
        rules: cluster.health.clone(),
        admin: old.map_or_else(|| admin_of(row.admin), |old| old.admin),
        weight: old.map_or_else(
            || (row.has_weight != 0).then_some(row.weight),
            |old| old.weight,
        ),
        health: old.map_or_else(|| HealthState::unknown(first), |old| old.health.clone()),
        reaped: Reaped {
            half_open: row.half_reaped,
            established: row.reaped,
        },
        miscounted: old.map_or_else(Error::default, |old| old.miscounted),
        is_fresh,
    }
}

fn first_pause(rules: &config::Health, place: usize, total: usize) -> Duration {
    let [place, total] = [place, total.max(1)].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    rules.fast_interval / total * place
}
