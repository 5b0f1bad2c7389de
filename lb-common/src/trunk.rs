//! VLAN devices: the routing tables name them, but frames leave by the interface below.

use crate::wire::EgressTags;

/// How frames of a VLAN device leave, by the device's interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Trunk {
    /// The index of the interface below it all.
    pub interface: u32,
    /// The tags that they leave with.
    pub tags: EgressTags,
}
