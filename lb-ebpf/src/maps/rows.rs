//! Rows of tables, by what they are read and written for.

use aya_ebpf::maps::Array;
use lb_common::choose::is_forgiven;
use lb_common::family::{Address, WideAddress};
use lb_common::flow::{Direction, FlowKey, Tick};
use lb_common::member::BackendId;
use lb_common::pipeline::Forward;
use lb_common::reason::Reason;
use lb_common::service::{Service, ServiceKey};
use lb_common::service_table::{self, ServiceRow};
use lb_common::source::{Pace, SourceKey, SourceTally};
use lb_common::tally::{Milestone, Tally};
use lb_common::trunk::Trunk;
use lb_common::wire::Egress;

use super::*;

/// Counts a packet that was not forwarded.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    // The counter is this CPU's own, and XDP programs do not interrupt each other.
    if let Some(count) = row(REASONS.get_ptr_mut(reason.index())) {
        *count += 1;
    }
}

/// Counts a packet that was forwarded.
#[inline(always)]
pub(crate) fn count_traffic(forward: &Forward, bytes: u64) {
    if let Some(traffic) = row(TRAFFIC.get_ptr_mut(u32::from(forward.slot.0))) {
        match forward.direction {
            Direction::ToBackend => {
                traffic.packets_to_backend += 1;
                traffic.bytes_to_backend += bytes;
            }
            Direction::ToClient => {
                traffic.packets_to_client += 1;
                traffic.bytes_to_client += bytes;
            }
        }
    }
}

/// The coarse clock: as exact as the timer tick. It is read once for each of these and CPU, since
/// the count of ticks is a load and the reading a call.
#[inline(always)]
pub(crate) fn now() -> Tick {
    let timer = timer();
    let Some(clock) = row(CLOCK.get_ptr_mut(0)) else {
        return read_clock();
    };
    if clock.timer != timer {
        *clock = Clock {
            timer,
            now: read_clock(),
        };
    }
    clock.now
}

/// The established connections of a client address.
#[inline(always)]
pub(crate) fn count_connections(source: &SourceKey) -> u64 {
    let tally = row(SOURCES.get_ptr_mut(source)).map(|tally| *tally);
    let reaped = row(SOURCES_REAPED.get_ptr_mut(source)).map(|reaped| *reaped);
    tally.unwrap_or_default().connections(reaped.unwrap_or(0))
}

/// Counts a connection of a client address as established.
#[inline(always)]
pub(crate) fn count_source(source: &SourceKey) {
    if SOURCES.get_ptr(source).is_none() {
        // Another CPU may have been quicker; in a full table the address is not limited.
        let _ = SOURCES.insert(source, SourceTally::default(), BPF_NOEXIST);
    }
    if let Some(tally) = row(SOURCES.get_ptr_mut(source)) {
        add_one(&mut tally.established);
    }
}

/// Counts a connection of a client address as ended, if those of this address are counted.
#[inline(always)]
pub(crate) fn discount_source(source: &SourceKey) {
    if let Some(tally) = row(SOURCES.get_ptr_mut(source)) {
        add_one(&mut tally.ended);
    }
}

/// Takes a turn of a service. Two CPUs may take the same one: they choose the same member, once.
#[inline(always)]
pub(crate) fn take_turn(service: u32) -> u64 {
    let Some(turns) = row(TURNS.get_ptr_mut(service)) else {
        return 0;
    };
    let turn = *turns;
    add_one(turns);
    turn
}

/// Makes a slot suspect and tells the controller, unless it is suspect already.
#[inline(always)]
pub(crate) fn suspect(slot: u32) {
    let (Some(member), Some(tally)) = (MEMBERS.get(slot), row(SLOT_TALLIES.get_ptr_mut(slot)))
    else {
        return;
    };
    if is_forgiven(tally.suspicions, member.forgiven) {
        add_one(&mut tally.suspicions);
        // The controller also sees it in the tally; the record only makes it quick.
        let _ = SUSPECTS.output::<u32>(slot, 0);
    }
}

#[inline(always)]
pub(crate) fn next_hop_generation() -> u32 {
    GATEWAY
        .get(0)
        .map_or(0, |gateway| gateway.next_hop_generation)
}

#[inline(always)]
pub(crate) fn shares_next_hops() -> bool {
    GATEWAY
        .get(0)
        .is_some_and(|gateway| gateway.shares_next_hops != 0)
}

/// Where the keys of tables are written.
#[inline(always)]
pub(crate) fn keys() -> Option<&'static mut Keys> {
    row(KEYS.get_ptr_mut(0))
}

/// Keeps how the packet in hand leaves.
#[inline(always)]
pub(crate) fn keep_egress(egress: Egress) {
    if let Some(place) = row(EGRESS.get_ptr_mut(0)) {
        *place = egress;
    }
}

/// What was kept last.
#[inline(always)]
pub(crate) fn kept_egress() -> Egress {
    row(EGRESS.get_ptr_mut(0)).map_or_else(Egress::default, |egress| *egress)
}

/// The first and the last port that full-nat connections leave from.
#[inline(always)]
pub(crate) fn ports() -> (u16, u16) {
    GATEWAY
        .get(0)
        .map_or((0, 0), |gateway| (gateway.first_port, gateway.last_port))
}

/// Counts a milestone of a connection for its slot, its backend and the gateway.
#[inline(always)]
pub(crate) fn count(slot: u32, milestone: u32) {
    count_in(SLOT_TALLIES.get_ptr_mut(slot), milestone);
    if let Some(member) = MEMBERS.get(slot) {
        let backend = u32::from(member.backend.0);
        count_in(BACKEND_TALLIES.get_ptr_mut(backend), milestone);
    }
    let gateway = u32::from(BackendId::GATEWAY.0);
    count_in(BACKEND_TALLIES.get_ptr_mut(gateway), milestone);
}

#[inline(always)]
fn count_in(tally: Option<*mut Tally>, milestone: u32) {
    const HALF_OPENED: u32 = Milestone::HalfOpened as u32;
    const HALF_CLOSED: u32 = Milestone::HalfClosed as u32;
    const ESTABLISHED: u32 = Milestone::Established as u32;
    const RESUMED: u32 = Milestone::Resumed as u32;
    let Some(tally) = row(tally) else { return };
    match milestone {
        HALF_OPENED => add_one(&mut tally.half_opened),
        HALF_CLOSED => add_one(&mut tally.half_closed),
        ESTABLISHED => {
            add_one(&mut tally.half_closed);
            add_one(&mut tally.established);
        }
        RESUMED => add_one(&mut tally.established),
        _ => add_one(&mut tally.ended),
    }
}

/// Finds a service: mostly in the first of its rows.
#[inline(always)]
pub(crate) fn find_service<A: Address + 'static>(
    table: &Array<ServiceRow<A>>,
    key: &ServiceKey<A>,
) -> Option<&'static Service> {
    let first = service_table::rows(key).next()?;
    let row = row(table.get_ptr_mut(first))?;
    if row.is_of(key) {
        Some(&row.service)
    } else {
        find_displaced_service(table, key)
    }
}

#[inline(never)]
fn find_displaced_service<A: Address + 'static>(
    table: &Array<ServiceRow<A>>,
    key: &ServiceKey<A>,
) -> Option<&'static Service> {
    for place in service_table::rows(key).skip(1) {
        let row = row(table.get_ptr_mut(place))?;
        if row.is_of(key) {
            return Some(&row.service);
        }
    }
    None
}

/// How frames of an interface leave, if it is a VLAN device.
#[inline(always)]
pub(crate) fn find_trunk(interface: u32) -> Option<Trunk> {
    row(TRUNKS.get_ptr_mut(interface)).map(|trunk| *trunk)
}

/// The same number, about which the verifier knows nothing: it follows what is on the stack, but not
/// what is in a table.
#[inline(always)]
pub(crate) fn unfollowed(number: u64) -> u64 {
    row(UNFOLLOWED.get_ptr_mut(0)).map_or(number, |place| {
        *place = number;
        load(place)
    })
}

/// When a port began to linger.
#[inline(always)]
pub(crate) fn find_lingering(key: &FlowKey<WideAddress>) -> Option<Tick> {
    row(LINGERING.get_ptr_mut(key)).map(|since| *since)
}

/// When the next connection of a client address is due.
#[inline(always)]
pub(crate) fn find_pace(source: &SourceKey) -> Pace {
    row(PACES.get_ptr_mut(source)).map_or_else(Pace::default, |pace| *pace)
}
