//! What the kernel's tables and functions are for one address family.

use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::maps::PerCpuArray;
use lb_common::family::{Family, V4, V4Address, V6, V6Address};
use lb_common::flow::FlowKey;
use lb_common::service::{Access, Service, ServiceId, ServiceKey};

use crate::maps::flows::{
    EstablishedV4, EstablishedV6, FlowTable, OpeningTable, TransientV4, TransientV6,
};
use crate::maps::global::{pglb_take_port_v4, pglb_take_port_v6};
use crate::maps::rows::{find_service, keys};
use crate::maps::{ACCESS_V4, ACCESS_V6, KEY_V4, KEY_V6, SERVICES_V4, SERVICES_V6};

/// A family with tables of its own.
pub(crate) trait TabledFamily: Family + Sized {
    /// The family's number: `AF_INET` or `AF_INET6`.
    const NUMBER: u8;
    /// Its established flows.
    type Established: FlowTable<Address = Self::Address>;
    /// Its half-open and ended flows.
    type Transient: OpeningTable<Address = Self::Address>;
    /// The service at a VIP and port.
    fn service(key: &ServiceKey<Self::Address>) -> Option<&'static Service>;
    /// The key of the packet in hand, for functions that have no room for it.
    const KEY: &'static PerCpuArray<FlowKey<Self::Address>>;
    /// The function that takes a port for the connection of the packet in hand.
    const TAKE_PORT: extern "C" fn(u32) -> u32;
    /// What the longest network of a service's access lists that holds this client says.
    fn access(service: ServiceId, client: Self::Address) -> Option<Access>;
    /// Writes both addresses into a question to the routing tables.
    fn put_addresses(query: &mut FibQuery, source: Self::Address, destination: Self::Address);
    /// Whether the receiver in a routing query is this address.
    fn is_address(words: [u32; 4], address: Self::Address) -> bool;
}

impl TabledFamily for V4 {
    const NUMBER: u8 = 2;
    type Established = EstablishedV4;
    type Transient = TransientV4;
    const KEY: &'static PerCpuArray<FlowKey<V4Address>> = &KEY_V4;
    const TAKE_PORT: extern "C" fn(u32) -> u32 = pglb_take_port_v4;

    #[inline(always)]
    fn service(key: &ServiceKey<V4Address>) -> Option<&'static Service> {
        let place = &mut keys()?.service_v4;
        *place = *key;
        find_service(&SERVICES_V4, place)
    }

    #[inline(always)]
    fn access(service: ServiceId, client: V4Address) -> Option<Access> {
        let key = &mut keys()?.access_v4;
        key.prefix_len = 48;
        key.data[..2].copy_from_slice(&service.0.to_be_bytes());
        key.data[2..].copy_from_slice(&client[0].to_ne_bytes());
        ACCESS_V4.get(&*key).copied().map(Access::of)
    }

    #[inline(always)]
    fn put_addresses(query: &mut FibQuery, source: V4Address, destination: V4Address) {
        query.__bindgen_anon_3.ipv4_src = source[0];
        query.__bindgen_anon_4.ipv4_dst = destination[0];
    }

    #[inline(always)]
    fn is_address(words: [u32; 4], address: V4Address) -> bool {
        words[0] == address[0]
    }
}

impl TabledFamily for V6 {
    const NUMBER: u8 = 10;
    type Established = EstablishedV6;
    type Transient = TransientV6;
    const KEY: &'static PerCpuArray<FlowKey<V6Address>> = &KEY_V6;
    const TAKE_PORT: extern "C" fn(u32) -> u32 = pglb_take_port_v6;

    #[inline(always)]
    fn service(key: &ServiceKey<V6Address>) -> Option<&'static Service> {
        let place = &mut keys()?.service_v6;
        *place = *key;
        find_service(&SERVICES_V6, place)
    }

    #[inline(always)]
    fn access(service: ServiceId, client: V6Address) -> Option<Access> {
        let key = &mut keys()?.access_v6;
        key.prefix_len = 144;
        key.data[..2].copy_from_slice(&service.0.to_be_bytes());
        for (place, word) in key.data[2..].chunks_exact_mut(4).zip(client) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        ACCESS_V6.get(&*key).copied().map(Access::of)
    }

    #[inline(always)]
    fn put_addresses(query: &mut FibQuery, source: V6Address, destination: V6Address) {
        query.__bindgen_anon_3.ipv6_src = source;
        query.__bindgen_anon_4.ipv6_dst = destination;
    }

    #[inline(always)]
    fn is_address(found: [u32; 4], address: V6Address) -> bool {
        found == address
    }
}
