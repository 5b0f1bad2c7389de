//! Connections through the gateway: flows and tallies as the kernel program keeps them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use lb_common::family::ip;
use lb_common::flow::{Direction, Endpoint, Flow, FlowKey, Phase, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::service::{Forwarding, ServiceKey};
use lb_common::tally::{Load, Tally};
use lb_userspace::engine::event::Tallies;
use lb_userspace::engine::kernel::{Address, Flows, KernelTables};

/// What the kernel program writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) established: Flows,
    pub(crate) transient: Flows,
    tallies: Tallies,
    next_client: u16,
}

impl Traffic {
    /// Opens a connection to the service at this VIP; `None` when it has no eligible member.
    pub(crate) fn open(
        &mut self,
        kernel: &KernelTables,
        vip: Endpoint<Address>,
        now: Tick,
    ) -> Option<Slot> {
        let slot = self.choose(kernel, vip)?;
        self.count(kernel, slot, |tally| {
            tally.half_opened += 1;
            tally.half_closed += 1;
            tally.established += 1;
        });
        let (key, flow) = self.flow(kernel, vip, slot, now);
        let flow = flow.in_phase(Phase::Established);
        // In dsr the backend's packets do not pass the gateway.
        if flow.forwarding() != Forwarding::Dsr {
            let (arriving, leaving) = (flow.leaving.reversed(), key.reversed());
            let back = Flow::new(Direction::ToClient, &arriving, leaving, slot, now)
                .of_generation(flow.generation)
                .forwarded(flow.forwarding())
                .in_phase(Phase::Established);
            self.established.insert(arriving, back);
        }
        self.established.insert(key, flow);
        Some(slot)
    }

    /// Sends a SYN that the backend never answers.
    pub(crate) fn half_open(
        &mut self,
        kernel: &KernelTables,
        vip: Endpoint<Address>,
        now: Tick,
    ) -> Option<Slot> {
        let slot = self.choose(kernel, vip)?;
        self.count(kernel, slot, |tally| tally.half_opened += 1);
        let (key, flow) = self.flow(kernel, vip, slot, now);
        self.transient.insert(key, flow);
        Some(slot)
    }

    /// Ends the connections of a slot, at most so many, as their own FINs would; tells how many.
    pub(crate) fn close(&mut self, kernel: &KernelTables, slot: Slot, most: usize) -> usize {
        let generation = kernel.members.get(&slot).map(|member| member.generation);
        let mut keys: Vec<_> = client_side(&self.established)
            .filter(|(_, flow)| flow.slot == slot && Some(flow.generation) == generation)
            .map(|(key, flow)| (*key, flow.leaving.reversed()))
            .collect();
        keys.sort_unstable();
        keys.truncate(most);
        for (key, opposite) in &keys {
            self.established.remove(key);
            self.established.remove(opposite);
            self.count(kernel, slot, |tally| tally.ended += 1);
        }
        keys.len()
    }

    /// What the walker does for a reset: ends and disowns the connections of these slots that are
    /// of an older generation, and counts them.
    pub(crate) fn reset(&mut self, kernel: &KernelTables, slots: &[Slot]) -> BTreeMap<Slot, u64> {
        let mut connections = BTreeMap::new();
        for flow in self.established.values_mut() {
            let current = kernel.members.get(&flow.slot).map(|row| row.generation);
            if slots.contains(&flow.slot)
                && flow.generation != 0
                && Some(flow.generation) != current
            {
                if flow.direction() == Direction::ToBackend {
                    *connections.entry(flow.slot).or_default() += 1;
                }
                *flow = flow.disowned();
            }
        }
        connections
    }

    /// What the walker does to end single connections, named by the flow of the client's packets.
    pub(crate) fn reset_flows(&mut self, keys: &[FlowKey<Address>]) -> BTreeMap<Slot, u64> {
        let mut connections = BTreeMap::new();
        for key in keys {
            let Some(flow) = self.established.get_mut(key) else {
                continue;
            };
            if flow.generation != 0 {
                *connections.entry(flow.slot).or_default() += 1;
            }
            let opposite = flow.leaving.reversed();
            *flow = flow.disowned();
            if let Some(flow) = self.established.get_mut(&opposite) {
                *flow = flow.disowned();
            }
        }
        connections
    }

    /// The connections of a slot that packets can still pass on.
    pub(crate) fn alive(&self, kernel: &KernelTables, slot: Slot) -> u64 {
        let generation = kernel.members.get(&slot).map(|member| member.generation);
        let flows = client_side(&self.established);
        let alive =
            flows.filter(|(_, flow)| flow.slot == slot && Some(flow.generation) == generation);
        alive.count() as u64
    }

    /// What the kernel would say that a slot has, by its tally and the controller's own numbers.
    pub(crate) fn load(&self, kernel: &KernelTables, slot: Slot) -> Load {
        let tally = self.tallies.slots.get(&slot).copied().unwrap_or_default();
        let row = kernel.members.get(&slot).copied().unwrap_or_default();
        Load::of(&tally, row.half_reaped, row.reaped)
    }

    /// The same of a backend, or of the whole gateway.
    pub(crate) fn backend_load(&self, kernel: &KernelTables, id: BackendId) -> Load {
        let tally = self.tallies.backends.get(&id).copied().unwrap_or_default();
        let row = kernel.backends.get(&id).copied().unwrap_or_default();
        Load::of(&tally, row.half_reaped, row.reaped)
    }

    /// The tallies of what is in use.
    pub(crate) fn tallies(&self, slots: &[Slot], backends: &[BackendId]) -> Tallies {
        let slot = |slot: &Slot| self.tallies.slots.get(slot).copied().unwrap_or_default();
        let backend = |id: &BackendId| self.tallies.backends.get(id).copied().unwrap_or_default();
        Tallies {
            slots: slots.iter().map(|it| (*it, slot(it))).collect(),
            backends: backends.iter().map(|it| (*it, backend(it))).collect(),
        }
    }

    /// Makes a slot suspect, as a refused SYN does.
    pub(crate) fn suspect(&mut self, slot: Slot) {
        self.tallies.slots.entry(slot).or_default().suspicions += 1;
    }

    /// Whether the kernel would avoid a slot as suspect.
    pub(crate) fn is_suspect(&self, kernel: &KernelTables, slot: Slot) -> bool {
        let tally = self.tallies.slots.get(&slot).copied().unwrap_or_default();
        let row = kernel.members.get(&slot).copied().unwrap_or_default();
        !lb_common::choose::is_forgiven(tally.suspicions, row.forgiven)
    }

    /// Counts what never was, or forgets what was: the tallies are wrong from here on.
    pub(crate) fn miscount(
        &mut self,
        kernel: &KernelTables,
        slot: Slot,
        wrong: impl Fn(&mut Tally),
    ) {
        self.count(kernel, slot, wrong);
    }

    fn choose(&self, kernel: &KernelTables, vip: Endpoint<Address>) -> Option<Slot> {
        let service = kernel.services.get(&ServiceKey::new(vip))?.id;
        let members = kernel.members.iter();
        members
            .filter(|(slot, member)| slot.service() == service && member.is_eligible())
            .map(|(slot, _)| *slot)
            .min_by_key(|slot| (self.load(kernel, *slot).active(), *slot))
    }

    fn count(&mut self, kernel: &KernelTables, slot: Slot, add: impl Fn(&mut Tally)) {
        let backend = kernel
            .members
            .get(&slot)
            .copied()
            .unwrap_or_default()
            .backend;
        add(self.tallies.slots.entry(slot).or_default());
        for id in [backend, BackendId::GATEWAY] {
            add(self.tallies.backends.entry(id).or_default());
        }
    }

    fn flow(
        &mut self,
        kernel: &KernelTables,
        vip: Endpoint<Address>,
        slot: Slot,
        now: Tick,
    ) -> (FlowKey<Address>, Flow<Address>) {
        let member = kernel.members[&slot];
        let row = kernel.backends[&member.backend];
        let backend = row.endpoint().map(ip);
        let forwarding = kernel.services[&ServiceKey::new(vip)].forwarding();
        self.next_client += 1;
        let port = self.next_client.to_be_bytes();
        let client = Endpoint {
            address: IpAddr::V4(Ipv4Addr::new(10, 71, 1, 1)),
            port,
        };
        let gateway = Endpoint {
            address: ip(row.gateway),
            port,
        };
        let key = FlowKey::between(client, vip);
        let leaving = match forwarding {
            Forwarding::Nat => FlowKey::between(client, backend),
            Forwarding::FullNat => FlowKey::between(gateway, backend),
            Forwarding::Dsr => key,
        };
        let flow = Flow::new(Direction::ToBackend, &key, leaving, slot, now)
            .of_generation(member.generation)
            .forwarded(forwarding);
        (key, flow)
    }
}

fn client_side(flows: &Flows) -> impl Iterator<Item = (&FlowKey<Address>, &Flow<Address>)> {
    flows
        .iter()
        .filter(|(_, flow)| flow.direction() == Direction::ToBackend)
}
