//! What pglb's XDP program is measured against: programs that do a known part of its work, and a
//! feeder that runs before whatever is measured.
//!
//! None of this is shipped. Every program here is as plain as it can be while it does its part
//! the way a good data plane would, so that its time is the price of that part.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the only way to an atomic addition on this target"
)]

mod cache;
mod feeder;
mod frame;
mod ladder;
mod opening;
mod prices;
mod reference;

/// The licence as the kernel reads it.
#[expect(unsafe_code, reason = "the loader looks for this very symbol")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
