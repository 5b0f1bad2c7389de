//! The kernel's tables over ordinary collections: what would become of a packet, asked on the host.
//!
//! `pglb explain` fills them from a snapshot of the kernel's tables; tests fill them by hand.
//! Whatever the kernel keeps in an array is there from the start, all zeros, here as well.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;

use lb_common::backend::Backend;
use lb_common::choose::is_forgiven;
use lb_common::family::{Address, Family, WideAddress};
use lb_common::flow::{Flow, FlowKey, NextHop, Phase, Tick};
use lb_common::limits::{LINGER, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, MAX_TRANSIENT_FLOWS};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Service, ServiceId, ServiceKey};
use lb_common::source::{Pace, SourceKey, SourceTally};
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

type Flows<A> = BTreeMap<FlowKey<A>, Flow<A>>;

/// Bytes of a ring as the kernel holds it, unused ones included.
const RING_BYTES: u32 = 16_384;

/// Everything that a decision reads or writes, for one family. The controller's tables are open
/// fields; what the kernel writes while it decides lies behind methods.
#[derive(Clone, Debug)]
pub struct HostTables<F: Family> {
    /// The services.
    pub services: BTreeMap<ServiceKey<F::Address>, Service>,
    /// The access lists: networks of a service by their first address and prefix length, both as
    /// IPv6 has them.
    pub access: BTreeMap<(ServiceId, WideAddress, u8), Access>,
    /// The members; a slot that is missing holds zeros.
    pub members: BTreeMap<Slot, Member>,
    /// The backends; one that is missing holds zeros.
    pub backends: BTreeMap<BackendId, Backend<WideAddress>>,
    /// The rings, as far as they are in use.
    pub rings: BTreeMap<ServiceId, Vec<u8>>,
    /// The generation under which next hops are valid.
    pub next_hop_generation: u32,
    /// The routing tables: the way to each address that they know whole. The generation of an
    /// entry does not matter; it is answered with the current one.
    pub next_hops: BTreeMap<F::Address, NextHop>,
    /// The first and the last port that full-nat connections leave from.
    pub ports: (u16, u16),
    /// How many established flows there is room for; two make a connection.
    pub established_size: usize,
    established: RefCell<Flows<F::Address>>,
    transient: RefCell<Recent<F::Address>>,
    lingering: RefCell<BTreeMap<FlowKey<F::Address>, Tick>>,
    paces: RefCell<BTreeMap<SourceKey, Pace>>,
    sources: RefCell<BTreeMap<SourceKey, SourceTally>>,
    opening: Cell<Option<FlowKey<F::Address>>>,
    turns: RefCell<BTreeMap<ServiceId, u64>>,
    slot_tallies: RefCell<BTreeMap<Slot, Tally>>,
    backend_tallies: RefCell<BTreeMap<BackendId, Tally>>,
    suspects: RefCell<Vec<Slot>>,
    lookups: Cell<u64>,
}

impl<F: Family> Default for HostTables<F>
where
    F::Address: Ord,
{
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            access: BTreeMap::new(),
            members: BTreeMap::new(),
            backends: BTreeMap::new(),
            rings: BTreeMap::new(),
            next_hop_generation: 1,
            next_hops: BTreeMap::new(),
            ports: (1024, 32_767),
            established_size: usize::MAX,
            established: RefCell::default(),
            transient: RefCell::new(Recent::with_size(MAX_TRANSIENT_FLOWS as usize)),
            lingering: RefCell::default(),
            paces: RefCell::default(),
            sources: RefCell::default(),
            opening: Cell::new(None),
            turns: RefCell::default(),
            slot_tallies: RefCell::default(),
            backend_tallies: RefCell::default(),
            suspects: RefCell::default(),
            lookups: Cell::new(0),
        }
    }
}

/// A flow that was found, as it was then, and where: under which key of which table.
#[derive(Clone, Copy, Debug)]
pub struct Found<A> {
    key: FlowKey<A>,
    table: Table,
    flow: Flow<A>,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Established,
    Transient,
    Draft,
}

impl<A> Deref for Found<A> {
    type Target = Flow<A>;

    fn deref(&self) -> &Flow<A> {
        &self.flow
    }
}

/// A service that was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundService(Service);

impl Deref for FoundService {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

impl<F: Family> HostTables<F>
where
    F::Address: Ord,
{
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
    pub fn set_established(&mut self, key: FlowKey<F::Address>, flow: Flow<F::Address>) {
        self.established.get_mut().insert(key, flow);
    }

    /// Writes a half-open or ended flow, as the one used last.
    pub fn set_transient(&mut self, key: FlowKey<F::Address>, flow: Flow<F::Address>) {
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
    pub fn established_flows(&self) -> Flows<F::Address> {
        self.established.borrow().clone()
    }

    /// Every half-open or ended flow, by its key.
    pub fn transient_flows(&self) -> Flows<F::Address> {
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

    /// What is counted for a client address.
    pub fn source_tally(&self, source: &SourceKey) -> SourceTally {
        let sources = self.sources.borrow();
        sources.get(source).copied().unwrap_or_default()
    }

    /// Changes a flow where it lies, and what was found of it: the kernel has only the one.
    fn change(&self, found: Found<F::Address>, change: impl FnOnce(&mut Flow<F::Address>)) {
        match found.table {
            Table::Established => {
                if let Some(flow) = self.established.borrow_mut().get_mut(&found.key) {
                    change(flow);
                }
            }
            Table::Transient => {
                if let Some((flow, _)) = self.transient.borrow_mut().flows.get_mut(&found.key) {
                    change(flow);
                }
            }
            Table::Draft => {}
        }
    }
}

impl<F: Family> Tables<F> for HostTables<F>
where
    F::Address: Ord,
{
    type Found = Found<F::Address>;
    type Service = FoundService;

    fn draft(&self, flow: impl FnOnce() -> Flow<F::Address>) -> Option<Self::Found> {
        let flow = flow();
        Some(Found {
            key: flow.leaving,
            table: Table::Draft,
            flow,
        })
    }

    fn recall(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        let flow = *self.established.borrow().get(key)?;
        Some(Found {
            key: *key,
            table: Table::Established,
            flow,
        })
    }

    fn reread(&self, found: Self::Found) -> Self::Found {
        let flow = match found.table {
            Table::Established => self.established.borrow().get(&found.key).copied(),
            Table::Transient => self.transient.borrow_mut().find(&found.key),
            Table::Draft => None,
        };
        Found {
            flow: flow.unwrap_or(found.flow),
            ..found
        }
    }

    fn note(&self, flow: Self::Found, last_ack: u32, now: Tick) {
        self.change(flow, |flow| {
            flow.last_ack = last_ack;
            flow.last_seen = now;
        });
    }

    fn note_next_hop(&self, flow: Self::Found, next_hop: NextHop) {
        self.change(flow, |flow| flow.next_hop = next_hop);
    }

    fn note_fin(&self, flow: Self::Found, behind: u32) {
        self.change(flow, |flow| {
            flow.has_fin = 1;
            flow.memo = behind;
        });
    }

    fn note_phase(&self, flow: Self::Found, phase: Phase, memo: u32) {
        self.change(flow, |flow| flow.enter(phase, memo));
    }

    fn disown(&self, flow: Self::Found) {
        self.change(flow, |flow| flow.generation = 0);
    }

    fn establish(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) -> Result<(), Full> {
        let mut established = self.established.borrow_mut();
        if established.len() >= self.established_size && !established.contains_key(key) {
            return Err(Full);
        }
        established.insert(*key, *flow);
        Ok(())
    }

    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool {
        self.established.borrow_mut().remove(key).is_some()
    }

    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        let flow = self.transient.borrow_mut().find(key)?;
        Some(Found {
            key: *key,
            table: Table::Transient,
            flow,
        })
    }

    fn remember(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) {
        self.transient.borrow_mut().insert(*key, *flow);
    }

    fn claim(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) -> bool {
        let mut transient = self.transient.borrow_mut();
        let is_free = transient.find(key).is_none();
        if is_free {
            transient.insert(*key, *flow);
        }
        is_free
    }

    fn forget(&self, key: &FlowKey<F::Address>) {
        self.transient.borrow_mut().remove(key);
    }

    fn linger(&self, key: &FlowKey<F::Address>, now: Tick) {
        self.lingering.borrow_mut().insert(*key, now);
    }

    fn lingers(&self, key: &FlowKey<F::Address>, now: Tick) -> bool {
        let lingering = self.lingering.borrow();
        lingering
            .get(key)
            .is_some_and(|since| now.since(*since) < LINGER.0)
    }

    /// The filter only spares the kernel work: here it lets everything through.
    fn may_be_ours(&self, _: &FlowKey<F::Address>) -> bool {
        true
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<FoundService> {
        self.services.get(key).copied().map(FoundService)
    }

    fn access(&self, service: ServiceId, client: F::Address) -> Option<Access> {
        let client = client.widen();
        let networks = self.access.iter().filter(|((of, network, prefix), _)| {
            *of == service && agree(client, *network, *prefix)
        });
        let longest = networks.max_by_key(|((.., prefix), _)| *prefix);
        longest.map(|(_, access)| *access)
    }

    fn keeps_pace(&self, source: &SourceKey, rate: u32, now: Tick) -> bool {
        let mut paces = self.paces.borrow_mut();
        let pace = paces.entry(*source).or_default();
        let next = pace.step(rate, now);
        *pace = next.unwrap_or(*pace);
        next.is_some()
    }

    fn source_connections(&self, source: &SourceKey) -> u64 {
        self.source_tally(source).connections(0)
    }

    fn count_source(&self, source: &SourceKey) {
        let mut sources = self.sources.borrow_mut();
        sources.entry(*source).or_default().established += 1;
    }

    fn discount_source(&self, source: &SourceKey) {
        if let Some(tally) = self.sources.borrow_mut().get_mut(source) {
            tally.ended += 1;
        }
    }

    fn ports(&self) -> (u16, u16) {
        self.ports
    }

    fn keep_opening(&self, key: &FlowKey<F::Address>) {
        self.opening.set(Some(*key));
    }

    fn kept_opening(&self) -> Option<FlowKey<F::Address>> {
        self.opening.get()
    }

    fn member(&self, slot: Slot) -> Option<Member> {
        (u32::from(slot.0) < MAX_SLOTS)
            .then(|| self.members.get(&slot).copied().unwrap_or_default())
    }

    fn generation(&self, slot: Slot) -> Option<u32> {
        (u32::from(slot.0) < MAX_SLOTS)
            .then(|| self.members.get(&slot).map_or(0, |it| it.generation))
    }

    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        let backend = self.backends.get(&id).copied().unwrap_or_default();
        (id.0 < MAX_BACKENDS).then(|| backend.map(Address::narrow))
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
        if let Some(member) = Tables::<F>::member(self, slot) {
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
        let Some(member) = Tables::<F>::member(self, slot) else {
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

    fn find_next_hop(&self, _source: F::Address, destination: F::Address, next_hop: &mut NextHop) {
        self.lookups.set(self.lookups.get() + 1);
        *next_hop = self
            .next_hops
            .get(&destination)
            .copied()
            .unwrap_or_default();
        if next_hop.interface != 0 {
            next_hop.generation = self.next_hop_generation;
        }
    }

    /// Nothing is put together on the host's way here.
    fn is_aggregated(&self) -> bool {
        false
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
fn agree(one: WideAddress, other: WideAddress, prefix: u8) -> bool {
    let number = |words: WideAddress| {
        let append = |number: u128, word: u32| number << 32 | u128::from(u32::from_be(word));
        words.into_iter().fold(0, append)
    };
    let differing: u128 = number(one) ^ number(other);
    differing.leading_zeros() >= u32::from(prefix)
}

/// A table that makes room by dropping the flow that was used longest ago.
#[derive(Clone, Debug)]
struct Recent<A> {
    flows: BTreeMap<FlowKey<A>, (Flow<A>, u64)>,
    /// The keys by the number of their last use.
    uses: BTreeMap<u64, FlowKey<A>>,
    last_use: u64,
    size: usize,
}

impl<A: Copy + Ord> Recent<A> {
    fn with_size(size: usize) -> Self {
        Self {
            flows: BTreeMap::new(),
            uses: BTreeMap::new(),
            last_use: 0,
            size,
        }
    }

    fn find(&mut self, key: &FlowKey<A>) -> Option<Flow<A>> {
        let (flow, _) = *self.flows.get(key)?;
        self.insert(*key, flow);
        Some(flow)
    }

    fn insert(&mut self, key: FlowKey<A>, flow: Flow<A>) {
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

    fn remove(&mut self, key: &FlowKey<A>) {
        if let Some((_, last_use)) = self.flows.remove(key) {
            self.uses.remove(&last_use);
        }
    }
}

#[cfg(test)]
mod tests;
