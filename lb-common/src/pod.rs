//! Leave for aya to copy table entries as bytes; the only `unsafe` of this crate.
#![expect(
    unsafe_code,
    reason = "`aya::Pod` promises that any bytes of the size are a valid value"
)]

use crate::backend::Backend;
use crate::flow::{Flow, FlowKey};
use crate::gateway::Gateway;
use crate::member::Member;
use crate::service::{Service, ServiceKey};
use crate::tally::{Tally, Traffic};

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
    FlowKey<[u8; 4]>: 12 bytes,
    Flow<[u8; 4]>: 48 bytes,
    ServiceKey<[u8; 4]>: 8 bytes,
    Service: 12 bytes,
    Member: 40 bytes,
    Backend<[u8; 4]>: 32 bytes,
    Tally: 40 bytes,
    Traffic: 32 bytes,
    Gateway: 8 bytes,
}
