//! Every size and timeout that both sides must agree on: unit, reason, and what it costs.

use crate::flow::Tick;

/// Services on one gateway. Costs a ring of [`RING_SIZE`] bytes and [`MAX_MEMBERS`] slots each.
pub const MAX_SERVICES: u16 = 64;

/// Members of one service. The choice at a SYN looks at each of them once, and the members that
/// a connection has tried fit the bits of a `u32`.
pub const MAX_MEMBERS: u8 = 32;

/// Slots of the member table: [`MAX_MEMBERS`] for each service.
pub const MAX_SLOTS: u32 = MAX_SERVICES as u32 * MAX_MEMBERS as u32;

/// Entries of the backend table. Entry 0 is the gateway itself: its limit is the size of the
/// connection table, and its tally counts every connection.
pub const MAX_BACKENDS: u16 = 256;

/// Bytes of a service's ring: the largest prime below 16,384. A Maglev table needs a prime and at
/// least a hundred positions for each member.
pub const RING_SIZE: u32 = 16_381;

/// Entries of the table of half-open and ended flows, two for each connection, 112 bytes each.
/// A flood of a million SYNs a second leaves a real client 16 ms to answer a SYN-ACK.
pub const MAX_TRANSIENT_FLOWS: u32 = 32_768;

/// Addresses and networks in all `allow` lists together.
pub const MAX_ALLOWED: u32 = 16_384;

/// More half-open connections than this towards one backend are a flood, not a rush of clients:
/// they no longer count as load, so that spoofed SYNs cannot make a backend look full.
pub const HALF_OPEN_FLOOD: u64 = 1_024;

/// A SYN repeated sooner than this is a duplicate from the network and keeps its backend; one
/// repeated later is a retransmission (RFC 6298: the first after 1 s) and tries another. 201 ms.
pub const SYN_DUPLICATE: Tick = Tick(12);

/// Positions of a ring that one choice looks at before it takes the least-loaded member instead.
pub const RING_STEPS: u32 = 8;

const _: () = assert!(
    MAX_MEMBERS as u32 <= u32::BITS,
    "tried members are bits of a u32"
);
const _: () = assert!(MAX_SLOTS <= 1 << 16, "a slot is a u16");
const _: () = assert!(
    RING_SIZE >= 100 * MAX_MEMBERS as u32,
    "a Maglev ring must be fine enough"
);
