//! Changes of the tables of flows that the controller asks for. Only the kernel writes them: a
//! small program beside the one that forwards does it, which the controller runs once for each.

use crate::family::WideAddress;
use crate::flow_table::Entry;

/// What is to become of a flow.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is removed from the established table.
    RemoveEstablished = 0,
    /// It is removed from the transient table.
    RemoveTransient = 1,
    /// The established one gets the generation that no member has: its next packet meets an RST.
    Disown = 2,
    /// It is put into the established table.
    PutEstablished = 3,
    /// It is put into the transient table.
    PutTransient = 4,
}

/// A change of one flow, as the controller writes it for the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Amendment {
    change: u32,
    /// Whether the flow is an IPv4 one (1) or an IPv6 one (0).
    is_v4: u32,
    /// The flow; of most changes only the key matters.
    pub entry: Entry<WideAddress>,
}

impl Amendment {
    /// This change of this flow of this family.
    pub const fn new(change: Change, is_v4: bool, entry: Entry<WideAddress>) -> Self {
        Self {
            change: change as u32,
            is_v4: is_v4 as u32,
            entry,
        }
    }

    /// What is to become of the flow; `None` for what no controller of this version writes.
    #[inline(always)]
    pub const fn change(&self) -> Option<Change> {
        match self.change {
            0 => Some(Change::RemoveEstablished),
            1 => Some(Change::RemoveTransient),
            2 => Some(Change::Disown),
            3 => Some(Change::PutEstablished),
            4 => Some(Change::PutTransient),
            _ => None,
        }
    }

    /// Whether the flow is an IPv4 one.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.is_v4 != 0
    }
}
