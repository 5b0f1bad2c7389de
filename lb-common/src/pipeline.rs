//! The packet's whole story, from its headers to where it goes.
//!
//! [`decide`] reads top down: [`carry`] carries an established flow on after one lookup; everything
//! else [`classify`] tells apart: the first or the last packets of a connection (`handshake`, `open`,
//! `close`), or none of our business. A packet is rewritten last of all, so a [`Reason`] leaves it as it came.

mod close;
mod handshake;
mod open;

use crate::family::Family;
use crate::flow::{Direction, Endpoint, Flow, FlowKey, NextHop, Tick};
use crate::member::Slot;
use crate::reason::Reason;
use crate::rewrite::rewrite;
use crate::service::{Service, ServiceKey};
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

/// A decision in one register, or that there is none yet: what the functions return that are not
/// inlined. An enum would come back through a pointer to the caller's stack, which the verifier
/// does not like to see returned, and its type information is none that the kernel reads.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Decision(u64);

impl Decision {
    /// The packet belongs to no connection any more.
    const NONE: Self = Self(1 << 63 | 1 << 62);
    const REFUSED: u64 = 1 << 63;

    #[inline(always)]
    fn of(result: Result<Forward, Reason>) -> Self {
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
        if self.0 == Self::NONE.0 {
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
    fn made(self) -> Result<Forward, Reason> {
        self.take().unwrap_or(Err(Reason::Inconsistent))
    }
}

/// A packet that has arrived, with all that a decision about it needs.
struct Arrival<'a, 'p, F: Family, T: Tables<F>> {
    tables: &'a T,
    packet: &'a mut Headers<'p, F>,
    key: FlowKey<F::Address>,
    now: Tick,
}

/// Decides what happens to a TCP packet without IP options that is no fragment, and rewrites it
/// if it is to be forwarded.
///
/// The kernel calls [`carry`] and [`classify`] itself, one after the other, because each of them
/// needs its own stack.
pub fn decide<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    now: Tick,
) -> Result<Forward, Reason> {
    match carry(tables, packet, now) {
        Some(result) => result,
        None => classify(tables, packet, now),
    }
}

/// Carries a packet of an established connection on; `None` for one of no such connection, which
/// is then to be [`classify`]d.
#[inline(always)]
pub fn carry<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    now: Tick,
) -> Option<Result<Forward, Reason>> {
    let key = FlowKey::of(packet);
    let (place, flow) = tables.recall(&key)?;
    Arrival {
        tables,
        packet,
        key,
        now,
    }
    .carry(place, &flow)
}

/// Tells the first and the last packets of our connections from what is not ours, and decides
/// about them.
#[inline(always)]
pub fn classify<F: Family, T: Tables<F>>(
    tables: &T,
    packet: &mut Headers<'_, F>,
    now: Tick,
) -> Result<Forward, Reason> {
    let key = FlowKey::of(packet);
    Arrival {
        tables,
        packet,
        key,
        now,
    }
    .classify()
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
    fn carry(
        &mut self,
        place: T::Place,
        flow: &Flow<F::Address>,
    ) -> Option<Result<Forward, Reason>> {
        let Some(generation) = self.tables.generation(flow.slot) else {
            return Some(Err(Reason::Inconsistent));
        };
        if generation != flow.generation {
            return self.supersede(flow).take();
        }
        if self.packet.tcp.flags() & (Tcp::SYN | Tcp::FIN | Tcp::RST | Tcp::ACK) != Tcp::ACK {
            return self.turn(place, flow).take();
        }
        self.tables
            .note(place, self.packet.tcp.acknowledgment(), self.now);
        if flow.next_hop.generation != self.tables.next_hop_generation() {
            return self.find_way(place, flow).take();
        }
        Some(self.forward(flow, &flow.next_hop))
    }

    /// Carries a packet on whose way may have changed.
    #[inline(never)]
    fn find_way(&mut self, place: T::Place, flow: &Flow<F::Address>) -> Decision {
        let mut next_hop = flow.next_hop;
        self.look_up(flow, &mut next_hop);
        self.tables.note_next_hop(place, next_hop);
        Decision::of(self.forward(flow, &next_hop))
    }

    #[inline(always)]
    fn classify(&mut self) -> Result<Forward, Reason> {
        if let Some(flow) = self.tables.transient(&self.key)
            && let Some(result) = self.advance(&flow)
        {
            return result;
        }
        let service = self.service(self.key.receiver())?;
        if self.packet.tcp.has(Tcp::RST) {
            Err(Reason::StrayReset)
        } else if self.is_opening() {
            self.open(&service, 0)
        } else {
            Err(Reason::UnknownSegment)
        }
    }

    /// Whether the packet asks for a new connection.
    #[inline(always)]
    fn is_opening(&self) -> bool {
        self.packet.tcp.flags() & (Tcp::SYN | Tcp::FIN | Tcp::RST | Tcp::ACK) == Tcp::SYN
    }

    /// The service at `vip`.
    #[inline(always)]
    fn service(&self, vip: Endpoint<F::Address>) -> Result<Service, Reason> {
        self.tables
            .service(&ServiceKey::new(vip))
            .ok_or(Reason::NotOurs)
    }

    /// Finds the next hop of the packet's flow, as the routing tables have it now.
    #[inline(always)]
    fn look_up(&self, flow: &Flow<F::Address>, next_hop: &mut NextHop) {
        let Endpoint { address, .. } = flow.rewritten;
        let (source, destination) = match flow.direction() {
            Direction::ToBackend => (self.key.source, address),
            Direction::ToClient => (address, self.key.destination),
        };
        self.tables.find_next_hop(source, destination, next_hop);
    }

    /// Sends the packet on as one of `flow`, which stays as it is.
    #[inline(always)]
    fn pass_on(&mut self, flow: &Flow<F::Address>) -> Result<Forward, Reason> {
        self.send_on(flow).made()
    }

    #[inline(never)]
    fn send_on(&mut self, flow: &Flow<F::Address>) -> Decision {
        let mut next_hop = flow.next_hop;
        if next_hop.generation != self.tables.next_hop_generation() {
            self.look_up(flow, &mut next_hop);
        }
        Decision::of(self.forward(flow, &next_hop))
    }

    /// Rewrites the packet for its flow and says where it goes.
    #[inline(always)]
    fn forward(&mut self, flow: &Flow<F::Address>, next_hop: &NextHop) -> Result<Forward, Reason> {
        let Headers { ethernet, ip, .. } = self.packet;
        if ip.hop_limit() <= 1 {
            return Err(Reason::HopLimit);
        }
        // The kernel lowers the limit itself, and writes the MAC addresses.
        if next_hop.interface != 0 {
            ethernet.address(next_hop.destination, next_hop.source);
            ip.lower_hop_limit();
        }
        let direction = flow.direction();
        rewrite(self.packet, direction, flow.rewritten);
        Ok(Forward {
            interface: next_hop.interface,
            slot: flow.slot,
            direction,
        })
    }
}
