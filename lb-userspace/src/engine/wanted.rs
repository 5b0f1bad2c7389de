//! The kernel's tables as they should be: a pure function of what is known.

use std::time::Duration;

use lb_common::backend::Backend as BackendRow;
use lb_common::gateway::{Gateway, LAYOUT};
use lb_common::member::{BackendId, Member as MemberRow, Slot};
use lb_common::service::{Algorithm as Choice, Service as ServiceRow, ServiceKey};

use super::adopt::admin_number;
use super::effect::Effect;
use super::event::Tallies;
use super::kernel::{Address, KernelTables, endpoint};
use super::model::{Backend, Member, Service};
use super::plan::plan;
use super::ring;
use super::{Engine, Moment};
use crate::config::{Algorithm, HashOn, NoBackend};

impl Engine {
    /// Writes what differs between the tables as they are and as they should be. Returns the slots
    /// whose flows are superseded by it.
    pub(super) fn write(&mut self, now: Moment, effects: &mut Vec<Effect>) -> Vec<Slot> {
        let wanted = self.wanted(now);
        let writes = if std::mem::take(&mut self.is_doubtful) {
            plan(&KernelTables::default(), &wanted)
        } else {
            plan(&self.applied, &wanted)
        };
        effects.extend(writes.into_iter().map(Effect::Write));
        let is_superseded = |(slot, before): &(&Slot, &MemberRow)| {
            let now = wanted.members.get(slot);
            before.backend != BackendId::GATEWAY
                && now.is_some_and(|now| now.generation > before.generation)
        };
        let members = self.applied.members.iter();
        let superseded = members.filter(is_superseded).map(|(slot, _)| *slot);
        let superseded = superseded.collect();
        self.applied = wanted;
        superseded
    }

    fn wanted(&self, now: Moment) -> KernelTables {
        let mut tables = KernelTables {
            gateway: Gateway {
                layout: LAYOUT,
                next_hop_generation: self.next_hop_generation,
            },
            ..KernelTables::default()
        };
        tables
            .backends
            .insert(BackendId::GATEWAY, self.gateway_row());
        for backend in &self.backends {
            tables.backends.insert(backend.id, backend_row(backend));
        }
        for service in &self.services {
            let key = ServiceKey::new(endpoint(service.config.vip));
            tables.services.insert(key, service.row(now));
            tables.rings.insert(service.id, service.ring.clone());
            tables.allowed.extend(service.allowed());
            for member in &service.members {
                let row = member_row(member, &self.backends[member.backend]);
                tables.members.insert(member.slot, row);
            }
        }
        self.retire(&mut tables);
        tables
    }

    /// Slots that were in use and are no longer: their flows are superseded.
    fn retire(&self, tables: &mut KernelTables) {
        for (slot, row) in &self.applied.members {
            if tables.members.contains_key(slot) || row.generation == 0 {
                continue;
            }
            let mut retired = row.eligible(false);
            if retired.backend != BackendId::GATEWAY {
                retired.backend = BackendId::GATEWAY;
                retired.generation += 1;
            }
            tables.members.insert(*slot, retired);
        }
    }

    fn gateway_row(&self) -> BackendRow<Address> {
        let mut row = BackendRow::default();
        row.max_connections = self.config.gateway.max_connections;
        row.half_reaped = self.reaped.half_open;
        row.reaped = self.reaped.established;
        row
    }
}

fn backend_row(backend: &Backend) -> BackendRow<Address> {
    let mut row = BackendRow::default();
    row.endpoint = endpoint(backend.config.address);
    row.admin = admin_number(backend.admin);
    row.has_weight = u8::from(backend.weight.is_some());
    row.weight = backend.weight.unwrap_or(0);
    row.max_connections = backend.config.max_connections.unwrap_or(0);
    row.half_reaped = backend.reaped.half_open;
    row.reaped = backend.reaped.established;
    row
}

fn member_row(member: &Member, backend: &Backend) -> MemberRow {
    let mut row = MemberRow::default().eligible(member.verdict.is_eligible());
    row.generation = member.generation;
    row.backend = backend.id;
    row.weight = backend.weight();
    row.forgiven = member.forgiven;
    row.baseline = member.baseline;
    row.half_reaped = member.reaped.half_open;
    row.reaped = member.reaped.established;
    row
}

impl Service {
    /// Follows a change of the eligible members or their weights: another ring, and turns that
    /// count from here, so that a member which was away does not catch up.
    pub(super) fn reshape(&mut self, backends: &[Backend], tallies: &Tallies, now: Moment) {
        let eligible = self
            .members
            .iter()
            .filter(|member| member.verdict.is_eligible());
        let shape: Vec<(u8, u16)> = eligible
            .map(|m| (m.slot.index(), backends[m.backend].weight()))
            .collect();
        self.without_backend_since = match shape.as_slice() {
            [] => self.without_backend_since.or(Some(now)),
            _ => None,
        };
        if shape == self.shape {
            return;
        }
        self.ring = ring::build(self.config.algorithm, &shape);
        self.shape = shape;
        for member in &mut self.members {
            if let Some(tally) = tallies.slots.get(&member.slot) {
                member.baseline = tally.half_opened;
            }
        }
    }

    /// When a service without a backend stops holding SYNs and rejects them.
    pub(super) fn hold_ends(&self) -> Option<Moment> {
        let since = self.without_backend_since?;
        let is_holding = self.config.no_backend == NoBackend::Hold;
        is_holding.then(|| since + self.config.hold_time + Duration::from_millis(1))
    }

    fn row(&self, now: Moment) -> ServiceRow {
        let algorithm = match (self.config.algorithm, self.config.hash_on) {
            (Algorithm::LeastConnections, _) => Choice::LeastConnections,
            (Algorithm::RoundRobin, _) => Choice::RoundRobin,
            (Algorithm::Hash, HashOn::AddressAndPort) => Choice::Hash,
            (Algorithm::Hash, HashOn::Address) => Choice::HashAddress,
        };
        let highest = self
            .members
            .iter()
            .map(|member| member.slot.index() + 1)
            .max();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a ring has 16,381 positions at most"
        )]
        let ring_length = self.ring.len() as u32;
        ServiceRow::new(self.id, highest.unwrap_or(0), algorithm, ring_length)
            .holding(self.hold_ends().is_some_and(|ends| now < ends))
            .restricted(self.config.allow.is_some())
    }

    fn allowed(&self) -> impl Iterator<Item = ([u8; 6], u32)> {
        let [s0, s1] = self.id.0.to_be_bytes();
        let networks = self.config.allow.iter().flatten();
        networks.filter_map(move |network| {
            let std::net::IpAddr::V4(address) = network.address() else {
                return None;
            };
            let [a, b, c, d] = address.octets();
            Some(([s0, s1, a, b, c, d], 16 + u32::from(network.prefix())))
        })
    }
}
