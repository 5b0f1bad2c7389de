//! VLAN tags: taken off a frame before it is looked at, and put on before it leaves.

use aya_ebpf::programs::XdpContext;
use lb_common::reason::Reason;
use lb_common::wire::{Ipv4, Ipv6, Tag};

use crate::packet::{MacAddresses, at, in_hand, move_head};

/// Takes one or two tags off a frame that carries IP; returns them as [`packed`], or else the index
/// of a [`Reason`], which is smaller than any tag. Another frame is left alone.
#[inline(never)]
pub(crate) fn untag(ctx: &XdpContext) -> u64 {
    take_tags(ctx).unwrap_or_else(|reason| u64::from(reason.index()))
}

/// Why [`untag`] took no tags off, by what it returned.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is small then")]
pub(crate) fn reason(came: u64) -> Option<Reason> {
    (came <= u64::from(u16::MAX)).then(|| Reason::at(came as u32))
}

#[inline(always)]
fn take_tags(ctx: &XdpContext) -> Result<u64, Reason> {
    let outer = *at::<Tag>(ctx, size_of::<MacAddresses>()).ok_or(Reason::Truncated)?;
    let inner =
        *at::<Tag>(ctx, size_of::<MacAddresses>() + Tag::LENGTH).ok_or(Reason::Truncated)?;
    if is_ip(inner.kind) {
        return take_off(ctx, Tag::LENGTH).map(|()| packed([outer, Tag::default()]));
    }
    if !Tag::is_announced_by(inner.kind) {
        return Err(Reason::NotIp);
    }
    let third = at::<Tag>(ctx, size_of::<MacAddresses>() + 2 * Tag::LENGTH);
    if !is_ip(third.ok_or(Reason::Truncated)?.kind) {
        return Err(Reason::NotIp);
    }
    take_off(ctx, 2 * Tag::LENGTH).map(|()| packed([outer, inner]))
}

/// Puts tags on a frame, as [`packed`]; tells whether there was room.
#[inline(never)]
pub(crate) fn tag(ctx: &XdpContext, tags: u64) -> bool {
    let [outer, inner] = unpacked(tags);
    if inner == Tag::default() {
        return put_on(ctx, outer);
    }
    put_on(ctx, inner) && put_on(ctx, outer)
}

/// Two tags in one number, as functions pass them on; 0 for none.
#[inline(always)]
pub(crate) fn packed([outer, inner]: [Tag; 2]) -> u64 {
    let [a, b] = outer.kind;
    let [c, d] = outer.control;
    let [e, f] = inner.kind;
    let [g, h] = inner.control;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
fn unpacked(tags: u64) -> [Tag; 2] {
    let [a, b, c, d, e, f, g, h] = tags.to_be_bytes();
    let outer = Tag {
        kind: [a, b],
        control: [c, d],
    };
    let inner = Tag {
        kind: [e, f],
        control: [g, h],
    };
    [outer, inner]
}

#[inline(always)]
fn is_ip(kind: [u8; 2]) -> bool {
    kind == Ipv4::ETHER_TYPE || kind == Ipv6::ETHER_TYPE
}

#[inline(always)]
fn take_off(ctx: &XdpContext, length: usize) -> Result<(), Reason> {
    let addresses = in_hand(at::<MacAddresses>(ctx, 0).ok_or(Reason::Truncated)?);
    #[expect(clippy::cast_possible_truncation, reason = "8 bytes at most")]
    if !move_head(ctx, length as i32) {
        return Err(Reason::Truncated);
    }
    *at::<MacAddresses>(ctx, 0).ok_or(Reason::Truncated)? = addresses;
    Ok(())
}

#[inline(always)]
fn put_on(ctx: &XdpContext, tag: Tag) -> bool {
    const ROOM: i32 = -4;
    let Some(addresses) = at::<MacAddresses>(ctx, 0) else {
        return false;
    };
    let addresses = in_hand(addresses);
    if !move_head(ctx, ROOM) {
        return false;
    }
    let Some(place) = at::<MacAddresses>(ctx, 0) else {
        return false;
    };
    *place = addresses;
    let Some(place) = at::<Tag>(ctx, size_of::<MacAddresses>()) else {
        return false;
    };
    *place = tag;
    true
}
