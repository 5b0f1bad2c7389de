//! Full-nat: the port of the gateway that a connection leaves from.

use crate::family::{Address, Family, mix};
use crate::flow::{Direction, Endpoint, Flow, FlowKey, Local, Phase, Tick};
use crate::limits::{LAST_WORDS, PORT_ATTEMPTS};
use crate::member::Slot;
use crate::service::Forwarding;
use crate::tables::Tables;
use crate::tally::Load;

/// Takes a port of the gateway for the connection whose client sends as `key`, to the member in
/// `slot`, and writes the flow of its replies; 0 when there is none. The client's own
/// port is taken when it is free, unless the backend is [flooded](Load::is_flooded).
#[inline(always)]
pub fn take_port<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Address>,
    slot: Slot,
    now: Tick,
) -> u16 {
    let own = u16::from_be_bytes(key.source_port);
    let (first, last) = tables.ports();
    let ports = u32::from(last).saturating_sub(u32::from(first)) + 1;
    // Mixed by itself first: neighbours with neighbouring ports must not all try the same few.
    let seed = key.source.mix(mix(0, u32::from(own)));
    let turn = turn_of_ports(tables, slot);
    for attempt in 0..PORT_ATTEMPTS {
        #[expect(clippy::cast_possible_truncation, reason = "at most `last`")]
        let port = if attempt == 0 && turn != NO_TURN {
            (u32::from(first) + turn % ports) as u16
        } else if attempt == 0 && (first..=last).contains(&own) {
            own
        } else {
            (u32::from(first) + mix(seed, attempt) % ports) as u16
        };
        if take(tables, key, slot, port, now) {
            return port;
        }
    }
    0
}

/// Whose turn it is among the ports towards a flooded backend; [`NO_TURN`] towards another.
///
/// A backend remembers the half-open connections of a flood long after they were pushed out here,
/// and a SYN that meets one of them is not answered by SYN-ACK. So the port comes next that was
/// used longest ago: until then the backend has repeated its SYN-ACK, which nobody took, and been
/// told by RST to forget it; or it at least answers again, by a challenge ACK, which has the client
/// send its SYN once more (Linux makes such an answer twice a second for each connection).
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower bits take turns as well"
)]
fn turn_of_ports<F: Family, T: Tables<F>>(tables: &T, slot: Slot) -> u32 {
    let Some(member) = tables.member(slot) else {
        return NO_TURN;
    };
    let (Some(backend), Some(tally)) = (
        tables.backend(member.backend),
        tables.backend_tally(member.backend),
    ) else {
        return NO_TURN;
    };
    let load = Load::of(&tally, backend.half_reaped, backend.reaped);
    if load.is_flooded() {
        load.given as u32 & !NO_TURN
    } else {
        NO_TURN
    }
}

/// No port has its turn.
const NO_TURN: u32 = 1 << 31;

/// Whether the backend may remember an older connection from the port in `reply_key`. It is a function of its own
/// because what the search needs of the kernel's stack is then free again before [`take`] goes deeper.
#[inline(never)]
fn lingers<F: Family, T: Tables<F>>(
    tables: &T,
    reply_key: &FlowKey<F::Address>,
    now: Tick,
) -> bool {
    tables.lingers(reply_key, now)
}

/// Takes one port, if no connection to the same backend has it.
#[inline(never)]
fn take<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Address>,
    slot: Slot,
    port: u16,
    now: Tick,
) -> bool {
    let Some(member) = tables.member(slot) else {
        return false;
    };
    let Some(backend) = tables.backend(member.backend) else {
        return false;
    };
    // The gateway has no address on the way to it.
    if backend.gateway.sum() == 0 {
        return false;
    }
    let gateway = Endpoint {
        address: backend.gateway,
        port: port.to_be_bytes(),
    };
    let reply_key = Local(FlowKey::between(backend.endpoint(), gateway));
    if tables.established(&reply_key).is_some() || lingers(tables, &reply_key, now) {
        return false;
    }
    let before = tables.transient(&reply_key);
    if before.is_some_and(|before| !makes_way(tables, key, before, now)) {
        return false;
    }
    let is_taken = tables.claim(&reply_key, before, || {
        Flow::new(Direction::ToClient, &reply_key, key.reversed(), slot, now)
            .of_generation(member.generation)
            .forwarded(Forwarding::FullNat)
    });
    is_taken || is_own(tables, key, &reply_key)
}

/// Whether the flow of other replies can make way for one of a new connection. One that has ended
/// does, with what was left of its other flow: a straggler of that client must not be taken for one
/// of this.
#[inline(never)]
fn makes_way<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Address>,
    before: T::Found,
    now: Tick,
) -> bool {
    let before_key = Local(before.leaving.reversed());
    if *before_key != *key {
        let is_over = match before.phase() {
            // It has lingered, and nobody went on with it.
            Phase::Reset => true,
            // The backend's FIN may get lost behind the gateway, and must then come to this client
            // again.
            Phase::Ended => now.since(before.last_seen) >= LAST_WORDS.0,
            Phase::SynSent | Phase::Refused | Phase::SynReceived | Phase::Established => {
                !before.may_go_on(now)
            }
        };
        if !is_over {
            return false;
        }
        tables.forget(&before_key);
    }
    true
}

/// Whether another CPU, which has the same SYN, has taken the replies under this key for it.
#[inline(always)]
pub(crate) fn is_own<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Address>,
    reply_key: &FlowKey<F::Address>,
) -> bool {
    tables
        .transient(reply_key)
        .is_some_and(|it| it.leaving == key.reversed())
}
