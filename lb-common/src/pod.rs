//! Leave for aya to copy table entries as bytes; the only `unsafe` of this crate.
#![expect(
    unsafe_code,
    reason = "`aya::Pod` promises that any bytes of the size are a valid value"
)]

use crate::amend::Amendment;
use crate::backend::Backend;
use crate::capture::Capture;
use crate::family::{V4Address, V6Address};
use crate::flow::{Flow, FlowKey, Tick};
use crate::flow_table::Entry;
use crate::gateway::Gateway;
use crate::member::Member;
use crate::service::{Service, ServiceKey};
use crate::service_table::ServiceRow;
use crate::source::{Pace, SourceKey, SourceTally};
use crate::tally::{Tally, Traffic};
use crate::trunk::Trunk;

/// Implements `aya::Pod` for a type of a known size, which is also part of the table layout.
macro_rules! pod {
    ($($entry:ty: $size:literal bytes),+ $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and byte arrays alone, so any bytes are a valid value;
        // the sum of the fields' sizes is the size, so there is no padding to read.
        unsafe impl aya::Pod for $entry {}
        const _: () = assert!(size_of::<$entry>() == $size, "the table layout has changed");
    )+};
}

pod! {
    FlowKey<V4Address>: 12 bytes,
    FlowKey<V6Address>: 36 bytes,
    Flow<V4Address>: 64 bytes,
    Flow<V6Address>: 88 bytes,
    ServiceKey<V4Address>: 8 bytes,
    ServiceKey<V6Address>: 20 bytes,
    Service: 20 bytes,
    ServiceRow<V4Address>: 32 bytes,
    ServiceRow<V6Address>: 44 bytes,
    Capture: 8 bytes,
    Member: 40 bytes,
    Backend<V6Address>: 64 bytes,
    Tally: 40 bytes,
    Traffic: 32 bytes,
    SourceKey: 20 bytes,
    SourceTally: 16 bytes,
    Pace: 8 bytes,
    Tick: 4 bytes,
    Trunk: 8 bytes,
    Gateway: 20 bytes,
    Amendment: 136 bytes,
    Entry<V4Address>: 80 bytes,
    Entry<V6Address>: 128 bytes,
}
