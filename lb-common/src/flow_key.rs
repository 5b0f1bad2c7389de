//! What a flow is found by, and what its packets leave with.

use core::ops::Deref;

use crate::checksum;
use crate::family::{Address, Family};
use crate::wire::{Headers, IpHeader};

/// An address and a port, in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint<A> {
    /// The IP address.
    pub address: A,
    /// The TCP port.
    pub port: [u8; 2],
}

/// The 4-tuple of a packet: as it arrives, what its flow is found by; as it leaves, what its flow
/// makes of it.
///
/// Both directions of a connection lie in the same table, the client's packets under
/// (client, VIP) and the backend's under (backend, client), or (backend, gateway) in full-nat. The
/// layout has no padding, because the kernel hashes every byte of it.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// The sender's address.
    pub source: A,
    /// The receiver's address.
    pub destination: A,
    /// The sender's port, in network byte order.
    pub source_port: [u8; 2],
    /// The receiver's port, in network byte order.
    pub destination_port: [u8; 2],
}

impl<A: Address> FlowKey<A> {
    /// The key of the flow that `packet` belongs to.
    #[inline(always)]
    pub fn of<F: Family<Address = A>>(packet: &Headers<'_, F>) -> Self {
        Self {
            source: packet.ip.source(),
            destination: packet.ip.destination(),
            source_port: packet.tcp.source(),
            destination_port: packet.tcp.destination(),
        }
    }

    /// The flow's sender.
    #[inline(always)]
    pub fn sender(&self) -> Endpoint<A> {
        Endpoint {
            address: self.source,
            port: self.source_port,
        }
    }

    /// The flow's receiver.
    #[inline(always)]
    pub fn receiver(&self) -> Endpoint<A> {
        Endpoint {
            address: self.destination,
            port: self.destination_port,
        }
    }

    /// The key of a flow from `sender` to `receiver`.
    #[inline(always)]
    pub fn between(sender: Endpoint<A>, receiver: Endpoint<A>) -> Self {
        Self {
            source: sender.address,
            destination: receiver.address,
            source_port: sender.port,
            destination_port: receiver.port,
        }
    }

    /// The same 4-tuple seen from the other end.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    /// The sum of the addresses' 16-bit words, for checksums.
    #[inline(always)]
    pub fn address_sum(&self) -> u32 {
        self.source.sum() + self.destination.sum()
    }

    /// The sum of both ports, for checksums.
    #[inline(always)]
    pub fn port_sum(&self) -> u32 {
        checksum::sum(&self.source_port) + checksum::sum(&self.destination_port)
    }
}

impl<A> FlowKey<A> {
    /// Both ports as they lie in memory, in one word.
    #[inline(always)]
    pub(crate) fn port_word(&self) -> u64 {
        let ([a, b], [c, d]) = (self.source_port, self.destination_port);
        u64::from(u32::from_ne_bytes([a, b, c, d]))
    }

    /// The same 4-tuple with addresses of another form.
    pub fn map<B>(self, form: impl Fn(A) -> B) -> FlowKey<B> {
        FlowKey {
            source: form(self.source),
            destination: form(self.destination),
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }
}

impl<A> Endpoint<A> {
    /// The same endpoint with an address of another form.
    pub fn map<B>(self, form: impl Fn(A) -> B) -> Endpoint<B> {
        Endpoint {
            address: form(self.address),
            port: self.port,
        }
    }
}

/// A value that lies on the kernel program's stack. The compiler reads and writes it in words of
/// eight bytes, and there the verifier wants each of them aligned.
#[repr(align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local<T>(pub(crate) T);

impl<T> Deref for Local<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
