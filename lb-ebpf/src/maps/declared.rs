//! Every kernel table: what it holds, how many of it, and its name under the pin directory.
#![expect(
    unsafe_code,
    reason = "the loader finds tables and constants by the names of their statics"
)]

use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key as Network, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use lb_common::backend::Backend;
use lb_common::family::{V4Address, V6Address};
use lb_common::flow::{FlowKey, MemberHop, Tick};
use lb_common::flow_table::{Bucket, Entry, TagPage, pages};
use lb_common::gateway::Gateway;
use lb_common::limits::{
    FILTER_WORDS, MAX_BACKENDS, MAX_LINGERING, MAX_NETWORKS, MAX_SERVICES, MAX_SLOTS, MAX_SOURCES,
    MAX_TRUNKS, TRANSIENT_BUCKETS,
};
use lb_common::member::Member;
use lb_common::reason::Reason;
use lb_common::service::ServiceKey;
use lb_common::service_table::{SERVICE_ROWS, ServiceRow};
use lb_common::source::{Pace, SourceKey, SourceTally};
use lb_common::tally::{Tally, Traffic};
use lb_common::trunk::Trunk;
use lb_common::wire::Egress;

use super::flows::Sought;

/// The licence as the kernel reads it: the routing lookup is for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Flags of a map whose entries are allocated as they come: a trie can be no other, and the rest
/// are for what most gateways do not use.
const BPF_F_NO_PREALLOC: u32 = 1;
/// The flag of an array that user space may map. Nobody does here, but the rows of such an array begin
/// at a page (Linux 5.5, `array_map_alloc`), and not behind the array's own header, somewhere in a
/// cache line: a flow of IPv6, of 128 bytes, lies in two lines then and not in three.
const BPF_F_MMAPABLE: u32 = 1 << 10;
#[expect(clippy::cast_possible_truncation, reason = "there are 25")]
const REASON_COUNT: u32 = Reason::ALL.len() as u32;

/// Established flows, two for each connection, and the tags of their buckets. The controller sets
/// both sizes when it loads the program; nothing is ever evicted.
#[map]
pub(crate) static ESTABLISHED_V4: Array<Bucket<V4Address>> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
pub(crate) static ESTABLISHED_TAGS_V4: Array<TagPage> = Array::pinned(1, 0);
#[map]
pub(crate) static ESTABLISHED_V6: Array<Bucket<V6Address>> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
pub(crate) static ESTABLISHED_TAGS_V6: Array<TagPage> = Array::pinned(1, 0);
/// Half-open and ended flows.
#[map]
pub(crate) static TRANSIENT_V4: Array<Bucket<V4Address>> =
    Array::pinned(TRANSIENT_BUCKETS, BPF_F_MMAPABLE);
#[map]
pub(crate) static TRANSIENT_TAGS_V4: Array<TagPage> = Array::pinned(pages(TRANSIENT_BUCKETS), 0);
#[map]
pub(crate) static TRANSIENT_V6: Array<Bucket<V6Address>> =
    Array::pinned(TRANSIENT_BUCKETS, BPF_F_MMAPABLE);
#[map]
pub(crate) static TRANSIENT_TAGS_V6: Array<TagPage> = Array::pinned(pages(TRANSIENT_BUCKETS), 0);
/// Ports of full-nat connections that wait for their backend to forget them.
#[map]
pub(crate) static LINGERING: HashMap<FlowKey<V6Address>, Tick> =
    HashMap::pinned(MAX_LINGERING, BPF_F_NO_PREALLOC);
/// What cannot be ours, at a glance.
#[map]
pub(crate) static FILTER: Array<u64> = Array::pinned(FILTER_WORDS, 0);
/// The services, and which addresses are VIPs.
#[map]
pub(crate) static SERVICES_V4: Array<ServiceRow<V4Address>> = Array::pinned(SERVICE_ROWS, 0);
#[map]
pub(crate) static SERVICES_V6: Array<ServiceRow<V6Address>> = Array::pinned(SERVICE_ROWS, 0);
/// The access lists: networks behind the 16-bit number of their service.
#[map]
pub(crate) static ACCESS_V4: LpmTrie<[u8; 6], u8> =
    LpmTrie::pinned(MAX_NETWORKS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static ACCESS_V6: LpmTrie<[u8; 18], u8> =
    LpmTrie::pinned(MAX_NETWORKS, BPF_F_NO_PREALLOC);
/// When the next connection of a client address is due; what is forgotten only lets one in.
#[map]
pub(crate) static PACES: LruHashMap<SourceKey, Pace> = LruHashMap::pinned(MAX_SOURCES, 0);
#[map]
pub(crate) static SOURCES: HashMap<SourceKey, SourceTally> =
    HashMap::pinned(MAX_SOURCES, BPF_F_NO_PREALLOC);
/// Connections of a client address that the controller ended or found gone; it alone writes them.
#[map]
pub(crate) static SOURCES_REAPED: HashMap<SourceKey, u64> =
    HashMap::pinned(MAX_SOURCES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static MEMBERS: Array<Member> = Array::pinned(MAX_SLOTS, 0);
#[map]
pub(crate) static BACKENDS: Array<Backend<V6Address>> = Array::pinned(MAX_BACKENDS as u32, 0);
/// One ring for each service; the last bytes, from `RING_SIZE` on, are not used.
#[map]
pub(crate) static RINGS: Array<[u8; 16_384]> = Array::pinned(MAX_SERVICES as u32, 0);
#[map]
pub(crate) static TURNS: Array<u64> = Array::pinned(MAX_SERVICES as u32, 0);
#[map]
pub(crate) static SLOT_TALLIES: Array<Tally> = Array::pinned(MAX_SLOTS, 0);
#[map]
pub(crate) static BACKEND_TALLIES: Array<Tally> = Array::pinned(MAX_BACKENDS as u32, 0);
#[map]
pub(crate) static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(MAX_SLOTS, 0);
#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::pinned(REASON_COUNT, 0);
#[map]
pub(crate) static GATEWAY: Array<Gateway> = Array::pinned(1, 0);
/// VLAN devices by interface index.
#[map]
pub(crate) static TRUNKS: HashMap<u32, Trunk> = HashMap::pinned(MAX_TRUNKS, BPF_F_NO_PREALLOC);
/// Slots that have just become suspect, for the controller to probe.
#[map]
pub(crate) static SUSPECTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
/// The next hop to each member, kept by each CPU for itself: none is read half written.
#[map]
pub(crate) static MEMBER_HOPS: PerCpuArray<MemberHop> = PerCpuArray::with_max_entries(MAX_SLOTS, 0);
/// Where a question to the routing tables is written, to save stack.
#[map]
pub(crate) static ROUTING: PerCpuArray<FibQuery> = PerCpuArray::with_max_entries(1, 0);

/// What the clock said, and at which timer tick.
pub(crate) struct Clock {
    /// Timer ticks since boot (`jiffies`).
    pub(crate) timer: u64,
    /// The clock then.
    pub(crate) now: Tick,
}

#[map]
pub(crate) static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);
/// Where a flow is written before it goes into a table, to save stack, and the replies' flow beside it.
#[map]
pub(crate) static DRAFT_V4: PerCpuArray<Entry<V4Address>> = PerCpuArray::with_max_entries(2, 0);
#[map]
pub(crate) static DRAFT_V6: PerCpuArray<Entry<V6Address>> = PerCpuArray::with_max_entries(2, 0);
/// What the flow of the packet in hand is found by.
#[map]
pub(crate) static KEY_V4: PerCpuArray<FlowKey<V4Address>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static KEY_V6: PerCpuArray<FlowKey<V6Address>> = PerCpuArray::with_max_entries(1, 0);
/// Keys of the kernel's own tables: on the stack the verifier wants every part of them aligned.
pub(crate) struct Keys {
    /// Of a service.
    pub(crate) service_v4: ServiceKey<V4Address>,
    pub(crate) service_v6: ServiceKey<V6Address>,
    /// Of the access lists.
    pub(crate) access_v4: Network<[u8; 6]>,
    pub(crate) access_v6: Network<[u8; 18]>,
    /// Of a client address.
    pub(crate) source: SourceKey,
    /// Of a port that waits.
    pub(crate) lingering: FlowKey<V6Address>,
}

#[map]
pub(crate) static KEYS: PerCpuArray<Keys> = PerCpuArray::with_max_entries(1, 0);
/// A number that the verifier is to know nothing about.
#[map]
pub(crate) static UNFOLLOWED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// The key of the flow that is searched for, in words.
#[map]
pub(crate) static SOUGHT_V4: PerCpuArray<Sought<V4Address>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SOUGHT_V6: PerCpuArray<Sought<V6Address>> = PerCpuArray::with_max_entries(1, 0);
/// How the packet in hand leaves, between two functions of which each needs the stack.
#[map]
pub(crate) static EGRESS: PerCpuArray<Egress> = PerCpuArray::with_max_entries(1, 0);

/// The buckets of a table of established flows: as many as the controller made it with.
#[unsafe(no_mangle)]
pub(crate) static ESTABLISHED_BUCKETS: u32 = 1;

/// A random number that the places of flows depend on: that of the gateway's row.
#[unsafe(no_mangle)]
pub(crate) static SEED: u32 = 0;

/// Whether rare events are logged. The controller sets it before the program is loaded.
#[unsafe(no_mangle)]
pub(crate) static DEBUG_DATAPATH: u32 = 0;

/// Whether packets go back out of the interface they came from by redirection. The controller
/// sets it where an interface is a veth: that one drops what `XDP_TX` sends unless its peer runs
/// XDP too, while a redirected packet arrives where the peer has GRO on as well.
#[unsafe(no_mangle)]
pub(crate) static REDIRECT_BACK: u32 = 0;
