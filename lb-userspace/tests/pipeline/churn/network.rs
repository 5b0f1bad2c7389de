//! Clients, a gateway of tables alone, servers, and the wires between them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use lb_common::backend::Backend;
use lb_common::family::Address;
use lb_common::flow::{Endpoint, FlowKey, NextHop};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, Forwarding, Service, ServiceId, ServiceKey};
use lb_common::source::SourceKey;
use lb_common::tables::Tables as _;
use pglb_tests::packets::{ACK, RST, SYN};

use super::end::{Bare, End, Outcome, SEGMENT, State};
use crate::site::{BACKEND, GATEWAY, Kind, Site, Small, VIP, at};

/// Client hosts.
pub(super) const HOSTS: u16 = 64;
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 21_999;
/// Replaces 60 s: how long an end remembers a connection that it closed first (TIME_WAIT), and how long a spoofed or
/// dead client's address stays out of use.
const MEMORY: u32 = 3_580;
const LAST_MOMENTS: u32 = 120;
/// How far ahead the wires know what happens.
const HORIZON: usize = 4_096;
/// One packet in so many is lost, comes twice, or is overtaken, on each wire.
const LOST: u32 = 80;
const TWICE: u32 = 80;
const OVERTAKEN: u32 = 40;
/// A program that talks on, or lets its peer wait, does it after a second.
const SECOND: u32 = 60;
/// How often it talks on after its peer has closed.
const LAST_WORDS: u32 = 4;

/// How a connection goes, and who ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    ClientFirst,
    BackendFirst,
    Together,
    ClientAborts,
    BackendAborts,
    HalfClosedByClient,
    HalfClosedByBackend,
    /// Nobody listens, on one backend or on any.
    RefusedOnce,
    Refused,
    /// The client's address was somebody else's.
    Spoofed,
    Vanishes,
    FallsSilent,
    /// The port is used again at once, by the same client.
    ReusesPort,
    /// Somebody who knows the addresses but no numbers sends RST and SYN.
    Attacked,
}

const STORIES: [Story; 20] = [
    Story::ClientFirst,
    Story::ClientFirst,
    Story::ClientFirst,
    Story::ClientFirst,
    Story::BackendFirst,
    Story::BackendFirst,
    Story::BackendFirst,
    Story::Together,
    Story::ClientAborts,
    Story::BackendAborts,
    Story::HalfClosedByClient,
    Story::HalfClosedByBackend,
    Story::RefusedOnce,
    Story::Refused,
    Story::Spoofed,
    Story::Vanishes,
    Story::FallsSilent,
    Story::ReusesPort,
    Story::Attacked,
    Story::Attacked,
];

impl Story {
    /// Must both ends get all that was sent to them?
    fn is_harmless(self) -> bool {
        match self {
            Self::ClientFirst
            | Self::BackendFirst
            | Self::Together
            | Self::HalfClosedByClient
            | Self::HalfClosedByBackend
            | Self::ReusesPort
            | Self::Attacked => true,
            Self::ClientAborts
            | Self::BackendAborts
            // Where SYNs are lost as well, no other backend may be left to try.
            | Self::RefusedOnce
            | Self::Refused
            | Self::Spoofed
            | Self::Vanishes
            | Self::FallsSilent => false,
        }
    }
}

/// A connection, as whoever sees everything knows it.
#[derive(Clone, Copy, Debug)]
struct Connection<A> {
    client: Endpoint<A>,
    story: Story,
    began: u32,
}

/// A segment on its way. Whose it is, nobody on the way can see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<A> {
    pub(super) owner: usize,
    pub(super) small: Small<A>,
}

/// Where an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place<A> {
    /// By the client's address and port.
    Client(Endpoint<A>),
    /// By the backend, and by the key that packets to it have.
    Backend(usize, FlowKey<A>),
}

#[derive(Clone, Copy, Debug)]
enum Event<A> {
    /// A packet reaches the gateway.
    Reaches(Packet<A>),
    /// A packet reaches an end.
    Arrives(Place<A>, Packet<A>),
    /// An end has waited for long enough.
    Alarm(Place<A>),
    /// A program does what it does later.
    Acts(Place<A>, usize),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) opened: usize,
    pub(super) reused: usize,
    pub(super) closed: usize,
    pub(super) aborted: usize,
    /// Connections that ended before both ends had what was sent to them, for no reason.
    pub(super) cut: usize,
    packets: usize,
    lost: usize,
    pub(super) reset: u64,
    pub(super) removed: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            opened,
            closed,
            aborted,
            packets,
            lost,
            reset,
            removed,
            ..
        } = self;
        write!(
            out,
            "{opened} connections, {packets} packets, {lost} lost; ends closed {closed}, aborted {aborted}; \
             the controller reset {reset} connections and removed {removed} flows"
        )
    }
}

pub(super) struct Network<F: Kind> {
    pub(super) site: Site<F>,
    pub(super) forwarding: Forwarding,
    pub(super) figures: Figures,
    pub(super) sources_reaped: BTreeMap<SourceKey, u64>,
    /// When the controller killed a backend's connections last.
    pub(super) killed: u32,
    addresses: Vec<F::Address>,
    ends: HashMap<Place<F::Address>, End>,
    connections: Vec<Connection<F::Address>>,
    /// The connection that a client's port had last.
    pub(super) owners: HashMap<Endpoint<F::Address>, usize>,
    wires: VecDeque<Vec<Event<F::Address>>>,
    pub(super) quiet_since: u32,
    next_port: u32,
    random: u64,
}

impl<F: Kind> Network<F> {
    pub(super) fn new(forwarding: Forwarding, ports: (u16, u16)) -> Self {
        let mut site = Site::<F>::new(forwarding);
        // Which backend a dsr packet goes to, its addresses do not tell.
        let backends = if forwarding == Forwarding::Dsr { 1 } else { 3 };
        let addresses: Vec<_> = (0..backends)
            .map(|number| F::host(BACKEND + number))
            .collect();
        for (number, address) in (0..backends).zip(&addresses) {
            let (slot, id) = (slot(number.into()), BackendId(1 + number));
            let mut member = Member::default().eligible(true).weighing(100);
            (member.generation, member.backend) = (1, id);
            site.tables.members.insert(slot, member);
            let mut backend = Backend::default();
            backend.set_endpoint(at::<F>(BACKEND + number, 5432).map(Address::widen));
            backend.gateway = F::host(GATEWAY).widen();
            site.tables.backends.insert(id, backend);
            let way: NextHop = site.tables.next_hops[&F::host(0)];
            site.tables.next_hops.insert(*address, way);
        }
        site.tables
            .backends
            .entry(BackendId::GATEWAY)
            .or_default()
            .max_connections = 1 << 20;
        let length = u8::try_from(backends).unwrap();
        let service = Service::new(ServiceId(0), length, Algorithm::LeastConnections, 0);
        let vip = ServiceKey::new(at::<F>(VIP, 5432));
        site.tables
            .services
            .insert(vip, service.forwarded(forwarding));
        site.service().source_connections = 1 << 20;
        site.tables.ports = ports;
        Self {
            killed: site.now.0,
            quiet_since: site.now.0,
            site,
            forwarding,
            figures: Figures::default(),
            sources_reaped: BTreeMap::new(),
            addresses,
            ends: HashMap::new(),
            connections: Vec::new(),
            owners: HashMap::new(),
            wires: (0..HORIZON).map(|_| Vec::new()).collect(),
            next_port: 0,
            random: 4711,
        }
    }

    pub(super) fn backends(&self) -> usize {
        self.addresses.len()
    }

    /// Has nothing been under way for so many ticks?
    pub(super) fn is_quiet_for(&self, ticks: u32) -> bool {
        self.site.now.0 - self.quiet_since > ticks
    }

    /// A client connects, from a port that it does not use.
    pub(super) fn connect(&mut self) {
        let client = loop {
            self.next_port += 1;
            let host = u16::try_from(self.next_port % u32::from(HOSTS)).unwrap();
            let ports = u32::from(LAST_PORT - FIRST_PORT) + 1;
            let port =
                FIRST_PORT + u16::try_from(self.next_port / u32::from(HOSTS) % ports).unwrap();
            let client = at::<F>(host, port);
            if !self.ends.contains_key(&Place::Client(client)) {
                break client;
            }
        };
        let story = STORIES[self.below(20) as usize];
        self.connect_from(client, story);
    }

    fn connect_from(&mut self, client: Endpoint<F::Address>, story: Story) {
        let owner = self.connections.len();
        self.figures.opened += 1;
        self.connections.push(Connection {
            client,
            story,
            began: self.site.now.0,
        });
        self.owners.insert(client, owner);
        let initial = self.initial();
        let mut end = End::new(owner, initial, None);
        let mut out = Vec::new();
        end.send_new(&mut out);
        if story == Story::Spoofed {
            end.state = State::Deaf;
        }
        let place = Place::Client(client);
        self.ends.insert(place, end);
        self.send_all(place, owner, &out);
        self.set_alarm(place);
    }

    /// Lets everything happen that the next tick holds.
    pub(super) fn pass_a_tick(&mut self) {
        self.site.now.0 += 1;
        let due = self.wires.pop_front().unwrap();
        self.wires.push_back(Vec::new());
        for event in due {
            match event {
                Event::Reaches(packet) => self.reach_gateway(packet),
                Event::Arrives(place @ Place::Client(_), packet) => {
                    self.reach_client(place, packet)
                }
                Event::Arrives(Place::Backend(number, key), packet) => {
                    self.reach_backend(number, key, packet)
                }
                Event::Alarm(place) => self.alarm(place),
                Event::Acts(place, owner) => {
                    if self.ends.get(&place).is_some_and(|end| end.owner == owner) {
                        self.run_program(place, true);
                    }
                }
            }
        }
    }

    fn reach_gateway(&mut self, packet: Packet<F::Address>) {
        self.figures.packets += 1;
        let came = packet.small;
        match self.site.send(came) {
            Ok(small) => {
                let place = self.receiver(&small.key);
                self.put(Event::Arrives(place, Packet { small, ..packet }));
            }
            // The host itself handles it: nobody listens there, or it only passes through.
            Err(Reason::NotOurs) if came.key.destination == F::host(GATEWAY) => self.refuse(packet),
            Err(Reason::NotOurs) => {
                let place = self.receiver(&came.key);
                self.put(Event::Arrives(place, packet));
            }
            Err(Reason::UnknownSegment | Reason::Superseded | Reason::NoBackend) => {
                self.refuse(packet)
            }
            Err(Reason::StrayReset | Reason::RefusalWithheld) => {}
            Err(reason) => panic!("{reason:?}: {came:?}"),
        }
    }

    /// The gateway answers by an RST.
    fn refuse(&mut self, packet: Packet<F::Address>) {
        if let Some(refusal) = bare(&packet.small).refusal() {
            let small = with_key(packet.small.key.reversed(), &refusal);
            let place = self.receiver(&small.key);
            self.put(Event::Arrives(place, Packet { small, ..packet }));
        }
    }

    /// Who gets a packet that leaves the gateway.
    pub(super) fn receiver(&self, key: &FlowKey<F::Address>) -> Place<F::Address> {
        let backend = self
            .addresses
            .iter()
            .position(|address| *address == key.destination);
        match backend {
            Some(number) => Place::Backend(number, *key),
            None if key.destination == F::host(VIP) => Place::Backend(0, *key),
            None => Place::Client(key.receiver()),
        }
    }

    fn reach_client(&mut self, place: Place<F::Address>, packet: Packet<F::Address>) {
        let is_of_vip = packet.small.key.sender() == at::<F>(VIP, 5432);
        if is_of_vip && self.ends.contains_key(&place) {
            self.receive(place, packet);
        } else {
            self.answer_for_nobody(place, packet);
        }
    }

    fn reach_backend(
        &mut self,
        number: usize,
        key: FlowKey<F::Address>,
        packet: Packet<F::Address>,
    ) {
        let place = Place::Backend(number, key);
        let came = bare(&packet.small);
        let there = self.ends.get(&place);
        let is_syn = came.flags & (SYN | ACK | RST) == SYN;
        if let Some(end) = there
            && !(is_syn && end.gives_way_to(came.sequence))
        {
            return self.receive(place, packet);
        }
        if !is_syn {
            return self.answer_for_nobody(place, packet);
        }
        // When both close at the same time and the backend's FIN has to be sent again, it looks as if the client had
        // been first. Then the backend must let go of the port (RFC 6191).
        // So it is for the last moments, when the client's FIN had to be sent again.
        let story = there.filter(|end| end.alarm > self.site.now.0 + LAST_MOMENTS);
        let story = story.map(|end| self.connections[end.owner].story);
        assert!(
            self.forwarding != Forwarding::FullNat || matches!(story, None | Some(Story::Together)),
            "a port that the backend has in TIME_WAIT was given away: {story:?}"
        );
        let connection = self.connections[packet.owner];
        let is_refused = match connection.story {
            Story::Refused => true,
            Story::RefusedOnce => self.backends() > 1 && number == packet.owner % self.backends(),
            _ => false,
        };
        if is_refused {
            return self.answer_for_nobody(place, packet);
        }
        let initial = self.initial();
        let mut end = End::new(packet.owner, initial, Some(came.sequence));
        let mut out = Vec::new();
        end.send_new(&mut out);
        self.ends.insert(place, end);
        self.send_all(place, packet.owner, &out);
        self.set_alarm(place);
    }

    fn answer_for_nobody(&mut self, place: Place<F::Address>, packet: Packet<F::Address>) {
        if let Some(refusal) = bare(&packet.small).refusal() {
            // It goes back to whoever has sent this, which may not be the peer.
            let small = with_key(packet.small.key.reversed(), &refusal);
            self.leave(place, Packet { small, ..packet });
        }
    }

    fn receive(&mut self, place: Place<F::Address>, packet: Packet<F::Address>) {
        let mut out = Vec::new();
        let end = self.ends.get_mut(&place).unwrap();
        let owner = end.owner;
        let before = end.received();
        let outcome = end.receive(&bare(&packet.small), &mut out);
        let has_changed = end.received() != before || outcome != Outcome::GoesOn;
        let client = |owner: usize| self.connections[owner].client;
        // The backend may end what it takes for the client's older connection, which is why nobody is to notice.
        assert!(
            !has_changed || client(owner) == client(packet.owner) || outcome == Outcome::Aborted,
            "{packet:?} was mixed up with {:?}",
            self.connections[owner]
        );
        self.send_all(place, owner, &out);
        self.conclude(place, outcome);
        if self.ends.contains_key(&place) {
            self.run_program(place, false);
            self.set_alarm(place);
        }
    }

    /// What the program of an end does next; later, if it said that it would.
    fn run_program(&mut self, place: Place<F::Address>, is_later: bool) {
        let end = &self.ends[&place];
        if end.state != State::Open {
            return;
        }
        let (owner, story) = (end.owner, self.connections[end.owner].story);
        let done = match place {
            Place::Client(_) => self.run_client(place, story, is_later),
            Place::Backend(..) => self.run_backend(place, story, is_later),
        };
        match done {
            Done::Nothing => {}
            Done::Later => self.later(SECOND, Event::Acts(place, owner)),
            Done::Aborts => {
                let abort = self.ends[&place].abort();
                self.send_all(place, owner, &[abort]);
                self.ends.remove(&place);
                if let Place::Client(client) = place {
                    self.figures.reused += 1;
                    self.connect_from(client, Story::ClientFirst);
                }
                return;
            }
        }
        let mut out = Vec::new();
        if let Some(end) = self.ends.get_mut(&place) {
            end.send_new(&mut out);
            self.send_all(place, owner, &out);
            self.set_alarm(place);
        }
    }

    fn run_client(&mut self, place: Place<F::Address>, story: Story, is_later: bool) -> Done {
        let end = self.ends.get_mut(&place).unwrap();
        let has_answer = end.received() >= 2 * SEGMENT;
        if story == Story::HalfClosedByBackend {
            return talk_on(end, is_later);
        }
        if end.written == 0 {
            end.written = SEGMENT;
            end.is_closing = matches!(story, Story::Together | Story::HalfClosedByClient);
        }
        if has_answer && story == Story::ClientAborts {
            return Done::Aborts;
        }
        if has_answer && story == Story::Vanishes {
            end.state = State::Deaf;
        }
        // The answer came after the forged segments, and was one of a living connection. In dsr it does not come this way.
        let is_seen = self.forwarding != Forwarding::Dsr;
        if is_seen && has_answer && story == Story::Attacked && !end.is_closing {
            let connection = self.connections[end.owner];
            let key = FlowKey::between(connection.client, at::<F>(VIP, 5432));
            let is_there = self.site.tables.recall(&key).is_some();
            assert!(
                is_there || connection.began <= self.killed,
                "{connection:?} is over"
            );
        }
        let is_first = matches!(
            story,
            Story::ClientFirst | Story::ReusesPort | Story::Attacked | Story::RefusedOnce
        );
        end.is_closing |= end.is_peer_closed || has_answer && is_first;
        Done::Nothing
    }

    fn run_backend(&mut self, place: Place<F::Address>, story: Story, is_later: bool) -> Done {
        let end = self.ends.get_mut(&place).unwrap();
        let has_question = end.received() >= SEGMENT;
        match story {
            Story::HalfClosedByBackend => end.is_closing = true,
            Story::Together => (end.written, end.is_closing) = (2 * SEGMENT, true),
            Story::HalfClosedByClient => return talk_on(end, is_later),
            Story::BackendAborts if has_question => return Done::Aborts,
            Story::Attacked if has_question && end.written == 0 && !end.is_waiting => {
                end.is_waiting = true;
                let owner = end.owner;
                self.attack(owner);
                return Done::Later;
            }
            Story::Attacked if end.written == 0 && !is_later => {}
            // It may not hear of the RST.
            Story::ClientAborts if is_later => end.is_closing = true,
            _ if has_question && end.written == 0 => {
                end.written = 2 * SEGMENT;
                end.is_closing = story == Story::BackendFirst;
                if story == Story::ClientAborts {
                    return Done::Later;
                }
            }
            _ => {}
        }
        let end = self.ends.get_mut(&place).unwrap();
        end.is_closing |= end.is_peer_closed;
        Done::Nothing
    }

    /// Somebody sends what a blind attacker can, in a client's name.
    fn attack(&mut self, owner: usize) {
        let key = FlowKey::between(self.connections[owner].client, at::<F>(VIP, 5432));
        let flags = [RST, RST | ACK, SYN][self.below(3) as usize];
        for _ in 0..3 {
            let blind = Bare {
                sequence: self.next_random(),
                acknowledgment: self.next_random(),
                flags,
                payload: 0,
            };
            let small = with_key(key, &blind);
            self.put(Event::Reaches(Packet { owner, small }));
        }
    }

    fn alarm(&mut self, place: Place<F::Address>) {
        let now = self.site.now.0;
        let Some(end) = self.ends.get_mut(&place) else {
            return;
        };
        if end.alarm != now {
            return;
        }
        if matches!(end.state, State::TimeWait | State::Deaf) {
            self.ends.remove(&place);
            return;
        }
        let (owner, mut out) = (end.owner, Vec::new());
        let outcome = end.send_again(&mut out);
        self.send_all(place, owner, &out);
        self.conclude(place, outcome);
        self.set_alarm(place);
    }

    fn conclude(&mut self, place: Place<F::Address>, outcome: Outcome) {
        let Some(end) = self.ends.get(&place) else {
            return;
        };
        let (owner, connection) = (end.owner, self.connections[end.owner]);
        let is_complete = end.is_peer_closed && end.is_closing || end.state == State::TimeWait;
        match outcome {
            Outcome::GoesOn => return,
            Outcome::Closed | Outcome::Waits => self.figures.closed += 1,
            Outcome::Aborted | Outcome::GivenUp => {
                self.figures.aborted += 1;
                // An end that has answered a SYN which its client has sent elsewhere meanwhile is none.
                let is_real = end.state == State::Open || matches!(place, Place::Client(_));
                let was_killed = connection.began <= self.killed;
                if connection.story.is_harmless() && is_real && !is_complete && !was_killed {
                    self.figures.cut += 1;
                    if self.figures.cut <= 3 {
                        println!("cut: {outcome:?} {owner} {place:?} {connection:?} {end:?}");
                    }
                }
            }
        }
        if outcome == Outcome::Waits {
            if connection.story == Story::ReusesPort && place == Place::Client(connection.client) {
                self.figures.reused += 1;
                self.connect_from(connection.client, Story::ClientFirst);
            }
        } else {
            self.ends.remove(&place);
        }
    }

    fn set_alarm(&mut self, place: Place<F::Address>) {
        let now = self.site.now.0;
        let Some(end) = self.ends.get_mut(&place) else {
            return;
        };
        let is_over = matches!(end.state, State::TimeWait | State::Deaf);
        let wait = if is_over {
            Some(MEMORY)
        } else {
            end.patience()
        };
        let due = wait.map_or(0, |wait| now + wait);
        // An over-long wait is not begun anew by each packet.
        if is_over && end.has_memory {
            return;
        }
        end.has_memory = is_over;
        end.alarm = due;
        if let Some(wait) = wait {
            self.later(wait, Event::Alarm(place));
        }
    }

    fn send_all(&mut self, place: Place<F::Address>, owner: usize, out: &[Bare]) {
        let key = match place {
            Place::Client(client) => FlowKey::between(client, at::<F>(VIP, 5432)),
            Place::Backend(_, key) => key.reversed(),
        };
        for bare in out {
            self.leave(
                place,
                Packet {
                    owner,
                    small: with_key(key, bare),
                },
            );
        }
    }

    /// A packet leaves an end.
    fn leave(&mut self, place: Place<F::Address>, packet: Packet<F::Address>) {
        let is_direct = self.forwarding == Forwarding::Dsr && matches!(place, Place::Backend(..));
        self.put(if is_direct {
            Event::Arrives(Place::Client(packet.small.key.receiver()), packet)
        } else {
            Event::Reaches(packet)
        });
    }

    /// Puts a packet on a wire, which may lose it, double it, or have others overtake it.
    fn put(&mut self, event: Event<F::Address>) {
        if self.below(LOST) == 0 {
            self.figures.lost += 1;
            return;
        }
        let copies = if self.below(TWICE) == 0 { 2 } else { 1 };
        for _ in 0..copies {
            let mut wait = 1 + self.below(2);
            if self.below(OVERTAKEN) == 0 {
                wait += 5;
            }
            self.later(wait, event);
        }
    }

    /// As [`Self::put`], for what the controller sends to an end.
    pub(super) fn send_from_gateway(
        &mut self,
        wait: u32,
        key: FlowKey<F::Address>,
        bare: &Bare,
        owner: usize,
    ) {
        let place = self.receiver(&key);
        let packet = Packet {
            owner,
            small: with_key(key, bare),
        };
        self.later(wait, Event::Arrives(place, packet));
    }

    fn later(&mut self, wait: u32, event: Event<F::Address>) {
        self.quiet_since = self.site.now.0;
        self.wires[wait as usize - 1].push(event);
    }

    /// Initial sequence numbers grow with time, as RFC 6528 wants them.
    fn initial(&mut self) -> u32 {
        self.site
            .now
            .0
            .wrapping_mul(70_000)
            .wrapping_add(self.below(60_000))
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.next_random() % limit
    }

    fn next_random(&mut self) -> u32 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from(mixed >> 32).unwrap()
    }
}

/// What a program has done.
enum Done {
    Nothing,
    Later,
    Aborts,
}

/// Its peer has closed, and it says something now and then before it closes as well.
fn talk_on(end: &mut End, is_later: bool) -> Done {
    if !end.is_peer_closed || end.is_closing {
        return Done::Nothing;
    }
    if !is_later {
        return if std::mem::replace(&mut end.is_waiting, true) {
            Done::Nothing
        } else {
            Done::Later
        };
    }
    end.written += SEGMENT;
    if end.written < LAST_WORDS * SEGMENT {
        return Done::Later;
    }
    end.is_closing = true;
    Done::Nothing
}

pub(super) fn slot(backend: usize) -> Slot {
    Slot::of(ServiceId(0), u8::try_from(backend).unwrap())
}

fn bare<A>(small: &Small<A>) -> Bare {
    Bare {
        sequence: small.sequence,
        acknowledgment: small.acknowledgment,
        flags: small.flags,
        payload: small.payload,
    }
}

fn with_key<A>(key: FlowKey<A>, bare: &Bare) -> Small<A> {
    Small {
        key,
        sequence: bare.sequence,
        acknowledgment: bare.acknowledgment,
        flags: bare.flags,
        payload: bare.payload,
    }
}
