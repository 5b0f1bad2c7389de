//! The kernel's tables as values: what they hold, and what they should hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use lb_common::backend::Backend;
use lb_common::flow::{Endpoint, Flow, FlowKey};
use lb_common::gateway::Gateway;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Service, ServiceId, ServiceKey};

/// An address of the family that is built.
pub type Address = [u8; 4];
/// The flows of a table.
pub type Flows = HashMap<FlowKey<Address>, Flow<Address>>;

/// What the controller writes. What the kernel writes, flows and tallies, is not in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelTables {
    /// The gateway's own entry.
    pub gateway: Gateway,
    /// Services by VIP and port.
    pub services: BTreeMap<ServiceKey<Address>, Service>,
    /// The allow lists: service and address, and the length of both in bits.
    pub allowed: BTreeSet<([u8; 6], u32)>,
    /// Members by slot.
    pub members: BTreeMap<Slot, Member>,
    /// Backends; number 0 is the gateway.
    pub backends: BTreeMap<BackendId, Backend<Address>>,
    /// The rings, as far as they are in use.
    pub rings: BTreeMap<ServiceId, Vec<u8>>,
}

/// A socket address as it stands in packets. The configuration lets no IPv6 address pass.
pub fn endpoint(address: SocketAddr) -> Endpoint<Address> {
    let ip = match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(address) => address.ip().to_ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED),
    };
    Endpoint {
        address: ip.octets(),
        port: address.port().to_be_bytes(),
    }
}

/// An address and port of a packet as a socket address.
pub fn socket_address(endpoint: Endpoint<Address>) -> SocketAddrV4 {
    SocketAddrV4::new(endpoint.address.into(), u16::from_be_bytes(endpoint.port))
}
