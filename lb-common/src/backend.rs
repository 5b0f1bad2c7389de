//! Backends as the kernel sees them. Only the controller writes these entries.

use crate::flow::Endpoint;

/// One server, or the gateway itself in row 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backend<A> {
    address: A,
    /// The gateway's own address on the way to it, which full-nat connections come from; zeros
    /// when there is none.
    pub gateway: A,
    /// The most connections it may have, of all services together; 0 is no limit.
    pub max_connections: u32,
    port: [u8; 2],
    /// The weight that the operator has set. The kernel does not read it.
    pub weight: u16,
    /// What the operator has asked for, kept here so that it outlives the controller; the kernel
    /// does not read it. See the controller's `Admin`.
    pub admin: u8,
    /// Whether `weight` replaces the configured weight: 0 or 1. The kernel does not read it.
    pub has_weight: u8,
    reserved: [u8; 6],
    /// Half-open connections that the controller found gone.
    pub half_reaped: u64,
    /// Established connections that the controller ended or found gone.
    pub reaped: u64,
}

impl<A: Copy> Backend<A> {
    /// Its address and port.
    #[inline(always)]
    pub fn endpoint(&self) -> Endpoint<A> {
        Endpoint {
            address: self.address,
            port: self.port,
        }
    }

    /// Gives it this address and port.
    pub fn set_endpoint(&mut self, endpoint: Endpoint<A>) {
        self.address = endpoint.address;
        self.port = endpoint.port;
    }

    /// The same backend with addresses of another form.
    #[inline(always)]
    pub fn map<B>(self, form: impl Fn(A) -> B) -> Backend<B> {
        Backend {
            address: form(self.address),
            gateway: form(self.gateway),
            max_connections: self.max_connections,
            port: self.port,
            weight: self.weight,
            admin: self.admin,
            has_weight: self.has_weight,
            reserved: self.reserved,
            half_reaped: self.half_reaped,
            reaped: self.reaped,
        }
    }
}

impl<A> Default for Endpoint<A>
where
    A: Default,
{
    fn default() -> Self {
        Self {
            address: A::default(),
            port: [0; 2],
        }
    }
}
