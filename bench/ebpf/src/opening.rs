//! The reference programs for new flows: what a SYN costs with the kernel's own tables, in which the
//! oldest flow makes room too.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4, V6};
use crate::reference::{HEADERS_V4, HEADERS_V6, apply, count, key_v4, key_v6, read};

/// As many flows as pglb's table of half-open flows has room for.
const FLOWS: u32 = 32_768;

#[map]
static OPENED_V4: LruHashMap<[u32; 4], [u32; 6]> = LruHashMap::with_max_entries(FLOWS, 0);
#[map]
static OPENED_V6: LruHashMap<[u32; 10], [u32; 9]> = LruHashMap::with_max_entries(FLOWS, 0);
/// Services by address and port: the entry that the flows of their clients get.
#[map]
static SERVED_V4: HashMap<[u32; 2], [u32; 6]> = HashMap::with_max_entries(128, 0);
#[map]
static SERVED_V6: HashMap<[u32; 5], [u32; 9]> = HashMap::with_max_entries(128, 0);

macro_rules! opening {
    (
        $family:ident, $headers:ident, $key_of:ident, $words:literal words: $opened:ident,
        $served:ident, $search:ident, $seek:ident, $open:ident
    ) => {
        /// The key of the flow, and its entry; that of its service if it is new.
        #[inline(always)]
        fn $search(frame: &Frame) -> Option<([u32; 2 * $words + 2], *const [u32; $words + 5])> {
            let key = $key_of(frame);
            if let Some(entry) = $opened.get_ptr(key) {
                return Some((key, entry));
            }
            let mut service = [0; $words + 1];
            service[..$words].copy_from_slice(&key[$words..2 * $words]);
            service[$words] = frame.read::<u16>($family::TCP + 2).into();
            Some((key, $served.get_ptr(service)?))
        }

        /// (c): the flow is not found, but its service.
        #[xdp]
        fn $seek(ctx: XdpContext) -> u32 {
            read::<$family, $headers>(&ctx)
                .and_then(|frame| $search(&frame))
                .map_or(XDP_PASS, |_| XDP_TX)
        }

        /// (d): and both flows are remembered, the packet is rewritten and counted.
        #[xdp]
        fn $open(ctx: XdpContext) -> u32 {
            let opened = read::<$family, $headers>(&ctx).and_then(|frame| {
                let (key, entry) = $search(&frame)?;
                // SAFETY: the lookup has found it. Copied once, so that it is not read again.
                let entry = unsafe { *entry };
                let mut reply = key;
                reply[..$words].copy_from_slice(&entry[..$words]);
                reply[$words..2 * $words].copy_from_slice(&key[..$words]);
                reply[2 * $words] = key[2 * $words].rotate_right(16);
                $opened.insert(key, entry, 0).ok()?;
                $opened.insert(reply, entry, 0).ok()?;
                let (mut address, mut rest) = ([0; $words], [0; 5]);
                address.copy_from_slice(&entry[..$words]);
                rest.copy_from_slice(&entry[$words..]);
                apply::<$family, $words, 5>(&frame, address, rest);
                count(&ctx, rest[4]);
                Some(XDP_TX)
            });
            opened.unwrap_or(XDP_PASS)
        }
    };
}

opening!(V4, HEADERS_V4, key_v4, 1 words: OPENED_V4, SERVED_V4, search_v4, seek_v4, open_v4);
opening!(V6, HEADERS_V6, key_v6, 4 words: OPENED_V6, SERVED_V6, search_v6, seek_v6, open_v6);
