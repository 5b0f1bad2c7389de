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
use lb_common::flow::{Flow, FlowKey, MemberHop, NextHop, Phase, Tick};
use lb_common::limits::{LINGER, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, MAX_TRANSIENT_FLOWS};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Service, ServiceId, ServiceKey};
use lb_common::source::{Pace, SourceKey, SourceTally};
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

mod recent;
mod view;

use self::recent::Recent;

type Flows<A> = BTreeMap<FlowKey<A>, Flow<A>>;
type Drafted<A> = (FlowKey<A>, Flow<A>);

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
    /// Whether all packets to one receiver have the same next hop.
    pub shares_next_hops: bool,
    /// The first and the last port that full-nat connections leave from.
    pub ports: (u16, u16),
    /// How many established flows there is room for; two make a connection.
    pub established_size: usize,
    established: RefCell<Flows<F::Address>>,
    transient: RefCell<Recent<F::Address>>,
    draft: RefCell<Option<Flow<F::Address>>>,
    reply_draft: RefCell<Option<Drafted<F::Address>>>,
    lingering: RefCell<BTreeMap<FlowKey<F::Address>, Tick>>,
    paces: RefCell<BTreeMap<SourceKey, Pace>>,
    sources: RefCell<BTreeMap<SourceKey, SourceTally>>,
    turns: RefCell<BTreeMap<ServiceId, u64>>,
    slot_tallies: RefCell<BTreeMap<Slot, Tally>>,
    backend_tallies: RefCell<BTreeMap<BackendId, Tally>>,
    suspects: RefCell<Vec<Slot>>,
    member_hops: RefCell<BTreeMap<Slot, MemberHop>>,
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
            shares_next_hops: false,
            ports: (1024, 32_767),
            established_size: usize::MAX,
            established: RefCell::default(),
            transient: RefCell::new(Recent::with_size(MAX_TRANSIENT_FLOWS as usize)),
            draft: RefCell::default(),
            reply_draft: RefCell::default(),
            lingering: RefCell::default(),
            paces: RefCell::default(),
            sources: RefCell::default(),
            turns: RefCell::default(),
            slot_tallies: RefCell::default(),
            backend_tallies: RefCell::default(),
            suspects: RefCell::default(),
            member_hops: RefCell::default(),
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
    /// In no table yet.
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
            Table::Draft => {
                if let Some(flow) = &mut *self.draft.borrow_mut() {
                    change(flow);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
