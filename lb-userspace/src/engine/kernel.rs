//! The kernel's tables as values: what they hold, and what they should hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use lb_common::backend::Backend;
use lb_common::family::{Address as _, WideAddress, ip};
use lb_common::filter::FilterBit;
use lb_common::flow::{Endpoint, Flow, FlowKey};
use lb_common::gateway::Gateway;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Service, ServiceId, ServiceKey};
use lb_common::trunk::Trunk;

/// An address of either family.
pub type Address = IpAddr;
/// The flows of both families' tables.
pub type Flows = HashMap<FlowKey<Address>, Flow<Address>>;
/// Access lists: a service, a network by its first address and its prefix length, and what holds
/// for it.
pub type AccessLists = BTreeMap<(ServiceId, Address, u8), Access>;

/// What the controller writes. What the kernel writes, flows and tallies, is not in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelTables {
    /// The gateway's own entry.
    pub gateway: Gateway,
    /// The words of the filter that have a bit set.
    pub filter: BTreeMap<u32, u64>,
    /// VLAN devices by interface index.
    pub trunks: BTreeMap<u32, Trunk>,
    /// The addresses of services.
    pub vips: BTreeSet<Address>,
    /// Services by VIP and port.
    pub services: BTreeMap<ServiceKey<Address>, Service>,
    /// The access lists of all services.
    pub access: AccessLists,
    /// Members by slot.
    pub members: BTreeMap<Slot, Member>,
    /// Backends; number 0 is the gateway.
    pub backends: BTreeMap<BackendId, Backend<WideAddress>>,
    /// The rings, as far as they are in use.
    pub rings: BTreeMap<ServiceId, Vec<u8>>,
}

impl KernelTables {
    /// Sets a bit of the filter. None is ever taken back while the tables exist: a packet of a
    /// connection that is about to end must not be taken for a foreign one.
    pub fn set(&mut self, FilterBit { word, bit }: FilterBit) {
        *self.filter.entry(word).or_default() |= bit;
    }
}

/// What the host's network looks like, as far as the tables depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// VLAN devices by interface index.
    pub trunks: BTreeMap<u32, Trunk>,
    /// The host's own address on the way to a backend, by the backend's.
    pub sources: BTreeMap<Address, Address>,
    /// Whether all packets to one receiver go the same way, whoever sends them.
    pub shares_next_hops: bool,
}

impl Surroundings {
    /// What an earlier controller knew of them.
    pub fn of(tables: &KernelTables) -> Self {
        let is_known = |backend: &&Backend<WideAddress>| backend.gateway != WideAddress::default();
        let backends = tables.backends.values().filter(is_known);
        let source = |it: &Backend<WideAddress>| (ip(it.endpoint().address), ip(it.gateway));
        Self {
            trunks: tables.trunks.clone(),
            sources: backends.map(source).collect(),
            // There may be other rules since.
            shares_next_hops: false,
        }
    }
}

/// A socket address as it stands in packets.
pub fn endpoint(address: SocketAddr) -> Endpoint<Address> {
    Endpoint {
        address: address.ip(),
        port: address.port().to_be_bytes(),
    }
}

/// A socket address as the backend table has it.
pub fn wide_endpoint(address: SocketAddr) -> Endpoint<WideAddress> {
    endpoint(address).map(IpAddr::widen)
}

/// An address and port of a packet as a socket address.
pub fn socket_address(endpoint: Endpoint<Address>) -> SocketAddr {
    SocketAddr::new(endpoint.address, u16::from_be_bytes(endpoint.port))
}

/// An address and port of the backend table as a socket address.
pub fn backend_address(endpoint: Endpoint<WideAddress>) -> SocketAddr {
    socket_address(endpoint.map(ip))
}
