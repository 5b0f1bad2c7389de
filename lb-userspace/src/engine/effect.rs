//! The closed list of what the engine can ask of the shell.

use lb_common::backend::Backend;
use lb_common::family::WideAddress;
use lb_common::flow::FlowKey;
use lb_common::gateway::Gateway;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Forwarding, Service, ServiceId, ServiceKey};
use lb_common::trunk::Trunk;

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
    /// End these connections, named by the flow of the client's packets, by RST to both ends.
    ResetFlows(Vec<FlowKey<Address>>),
    /// Walk both connection tables.
    Walk,
    /// Remove flows that the kernel has no packet to notice by.
    Remove {
        /// From the established table, and how their packets were forwarded.
        established: Vec<(FlowKey<Address>, Forwarding)>,
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
    Backend(BackendId, Backend<WideAddress>),
    /// A service's ring.
    Ring(ServiceId, Vec<u8>),
    /// A word of the filter: its index and its bits.
    Filter(u32, u64),
    /// How frames of a VLAN device leave, by its interface index.
    Trunk(u32, Trunk),
    /// A VLAN device that is no more.
    RemoveTrunk(u32),
    /// An address of services.
    Vip(Address),
    /// One that is no more.
    RemoveVip(Address),
    /// A network into a service's access lists: its first address, its prefix length, and what
    /// holds for it.
    Access(ServiceId, Address, u8, Access),
    /// A network out of them.
    RemoveAccess(ServiceId, Address, u8),
    /// A service.
    Service(ServiceKey<Address>, Service),
    /// A service that is no more.
    RemoveService(ServiceKey<Address>),
}
