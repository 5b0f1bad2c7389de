//! The kernel's tables as typed handles, opened from their pins.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::backend::Backend;
use lb_common::family::{V4Address, V6Address, WideAddress};
use lb_common::flow::{FlowKey, Tick};
use lb_common::gateway::Gateway;
use lb_common::limits::{FILTER_WORDS, RING_SIZE};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Access, Algorithm, Service, ServiceId, ServiceKey};
use lb_common::source::{SourceKey, SourceTally};
use lb_common::tally::{Tally, Traffic};
use lb_common::trunk::Trunk;

use self::entries::*;
pub use self::flows::AMEND_PIN;
use self::flows::{Amender, FlowTable};
use self::services::ServiceTable;
use crate::engine::kernel::{AccessLists, Flows};

mod entries;
mod flows;
mod services;
mod sources;

/// A ring as the kernel holds it.
type Ring = [u8; 16_384];

const ANY: u64 = 0;

/// Every pinned table.
pub struct Tables {
    established_v4: FlowTable<V4Address>,
    established_v6: FlowTable<V6Address>,
    transient_v4: FlowTable<V4Address>,
    transient_v6: FlowTable<V6Address>,
    amender: Amender,
    lingering: HashMap<MapData, FlowKey<WideAddress>, Tick>,
    filter: Array<MapData, u64>,
    services_v4: ServiceTable<V4Address>,
    services_v6: ServiceTable<V6Address>,
    access_v4: LpmTrie<MapData, [u8; 6], u8>,
    access_v6: LpmTrie<MapData, [u8; 18], u8>,
    sources: HashMap<MapData, SourceKey, SourceTally>,
    sources_reaped: HashMap<MapData, SourceKey, u64>,
    members: Array<MapData, Member>,
    backends: Array<MapData, Backend<WideAddress>>,
    rings: Array<MapData, Ring>,
    turns: Array<MapData, u64>,
    slot_tallies: Array<MapData, Tally>,
    backend_tallies: Array<MapData, Tally>,
    traffic: PerCpuArray<MapData, Traffic>,
    reasons: PerCpuArray<MapData, u64>,
    gateway: Array<MapData, Gateway>,
    trunks: HashMap<MapData, u32, Trunk>,
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
        let hash = |name: &str| Ok::<_, anyhow::Error>(Map::HashMap(pinned(name)?));
        let trie = |name: &str| Ok::<_, anyhow::Error>(Map::LpmTrie(pinned(name)?));
        Ok(Self {
            established_v4: FlowTable::new(
                array("ESTABLISHED_TAGS_V4")?,
                array("ESTABLISHED_V4")?,
            )?,
            established_v6: FlowTable::new(
                array("ESTABLISHED_TAGS_V6")?,
                array("ESTABLISHED_V6")?,
            )?,
            transient_v4: FlowTable::new(array("TRANSIENT_TAGS_V4")?, array("TRANSIENT_V4")?)?,
            transient_v6: FlowTable::new(array("TRANSIENT_TAGS_V6")?, array("TRANSIENT_V6")?)?,
            amender: Amender::new(pin_dir, array("AMENDMENT")?)?,
            lingering: hash("LINGERING")?.try_into()?,
            filter: array("FILTER")?.try_into()?,
            services_v4: ServiceTable::new(array("SERVICES_V4")?)?,
            services_v6: ServiceTable::new(array("SERVICES_V6")?)?,
            access_v4: trie("ACCESS_V4")?.try_into()?,
            access_v6: trie("ACCESS_V6")?.try_into()?,
            sources: hash("SOURCES")?.try_into()?,
            sources_reaped: hash("SOURCES_REAPED")?.try_into()?,
            trunks: hash("TRUNKS")?.try_into()?,
            members: array("MEMBERS")?.try_into()?,
            backends: array("BACKENDS")?.try_into()?,
            rings: array("RINGS")?.try_into()?,
            turns: array("TURNS")?.try_into()?,
            slot_tallies: array("SLOT_TALLIES")?.try_into()?,
            backend_tallies: array("BACKEND_TALLIES")?.try_into()?,
            traffic: per_cpu("TRAFFIC")?.try_into()?,
            reasons: per_cpu("REASONS")?.try_into()?,
            gateway: array("GATEWAY")?.try_into()?,
        })
    }

    /// The buckets of the table of established flows of one family.
    pub fn established_buckets(&self) -> u32 {
        self.established_v4.size()
    }

    /// The gateway's own entry.
    pub fn gateway(&self) -> Result<Gateway> {
        Ok(self.gateway.get(&0, ANY)?)
    }

    /// Every established flow. Flows that come or go meanwhile may be missed; none comes twice.
    pub fn established(&self) -> Result<Flows> {
        let mut flows = Flows::new();
        let seed = self.gateway()?.seed;
        self.established_v4.collect(seed, &mut flows)?;
        self.established_v6.collect(seed, &mut flows)?;
        Ok(flows)
    }

    /// Every half-open or ended flow.
    pub fn transient(&self) -> Result<Flows> {
        let mut flows = Flows::new();
        let seed = self.gateway()?.seed;
        self.transient_v4.collect(seed, &mut flows)?;
        self.transient_v6.collect(seed, &mut flows)?;
        Ok(flows)
    }

    /// Every service.
    pub fn services(&self) -> Result<Vec<(ServiceKey<IpAddr>, Service)>> {
        let mut services = self.service_entries()?;
        services.retain(|(key, _)| key.vip().port != VIP_PORT);
        Ok(services)
    }

    /// Every address of services.
    pub fn vips(&self) -> Result<Vec<IpAddr>> {
        let mut vips = self.service_entries()?;
        vips.retain(|(key, _)| key.vip().port == VIP_PORT);
        Ok(vips.into_iter().map(|(key, _)| key.vip().address).collect())
    }

    fn service_entries(&self) -> Result<Vec<(ServiceKey<IpAddr>, Service)>> {
        let v4 = self.services_v4.entries()?.into_iter().map(either_service);
        let v6 = self.services_v6.entries()?.into_iter().map(either_service);
        Ok(v4.chain(v6).collect())
    }

    /// Every network of the access lists.
    pub fn access(&self) -> Result<AccessLists> {
        let mut lists = AccessLists::new();
        for entry in self.access_v4.iter() {
            let (key, access) = entry?;
            let [s0, s1, a, b, c, d] = key.data();
            let network = IpAddr::from([a, b, c, d]);
            let key = (service_id([s0, s1]), network, prefix(key.prefix_len()));
            lists.insert(key, Access::of(access));
        }
        for entry in self.access_v6.iter() {
            let (key, access) = entry?;
            let [s0, s1, address @ ..] = key.data();
            let key = (
                service_id([s0, s1]),
                IpAddr::from(address),
                prefix(key.prefix_len()),
            );
            lists.insert(key, Access::of(access));
        }
        Ok(lists)
    }

    /// The words of the filter that have a bit set.
    pub fn filter(&self) -> Result<BTreeMap<u32, u64>> {
        let mut words = BTreeMap::new();
        for word in 0..FILTER_WORDS {
            let bits = self.filter.get(&word, ANY)?;
            if bits != 0 {
                words.insert(word, bits);
            }
        }
        Ok(words)
    }

    /// Every VLAN device, by interface index.
    pub fn trunks(&self) -> Result<BTreeMap<u32, Trunk>> {
        Ok(self.trunks.iter().collect::<Result<_, MapError>>()?)
    }

    /// The member in a slot.
    pub fn member(&self, slot: Slot) -> Result<Member> {
        Ok(self.members.get(&u32::from(slot.0), ANY)?)
    }

    /// A backend, or the gateway itself.
    pub fn backend(&self, id: BackendId) -> Result<Backend<WideAddress>> {
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
    pub fn set_service(&mut self, key: ServiceKey<IpAddr>, service: Service) -> Result<()> {
        match key.vip().address {
            IpAddr::V4(_) => self.services_v4.set(narrow_service(key), service),
            IpAddr::V6(_) => self.services_v6.set(narrow_service(key), service),
        }
    }

    /// Removes a service.
    pub fn remove_service(&mut self, key: ServiceKey<IpAddr>) -> Result<()> {
        match key.vip().address {
            IpAddr::V4(_) => self.services_v4.remove(&narrow_service(key)),
            IpAddr::V6(_) => self.services_v6.remove(&narrow_service(key)),
        }
    }

    /// Notes an address of services.
    pub fn set_vip(&mut self, vip: IpAddr) -> Result<()> {
        let nobody = Service::new(ServiceId(u16::MAX), 0, Algorithm::LeastConnections, 0);
        self.set_service(vip_key(vip), nobody)
    }

    /// Forgets an address of services.
    pub fn remove_vip(&mut self, vip: IpAddr) -> Result<()> {
        self.remove_service(vip_key(vip))
    }

    /// Writes a word of the filter.
    pub fn set_filter(&mut self, word: u32, bits: u64) -> Result<()> {
        Ok(self.filter.set(word, bits, ANY)?)
    }

    /// Writes a VLAN device.
    pub fn set_trunk(&mut self, interface: u32, trunk: Trunk) -> Result<()> {
        Ok(self.trunks.insert(interface, trunk, ANY)?)
    }

    /// Removes a VLAN device.
    pub fn remove_trunk(&mut self, interface: u32) -> Result<()> {
        gone_is_fine(self.trunks.remove(&interface))
    }

    /// Writes a member.
    pub fn set_member(&mut self, slot: Slot, member: Member) -> Result<()> {
        Ok(self.members.set(u32::from(slot.0), member, ANY)?)
    }

    /// Writes a backend.
    pub fn set_backend(&mut self, id: BackendId, backend: Backend<WideAddress>) -> Result<()> {
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

    /// Puts a network into a service's access lists.
    pub fn set_access(
        &mut self,
        service: ServiceId,
        network: IpAddr,
        prefix: u8,
        access: Access,
    ) -> Result<()> {
        let length = SERVICE_BITS + u32::from(prefix);
        let access = access as u8;
        match network {
            IpAddr::V4(network) => {
                let key = Prefix::new(length, list_key_v4(service, network));
                self.access_v4.insert(&key, access, ANY)?;
            }
            IpAddr::V6(network) => {
                let key = Prefix::new(length, list_key_v6(service, network));
                self.access_v6.insert(&key, access, ANY)?;
            }
        }
        Ok(())
    }

    /// Takes a network out of a service's access lists.
    pub fn remove_access(&mut self, service: ServiceId, network: IpAddr, prefix: u8) -> Result<()> {
        let length = SERVICE_BITS + u32::from(prefix);
        gone_is_fine(match network {
            IpAddr::V4(network) => {
                let key = Prefix::new(length, list_key_v4(service, network));
                self.access_v4.remove(&key)
            }
            IpAddr::V6(network) => {
                let key = Prefix::new(length, list_key_v6(service, network));
                self.access_v6.remove(&key)
            }
        })
    }
}

fn gone_is_fine(removed: Result<(), MapError>) -> Result<()> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        removed => Ok(removed?),
    }
}
