//! The closed list of what the engine can ask of the shell.

use lb_common::backend::Backend;
use lb_common::flow::FlowKey;
use lb_common::gateway::Gateway;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Service, ServiceId, ServiceKey};

use super::event::Asker;
use super::kernel::Address;
use crate::protocol::{ClientRef, Response};

/// Something to do. The shell makes no choices about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write one entry of the kernel's tables.
    Write(Write),
    /// Start a probe round: a fresh connection, and a question over the open session.
    Probe(BackendId),
    /// Ask the open session between two rounds.
    Watch(BackendId),
    /// End the connections of these slots that are of an older generation, by RST to both ends.
    Reset {
        /// The slots.
        slots: Vec<Slot>,
        /// The request that asked for it.
        asker: Option<Asker>,
    },
    /// End the connections of these clients, by RST to both ends.
    ResetClients {
        /// Whose.
        client: ClientRef,
        /// The request that asked for it.
        asker: Asker,
    },
    /// Walk both connection tables.
    Walk,
    /// Remove flows that the kernel has no packet to notice by.
    Remove {
        /// From the established table.
        established: Vec<FlowKey<Address>>,
        /// From the transient table.
        transient: Vec<FlowKey<Address>>,
    },
    /// Answer a request.
    Answer(Asker, Response),
    /// Tell the operator.
    Tell(Weight, String),
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A change of state.
    Info,
    /// Something that wants attention.
    Warning,
}

/// One write to the kernel's tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The gateway's own entry.
    Gateway(Gateway),
    /// A member.
    Member(Slot, Member),
    /// A backend.
    Backend(BackendId, Backend<Address>),
    /// A service's ring.
    Ring(ServiceId, Vec<u8>),
    /// A network into an allow list: service and address, and the length of both in bits.
    Allow([u8; 6], u32),
    /// A network out of an allow list.
    Disallow([u8; 6], u32),
    /// A service.
    Service(ServiceKey<Address>, Service),
    /// A service that is no more.
    RemoveService(ServiceKey<Address>),
}
