//! The kernel's tables as typed handles, opened from their pins.

use std::collections::HashMap as Collection;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::backend::Backend;
use lb_common::flow::{Flow, FlowKey};
use lb_common::gateway::Gateway;
use lb_common::limits::RING_SIZE;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Service, ServiceId, ServiceKey};
use lb_common::tally::{Tally, Traffic};

/// The address family that the tables are for.
pub type Address = [u8; 4];
/// The flows of a table.
pub type Flows = Collection<FlowKey<Address>, Flow<Address>>;
/// A ring as the kernel holds it.
type Ring = [u8; 16_384];

const ANY: u64 = 0;

/// Every pinned table.
pub struct Tables {
    established: HashMap<MapData, FlowKey<Address>, Flow<Address>>,
    transient: HashMap<MapData, FlowKey<Address>, Flow<Address>>,
    services: HashMap<MapData, ServiceKey<Address>, Service>,
    allowed: LpmTrie<MapData, [u8; 6], u8>,
    members: Array<MapData, Member>,
    backends: Array<MapData, Backend<Address>>,
    rings: Array<MapData, Ring>,
    turns: Array<MapData, u64>,
    slot_tallies: Array<MapData, Tally>,
    backend_tallies: Array<MapData, Tally>,
    traffic: PerCpuArray<MapData, Traffic>,
    reasons: PerCpuArray<MapData, u64>,
    gateway: Array<MapData, Gateway>,
    established_size: u32,
}

impl Tables {
    /// Opens the tables that are pinned in `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let pinned = |name: &str| {
            let path = pin_dir.join(name);
            MapData::from_pin(&path)
                .with_context(|| format!("cannot open the table {}", path.display()))
        };
        let array = |name: &str| Ok::<_, anyhow::Error>(Map::Array(pinned(name)?));
        let per_cpu = |name: &str| Ok::<_, anyhow::Error>(Map::PerCpuArray(pinned(name)?));
        let established = pinned("ESTABLISHED")?;
        let established_size = established.info()?.max_entries();
        Ok(Self {
            established: Map::HashMap(established).try_into()?,
            transient: Map::LruHashMap(pinned("TRANSIENT")?).try_into()?,
            services: Map::HashMap(pinned("SERVICES")?).try_into()?,
            allowed: Map::LpmTrie(pinned("ALLOWED")?).try_into()?,
            members: array("MEMBERS")?.try_into()?,
            backends: array("BACKENDS")?.try_into()?,
            rings: array("RINGS")?.try_into()?,
            turns: array("TURNS")?.try_into()?,
            slot_tallies: array("SLOT_TALLIES")?.try_into()?,
            backend_tallies: array("BACKEND_TALLIES")?.try_into()?,
            traffic: per_cpu("TRAFFIC")?.try_into()?,
            reasons: per_cpu("REASONS")?.try_into()?,
            gateway: array("GATEWAY")?.try_into()?,
            established_size,
        })
    }

    /// How many flows the established table has room for.
    pub fn established_size(&self) -> Result<u32> {
        Ok(self.established_size)
    }

    /// The gateway's own entry.
    pub fn gateway(&self) -> Result<Gateway> {
        Ok(self.gateway.get(&0, ANY)?)
    }

    /// Every established flow. Flows that come or go meanwhile may be missed; none comes twice.
    pub fn established(&self) -> Result<Flows> {
        collect(&self.established)
    }

    /// Every half-open or ended flow.
    pub fn transient(&self) -> Result<Flows> {
        collect(&self.transient)
    }

    /// Every service.
    pub fn services(&self) -> Result<Vec<(ServiceKey<Address>, Service)>> {
        Ok(self.services.iter().collect::<Result<_, MapError>>()?)
    }

    /// Every network of the allow lists: service number, then address; and the prefix length of
    /// both together.
    pub fn allowed(&self) -> Result<Vec<([u8; 6], u32)>> {
        let mut networks = Vec::new();
        for key in self.allowed.keys() {
            let key = key?;
            networks.push((key.data(), key.prefix_len()));
        }
        Ok(networks)
    }

    /// The member in a slot.
    pub fn member(&self, slot: Slot) -> Result<Member> {
        Ok(self.members.get(&u32::from(slot.0), ANY)?)
    }

    /// A backend, or the gateway itself.
    pub fn backend(&self, id: BackendId) -> Result<Backend<Address>> {
        Ok(self.backends.get(&u32::from(id.0), ANY)?)
    }

    /// A service's ring, of which the first `length` positions are in use.
    pub fn ring(&self, id: ServiceId, length: u32) -> Result<Vec<u8>> {
        let ring = self.rings.get(&u32::from(id.0), ANY)?;
        Ok(ring[..length.min(RING_SIZE) as usize].to_vec())
    }

    /// How many turns a service has taken.
    pub fn turn(&self, id: ServiceId) -> Result<u64> {
        Ok(self.turns.get(&u32::from(id.0), ANY)?)
    }

    /// What the kernel has counted for a slot.
    pub fn slot_tally(&self, slot: Slot) -> Result<Tally> {
        Ok(self.slot_tallies.get(&u32::from(slot.0), ANY)?)
    }

    /// What the kernel has counted for a backend, or for the whole gateway.
    pub fn backend_tally(&self, id: BackendId) -> Result<Tally> {
        Ok(self.backend_tallies.get(&u32::from(id.0), ANY)?)
    }

    /// Packets and bytes of a slot, all CPUs together.
    pub fn traffic(&self, slot: Slot) -> Result<Traffic> {
        let each = self.traffic.get(&u32::from(slot.0), ANY)?;
        Ok(each.iter().fold(Traffic::default(), |sum, cpu| Traffic {
            packets_to_backend: sum.packets_to_backend + cpu.packets_to_backend,
            bytes_to_backend: sum.bytes_to_backend + cpu.bytes_to_backend,
            packets_to_client: sum.packets_to_client + cpu.packets_to_client,
            bytes_to_client: sum.bytes_to_client + cpu.bytes_to_client,
        }))
    }

    /// How many packets were not forwarded, by reason.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let each = self.reasons.get(&reason.index(), ANY)?;
                Ok((reason, each.iter().sum()))
            })
            .collect()
    }

    /// Writes the gateway's own entry.
    pub fn set_gateway(&mut self, gateway: Gateway) -> Result<()> {
        Ok(self.gateway.set(0, gateway, ANY)?)
    }

    /// Writes a service.
    pub fn set_service(&mut self, key: ServiceKey<Address>, service: Service) -> Result<()> {
        Ok(self.services.insert(key, service, ANY)?)
    }

    /// Removes a service.
    pub fn remove_service(&mut self, key: ServiceKey<Address>) -> Result<()> {
        gone_is_fine(self.services.remove(&key))
    }

    /// Writes a member.
    pub fn set_member(&mut self, slot: Slot, member: Member) -> Result<()> {
        Ok(self.members.set(u32::from(slot.0), member, ANY)?)
    }

    /// Writes a backend.
    pub fn set_backend(&mut self, id: BackendId, backend: Backend<Address>) -> Result<()> {
        Ok(self.backends.set(u32::from(id.0), backend, ANY)?)
    }

    /// Writes a service's ring.
    pub fn set_ring(&mut self, id: ServiceId, positions: &[u8]) -> Result<()> {
        let mut ring: Ring = [0; 16_384];
        for (place, member) in ring.iter_mut().zip(positions) {
            *place = *member;
        }
        Ok(self.rings.set(u32::from(id.0), ring, ANY)?)
    }

    /// Adds a network to an allow list.
    pub fn allow(&mut self, network: [u8; 6], prefix: u32) -> Result<()> {
        Ok(self.allowed.insert(&Prefix::new(prefix, network), 1, ANY)?)
    }

    /// Removes a network from an allow list.
    pub fn disallow(&mut self, network: [u8; 6], prefix: u32) -> Result<()> {
        gone_is_fine(self.allowed.remove(&Prefix::new(prefix, network)))
    }

    /// Replaces an established flow.
    pub fn set_established(&mut self, key: FlowKey<Address>, flow: Flow<Address>) -> Result<()> {
        Ok(self.established.insert(key, flow, ANY)?)
    }

    /// Removes an established flow; tells whether it was there.
    pub fn remove_established(&mut self, key: &FlowKey<Address>) -> Result<bool> {
        was_there(self.established.remove(key))
    }

    /// Writes a half-open or ended flow.
    pub fn set_transient(&mut self, key: FlowKey<Address>, flow: Flow<Address>) -> Result<()> {
        Ok(self.transient.insert(key, flow, ANY)?)
    }

    /// Removes a half-open or ended flow; tells whether it was there.
    pub fn remove_transient(&mut self, key: &FlowKey<Address>) -> Result<bool> {
        was_there(self.transient.remove(key))
    }
}

/// Walks a table that the kernel changes meanwhile. When the entry that the walk stands on goes,
/// the kernel starts over; hence the limit, and the collection by key.
fn collect(table: &HashMap<MapData, FlowKey<Address>, Flow<Address>>) -> Result<Flows> {
    const MOST_STEPS: usize = 1 << 24;
    let mut flows = Flows::new();
    for entry in table.iter().take(MOST_STEPS) {
        let (key, flow) = entry?;
        flows.insert(key, flow);
    }
    Ok(flows)
}

fn was_there(removed: Result<(), MapError>) -> Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn gone_is_fine(removed: Result<(), MapError>) -> Result<()> {
    was_there(removed).map(|_| ())
}
