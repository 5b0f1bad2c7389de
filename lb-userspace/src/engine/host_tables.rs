//! The kernel's tables over ordinary collections: what would become of a packet, asked on the host.
//!
//! `pglb explain` fills them from a snapshot of the kernel's tables; tests fill them by hand.
//! Whatever the kernel keeps in an array is there from the start, all zeros, here as well.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use lb_common::backend::Backend;
use lb_common::choose::is_forgiven;
use lb_common::family::V4;
use lb_common::flow::{Flow, FlowKey, NextHop, Tick};
use lb_common::limits::{MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, MAX_TRANSIENT_FLOWS};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Service, ServiceId, ServiceKey};
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

type Address = [u8; 4];
type Flows = BTreeMap<FlowKey<Address>, Flow<Address>>;

/// Bytes of a ring as the kernel holds it, unused ones included.
const RING_BYTES: u32 = 16_384;

/// Everything that a decision reads or writes. The controller's tables are open fields; what the
/// kernel writes while it decides lies behind methods.
#[derive(Clone, Debug)]
pub struct HostTables {
    /// The services.
    pub services: BTreeMap<ServiceKey<Address>, Service>,
    /// The allow lists: networks behind the 16-bit number of their service, and the prefix length
    /// of both together.
    pub allowed: BTreeSet<([u8; 6], u32)>,
    /// The members; a slot that is missing holds zeros.
    pub members: BTreeMap<Slot, Member>,
    /// The backends; one that is missing holds zeros.
    pub backends: BTreeMap<BackendId, Backend<Address>>,
    /// The rings, as far as they are in use.
    pub rings: BTreeMap<ServiceId, Vec<u8>>,
    /// The generation under which next hops are valid.
    pub next_hop_generation: u32,
    /// The routing tables: the way to each address that they know whole. The generation of an
    /// entry does not matter; it is answered with the current one.
    pub next_hops: BTreeMap<Address, NextHop>,
    /// How many established flows there is room for; two make a connection.
    pub established_size: usize,
    established: RefCell<Flows>,
    transient: RefCell<Recent>,
    turns: RefCell<BTreeMap<ServiceId, u64>>,
    slot_tallies: RefCell<BTreeMap<Slot, Tally>>,
    backend_tallies: RefCell<BTreeMap<BackendId, Tally>>,
    suspects: RefCell<Vec<Slot>>,
    lookups: Cell<u64>,
}

impl Default for HostTables {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            allowed: BTreeSet::new(),
            members: BTreeMap::new(),
            backends: BTreeMap::new(),
            rings: BTreeMap::new(),
            next_hop_generation: 1,
            next_hops: BTreeMap::new(),
            established_size: usize::MAX,
            established: RefCell::default(),
            transient: RefCell::new(Recent::with_size(MAX_TRANSIENT_FLOWS as usize)),
            turns: RefCell::default(),
            slot_tallies: RefCell::default(),
            backend_tallies: RefCell::default(),
            suspects: RefCell::default(),
            lookups: Cell::new(0),
        }
    }
}

impl HostTables {
    /// Empty tables of the kernel's sizes, but for the established flows, of which there is room
    /// for any number.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the table of half-open and ended flows another size, and empties it.
    pub fn resize_transient(&mut self, size: usize) {
        *self.transient.get_mut() = Recent::with_size(size);
    }

    /// Writes an established flow, whether there is room or not.
    pub fn set_established(&mut self, key: FlowKey<Address>, flow: Flow<Address>) {
        self.established.get_mut().insert(key, flow);
    }

    /// Writes a half-open or ended flow, as the one used last.
    pub fn set_transient(&mut self, key: FlowKey<Address>, flow: Flow<Address>) {
        self.transient.get_mut().insert(key, flow);
    }

    /// Sets how many turns a service has taken.
    pub fn set_turn(&mut self, id: ServiceId, turn: u64) {
        self.turns.get_mut().insert(id, turn);
    }

    /// Sets what is counted for a slot.
    pub fn set_slot_tally(&mut self, slot: Slot, tally: Tally) {
        self.slot_tallies.get_mut().insert(slot, tally);
    }

    /// Sets what is counted for a backend, or for the whole gateway.
    pub fn set_backend_tally(&mut self, id: BackendId, tally: Tally) {
        self.backend_tallies.get_mut().insert(id, tally);
    }

    /// Every established flow, by its key.
    pub fn established_flows(&self) -> Flows {
        self.established.borrow().clone()
    }

    /// Every half-open or ended flow, by its key.
    pub fn transient_flows(&self) -> Flows {
        let recent = self.transient.borrow();
        recent
            .flows
            .iter()
            .map(|(key, (flow, _))| (*key, *flow))
            .collect()
    }

    /// The slots that became suspect since the last call, in that order.
    pub fn take_suspects(&self) -> Vec<Slot> {
        self.suspects.take()
    }

    /// How often the routing tables were asked.
    pub fn next_hop_lookups(&self) -> u64 {
        self.lookups.get()
    }

    fn change(&self, key: &FlowKey<Address>, change: impl FnOnce(&mut Flow<Address>)) {
        if let Some(flow) = self.established.borrow_mut().get_mut(key) {
            change(flow);
        }
    }
}

impl Tables<V4> for HostTables {
    type Place = FlowKey<Address>;

    fn recall(&self, key: &FlowKey<Address>) -> Option<(Self::Place, Flow<Address>)> {
        self.established.borrow().get(key).map(|flow| (*key, *flow))
    }

    fn note(&self, place: Self::Place, last_ack: u32, now: Tick) {
        self.change(&place, |flow| {
            flow.last_ack = last_ack;
            flow.last_seen = now;
        });
    }

    fn note_next_hop(&self, place: Self::Place, next_hop: NextHop) {
        self.change(&place, |flow| flow.next_hop = next_hop);
    }

    fn note_fin(&self, place: Self::Place) {
        self.change(&place, |flow| flow.has_fin = 1);
    }

    fn establish(&self, key: &FlowKey<Address>, flow: &Flow<Address>) -> Result<(), Full> {
        let mut established = self.established.borrow_mut();
        if established.len() >= self.established_size && !established.contains_key(key) {
            return Err(Full);
        }
        established.insert(*key, *flow);
        Ok(())
    }

    fn unestablish(&self, key: &FlowKey<Address>) -> bool {
        self.established.borrow_mut().remove(key).is_some()
    }

    fn transient(&self, key: &FlowKey<Address>) -> Option<Flow<Address>> {
        self.transient.borrow_mut().find(key)
    }

    fn remember(&self, key: &FlowKey<Address>, flow: &Flow<Address>) {
        self.transient.borrow_mut().insert(*key, *flow);
    }

    fn forget(&self, key: &FlowKey<Address>) {
        self.transient.borrow_mut().remove(key);
    }

    fn service(&self, key: &ServiceKey<Address>) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn is_allowed(&self, service: ServiceId, client: Address) -> bool {
        let [s0, s1] = service.0.to_be_bytes();
        let [c0, c1, c2, c3] = client;
        let wanted = [s0, s1, c0, c1, c2, c3];
        self.allowed
            .iter()
            .any(|(network, prefix)| agree(wanted, *network, *prefix))
    }

    fn member(&self, slot: Slot) -> Option<Member> {
        (u32::from(slot.0) < MAX_SLOTS)
            .then(|| self.members.get(&slot).copied().unwrap_or_default())
    }

    fn generation(&self, slot: Slot) -> Option<u32> {
        self.member(slot).map(|member| member.generation)
    }

    fn backend(&self, id: BackendId) -> Option<Backend<Address>> {
        (id.0 < MAX_BACKENDS).then(|| self.backends.get(&id).copied().unwrap_or_default())
    }

    fn slot_tally(&self, slot: Slot) -> Option<Tally> {
        let tallies = self.slot_tallies.borrow();
        (u32::from(slot.0) < MAX_SLOTS).then(|| tallies.get(&slot).copied().unwrap_or_default())
    }

    fn backend_tally(&self, id: BackendId) -> Option<Tally> {
        let tallies = self.backend_tallies.borrow();
        (id.0 < MAX_BACKENDS).then(|| tallies.get(&id).copied().unwrap_or_default())
    }

    fn ring(&self, service: ServiceId, position: u32) -> Option<u8> {
        if service.0 >= MAX_SERVICES || position >= RING_BYTES {
            return None;
        }
        let ring = self.rings.get(&service);
        Some(
            ring.and_then(|ring| ring.get(position as usize))
                .copied()
                .unwrap_or(0),
        )
    }

    #[expect(clippy::cast_possible_truncation, reason = "turns wrap")]
    fn take_turn(&self, service: ServiceId) -> u32 {
        if service.0 >= MAX_SERVICES {
            return 0;
        }
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(service).or_default();
        *turn += 1;
        (*turn - 1) as u32
    }

    fn count(&self, slot: Slot, milestone: Milestone) {
        let mut of_backends = self.backend_tallies.borrow_mut();
        if let Some(member) = self.member(slot) {
            add(
                self.slot_tallies.borrow_mut().entry(slot).or_default(),
                milestone,
            );
            add(of_backends.entry(member.backend).or_default(), milestone);
        }
        add(
            of_backends.entry(BackendId::GATEWAY).or_default(),
            milestone,
        );
    }

    fn suspect(&self, slot: Slot) {
        let Some(member) = self.member(slot) else {
            return;
        };
        let mut tallies = self.slot_tallies.borrow_mut();
        let tally = tallies.entry(slot).or_default();
        if is_forgiven(tally.suspicions, member.forgiven) {
            tally.suspicions += 1;
            self.suspects.borrow_mut().push(slot);
        }
    }

    fn next_hop_generation(&self) -> u32 {
        self.next_hop_generation
    }

    fn find_next_hop(&self, _source: Address, destination: Address, next_hop: &mut NextHop) {
        self.lookups.set(self.lookups.get() + 1);
        *next_hop = match self.next_hops.get(&destination) {
            Some(found) => NextHop {
                generation: self.next_hop_generation,
                ..*found
            },
            None => NextHop::default(),
        };
    }
}

fn add(tally: &mut Tally, milestone: Milestone) {
    match milestone {
        Milestone::HalfOpened => tally.half_opened += 1,
        Milestone::HalfClosed => tally.half_closed += 1,
        Milestone::Established => {
            tally.half_closed += 1;
            tally.established += 1;
        }
        Milestone::Resumed => tally.established += 1,
        Milestone::Ended => tally.ended += 1,
    }
}

/// Whether the first `prefix` bits are the same.
fn agree(one: [u8; 6], other: [u8; 6], prefix: u32) -> bool {
    let number = |[a, b, c, d, e, f]: [u8; 6]| u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
    let differing = number(one) ^ number(other);
    differing.leading_zeros() >= prefix
}

/// A table that makes room by dropping the flow that was used longest ago.
#[derive(Clone, Debug)]
struct Recent {
    flows: BTreeMap<FlowKey<Address>, (Flow<Address>, u64)>,
    /// The keys by the number of their last use.
    uses: BTreeMap<u64, FlowKey<Address>>,
    last_use: u64,
    size: usize,
}

impl Recent {
    fn with_size(size: usize) -> Self {
        Self {
            flows: BTreeMap::new(),
            uses: BTreeMap::new(),
            last_use: 0,
            size,
        }
    }

    fn find(&mut self, key: &FlowKey<Address>) -> Option<Flow<Address>> {
        let (flow, _) = *self.flows.get(key)?;
        self.insert(*key, flow);
        Some(flow)
    }

    fn insert(&mut self, key: FlowKey<Address>, flow: Flow<Address>) {
        self.remove(&key);
        while self.flows.len() >= self.size
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.flows.remove(&oldest);
        }
        self.last_use += 1;
        self.uses.insert(self.last_use, key);
        self.flows.insert(key, (flow, self.last_use));
    }

    fn remove(&mut self, key: &FlowKey<Address>) {
        if let Some((_, last_use)) = self.flows.remove(key) {
            self.uses.remove(&last_use);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{Direction, Endpoint};

    use super::*;

    fn key(port: u8) -> FlowKey<Address> {
        FlowKey {
            source: [10, 0, 0, 1],
            destination: [10, 0, 0, 2],
            source_port: [0, port],
            destination_port: [0, 1],
        }
    }

    fn flow() -> Flow<Address> {
        Flow::new(
            Direction::ToBackend,
            Endpoint::default(),
            Slot(0),
            1,
            Tick(0),
        )
    }

    #[test]
    fn the_flow_used_longest_ago_makes_room() {
        let mut tables = HostTables::new();
        tables.resize_transient(2);
        tables.remember(&key(1), &flow());
        tables.remember(&key(2), &flow());
        assert!(tables.transient(&key(1)).is_some(), "a look is a use");
        tables.remember(&key(3), &flow());
        let left: Vec<_> = tables.transient_flows().into_keys().collect();
        assert_eq!(left, [key(1), key(3)]);
        tables.forget(&key(1));
        tables.remember(&key(2), &flow());
        assert_eq!(tables.transient_flows().len(), 2);
    }

    #[test]
    fn a_full_table_still_takes_what_it_holds_already() {
        let mut tables = HostTables::new();
        tables.established_size = 1;
        assert_eq!(tables.establish(&key(1), &flow()), Ok(()));
        assert_eq!(tables.establish(&key(2), &flow()), Err(Full));
        assert_eq!(tables.establish(&key(1), &flow().with_fin()), Ok(()));
        assert_eq!(tables.established_flows()[&key(1)].has_fin, 1);
    }

    #[test]
    fn an_allow_list_is_one_services_own() {
        let mut tables = HostTables::new();
        tables.allowed.insert(([0, 7, 10, 71, 0, 0], 16 + 24));
        assert!(tables.is_allowed(ServiceId(7), [10, 71, 0, 255]));
        assert!(!tables.is_allowed(ServiceId(7), [10, 71, 1, 0]));
        assert!(!tables.is_allowed(ServiceId(6), [10, 71, 0, 255]));
    }

    #[test]
    fn what_was_never_written_is_zero_and_what_is_beyond_the_end_is_not_there() {
        let tables = HostTables::new();
        assert_eq!(tables.generation(Slot(2047)), Some(0));
        assert_eq!(tables.generation(Slot(2048)), None);
        assert_eq!(tables.ring(ServiceId(63), 16_383), Some(0));
        assert_eq!(tables.ring(ServiceId(64), 0), None);
        assert_eq!(tables.ring(ServiceId(63), 16_384), None);
        assert!(tables.backend(BackendId(255)).is_some());
        assert!(tables.backend(BackendId(256)).is_none());
    }
}
