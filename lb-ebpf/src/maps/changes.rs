//! How flows are put into their tables and taken out, and how the CPUs agree about that.
//!
//! A way belongs to whoever has put [`Tags::CLAIMED`] into its byte by compare-and-swap; the flow is
//! written, and only then its tag, which makes it visible.
//!
//! One CPU at a time changes what there is of a key: the one that has the first of its two buckets,
//! because it has claimed a way of it (`claim_home`: for a new flow, the common case, that is all) or
//! has set [`Tags::LOCKED`] in it. Nobody waits for a bucket while it has a way that is claimed.

use lb_common::flow_table::{Entry, Home, Keyed, Tags, WAYS};
use lb_common::tally::Milestone;

use super::flows::{FlowTable, entry_at, locate, tags};
use super::global::pglb_pause;
use super::position::{Mode, Position};
use super::rows::count;
use super::*;

/// A word of tags is tried to be changed so often while other CPUs change it.
const ATTEMPTS: u32 = 8;
/// A lock is tried to be taken so often: for 100 microseconds, far longer than it is held.
const LOCK_ATTEMPTS: u32 = 64;

/// Writes the draft into its table, as `mode` has it; tells whether it did.
#[inline(always)]
pub(super) fn insert_draft<T: FlowTable>(mode: Mode) -> bool {
    let Some(draft) = row(T::DRAFT.get_ptr_mut(0)) else {
        return false;
    };
    let claimed = claim_home::<T>(draft);
    if !is_there::<T>(claimed, draft)
        && let Some(entry) = entry_at::<T>(claimed)
    {
        overwrite(entry, draft);
        publish::<T>(claimed);
        return true;
    }
    give_back::<T>(claimed);
    let home = home_of::<T>(draft);
    if !lock::<T>(&home) {
        return false;
    }
    let is_in = put::<T>(draft, &home, mode);
    unlock::<T>(&home);
    is_in
}

/// Writes both drafts, those of a new connection, into a table that has neither of them, if no other
/// CPU is in the way; tells whether it did. Both ways are claimed, and the connection is counted,
/// before either flow is written, because an atomic instruction waits for all stores before it.
#[inline(always)]
pub(super) fn insert_both<T: FlowTable>() -> bool {
    let (Some(draft), Some(other)) = (row(T::DRAFT.get_ptr_mut(0)), row(T::DRAFT.get_ptr_mut(1)))
    else {
        return false;
    };
    let claimed = claim_home::<T>(draft);
    let other_claimed = claim_home::<T>(other);
    if let (Some(entry), Some(other_entry)) = (entry_at::<T>(claimed), entry_at::<T>(other_claimed))
        && !is_there::<T>(claimed, draft)
        && !is_there::<T>(other_claimed, other)
    {
        count(u32::from(draft.flow.slot.0), Milestone::HalfOpened as u32);
        overwrite(entry, draft);
        overwrite(other_entry, other);
        publish::<T>(claimed);
        publish::<T>(other_claimed);
        return true;
    }
    give_back::<T>(claimed);
    give_back::<T>(other_claimed);
    false
}

#[inline(always)]
fn home_of<T: FlowTable>(draft: &Entry<T::Address>) -> Home {
    Home::of(T::Address::words(&draft.key).as_ref(), seed(), T::size())
}

/// Writes the draft where its flow lies, or into a way of either bucket; tells whether it did.
#[inline(always)]
fn put<T: FlowTable>(draft: &Entry<T::Address>, home: &Home, mode: Mode) -> bool {
    if let Some(entry) = entry_at::<T>(locate::<T>(&draft.key)) {
        // Another CPU may read half of it, of the same connection.
        let is_replaced = mode == Mode::REPLACE || mode.0 == entry.flow.mark();
        if is_replaced {
            overwrite(entry, draft);
        }
        return is_replaced;
    }
    let position = take_way::<T>(home);
    let Some(entry) = entry_at::<T>(position) else {
        return false;
    };
    // The way is claimed, so nobody else reads or writes it.
    overwrite(entry, draft);
    publish::<T>(position);
    true
}

/// Claims a way of the first bucket of a new flow, if it has as much room as the second one and nobody
/// is quicker; not one that may be the flow's own.
#[inline(always)]
fn claim_home<T: FlowTable>(draft: &Entry<T::Address>) -> Position {
    let Home { buckets, tag } = home_of::<T>(draft);
    let [first, second] = buckets;
    let (Some(tags), Some(others)) = (tags::<T>(first), tags::<T>(second)) else {
        return Position::NONE;
    };
    let (now, other) = (Tags(load(tags)), Tags(load(others)));
    let (way, then) = now.claim(T::FORGETS);
    if now.is_taken() || way >= WAYS || now.of(way) == tag || !now.is_as_roomy_as(other) {
        return Position::NONE;
    }
    if !swap(tags, now.0, then.0) {
        return Position::NONE;
    }
    // Read again: another CPU may have put the flow there before this one had the bucket.
    let may_be_there = now.has(tag) || Tags(load(others)).has(tag);
    Position::new(first, way, tag).doubted(may_be_there)
}

/// Whether the flow for which a way has been claimed is in the table already.
#[inline(always)]
fn is_there<T: FlowTable>(claimed: Position, draft: &Entry<T::Address>) -> bool {
    claimed.is_doubted() && locate::<T>(&draft.key) != Position::NONE
}

/// Gives back what [`claim_home`] took.
#[inline(always)]
fn give_back<T: FlowTable>(position: Position) {
    if position != Position::NONE
        && let Some(tags) = tags::<T>(position.bucket())
    {
        write_last(tags, position.way(), Tags::CLAIMED, Tags::FREE);
    }
}

/// Locks the first bucket of a flow.
#[inline(always)]
fn lock<T: FlowTable>(home: &Home) -> bool {
    let Some(tags) = tags::<T>(home.buckets[0]) else {
        return false;
    };
    for _ in 0..LOCK_ATTEMPTS {
        let now = load(tags);
        if !Tags(now).is_taken() && swap(tags, now, now | Tags::LOCKED) {
            return true;
        }
        pglb_pause();
    }
    false
}

#[inline(always)]
fn unlock<T: FlowTable>(home: &Home) {
    if let Some(tags) = tags::<T>(home.buckets[0]) {
        // The highest bit: once more, and it is carried away.
        add_last(tags, Tags::LOCKED);
    }
}

/// Takes a way for a new flow, in the emptier bucket of its two.
#[inline(always)]
fn take_way<T: FlowTable>(home: &Home) -> Position {
    let [first, second] = home.buckets;
    let (Some(tags), Some(others)) = (tags::<T>(first), tags::<T>(second)) else {
        return Position::NONE;
    };
    let (bucket, tags) = if Tags(load(tags)).is_as_roomy_as(Tags(load(others))) {
        (first, tags)
    } else {
        (second, others)
    };
    for _ in 0..ATTEMPTS {
        let now = Tags(load(tags));
        let (way, then) = now.claim(T::FORGETS);
        if way < WAYS && swap(tags, now.0, then.0) {
            return Position::new(bucket, way, home.tag);
        }
    }
    Position::NONE
}

/// Makes the flow at a claimed position visible.
#[inline(always)]
fn publish<T: FlowTable>(position: Position) {
    if let Some(tags) = tags::<T>(position.bucket()) {
        write_last(tags, position.way(), Tags::CLAIMED, position.tag());
    }
}

/// Takes the flow out that is searched for; tells whether nobody else had.
#[inline(always)]
pub(super) fn take_out<T: FlowTable>() -> bool {
    let sought = T::SOUGHT.get(0);
    sought.is_some_and(|sought| {
        let home = Home::of(sought.as_ref(), seed(), T::size());
        if !lock::<T>(&home) {
            return false;
        }
        let is_out = free::<T>(T::search());
        unlock::<T>(&home);
        is_out
    })
}

#[inline(always)]
fn free<T: FlowTable>(position: Position) -> bool {
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
