//! Backends as the kernel sees them. Only the controller writes these entries.

use crate::flow::Endpoint;

/// One server, or the gateway itself in row 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backend<A> {
    /// Its address and port.
    pub endpoint: Endpoint<A>,
    /// What the operator has asked for, kept here so that it outlives the controller; the kernel
    /// does not read it. See the controller's `Admin`.
    pub admin: u8,
    /// Whether `weight` replaces the configured weight: 0 or 1. The kernel does not read it.
    pub has_weight: u8,
    /// The weight that the operator has set. The kernel does not read it.
    pub weight: u16,
    reserved: [u8; 2],
    /// The most connections it may have, of all services together; 0 is no limit.
    pub max_connections: u32,
    /// Half-open connections that the controller found gone.
    pub half_reaped: u64,
    /// Established connections that the controller ended or found gone.
    pub reaped: u64,
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
