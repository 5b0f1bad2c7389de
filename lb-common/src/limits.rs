//! Every size and timeout that both sides must agree on: unit, reason, and what it costs.

use crate::flow::Tick;
use crate::flow_table::WAYS;

/// Services on one gateway. Costs a ring of [`RING_SIZE`] bytes and [`MAX_MEMBERS`] slots each.
pub const MAX_SERVICES: u16 = 64;

/// Members of one service. The choice at a SYN looks at each of them once, and the members that
/// a connection has tried fit the bits of a `u32`.
pub const MAX_MEMBERS: u8 = 32;

/// The largest weight of a member. It fits the ten bits that it has in a choice.
pub const MAX_WEIGHT: u16 = 1_000;

/// Slots of the member table: [`MAX_MEMBERS`] for each service.
pub const MAX_SLOTS: u32 = MAX_SERVICES as u32 * MAX_MEMBERS as u32;

/// Entries of the backend table. Entry 0 is the gateway itself: its limit is the size of the
/// connection table, and its tally counts every connection.
pub const MAX_BACKENDS: u16 = 256;

/// Bytes of a service's ring: the largest prime below 16,384. A Maglev table needs a prime and at
/// least a hundred positions for each member.
pub const RING_SIZE: u32 = 16_381;

/// Buckets of the table of half-open and ended flows of each family: 32,767 flows, two for each
/// connection, of 80 and 128 bytes each.
/// A flood of a million SYNs a second leaves a real client 16 ms to answer a SYN-ACK. Twice as many
/// would be more half-open connections than full-nat has ports to one backend.
pub const TRANSIENT_BUCKETS: u32 = 4_681;
/// Half-open and ended flows that there is room for.
pub const MAX_TRANSIENT_FLOWS: u32 = TRANSIENT_BUCKETS * WAYS;

/// Addresses and networks of one family in all access lists together.
pub const MAX_NETWORKS: u32 = 16_384;

/// Client addresses whose connections are counted, for services that limit them. With more than
/// these at a time, the others are not limited.
pub const MAX_SOURCES: u32 = 65_536;

/// Ports of full-nat connections that wait for the backend to forget them. Memory is only taken
/// for those that do.
pub const MAX_LINGERING: u32 = 262_144;

/// VLAN devices of the host.
pub const MAX_TRUNKS: u32 = 4_096;

/// How long a backend that closed a connection first keeps its port: Linux's `TCP_TIMEWAIT_LEN`
/// of 60 s (include/net/tcp.h), and half a second for the way.
pub const LINGER: Tick = Tick(3_606);

/// How long the port of a connection that its client closed first is not given to another one: the
/// backend's last segment may get lost and be sent again, with Linux after 200 and 600 ms. 1 s.
pub const LAST_WORDS: Tick = Tick(60);

/// Ports that are tried for a full-nat connection. With half of them taken, one connection in
/// 65,536 finds none.
pub const PORT_ATTEMPTS: u32 = 16;

/// How far behind the backend's SYN-ACK the acknowledgment number of the client's answer may be,
/// when a backend speaks first: a blind guess at it is right once in 65,536 times.
pub const ANSWER_WINDOW: u32 = 65_536;

/// 64-bit words of the filter that tells at a glance what cannot be ours: half for the services,
/// half for the backends, 65,536 bits each.
pub const FILTER_WORDS: u32 = 2_048;

/// More half-open connections than this towards one backend are a flood, not a rush of clients:
/// they are no longer shown as its connections, and full-nat looks to the age of its ports.
pub const HALF_OPEN_FLOOD: u64 = 1_024;

/// Half-open connections that weigh as much as established ones, for each unit of a member's
/// weight: 1,000 with the default weight.
pub const HALF_OPEN_RUSH: u64 = 10;

/// So many half-open connections beyond [`HALF_OPEN_RUSH`] weigh as much as one. A power of two.
pub const HALF_OPEN_DISCOUNT: u64 = 64;

/// A SYN repeated sooner than this is a duplicate from the network and keeps its backend; one
/// repeated later is a retransmission (RFC 6298: the first after 1 s) and tries another. 201 ms.
pub const SYN_DUPLICATE: Tick = Tick(12);

/// How long an unanswered SYN keeps its 4-tuple for itself: a few retries of its client, 4 s.
pub const OPENING: Tick = Tick(240);

/// How long new connections take the next hop that was found for another one to the same member. 1 s.
pub const KEPT_HOP: Tick = Tick(60);

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
