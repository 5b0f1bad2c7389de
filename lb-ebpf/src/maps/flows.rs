//! The tables of flows: the accesses of [`lb_common::flow_table`], and how the CPUs agree.
//!
//! A way of a bucket belongs to whoever has put [`Tags::CLAIMED`] into its byte by
//! compare-and-swap; the flow is written, and only then its tag, which makes it visible. Whoever
//! takes the tag out again has removed the flow, and nobody else has. A search takes no lock; what
//! it finds may be removed, and its place used again, while the packet is handled, as in the
//! kernel's own tables.
#![expect(
    unsafe_code,
    reason = "a function keeps its name, and so stays global, by this attribute alone"
)]

use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::family::{Address, V4Address, V6Address};
use lb_common::flow::{Flow, FlowKey};
use lb_common::flow_table::{Bucket, Entry, Home, Keyed, PAGE_WORDS, TagPage, Tags, WAYS};
use lb_common::limits::TRANSIENT_BUCKETS;

use super::*;

/// A way is tried to be taken so often while other CPUs take those beside it.
const ATTEMPTS: u32 = 8;

/// A table of flows.
pub(crate) trait FlowTable {
    /// The addresses of its family.
    type Address: Keyed + 'static;
    /// The tags of its buckets, page by page.
    const TAGS: &'static Array<TagPage>;
    /// Its buckets.
    const BUCKETS: &'static Array<Bucket<Self::Address>>;
    /// Where its flows are written before they go in.
    const DRAFT: &'static PerCpuArray<Entry<Self::Address>>;
    /// Whether a new flow takes the place of an old one when there is no room.
    const FORGETS: bool;
    /// What is searched for.
    const SOUGHT: &'static PerCpuArray<Sought<Self::Address>>;

    /// [`search`], which the verifier checks once, as it does the next two.
    fn search(but: Position) -> Position;
    /// [`write`].
    fn write() -> Position;
    /// [`take_out`].
    fn take_out(position: Position) -> bool;

    /// How many buckets it has.
    #[inline(always)]
    fn size() -> u32 {
        if Self::FORGETS {
            TRANSIENT_BUCKETS
        } else {
            established_buckets()
        }
    }
}

macro_rules! flow_table {
    (
        $name:ident of $address:ty, $forgets:literal: $tags:ident, $buckets:ident, $draft:ident,
        $sought:ident, $search:ident, $write:ident, $take_out:ident
    ) => {
        pub(crate) enum $name {}

        impl FlowTable for $name {
            type Address = $address;
            const TAGS: &'static Array<TagPage> = &$tags;
            const BUCKETS: &'static Array<Bucket<$address>> = &$buckets;
            const DRAFT: &'static PerCpuArray<Entry<$address>> = &$draft;
            const SOUGHT: &'static PerCpuArray<Sought<$address>> = &$sought;
            const FORGETS: bool = $forgets;

            #[inline(always)]
            fn search(but: Position) -> Position {
                Position($search(but.0))
            }

            #[inline(always)]
            fn write() -> Position {
                Position($write())
            }

            #[inline(always)]
            fn take_out(position: Position) -> bool {
                $take_out(position.0) != 0
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $search(but: u64) -> u64 {
            search::<$name>(Position(but)).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $write() -> u64 {
            write::<$name>().0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $take_out(position: u64) -> u32 {
            u32::from(take_out::<$name>(Position(position)))
        }
    };
}

flow_table!(EstablishedV4 of V4Address, false: ESTABLISHED_TAGS_V4, ESTABLISHED_V4, DRAFT_V4,
    SOUGHT_V4, pglb_search_established_v4, pglb_write_established_v4, pglb_unestablish_v4);
flow_table!(EstablishedV6 of V6Address, false: ESTABLISHED_TAGS_V6, ESTABLISHED_V6, DRAFT_V6,
    SOUGHT_V6, pglb_search_established_v6, pglb_write_established_v6, pglb_unestablish_v6);
flow_table!(TransientV4 of V4Address, true: TRANSIENT_TAGS_V4, TRANSIENT_V4, DRAFT_V4,
    SOUGHT_V4, pglb_search_transient_v4, pglb_write_transient_v4, pglb_forget_v4);
flow_table!(TransientV6 of V6Address, true: TRANSIENT_TAGS_V6, TRANSIENT_V6, DRAFT_V6,
    SOUGHT_V6, pglb_search_transient_v6, pglb_write_transient_v6, pglb_forget_v6);

/// A key that is searched for, in words.
pub(crate) type Sought<A> = <A as Keyed>::Words;

/// Where a flow lies: a bucket, a way and the tag there; in one number, which a function can
/// return.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position(u64);

#[expect(
    clippy::cast_possible_truncation,
    reason = "each part is cut out of the number"
)]
impl Position {
    /// No way of any bucket.
    const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    fn new(bucket: u32, way: u32, tag: u64) -> Self {
        Self(u64::from(way) << 32 | tag << 40 | u64::from(bucket))
    }

    #[inline(always)]
    fn bucket(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn way(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff
    }

    #[inline(always)]
    fn tag(self) -> u64 {
        self.0 >> 40 & 0xff
    }
}

/// Finds a flow: all of it in place, for the one lookup of an established packet.
#[inline(always)]
pub(crate) fn find<T: FlowTable>(key: &FlowKey<T::Address>) -> Option<Place<T::Address>> {
    let words = T::Address::words(key);
    let Home { buckets, tag } = Home::of(words.as_ref(), seed(), T::size());
    let [first, second] = buckets;
    let entry =
        search_bucket::<T>(first, tag, words).or_else(|| search_bucket::<T>(second, tag, words))?;
    Some(place(entry))
}

#[inline(always)]
fn search_bucket<T: FlowTable>(
    bucket: u32,
    tag: u64,
    words: Sought<T::Address>,
) -> Option<&'static mut Entry<T::Address>> {
    let mut matches = Tags(load(tags::<T>(bucket)?)).matching(tag);
    for _ in 0..WAYS {
        let entry = entry::<T>(bucket, matches.first())?;
        if has_key(entry, words.as_ref()) {
            return Some(entry);
        }
        matches = matches.rest();
    }
    None
}

/// Finds a flow, where a few nanoseconds more are worth the room.
#[inline(always)]
pub(crate) fn look_up<T: FlowTable>(key: &FlowKey<T::Address>) -> Option<Place<T::Address>> {
    entry_at::<T>(locate::<T>(key, Position::NONE)).map(place)
}

/// Puts a flow into its table. One that is there with its key is replaced, or else left alone and
/// not returned; neither is one for which there is no room.
#[inline(always)]
pub(crate) fn insert<T: FlowTable>(
    key: &FlowKey<T::Address>,
    flow: impl FnOnce() -> Flow<T::Address>,
    replaces: bool,
) -> Option<Place<T::Address>> {
    let draft = row(T::DRAFT.get_ptr_mut(0))?;
    draft_flow(draft, key, flow);
    entry_at::<T>(insert_draft::<T>(replaces)).map(place)
}

/// Writes a draft in place: no reference leads to it but this.
#[inline(always)]
fn draft_flow<A: Address>(draft: &mut Entry<A>, key: &FlowKey<A>, flow: impl FnOnce() -> Flow<A>) {
    draft.key = *key;
    draft.flow = flow();
    draft.settle();
}

/// Puts a flow of one table into another too; tells whether there was room.
#[inline(never)]
pub(crate) fn copy<From, To>(key: &FlowKey<To::Address>) -> bool
where
    From: FlowTable<Address = To::Address>,
    To: FlowTable,
{
    let from = entry_at::<From>(locate::<From>(key, Position::NONE));
    let (Some(entry), Some(draft)) = (from, row(To::DRAFT.get_ptr_mut(0))) else {
        return false;
    };
    overwrite(draft, entry);
    insert_draft::<To>(true) != Position::NONE
}

/// Removes a flow; tells whether it was there.
#[inline(never)]
pub(crate) fn remove<T: FlowTable>(key: &FlowKey<T::Address>) -> bool {
    let position = locate::<T>(key, Position::NONE);
    position != Position::NONE && T::take_out(position)
}

#[inline(always)]
fn place<A>(entry: &mut Entry<A>) -> Place<A> {
    Place(&raw mut entry.flow)
}

/// The draft is written first, and then it is looked whether its key was there: mostly it was not.
/// Two CPUs may come here with the same key; both look after they are visible, so at least one of
/// them sees the other. When one is to replace the other, that of the lower position stays, so
/// that they agree which.
#[inline(never)]
fn insert_draft<T: FlowTable>(replaces: bool) -> Position {
    let Some(draft) = row(T::DRAFT.get_ptr_mut(0)) else {
        return Position::NONE;
    };
    let position = T::write();
    let other = locate::<T>(&draft.key, position);
    let Some(entry) = entry_at::<T>(other) else {
        return position;
    };
    if replaces && position.0 < other.0 {
        T::take_out(other);
        return position;
    }
    if position != Position::NONE {
        T::take_out(position);
    }
    if !replaces {
        return Position::NONE;
    }
    // Another CPU may read half of it, of the same connection.
    overwrite(entry, draft);
    other
}

/// Where the flow of `key` lies, if not only at `but`.
#[inline(always)]
fn locate<T: FlowTable>(key: &FlowKey<T::Address>, but: Position) -> Position {
    let Some(sought) = row(T::SOUGHT.get_ptr_mut(0)) else {
        return Position::NONE;
    };
    *sought = T::Address::words(key);
    T::search(but)
}

#[inline(always)]
fn search<T: FlowTable>(but: Position) -> Position {
    let Some(sought) = T::SOUGHT.get(0) else {
        return Position::NONE;
    };
    let Home { buckets, tag } = Home::of(sought.as_ref(), seed(), T::size());
    for bucket in buckets {
        let Some(tags) = tags::<T>(bucket) else {
            break;
        };
        let mut matches = Tags(load(tags)).matching(tag);
        for _ in 0..WAYS {
            let way = matches.first();
            let Some(entry) = entry::<T>(bucket, way) else {
                break;
            };
            let position = Position::new(bucket, way, tag);
            if position != but && has_key(entry, sought.as_ref()) {
                return position;
            }
            matches = matches.rest();
        }
    }
    Position::NONE
}

/// Whether the key of an entry has these words.
#[inline(always)]
fn has_key<A: Keyed>(entry: &Entry<A>, words: &[u64]) -> bool {
    A::words(&entry.key).as_ref() == words
}

/// Writes the draft into its table, where there is room.
#[inline(always)]
fn write<T: FlowTable>() -> Position {
    let Some(draft) = row(T::DRAFT.get_ptr_mut(0)) else {
        return Position::NONE;
    };
    let position = claim::<T>(T::Address::words(&draft.key));
    let Some(entry) = entry_at::<T>(position) else {
        return Position::NONE;
    };
    // The way is claimed, so nobody else reads or writes it.
    overwrite(entry, draft);
    publish::<T>(position);
    position
}

/// Takes a way for a new flow, in the emptier bucket of its two.
#[inline(always)]
fn claim<T: FlowTable>(words: <T::Address as Keyed>::Words) -> Position {
    let Home { buckets, tag } = Home::of(words.as_ref(), seed(), T::size());
    let [first, second] = buckets;
    let (Some(tags), Some(others)) = (tags::<T>(first), tags::<T>(second)) else {
        return Position::NONE;
    };
    let (bucket, tags) = if Tags(load(tags)).free().count() >= Tags(load(others)).free().count() {
        (first, tags)
    } else {
        (second, others)
    };
    for _ in 0..ATTEMPTS {
        let now = Tags(load(tags));
        let free = now.free().first();
        let (way, then) = if free < WAYS {
            (free, now)
        } else if T::FORGETS {
            now.oldest()
        } else {
            return Position::NONE;
        };
        if now.of(way) != Tags::CLAIMED && swap(tags, now.0, then.with(way, Tags::CLAIMED).0) {
            return Position::new(bucket, way, tag);
        }
    }
    Position::NONE
}

/// Makes the flow at a claimed position visible.
#[inline(always)]
fn publish<T: FlowTable>(position: Position) {
    if let Some(tags) = tags::<T>(position.bucket()) {
        let difference = (position.tag() - Tags::CLAIMED) << (position.way() * 8);
        add_last(tags, difference);
    }
}

/// Takes a flow out of its position; tells whether nobody else had.
#[inline(always)]
fn take_out<T: FlowTable>(position: Position) -> bool {
    let Some(tags) = tags::<T>(position.bucket()) else {
        return false;
    };
    let way = position.way();
    for _ in 0..ATTEMPTS {
        let now = Tags(load(tags));
        if way >= WAYS || now.of(way) != position.tag() {
            return false;
        }
        if swap(tags, now.0, now.with(way, Tags::FREE).0) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn tags<T: FlowTable>(bucket: u32) -> Option<&'static mut u64> {
    let page = row(T::TAGS.get_ptr_mut(bucket / PAGE_WORDS))?;
    page.get_mut((bucket % PAGE_WORDS) as usize)
}

#[inline(always)]
fn entry_at<T: FlowTable>(position: Position) -> Option<&'static mut Entry<T::Address>> {
    // The verifier must see the very number checked that is used, not one cut out again.
    entry::<T>(position.bucket(), core::hint::black_box(position.way()))
}

#[inline(always)]
fn entry<T: FlowTable>(bucket: u32, way: u32) -> Option<&'static mut Entry<T::Address>> {
    if way >= WAYS {
        return None;
    }
    row(T::BUCKETS.get_ptr_mut(bucket))?.get_mut(way as usize)
}
