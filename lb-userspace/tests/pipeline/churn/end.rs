//! One end of a TCP connection, as far as a load balancer could tell it from a real one (RFC 9293): numbers that are
//! checked, retransmissions, closing in every order, TIME_WAIT, and RST by RFC 5961.

use pglb_tests::packets::{ACK, FIN, RST, SYN};

/// Bytes of a segment.
pub(crate) const SEGMENT: u32 = 100;
/// How often a segment is sent again before its sender gives up.
const PERSISTENCE: u32 = 9;
/// The same of a SYN-ACK.
const SYN_ACK_PERSISTENCE: u32 = 4;
/// A window, as far as numbers beyond what is expected are believed.
const WINDOW: u32 = 65_535;
/// 200 ms and 1 s, in ticks: the first pause before a segment, or a SYN, is sent again.
const PAUSE: u32 = 12;
const SYN_PAUSE: u32 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Open,
    TimeWait,
    /// The host is gone, and knows nothing of that: it neither sends nor hears.
    Deaf,
}

/// What a segment or a timer means for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    GoesOn,
    /// Both sides are closed, and the peer keeps the memory of it.
    Closed,
    /// As [`Self::Closed`], but this end remembers.
    Waits,
    /// The peer has sent an RST.
    Aborted,
    /// The peer does not answer.
    GivenUp,
}

/// A segment between two ends, without addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) payload: u16,
}

impl Bare {
    /// How far it moves the sequence number.
    pub(crate) fn length(&self) -> u32 {
        u32::from(self.payload)
            + u32::from(self.flags & SYN != 0)
            + u32::from(self.flags & FIN != 0)
    }

    /// The RST of a host that has no such connection.
    pub(crate) fn refusal(&self) -> Option<Self> {
        let (sequence, acknowledgment, flags) = if self.flags & ACK != 0 {
            (self.acknowledgment, 0, RST)
        } else {
            (0, self.sequence.wrapping_add(self.length()), RST | ACK)
        };
        let refusal = Self {
            sequence,
            acknowledgment,
            flags,
            payload: 0,
        };
        (self.flags & RST == 0).then_some(refusal)
    }
}

/// An end. Its bytes are numbered from its SYN, which is 0; the FIN comes behind what was written.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Whose it is.
    pub(crate) owner: usize,
    pub(crate) state: State,
    /// Bytes that the program has written.
    pub(crate) written: u32,
    /// Has the program closed its side?
    pub(crate) is_closing: bool,
    /// Has the peer closed its side, and all that it sent is here?
    pub(crate) is_peer_closed: bool,
    /// When the next segment is sent again, or the program acts; the events of other ticks are stale.
    pub(crate) alarm: u32,
    /// Does the program let its peer wait, or do something later?
    pub(crate) is_waiting: bool,
    /// Has the time begun for which this end remembers the connection?
    pub(crate) has_memory: bool,
    initial: u32,
    peers_initial: u32,
    unacknowledged: u32,
    next: u32,
    expected: u32,
    was_first: bool,
    tries: u32,
}

impl End {
    /// An end that is about to connect, or to answer the SYN whose number is given.
    pub(crate) fn new(owner: usize, initial: u32, syn: Option<u32>) -> Self {
        Self {
            owner,
            state: match syn {
                Some(_) => State::SynReceived,
                None => State::SynSent,
            },
            written: 0,
            is_closing: false,
            is_peer_closed: false,
            alarm: 0,
            is_waiting: false,
            has_memory: false,
            initial,
            peers_initial: syn.unwrap_or(0),
            unacknowledged: 0,
            next: 0,
            expected: u32::from(syn.is_some()),
            was_first: false,
            tries: 0,
        }
    }

    /// Bytes that have arrived in order.
    pub(crate) fn received(&self) -> u32 {
        self.expected.saturating_sub(1) - u32::from(self.is_peer_closed)
    }

    /// Can the peer's SYN be that of the next connection, because this one is over (RFC 6191)?
    pub(crate) fn gives_way_to(&self, syn: u32) -> bool {
        self.state == State::TimeWait && syn.wrapping_sub(self.peers_initial) < 1 << 31
    }

    /// How long until what is under way is sent again (ticks); `None` when nothing is.
    pub(crate) fn patience(&self) -> Option<u32> {
        let first = match self.state {
            State::SynSent | State::SynReceived => SYN_PAUSE,
            State::Open => PAUSE,
            State::TimeWait | State::Deaf => return None,
        };
        (self.unacknowledged < self.next).then(|| (first << self.tries.min(6)).min(600))
    }

    /// What may be sent and has not been.
    pub(crate) fn send_new(&mut self, out: &mut Vec<Bare>) {
        if matches!(self.state, State::TimeWait | State::Deaf) {
            return;
        }
        if self.next == 0 {
            out.push(self.segment(0));
            self.next = 1;
        }
        if self.state == State::Open {
            while self.next < self.end() {
                let segment = self.segment(self.next);
                self.next += segment.length();
                self.was_first |= segment.flags & FIN != 0 && !self.is_peer_closed;
                out.push(segment);
            }
        }
    }

    /// What is sent again when nothing came for long enough.
    pub(crate) fn send_again(&mut self, out: &mut Vec<Bare>) -> Outcome {
        self.tries += 1;
        let most = match self.state {
            State::SynReceived => SYN_ACK_PERSISTENCE,
            State::SynSent | State::Open | State::TimeWait | State::Deaf => PERSISTENCE,
        };
        if self.tries > most {
            return Outcome::GivenUp;
        }
        out.push(self.segment(self.unacknowledged));
        Outcome::GoesOn
    }

    /// The RST of a program that wants no more of it.
    pub(crate) fn abort(&self) -> Bare {
        Bare {
            flags: RST | ACK,
            payload: 0,
            ..self.segment(self.next)
        }
    }

    /// Takes a segment of the peer, and answers it.
    pub(crate) fn receive(&mut self, came: &Bare, out: &mut Vec<Bare>) -> Outcome {
        match self.state {
            State::Deaf => Outcome::GoesOn,
            State::SynSent => self.receive_answer(came, out),
            State::SynReceived | State::Open | State::TimeWait => self.receive_more(came, out),
        }
    }

    fn receive_answer(&mut self, came: &Bare, out: &mut Vec<Bare>) -> Outcome {
        let is_meant = came.flags & ACK != 0 && came.acknowledgment == self.initial.wrapping_add(1);
        if came.flags & RST != 0 {
            return if is_meant {
                Outcome::Aborted
            } else {
                Outcome::GoesOn
            };
        }
        if !is_meant {
            // A challenge ACK of an end that still has an older connection.
            out.extend(came.refusal());
        } else if came.flags & SYN != 0 {
            self.peers_initial = came.sequence;
            (self.expected, self.unacknowledged, self.tries) = (1, 1, 0);
            self.state = State::Open;
            out.push(self.acknowledgment());
        }
        Outcome::GoesOn
    }

    fn receive_more(&mut self, came: &Bare, out: &mut Vec<Bare>) -> Outcome {
        let offset = came.sequence.wrapping_sub(self.peers_initial);
        if came.flags & RST != 0 {
            if offset == self.expected {
                return Outcome::Aborted;
            }
            if offset.wrapping_sub(self.expected) < WINDOW {
                out.push(self.acknowledgment());
            }
            return Outcome::GoesOn;
        }
        if came.flags & SYN != 0 {
            match self.state {
                State::SynReceived if offset == 0 => out.push(self.segment(0)),
                State::SynSent
                | State::SynReceived
                | State::Open
                | State::TimeWait
                | State::Deaf => out.push(self.acknowledgment()),
            }
            return Outcome::GoesOn;
        }
        let is_old = self.expected.wrapping_sub(offset) < WINDOW;
        let acknowledged = came.acknowledgment.wrapping_sub(self.initial);
        if (!is_old && offset.wrapping_sub(self.expected) >= WINDOW)
            || (acknowledged > self.next && acknowledged.wrapping_neg() > WINDOW)
        {
            // Linux answers a segment without data twice a second at most, lest two ends talk of it for ever.
            if self.state == State::SynReceived {
                out.extend(came.refusal());
            } else if came.length() > 0 {
                out.push(self.acknowledgment());
            }
            return Outcome::GoesOn;
        }
        if acknowledged > self.unacknowledged && acknowledged <= self.next {
            (self.unacknowledged, self.tries) = (acknowledged, 0);
            if self.state == State::SynReceived {
                self.state = State::Open;
            }
        }
        if self.state == State::SynReceived {
            return Outcome::GoesOn;
        }
        if came.length() > 0 {
            if offset == self.expected && !self.is_peer_closed {
                self.expected += came.length();
                self.is_peer_closed = came.flags & FIN != 0;
            }
            out.push(self.acknowledgment());
        }
        self.rest()
    }

    /// Whether there is anything left to do.
    fn rest(&mut self) -> Outcome {
        if self.state != State::Open
            || !self.is_closing
            || !self.is_peer_closed
            || self.unacknowledged < self.end()
        {
            return Outcome::GoesOn;
        }
        if !self.was_first {
            return Outcome::Closed;
        }
        self.state = State::TimeWait;
        Outcome::Waits
    }

    /// The number behind the last one there is.
    fn end(&self) -> u32 {
        1 + self.written + u32::from(self.is_closing)
    }

    /// The segment that begins with this number.
    fn segment(&self, number: u32) -> Bare {
        let (flags, payload) = if number == 0 {
            match self.state {
                State::SynSent => (SYN, 0),
                State::SynReceived | State::Open | State::TimeWait | State::Deaf => (SYN | ACK, 0),
            }
        } else {
            let left = (1 + self.written).saturating_sub(number).min(SEGMENT);
            let is_last = self.is_closing && number + left == 1 + self.written;
            // Every other sender has its FIN travel alone.
            let has_fin = is_last && (left == 0 || self.owner.is_multiple_of(2));
            (ACK | if has_fin { FIN } else { 0 }, left)
        };
        Bare {
            sequence: self.initial.wrapping_add(number),
            acknowledgment: match self.state {
                State::SynSent => 0,
                State::SynReceived | State::Open | State::TimeWait | State::Deaf => {
                    self.peers_initial.wrapping_add(self.expected)
                }
            },
            flags,
            payload: u16::try_from(payload).unwrap(),
        }
    }

    fn acknowledgment(&self) -> Bare {
        Bare {
            flags: ACK,
            payload: 0,
            ..self.segment(self.next.max(1))
        }
    }
}
