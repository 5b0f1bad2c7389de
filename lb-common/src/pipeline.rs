//! The packet's whole story, from its headers to where it goes.
//!
//! [`decide`] reads top down: [`carry`] carries an established flow on after one lookup; everything
//! else [`classify`] tells apart: the first or the last packets of a connection (`handshake`, `open`,
//! `close`), or none of our business. [`translate`] does the same for ICMP errors about our packets.
//! A packet is rewritten last of all, so a [`Reason`] leaves it as it came.

mod admit;
mod close;
mod error;
mod handshake;
mod open;
mod revive;
mod way;

pub use error::{key_of, translate};

use crate::family::Family;
use crate::flow::{Direction, Endpoint, Flow, FlowKey, NextHop, Tick};
use crate::member::Slot;
use crate::port::take_port;
use crate::reason::Reason;
use crate::rewrite::rewrite;
use crate::service::{Forwarding, ServiceKey};
use crate::tables::Tables;
use crate::wire::{Headers, IpHeader, Tcp};

/// A packet that has been rewritten and only has to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The index of the interface to send it from, or 0 when the kernel has to send it, because
    /// it has to resolve the next hop's address first.
    pub interface: u32,
    /// The slot whose traffic it is.
    pub slot: Slot,
    /// Which way it goes.
    pub direction: Direction,
}

/// A full-nat connection that only lacks a port of the gateway: a member has been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The member's slot.
    pub slot: Slot,
    /// The members that the connection has tried, as bits.
    pub tried: u32,
}

/// A decision in one register, or that there is none yet: what the functions return that are not
/// inlined. An enum would come back through a pointer to the caller's stack, which the verifier
/// does not like to see returned, and its type information is none that the kernel reads.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision(pub u64);

impl Decision {
    const REFUSED: u64 = 1 << 63;
    const NEEDS_PORT: u64 = 1 << 62;
    /// The packet belongs to no connection any more.
    const NONE: Self = Self(Self::REFUSED | Self::NEEDS_PORT);

    /// The packet belongs to no connection any more, but to one that has tried these members, as
    /// bits.
    #[inline(always)]
    fn none_after(tried: u32) -> Self {
        Self(Self::NONE.0 | u64::from(tried))
    }

    /// The members that have been tried, if there is no decision yet.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "they are the lower half")]
    fn tried(self) -> Option<u32> {
        (self.0 & Self::NONE.0 == Self::NONE.0).then_some(self.0 as u32)
    }

    #[inline(always)]
    fn needing_port(slot: Slot, tried: u32) -> Self {
        Self(Self::NEEDS_PORT | u64::from(slot.0) << 32 | u64::from(tried))
    }

    /// The connection that this decision is to be completed for.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part is cut out of the number"
    )]
    pub fn opening(self) -> Option<Opening> {
        let needs_port = self.0 & (Self::REFUSED | Self::NEEDS_PORT) == Self::NEEDS_PORT;
        needs_port.then_some(Opening {
            slot: Slot((self.0 >> 32) as u16),
            tried: self.0 as u32,
        })
    }

    /// The decision with this result.
    #[inline(always)]
    pub fn of(result: Result<Forward, Reason>) -> Self {
        Self(match result {
            Ok(Forward {
                interface,
                slot,
                direction,
            }) => u64::from(interface) | u64::from(slot.0) << 32 | (direction as u64) << 48,
            Err(reason) => Self::REFUSED | u64::from(reason.index()),
        })
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part is cut out of the number"
    )]
    fn take(self) -> Option<Result<Forward, Reason>> {
        if self.tried().is_some() {
            return None;
        }
        if self.0 & Self::REFUSED != 0 {
            return Some(Err(Reason::at(self.0 as u32)));
        }
        Some(Ok(Forward {
            interface: self.0 as u32,
            slot: Slot((self.0 >> 32) as u16),
            direction: Direction::of((self.0 >> 48) as u8),
        }))
    }

    /// The decision of a function that always makes one.
    #[inline(always)]
    pub fn made(self) -> Result<Forward, Reason> {
        self.take().unwrap_or(Err(Reason::Inconsistent))
    }
}

/// A packet that has arrived, with all that a decision about it needs.
struct Arrival<'a, 'p, F: Family, T: Tables<F>> {
    tables: &'a T,
    packet: &'a mut Headers<'p, F>,
    key: &'a FlowKey<F::Address>,
    now: Tick,
}

/// Decides what happens to a TCP packet without IP options that is no fragment, and rewrites it
/// if it is to be forwarded.
///
/// The kernel calls the parts itself, one after the other, because each needs its own stack.
pub fn decide<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    now: Tick,
) -> Result<Forward, Reason> {
    let left = match carry(tables, packet, now) {
        Carried::Sent(forward) => return Ok(forward),
        Carried::Refused(reason) => return Err(reason),
        Carried::Left(left) => left,
    };
    let key = FlowKey::of(packet);
    let decision = classify(tables, packet, &key, now, left);
    match decision.opening() {
        None => decision.made(),
        Some(opening) => {
            let port = take_port(tables, &key, opening.slot, now);
            open_from_port(tables, packet, &key, now, opening, port).made()
        }
    }
}

/// What [`carry`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The packet has been rewritten.
    Sent(Forward),
    /// It is not to be forwarded.
    Refused(Reason),
    /// It is left to [`classify`].
    Left(Left),
}

/// What [`carry`] leaves to [`classify`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A packet of an established flow.
    Established,
    /// One that had none when it came, or a SYN that may have one.
    Unknown,
    /// A SYN that had none.
    New,
}

/// Carries data and ACKs of an established connection on, whose member and whose way are as they
/// were; every other packet is left, and then to be [`classify`]d. Nothing but the packet
/// and the flow is touched, and nothing is called that would need them in memory.
#[inline(always)]
pub fn carry<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    now: Tick,
) -> Carried {
    // A SYN asks for a connection that is most likely not there.
    let is_opening = packet.tcp.is_opening();
    let flow = if is_opening {
        None
    } else {
        tables.recall(&FlowKey::of(packet))
    };
    let Some(flow) = flow else {
        if !tables.may_be_ours(&FlowKey::of(packet)) {
            return Carried::Refused(Reason::NotOurs);
        }
        let is_new = is_opening && !tables.may_be_known(&FlowKey::of(packet));
        return Carried::Left(if is_new { Left::New } else { Left::Unknown });
    };
    if tables.generation(flow.slot) != Some(flow.generation)
        || packet.tcp.flags() & (Tcp::SYN | Tcp::FIN | Tcp::RST | Tcp::ACK) != Tcp::ACK
        || flow.next_hop.generation != tables.next_hop_generation()
    {
        return Carried::Left(Left::Established);
    }
    tables.note(flow, packet.tcp.acknowledgment(), now);
    match forward(tables, packet, &flow, &flow.next_hop) {
        Ok(forward) => Carried::Sent(forward),
        Err(reason) => Carried::Refused(reason),
    }
}

/// Tells the first and the last packets of our connections from what is not ours, and decides
/// about them; or says what is missing for the decision ([`Decision::opening`]).
#[inline(always)]
pub fn classify<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    key: &FlowKey<F::Address>,
    now: Tick,
    left: Left,
) -> Decision {
    let mut arrival = Arrival {
        tables,
        packet,
        key,
        now,
    };
    arrival.classify(left)
}

/// Opens a full-nat connection from the port that has been taken for it ([`take_port`]).
#[inline(always)]
pub fn open_from_port<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    key: &FlowKey<F::Address>,
    now: Tick,
    opening: Opening,
    port: u16,
) -> Decision {
    let mut arrival = Arrival {
        tables,
        packet,
        key,
        now,
    };
    arrival.open_from_port(opening, port)
}

/// Decides about a packet that no service takes, for `reason`: it is only ours to refuse if its
/// receiver is a service.
#[inline(always)]
pub fn refuse_odd<F: Family, T: Tables<F>>(
    tables: &T,
    receiver: Endpoint<F::Address>,
    reason: Reason,
) -> Reason {
    match tables.service(&ServiceKey::new(receiver)) {
        Some(_) => reason,
        None => Reason::NotOurs,
    }
}

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    #[inline(always)]
    fn classify(&mut self, left: Left) -> Decision {
        let decision = match left {
            Left::New => Decision::NONE,
            Left::Established | Left::Unknown => self.go_on(left),
        };
        match decision.tried() {
            None => decision,
            Some(tried) if self.packet.tcp.is_opening() => self.open(tried),
            Some(_) => self.refuse(),
        }
    }

    /// Handles a packet of a connection that there is, unless it belongs to it no more.
    #[inline(always)]
    fn go_on(&mut self, left: Left) -> Decision {
        let mut flow = None;
        if left == Left::Established {
            flow = self.tables.established(self.key);
        }
        if flow.is_none() {
            if let Some(flow) = self.tables.transient(self.key) {
                return self.advance(flow);
            }
            // Another CPU may just have moved it from there.
            flow = self.tables.established(self.key);
        }
        flow.map_or(Decision::NONE, |flow| self.attend(flow))
    }

    /// Handles a packet of an established connection that is more than data or an ACK, or whose
    /// member or way is no longer what it was.
    #[inline(always)]
    fn attend(&mut self, flow: T::Found) -> Decision {
        let Some(generation) = self.tables.generation(flow.slot) else {
            return Decision::of(Err(Reason::Inconsistent));
        };
        if generation != flow.generation {
            return self.supersede(flow);
        }
        if self.packet.tcp.flags() & (Tcp::SYN | Tcp::FIN | Tcp::RST | Tcp::ACK) != Tcp::ACK {
            return self.turn(flow);
        }
        self.tables
            .note(flow, self.packet.tcp.acknowledgment(), self.now);
        self.pass_on(flow)
    }

    /// Refuses a packet that belongs to no connection and asks for none.
    #[inline(never)]
    fn refuse(&self) -> Decision {
        let reason = match self.service(self.key.receiver()) {
            Err(reason) => reason,
            Ok(_) if self.packet.tcp.has(Tcp::RST) => Reason::StrayReset,
            Ok(_) => Reason::UnknownSegment,
        };
        Decision::of(Err(reason))
    }

    /// The service at `vip`.
    #[inline(always)]
    fn service(&self, vip: Endpoint<F::Address>) -> Result<T::Service, Reason> {
        self.tables
            .service(&ServiceKey::new(vip))
            .ok_or(Reason::NotOurs)
    }

    /// Where the backend of the member in a slot is.
    #[inline(always)]
    fn endpoint(&self, slot: Slot) -> Option<Endpoint<F::Address>> {
        let member = self.tables.member(slot)?;
        let backend = self.tables.backend(member.backend)?;
        Some(backend.endpoint())
    }
}

/// Rewrites the packet for its flow and says where it goes.
#[inline(always)]
fn forward<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    flow: &Flow<F::Address>,
    next_hop: &NextHop,
) -> Result<Forward, Reason> {
    let Headers {
        ethernet,
        ip,
        egress,
        ..
    } = packet;
    if ip.hop_limit() <= 1 {
        return Err(Reason::HopLimit);
    }
    if next_hop.interface == 0 {
        // The kernel resolves the next hop, lowers the limit and writes the MAC addresses;
        // but it takes a packet to the VIP for its own.
        if flow.forwarding() == Forwarding::Dsr {
            return Err(if next_hop.is_router() {
                Reason::NotOnLink
            } else {
                Reason::NoNeighbour
            });
        }
    } else {
        if ip.total_length() > u32::from(next_hop.mtu)
            && next_hop.mtu != 0
            && !tables.is_aggregated()
        {
            egress.mtu = next_hop.mtu;
            return Err(Reason::TooBig);
        }
        ethernet.address(&next_hop.destination, &next_hop.source);
        ip.lower_hop_limit();
        egress.tags = next_hop.tags;
    }
    rewrite(packet, flow);
    Ok(Forward {
        interface: next_hop.interface,
        slot: flow.slot,
        direction: flow.direction(),
    })
}
