//! Entries of either family, between the kernel's form and the controller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::family::{Address as WordAddress, ip};
use lb_common::flow::Endpoint;
use lb_common::service::{Service, ServiceId, ServiceKey};

/// More entries than any table has.
pub(super) const MOST_STEPS: usize = 1 << 24;
/// The bits of the service's number in front of an address in the access lists.
pub(super) const SERVICE_BITS: u32 = 16;
/// The port of an entry that only tells that its address is a VIP.
pub(super) const VIP_PORT: [u8; 2] = [0, 0];

pub(super) fn either_service<A: WordAddress>(
    (key, service): (ServiceKey<A>, Service),
) -> (ServiceKey<IpAddr>, Service) {
    let vip = key.vip().map(|address| ip(address.widen()));
    (ServiceKey::new(vip), service)
}

pub(super) fn narrow_service<A: WordAddress>(key: ServiceKey<IpAddr>) -> ServiceKey<A> {
    ServiceKey::new(key.vip().map(|address| A::narrow(address.widen())))
}

pub(super) fn vip_key(vip: IpAddr) -> ServiceKey<IpAddr> {
    ServiceKey::new(Endpoint {
        address: vip,
        port: VIP_PORT,
    })
}

pub(super) fn list_key_v4(service: ServiceId, network: Ipv4Addr) -> [u8; 6] {
    let mut key = [0; 6];
    key[..2].copy_from_slice(&service.0.to_be_bytes());
    key[2..].copy_from_slice(&network.octets());
    key
}

pub(super) fn list_key_v6(service: ServiceId, network: Ipv6Addr) -> [u8; 18] {
    let mut key = [0; 18];
    key[..2].copy_from_slice(&service.0.to_be_bytes());
    key[2..].copy_from_slice(&network.octets());
    key
}

pub(super) fn service_id(bytes: [u8; 2]) -> ServiceId {
    ServiceId(u16::from_be_bytes(bytes))
}

pub(super) fn prefix(length: u32) -> u8 {
    u8::try_from(length.saturating_sub(SERVICE_BITS)).unwrap_or(u8::MAX)
}
