//! Whatever packets come: what is counted is what is in the tables, and no packet goes astray.

use std::collections::BTreeMap;

use lb_common::family::Address;
use lb_common::flow::{Direction, Phase};
use lb_common::member::{BackendId, Slot};
use lb_common::reason::Reason;
use lb_common::service::Algorithm;
use lb_common::tables::Tables;
use lb_common::tally::{Load, Tally};
use pglb_tests::packets::{ACK, FIN, PSH, RST, SYN, Segment};
use proptest::prelude::*;

use crate::world::{Connection, World, backend, client, endpoint, slot, vip};

/// Two services share three backends, and a few clients use both, so that everything meets.
const SERVICES: u8 = 2;
const BACKENDS: u8 = 3;
const CLIENTS: u8 = 3;

#[derive(Clone, Copy, Debug)]
enum Happening {
    /// A client sends a segment with these flags to a service.
    FromClient {
        client: u8,
        service: u8,
        flags: u8,
        ttl: u8,
    },
    /// A backend sends a segment with these flags to a client.
    FromBackend {
        backend: u8,
        client: u8,
        flags: u8,
        ttl: u8,
    },
    /// Some ticks pass.
    Passed(u32),
    /// A member becomes eligible, or no longer is.
    Judged {
        service: u8,
        index: u8,
        is_eligible: bool,
    },
    /// All connections of a member are ended.
    Superseded { service: u8, index: u8 },
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        5 => Just(SYN),
        5 => Just(SYN | ACK),
        5 => Just(ACK),
        3 => Just(PSH | ACK),
        3 => Just(FIN | ACK),
        2 => Just(RST),
        2 => Just(RST | ACK),
        1 => any::<u8>(),
    ]
}

fn ttl() -> impl Strategy<Value = u8> {
    prop_oneof![20 => Just(64), 1 => 0..=2_u8]
}

/// What a network does to a gateway.
fn packets() -> impl Strategy<Value = Happening> {
    prop_oneof![
        10 => (0..CLIENTS, 0..SERVICES, flags(), ttl()).prop_map(|(client, service, flags, ttl)| {
            Happening::FromClient { client, service, flags, ttl }
        }),
        10 => (1..=BACKENDS, 0..CLIENTS, flags(), ttl()).prop_map(|(backend, client, flags, ttl)| {
            Happening::FromBackend { backend, client, flags, ttl }
        }),
        2 => prop_oneof![1..5_u32, 12..30_u32, 240..300_u32].prop_map(Happening::Passed),
        1 => (0..SERVICES, 0..BACKENDS, any::<bool>()).prop_map(|(service, index, is_eligible)| {
            Happening::Judged { service, index, is_eligible }
        }),
    ]
}

/// The same, and what a controller does to it.
fn everything() -> impl Strategy<Value = Happening> {
    prop_oneof![
        20 => packets(),
        1 => (0..SERVICES, 0..BACKENDS)
            .prop_map(|(service, index)| Happening::Superseded { service, index }),
    ]
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(vec![
        Algorithm::LeastConnections,
        Algorithm::RoundRobin,
        Algorithm::Hash,
    ])
}

fn world(algorithm: Algorithm) -> World {
    let mut world = World::empty();
    let members: Vec<_> = (1..=BACKENDS).map(|backend| (backend, 100)).collect();
    (0..SERVICES).for_each(|service| world.add_service(service, algorithm, &members));
    world
}

/// Lets it happen; the packet's fate, if it was one.
fn happen(world: &mut World, happening: Happening) -> Option<Result<(), Reason>> {
    let segment = match happening {
        Happening::FromClient {
            client: from,
            service,
            flags,
            ttl,
        } => Segment::between(client(from), vip(service))
            .flags(flags)
            .ttl(ttl),
        Happening::FromBackend {
            backend: from,
            client: to,
            flags,
            ttl,
        } => Segment::between(backend(from), client(to))
            .flags(flags)
            .ttl(ttl),
        Happening::Passed(ticks) => {
            world.wait(ticks);
            return None;
        }
        Happening::Judged {
            service,
            index,
            is_eligible,
        } => {
            world.judge(slot(service, index), is_eligible);
            return None;
        }
        Happening::Superseded { service, index } => {
            world.supersede(slot(service, index));
            return None;
        }
    };
    let opened = |world: &World| {
        slots()
            .map(|slot| world.tally(slot).half_opened)
            .sum::<u64>()
    };
    let before = opened(world);
    let result = world.send(&segment);
    if let Ok(sent) = &result {
        check_route(
            world,
            &segment,
            &sent.segment,
            sent.forward.slot,
            sent.forward.direction,
        );
        if opened(world) > before {
            let member = world.tables.members[&sent.forward.slot];
            assert!(
                member.is_eligible(),
                "{:?} is not eligible",
                sent.forward.slot
            );
        }
    }
    Some(result.map(drop))
}

/// A forwarded packet changes one end, to what its member stands for.
fn check_route(world: &World, came: &Segment, went: &Segment, slot: Slot, direction: Direction) {
    let member = world.tables.members[&slot];
    let of_backend = world.tables.backends[&member.backend]
        .endpoint()
        .map(Address::narrow);
    match direction {
        Direction::ToBackend => {
            assert_eq!(endpoint(went.destination), of_backend);
            assert_eq!(
                came.destination,
                vip(u8::try_from(slot.service().0).unwrap())
            );
            assert_eq!(went.source, came.source);
        }
        Direction::ToClient => {
            assert_eq!(endpoint(came.source), of_backend);
            assert_eq!(went.source, vip(u8::try_from(slot.service().0).unwrap()));
            assert_eq!(went.destination, came.destination);
        }
    }
}

fn slots() -> impl Iterator<Item = Slot> {
    (0..SERVICES).flat_map(|service| (0..BACKENDS).map(move |index| slot(service, index)))
}

/// Half-open and established connections in the tables, by slot; a connection is its client's flow.
fn in_tables(world: &World) -> BTreeMap<Slot, (u64, u64)> {
    let mut found: BTreeMap<_, _> = slots().map(|slot| (slot, (0, 0))).collect();
    for flow in world.tables.transient_flows().values() {
        let is_half_open = matches!(
            flow.phase(),
            Phase::SynSent | Phase::Refused | Phase::SynReceived
        );
        if is_half_open && flow.direction() == Direction::ToBackend {
            found.get_mut(&flow.slot).unwrap().0 += 1;
        }
    }
    for flow in world.tables.established_flows().values() {
        if flow.direction() == Direction::ToBackend {
            found.get_mut(&flow.slot).unwrap().1 += 1;
        }
    }
    found
}

fn difference(tally: &Tally) -> (i128, i128) {
    let of = |more: u64, less: u64| i128::from(more) - i128::from(less);
    (
        of(tally.half_opened, tally.half_closed),
        of(tally.established, tally.ended),
    )
}

fn check_sums(world: &World) {
    let mut of_backends: BTreeMap<BackendId, Tally> = BTreeMap::new();
    let mut of_all = Tally::default();
    for slot in slots() {
        let tally = world.tally(slot);
        let backend = world.tables.members[&slot].backend;
        for sum in [of_backends.entry(backend).or_default(), &mut of_all] {
            sum.half_opened += tally.half_opened;
            sum.half_closed += tally.half_closed;
            sum.established += tally.established;
            sum.ended += tally.ended;
        }
    }
    for (id, tally) in of_backends {
        assert_eq!(world.tables.backend_tally(id), Some(tally), "{id:?}");
    }
    assert_eq!(world.tables.backend_tally(BackendId::GATEWAY), Some(of_all));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn opened_less_closed_is_what_is_in_the_tables(
        algorithm in algorithms(),
        happenings in prop::collection::vec(packets(), 1..80),
    ) {
        let mut world = world(algorithm);
        for (step, happening) in happenings.into_iter().enumerate() {
            happen(&mut world, happening);
            for (slot, (half_open, established)) in in_tables(&world) {
                let counted = difference(&world.tally(slot));
                prop_assert_eq!(
                    counted, (i128::from(half_open), i128::from(established)),
                    "{:?} after step {}: {:?}", slot, step, happening
                );
            }
            check_sums(&world);
        }
    }

    /// What a raised generation ends, the controller finds by its walk; until then a slot may be
    /// counted too high, and never too low.
    #[test]
    fn nothing_is_counted_that_was_not_there(
        algorithm in algorithms(),
        happenings in prop::collection::vec(everything(), 1..80),
    ) {
        let mut world = world(algorithm);
        for happening in happenings {
            happen(&mut world, happening);
            for (slot, (half_open, established)) in in_tables(&world) {
                let tally = world.tally(slot);
                let load = Load::of(&tally, 0, 0);
                prop_assert!(load.half_open >= half_open, "{:?} after {:?}", slot, happening);
                prop_assert!(load.established >= established, "{:?} after {:?}", slot, happening);
                let (of_half_open, of_established) = difference(&tally);
                prop_assert!(of_half_open >= 0 && of_established >= 0, "{:?}", tally);
            }
        }
    }

    /// An established connection goes on, whatever happened before and happens to others: only its
    /// own ends, and its own member's generation, can end it.
    #[test]
    fn a_connection_does_not_notice_the_others(
        algorithm in algorithms(),
        before in prop::collection::vec(everything(), 0..40),
        after in prop::collection::vec(everything(), 1..60),
    ) {
        let mut world = world(algorithm);
        before.into_iter().for_each(|happening| _ = happen(&mut world, happening));
        let Some(connection) = try_establish(&mut world) else { return Ok(()) };
        let is_its_own = |happening: &Happening| match happening {
            // A SYN is a forged one, and changes nothing.
            Happening::FromClient { client: 0, service: 0, flags, .. } => {
                flags & (SYN | FIN | RST | ACK) != SYN
            }
            Happening::FromBackend { backend: number, client: 0, .. } => {
                backend(*number) == connection.backend
            }
            Happening::Superseded { service: 0, index } => slot(0, *index) == connection.slot,
            Happening::FromClient { .. }
            | Happening::FromBackend { .. }
            | Happening::Superseded { .. }
            | Happening::Passed(_)
            | Happening::Judged { .. } => false,
        };
        for happening in after.into_iter().filter(|happening| !is_its_own(happening)) {
            happen(&mut world, happening);
            let up = connection.up().data(b"select 1");
            prop_assert_eq!(
                world.send(&up).map(|sent| sent.segment), Ok(up.to(connection.backend)),
                "after {:?}", happening
            );
            let down = connection.down().data(b"1");
            prop_assert_eq!(
                world.send(&down).map(|sent| sent.segment), Ok(down.from(connection.vip)),
                "after {:?}", happening
            );
        }
    }
}

/// A connection of client 0 to service 0, unless what happened before is in its way.
fn try_establish(world: &mut World) -> Option<Connection> {
    let (client, vip) = (client(0), vip(0));
    let syn = Segment::syn(client, vip);
    let before = world.tables.backend_tally(BackendId::GATEWAY)?.half_opened;
    let sent = world.send(&syn).ok()?;
    if world.tables.backend_tally(BackendId::GATEWAY)?.half_opened == before {
        return None;
    }
    let backend = sent.segment.destination;
    let connection = Connection {
        client,
        vip,
        backend,
        slot: sent.forward.slot,
    };
    let answer = Segment::syn(client, backend).syn_ack();
    assert_eq!(
        world.send(&answer).map(|sent| sent.segment),
        Ok(answer.from(vip))
    );
    let up = connection.up();
    assert_eq!(world.send(&up).map(|sent| sent.segment), Ok(up.to(backend)));
    Some(connection)
}
