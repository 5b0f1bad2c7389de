//! The kernel's tables as they should be: a pure function of what is known.

use std::net::IpAddr;
use std::time::Duration;

use lb_common::backend::Backend as BackendRow;
use lb_common::family::{Address as _, WideAddress};
use lb_common::filter::FilterBit;
use lb_common::gateway::{Gateway, LAYOUT};
use lb_common::member::{BackendId, Member as MemberRow, Slot};
use lb_common::service::{
    Access, Algorithm as Choice, Forwarding as Way, Service as ServiceRow, ServiceId, ServiceKey,
};

use super::adopt::admin_number;
use super::effect::Effect;
use super::event::Tallies;
use super::kernel::{KernelTables, endpoint, wide_endpoint};
use super::model::{Backend, Member, Service};
use super::plan::plan;
use super::ring;
use super::{Engine, Moment};
use crate::config::{Algorithm, Forwarding, HashOn, NoBackend};

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
                first_port: self.config.gateway.full_nat_ports.first,
                last_port: self.config.gateway.full_nat_ports.last,
                seed: self.applied.gateway.seed,
                shares_next_hops: self.surroundings.shares_next_hops.into(),
            },
            filter: self.applied.filter.clone(),
            trunks: self.surroundings.trunks.clone(),
            ..KernelTables::default()
        };
        tables
            .backends
            .insert(BackendId::GATEWAY, self.gateway_row());
        for backend in &self.backends {
            tables
                .backends
                .insert(backend.id, self.backend_row(backend));
            tables.set(FilterBit::of_backend(endpoint(backend.config.address)));
        }
        for service in &self.services {
            let vip = endpoint(service.config.vip);
            tables
                .services
                .insert(ServiceKey::new(vip), service.row(now));
            tables.vips.insert(vip.address);
            tables.set(FilterBit::of_service(vip));
            tables.rings.insert(service.id, service.ring.clone());
            tables.access.extend(service.access());
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

    fn gateway_row(&self) -> BackendRow<WideAddress> {
        let mut row = BackendRow::default();
        row.max_connections = self.config.gateway.max_connections;
        row.half_reaped = self.reaped.half_open;
        row.reaped = self.reaped.established;
        row
    }

    fn backend_row(&self, backend: &Backend) -> BackendRow<WideAddress> {
        let address = backend.config.address;
        let source = self.surroundings.sources.get(&address.ip());
        let mut row = BackendRow::default();
        row.set_endpoint(wide_endpoint(address));
        row.gateway = source.map(|source| source.widen()).unwrap_or_default();
        row.admin = admin_number(backend.admin);
        row.has_weight = u8::from(backend.weight.is_some());
        row.weight = backend.weight.unwrap_or(0);
        row.max_connections = backend.config.max_connections.unwrap_or(0);
        row.half_reaped = backend.reaped.half_open;
        row.reaped = backend.reaped.established;
        row
    }
}

fn member_row(member: &Member, backend: &Backend) -> MemberRow {
    let mut row = MemberRow::default()
        .eligible(member.verdict.is_eligible())
        .weighing(backend.weight())
        .limited(backend.config.max_connections.is_some());
    row.generation = member.generation;
    row.backend = backend.id;
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
        let forwarding = match self.config.forwarding {
            Forwarding::Nat => Way::Nat,
            Forwarding::FullNat => Way::FullNat,
            Forwarding::Dsr => Way::Dsr,
        };
        let mut row = ServiceRow::new(self.id, highest.unwrap_or(0), algorithm, ring_length)
            .holding(self.hold_ends().is_some_and(|ends| now < ends))
            .forwarded(forwarding);
        row.source_connections = self.config.source_max_connections.unwrap_or(0);
        row.source_rate = self.config.source_max_rate.unwrap_or(0);
        match (&self.config.allow, self.config.deny.as_slice()) {
            (Some(_), _) => row.restricted(Access::Deny),
            (None, []) => row,
            (None, _) => row.restricted(Access::Allow),
        }
    }

    /// The networks of its access lists.
    fn access(&self) -> impl Iterator<Item = ((ServiceId, IpAddr, u8), Access)> {
        let allowed = self.config.allow.iter().flatten();
        let allowed = allowed.map(|network| (network, Access::Allow));
        let denied = self.config.deny.iter();
        let denied = denied.map(|network| (network, Access::Deny));
        allowed
            .chain(denied)
            .map(|(network, access)| ((self.id, network.address(), network.prefix()), access))
    }
}
