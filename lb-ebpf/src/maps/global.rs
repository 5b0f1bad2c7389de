//! The functions that the verifier checks once, by themselves, and not at every call: that takes
//! numbers as arguments and as result.
#![expect(
    unsafe_code,
    reason = "a function keeps its name, and so stays global, by this attribute alone"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "every caller widens a `u8` or a `u16`"
)]

use lb_common::choose;
use lb_common::family::{V4, V6};
use lb_common::member::{BackendId, Slot};
use lb_common::port;
use lb_common::reason::Reason;
use lb_common::service::ServiceId;

use super::pass_time;
use super::rows::{count, now};
use crate::family::TabledFamily;
use crate::tables::KernelTables;

const TABLES: KernelTables<'_> = KernelTables { ctx: None };

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_walk_ring(service: u32, length: u32, start: u32, tried: u32) -> u64 {
    choose::walk_ring::<V4, _>(&TABLES, ServiceId(service as u16), length, start, tried).0
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_least_loaded(service: u32, members: u32, tried: u32) -> u64 {
    choose::least_loaded::<V4, _>(&TABLES, ServiceId(service as u16), members as u8, tried).0
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_has_room(backend: u32) -> u32 {
    u32::from(choose::has_room::<V4, _>(
        &TABLES,
        BackendId(backend as u16),
    ))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_count(slot: u32, milestone: u32) -> u32 {
    count(slot, milestone);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_take_port_v4(slot: u32) -> u32 {
    take_port::<V4>(slot)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_take_port_v6(slot: u32) -> u32 {
    take_port::<V6>(slot)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_pause() -> u32 {
    pass_time();
    0
}

/// Each label is a way of its own through the formatting. The macro has no use for a context.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pglb_log_refusal(reason: u32) -> u32 {
    aya_log_ebpf::debug!((), "refused: {}", Reason::at(reason).label());
    0
}

#[inline(always)]
fn take_port<F: TabledFamily>(slot: u32) -> u32 {
    F::KEY.get(0).map_or(0, |key| {
        u32::from(port::take_port::<F, _>(
            &TABLES,
            key,
            Slot(slot as u16),
            now(),
        ))
    })
}
