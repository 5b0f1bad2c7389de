//! What the controller asks to have changed in the tables of flows. It is a program of its own, which
//! is attached to nothing: the controller runs it (`BPF_PROG_TEST_RUN`), with an order in [`AMENDMENT`].

use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use lb_common::amend::{Amendment, Change};
use lb_common::family::{Address, V4, V6};

use crate::family::TabledFamily;
use crate::maps::flows::{insert, look_up, remove};

/// What is to be changed. The controller writes it.
#[map]
static AMENDMENT: Array<Amendment> = Array::pinned(1, 0);

/// Returns 1 when the flow was there, or there was room for it.
#[xdp]
fn pglb_amend(_: XdpContext) -> u32 {
    let is_done = AMENDMENT.get(0).is_some_and(|amendment| {
        if amendment.is_v4() {
            amend::<V4>(amendment)
        } else {
            amend::<V6>(amendment)
        }
    });
    u32::from(is_done)
}

#[inline(never)]
fn amend<F: TabledFamily>(amendment: &Amendment) -> bool {
    let Some(change) = amendment.change() else {
        return false;
    };
    let key = amendment.entry.key.map(Address::narrow);
    let flow = || amendment.entry.flow.map(Address::narrow);
    match change {
        Change::RemoveEstablished => remove::<F::Established>(&key),
        Change::RemoveTransient => remove::<F::Transient>(&key),
        Change::Disown => {
            let found = look_up::<F::Established>(&key);
            if let Some(flow) = found {
                flow.disown();
            }
            found.is_some()
        }
        Change::PutEstablished => insert::<F::Established>(&key, flow),
        Change::PutTransient => insert::<F::Transient>(&key, flow),
    }
}
