//! Putting a configuration over what is there already: rows of the tables, health, the
//! operator's wishes. At a start what is there comes from the kernel's tables alone.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_common::limits::{MAX_BACKENDS, MAX_MEMBERS, MAX_SERVICES};
use lb_common::member::{BackendId, Slot};
use lb_common::service::{ServiceId, ServiceKey};

use super::health::HealthState;
use super::kernel::{KernelTables, endpoint};
use super::model::{Backend, Member, Reaped, Service};
use super::recount::Error;
use super::verdict::{Stance, Verdict};
use super::{Engine, Moment};
use crate::config;
use crate::report::Admin;

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
        let mut taken = self.rows_in_use();
        for cluster in &self.config.clusters {
            for backend in &cluster.backends {
                let old = old_backends
                    .iter()
                    .find(|old| old.config.address == backend.address);
                let place = self.backends.len();
                // The first rounds are spread over the interval, so that backends are not all
                // asked at the same instant for ever.
                let first = now + first_pause(&cluster.health, place, total);
                let adopted =
                    adopt_backend(&self.applied, old, cluster, backend, first, &mut taken);
                self.backends.push(adopted);
            }
        }
        for config in &self.config.services {
            let old = old_services.iter().find(|old| old.config.vip == config.vip);
            let service = self.adopt_service(config, old);
            self.services.push(service);
        }
    }

    fn rows_in_use(&self) -> BTreeSet<BackendId> {
        let configured: BTreeSet<_> = self
            .config
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.backends)
            .map(|backend| endpoint(backend.address))
            .collect();
        self.applied
            .backends
            .iter()
            .filter(|(_, row)| configured.contains(&row.endpoint))
            .map(|(id, _)| *id)
            .chain([BackendId::GATEWAY])
            .collect()
    }

    fn adopt_service(&self, config: &config::Service, old: Option<&Service>) -> Service {
        let key = ServiceKey::new(endpoint(config.vip));
        let row = self.applied.services.get(&key).map(|service| service.id);
        let id = row.unwrap_or_else(|| self.free_service_row());
        let mut taken: BTreeSet<Slot> = BTreeSet::new();
        let in_cluster = |(_, backend): &(usize, &Backend)| backend.cluster == config.cluster;
        let backends: Vec<(usize, &Backend)> = self
            .backends
            .iter()
            .enumerate()
            .filter(in_cluster)
            .collect();
        let slots = (0..MAX_MEMBERS).map(|index| Slot::of(id, index));
        let slot_of = |backend: &Backend| {
            let is_its = |slot: &Slot| {
                self.applied
                    .members
                    .get(slot)
                    .is_some_and(|member| member.backend == backend.id)
            };
            slots.clone().find(is_its)
        };
        taken.extend(backends.iter().filter_map(|(_, backend)| slot_of(backend)));
        let members = backends
            .iter()
            .filter_map(|(place, backend)| {
                let slot = slot_of(backend).or_else(|| {
                    let free = slots.clone().find(|slot| !taken.contains(slot))?;
                    taken.insert(free);
                    Some(free)
                })?;
                let known =
                    old.and_then(|old| old.members.iter().find(|member| member.slot == slot));
                Some(self.adopt_member(*place, slot, backend.id, known))
            })
            .collect();
        Service {
            id,
            config: config.clone(),
            members,
            without_backend_since: old.and_then(|old| old.without_backend_since),
            shape: Vec::new(),
            ring: Vec::new(),
        }
    }

    fn adopt_member(
        &self,
        backend: usize,
        slot: Slot,
        id: BackendId,
        known: Option<&Member>,
    ) -> Member {
        let row = self.applied.members.get(&slot).copied().unwrap_or_default();
        let is_same = row.backend == id && row.generation > 0;
        if let Some(known) = known
            && is_same
        {
            return Member {
                backend,
                ..known.clone()
            };
        }
        let stance = if is_same && row.is_eligible() {
            Stance::Eligible
        } else {
            Stance::NoNew
        };
        let reaped = Reaped {
            half_open: row.half_reaped,
            established: row.reaped,
        };
        Member {
            backend,
            slot,
            // A slot with another backend's flows in it starts a new generation.
            generation: if is_same {
                row.generation
            } else {
                row.generation + 1
            },
            verdict: Verdict::new(stance, "not probed yet"),
            served_as: None,
            forgiven: row.forgiven,
            baseline: row.baseline,
            reaped,
            miscounted: Error::default(),
        }
    }

    fn free_service_row(&self) -> ServiceId {
        let taken: BTreeSet<ServiceId> = self
            .applied
            .services
            .values()
            .map(|service| service.id)
            .chain(self.services.iter().map(|service| service.id))
            .collect();
        (0..MAX_SERVICES)
            .map(ServiceId)
            .find(|id| !taken.contains(id))
            .unwrap_or_default()
    }
}

fn adopt_backend(
    applied: &KernelTables,
    old: Option<&Backend>,
    cluster: &config::Cluster,
    config: &config::Backend,
    first: Moment,
    taken: &mut BTreeSet<BackendId>,
) -> Backend {
    let here = endpoint(config.address);
    let row = applied
        .backends
        .iter()
        .find(|(id, row)| **id != BackendId::GATEWAY && row.endpoint == here);
    let id = row.map(|(id, _)| *id).unwrap_or_else(|| {
        let free = (1..MAX_BACKENDS)
            .map(BackendId)
            .find(|id| !taken.contains(id));
        let free = free.unwrap_or_default();
        taken.insert(free);
        free
    });
    let row = row.map(|(_, row)| *row).unwrap_or_default();
    Backend {
        id,
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
    }
}

fn first_pause(rules: &config::Health, place: usize, total: usize) -> Duration {
    let [place, total] = [place, total.max(1)].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    rules.fast_interval / total * place
}
