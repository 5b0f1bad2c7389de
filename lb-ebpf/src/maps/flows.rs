//! The tables of flows: how a flow is found, and what is done about one.
//!
//! A search takes no lock; what it finds may be removed, and its place used again, while the packet is
//! handled, as in the kernel's own tables. How flows are put in and taken out: [`super::changes`].
#![expect(
    unsafe_code,
    reason = "a function keeps its name, and so stays global, by this attribute alone"
)]

use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::family::{Address, V4Address, V6Address};
use lb_common::flow::{Flow, FlowKey};
use lb_common::flow_table::{Bucket, Entry, Home, Keyed, PAGE_WORDS, TagPage, Tags, WAYS, is_same};
use lb_common::limits::TRANSIENT_BUCKETS;

use super::changes::{insert_both, insert_draft, take_out};
use super::position::{Mode, Position};
use super::*;

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
    fn search() -> Position;
    /// [`insert_draft`].
    fn insert_draft(mode: Mode) -> bool;
    /// [`take_out`].
    fn take_out() -> bool;

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
        $sought:ident, $search:ident, $insert:ident, $take_out:ident
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
            fn search() -> Position {
                Position($search())
            }

            #[inline(always)]
            fn insert_draft(mode: Mode) -> bool {
                $insert(mode.0) != 0
            }

            #[inline(always)]
            fn take_out() -> bool {
                $take_out() != 0
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $search() -> u64 {
            search::<$name>().0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $insert(mode: u64) -> u32 {
            u32::from(insert_draft::<$name>(Mode(mode)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $take_out() -> u32 {
            u32::from(take_out::<$name>())
        }
    };
}

flow_table!(EstablishedV4 of V4Address, false: ESTABLISHED_TAGS_V4, ESTABLISHED_V4, DRAFT_V4,
    SOUGHT_V4, pglb_search_established_v4, pglb_insert_established_v4, pglb_unestablish_v4);
flow_table!(EstablishedV6 of V6Address, false: ESTABLISHED_TAGS_V6, ESTABLISHED_V6, DRAFT_V6,
    SOUGHT_V6, pglb_search_established_v6, pglb_insert_established_v6, pglb_unestablish_v6);
flow_table!(TransientV4 of V4Address, true: TRANSIENT_TAGS_V4, TRANSIENT_V4, DRAFT_V4,
    SOUGHT_V4, pglb_search_transient_v4, pglb_insert_transient_v4, pglb_forget_v4);
flow_table!(TransientV6 of V6Address, true: TRANSIENT_TAGS_V6, TRANSIENT_V6, DRAFT_V6,
    SOUGHT_V6, pglb_search_transient_v6, pglb_insert_transient_v6, pglb_forget_v6);

/// A table in which connections begin.
pub(crate) trait OpeningTable: FlowTable {
    /// [`insert_both`], checked once.
    fn insert_drafts() -> bool;
}

macro_rules! opening_table {
    ($name:ident: $insert:ident) => {
        impl OpeningTable for $name {
            #[inline(always)]
            fn insert_drafts() -> bool {
                $insert() != 0
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $insert() -> u32 {
            u32::from(insert_both::<$name>())
        }
    };
}

opening_table!(TransientV4: pglb_insert_both_v4);
opening_table!(TransientV6: pglb_insert_both_v6);

/// A key that is searched for, in words.
pub(crate) type Sought<A> = <A as Keyed>::Words;

/// Finds a flow: all of it in place, for the one lookup of an established packet.
#[inline(always)]
pub(crate) fn find<T: FlowTable>(key: &FlowKey<T::Address>) -> Option<Place<T::Address>> {
    let words = T::Address::words(key);
    let Home { buckets, tag } = Home::of(words.as_ref(), seed(), T::size());
    let [first, second] = buckets;
    let (_, entry) = search_bucket::<T>(first, tag, &words)
        .or_else(|| search_bucket::<T>(second, tag, &words))?;
    Some(place(entry))
}

/// Finds the flow whose key has these words in one bucket: its way, and the flow.
#[inline(always)]
fn search_bucket<T: FlowTable>(
    bucket: u32,
    tag: u64,
    words: &Sought<T::Address>,
) -> Option<(u32, &'static mut Entry<T::Address>)> {
    let mut matches = Tags(load(tags::<T>(bucket)?)).matching(tag);
    for _ in 0..WAYS {
        let way = matches.first();
        let entry = entry::<T>(bucket, way)?;
        if is_same(&T::Address::words(&entry.key), words) {
            return Some((way, entry));
        }
        matches = matches.rest();
    }
    None
}

/// Finds a flow, in less code.
#[inline(always)]
pub(crate) fn look_up<T: FlowTable>(key: &FlowKey<T::Address>) -> Option<Place<T::Address>> {
    entry_at::<T>(locate::<T>(key)).map(place)
}

/// Whether flows of either table have the tag that this key has there. All tags are read before any is
/// looked at, so that the CPU waits once for all of them.
#[inline(always)]
pub(crate) fn may_hold<T, Other>(key: &FlowKey<T::Address>) -> bool
where
    T: FlowTable,
    Other: FlowTable<Address = T::Address>,
{
    let words = T::Address::words(key);
    matches::<T>(words.as_ref()) | matches::<Other>(words.as_ref()) != 0
}

/// The ways of a table that have the tag of a key: 0 if there are none.
#[inline(always)]
fn matches<T: FlowTable>(words: &[u64]) -> u64 {
    let Home { buckets, tag } = Home::of(words, seed(), T::size());
    let of = |bucket| tags::<T>(bucket).map_or(0, |tags| Tags(load(tags)).matching(tag).0);
    of(buckets[0]) | of(buckets[1])
}

/// Puts a flow into its table, in the place of one that is there with its key; tells whether there
/// was room.
#[inline(always)]
pub(crate) fn insert<T: FlowTable>(
    key: &FlowKey<T::Address>,
    flow: impl FnOnce() -> Flow<T::Address>,
) -> bool {
    draft::<T>(key, flow).is_some() && insert_drafted::<T>()
}

/// Writes a flow as the draft.
#[inline(always)]
pub(crate) fn draft<T: FlowTable>(
    key: &FlowKey<T::Address>,
    flow: impl FnOnce() -> Flow<T::Address>,
) -> Option<Place<T::Address>> {
    let draft = row(T::DRAFT.get_ptr_mut(0))?;
    draft_flow(draft, key, flow);
    Some(place(draft))
}

/// Puts the draft into its table, as [`insert`] does.
#[inline(always)]
pub(crate) fn insert_drafted<T: FlowTable>() -> bool {
    T::insert_draft(Mode::REPLACE)
}

/// Writes the flow of the replies beside the draft; tells whether it did.
#[inline(always)]
pub(crate) fn draft_reply<T: FlowTable>(
    key: &FlowKey<T::Address>,
    flow: impl FnOnce() -> Flow<T::Address>,
) -> bool {
    let draft = row(T::DRAFT.get_ptr_mut(1));
    draft.map(|draft| draft_flow(draft, key, flow)).is_some()
}

/// Puts the draft and that of the replies into their table at once; `false`, and neither is there,
/// when one of them was, or another CPU was in the way.
#[inline(always)]
pub(crate) fn insert_both_drafted<T: OpeningTable>() -> bool {
    T::insert_drafts()
}

/// Puts a flow into its table, unless one other than `before` is there with its key; tells whether
/// it did.
#[inline(always)]
pub(crate) fn claim<T: FlowTable>(
    key: &FlowKey<T::Address>,
    before: Option<Place<T::Address>>,
    flow: impl FnOnce() -> Flow<T::Address>,
) -> bool {
    let mode = before.map_or(Mode::CLAIM, |before| Mode(before.mark()));
    row(T::DRAFT.get_ptr_mut(0)).is_some_and(|draft| {
        draft_flow(draft, key, flow);
        T::insert_draft(mode)
    })
}

/// Writes a draft in place.
#[inline(always)]
fn draft_flow<A: Address>(draft: &mut Entry<A>, key: &FlowKey<A>, flow: impl FnOnce() -> Flow<A>) {
    draft.key = *key;
    draft.flow = flow();
    draft.settle();
}

/// Puts a flow of one table into another too; tells whether it is there then, be it that another
/// CPU has moved it. In the table of established flows it is one, whatever it was.
#[inline(never)]
pub(crate) fn copy<From, To>(key: &FlowKey<To::Address>) -> bool
where
    From: FlowTable<Address = To::Address>,
    To: FlowTable,
{
    let from = entry_at::<From>(locate::<From>(key));
    let (Some(entry), Some(draft)) = (from, row(To::DRAFT.get_ptr_mut(0))) else {
        return locate::<To>(key) != Position::NONE;
    };
    overwrite(draft, entry);
    if !To::FORGETS {
        draft.flow.establish();
    }
    To::insert_draft(Mode::REPLACE)
}

/// Removes a flow; tells whether it was there.
#[inline(never)]
pub(crate) fn remove<T: FlowTable>(key: &FlowKey<T::Address>) -> bool {
    locate::<T>(key) != Position::NONE && T::take_out()
}

#[inline(always)]
fn place<A>(entry: &mut Entry<A>) -> Place<A> {
    Place(&raw mut entry.flow)
}

/// Where the flow of `key` lies.
#[inline(always)]
pub(super) fn locate<T: FlowTable>(key: &FlowKey<T::Address>) -> Position {
    row(T::SOUGHT.get_ptr_mut(0)).map_or(Position::NONE, |sought| {
        *sought = T::Address::words(key);
        T::search()
    })
}

#[inline(always)]
fn search<T: FlowTable>() -> Position {
    let Some(sought) = T::SOUGHT.get(0) else {
        return Position::NONE;
    };
    let Home { buckets, tag } = Home::of(sought.as_ref(), seed(), T::size());
    let at = |bucket| {
        let (way, _) = search_bucket::<T>(bucket, tag, sought)?;
        Some(Position::new(bucket, way, tag))
    };
    at(buckets[0])
        .or_else(|| at(buckets[1]))
        .unwrap_or(Position::NONE)
}

#[inline(always)]
pub(super) fn tags<T: FlowTable>(bucket: u32) -> Option<&'static mut u64> {
    let page = row(T::TAGS.get_ptr_mut(bucket / PAGE_WORDS))?;
    page.get_mut((bucket % PAGE_WORDS) as usize)
}

#[inline(always)]
pub(super) fn entry_at<T: FlowTable>(position: Position) -> Option<&'static mut Entry<T::Address>> {
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
