//! Which backend a new connection gets.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use lb_common::limits::{HALF_OPEN_DISCOUNT, HALF_OPEN_FLOOD, HALF_OPEN_RUSH};
use lb_common::member::Slot;
use lb_common::service::{Algorithm, ServiceId};
use lb_common::tally::Load;
use pglb_tests::packets::Segment;
use proptest::prelude::*;

use crate::world::{World, slot, vip};

const OPENS: u32 = 1_000;

/// Another client each time.
fn visitor(number: u32) -> SocketAddrV4 {
    let [_, b, c, d] = number.to_be_bytes();
    SocketAddrV4::new([10, 100 + b, c, d].into(), 40_000)
}

/// How many of the connections each slot got; held open, or each closed before the next.
fn spread(world: &mut World, is_held: bool) -> BTreeMap<Slot, u32> {
    let mut given = BTreeMap::new();
    for number in 0..OPENS {
        let connection = world.establish(visitor(number), vip(0));
        *given.entry(connection.slot).or_default() += 1;
        if !is_held {
            world.close(&connection);
        }
    }
    given
}

fn assert_near(count: u32, expected: u32, margin: u32) {
    assert!(
        count.abs_diff(expected) <= margin,
        "{count} is not within {margin} of {expected}"
    );
}

#[test]
fn least_connections_gives_equal_backends_the_same_held_or_not() {
    for is_held in [true, false] {
        let given = spread(&mut World::of(2), is_held);
        assert_near(given[&slot(0, 0)], given[&slot(0, 1)], 1);
    }
}

#[test]
fn least_connections_follows_the_weights_held_or_not() {
    for is_held in [true, false] {
        let mut world = World::with(Algorithm::LeastConnections, &[100, 50]);
        let given = spread(&mut world, is_held);
        assert_near(given[&slot(0, 0)], OPENS * 2 / 3, OPENS / 100);
        let mut world = World::with(Algorithm::LeastConnections, &[1, 1_000, 500]);
        let given = spread(&mut world, is_held);
        assert_near(given[&slot(0, 1)], OPENS * 2 / 3, OPENS / 100);
        assert!(given[&slot(0, 0)] > 0, "a small weight is not none");
    }
}

#[test]
fn members_of_other_weights_are_level_with_as_many_connections_for_each_unit_of_it() {
    for (weights, held, expected) in [
        (&[100, 50][..], 3, &[200, 100][..]),
        (&[100, 75], 7, &[171, 129]),
        (&[13, 39], 4, &[75, 225]),
        (&[100, 200, 300], 6, &[50, 100, 150]),
    ] {
        let mut world = World::with(Algorithm::LeastConnections, weights);
        (0..held).for_each(|number| _ = world.establish(visitor(number), vip(0)));
        let mut given = BTreeMap::new();
        for number in held..held + 300 {
            let connection = world.establish(visitor(number), vip(0));
            *given.entry(connection.slot).or_default() += 1;
            world.close(&connection);
        }
        for (index, expected) in (0..).zip(expected) {
            assert_near(given[&slot(0, index)], *expected, 1);
        }
    }
}

#[test]
fn least_connections_fills_up_a_backend_that_lost_some() {
    let mut world = World::of(2);
    let connections: Vec<_> = (0..20)
        .map(|n| world.establish(visitor(n), vip(0)))
        .collect();
    connections
        .iter()
        .filter(|it| it.slot == slot(0, 1))
        .for_each(|it| world.close(it));
    assert_eq!(
        (world.load(slot(0, 0)), world.load(slot(0, 1))),
        ((0, 10), (0, 0))
    );
    for number in 100..110 {
        assert_eq!(world.establish(visitor(number), vip(0)).slot, slot(0, 1));
    }
}

#[test]
fn least_connections_counts_half_open_ones() {
    let mut world = World::of(2);
    (0..10).for_each(|number| _ = world.open(visitor(number), vip(0)));
    assert_eq!(
        (world.load(slot(0, 0)), world.load(slot(0, 1))),
        ((5, 0), (5, 0))
    );
}

#[test]
fn least_connections_spreads_a_flood_over_all_members() {
    let mut world = World::with(Algorithm::LeastConnections, &[100, 100, 200]);
    // Each has more than a rush of clients makes, and one a few connections more.
    (0..8).for_each(|number| _ = world.establish(visitor(number), vip(0)));
    world.member(slot(0, 1)).reaped = 2;
    (100..16_100).for_each(|number| _ = world.open(visitor(number), vip(0)));
    let given = [0, 1, 2].map(|index| world.load(slot(0, index)).0);
    for (half_open, expected) in given.into_iter().zip([4_000, 4_000, 8_000]) {
        let margin = 3 * HALF_OPEN_DISCOUNT;
        assert!(half_open.abs_diff(expected) <= margin, "{given:?}");
    }
}

#[test]
fn a_rush_of_clients_keeps_to_the_limit_and_a_flood_does_not_make_a_backend_full() {
    let load = |established, half_open| Load {
        half_open,
        established,
        given: 0,
    };
    for half_open in 0..=HALF_OPEN_FLOOD {
        assert_eq!(load(7, half_open).taken(400), 7 + half_open);
    }
    for half_open in [HALF_OPEN_FLOOD + 1, 1_000_000] {
        assert!(load(299, half_open).taken(400) < 400);
        assert!(load(300, half_open).taken(400) >= 400);
    }
}

#[test]
fn least_connections_believes_the_controller_about_what_is_gone() {
    let mut world = World::of(2);
    (0..10).for_each(|number| _ = world.establish(visitor(number), vip(0)));
    world.member(slot(0, 0)).reaped = 5;
    for number in 100..105 {
        assert_eq!(world.establish(visitor(number), vip(0)).slot, slot(0, 0));
    }
}

#[test]
fn a_backend_that_joins_late_gets_its_share_of_short_connections_and_no_more() {
    let mut world = World::of(2);
    world.judge(slot(0, 1), false);
    (0..500).for_each(|number| {
        let connection = world.establish(visitor(number), vip(0));
        world.close(&connection);
    });
    // As the controller does when it reshapes a service.
    for index in [0, 1] {
        let baseline = world.tally(slot(0, index)).half_opened;
        world.member(slot(0, index)).baseline = baseline;
        world.judge(slot(0, index), true);
    }
    let given = spread(&mut world, false);
    assert_near(given[&slot(0, 0)], given[&slot(0, 1)], 1);
}

#[test]
fn round_robin_takes_the_ring_in_order() {
    let mut world = World::with(Algorithm::RoundRobin, &[100, 100, 100]);
    let ring = vec![0, 1, 0, 2];
    world.tables.rings.insert(ServiceId(0), ring.clone());
    world.service(0).ring_length = 4;
    for number in 0..20 {
        let connection = world.open(visitor(number), vip(0));
        assert_eq!(connection.slot.index(), ring[number as usize % 4]);
    }
}

#[test]
fn a_hash_is_of_address_and_port_or_of_the_address_alone() {
    let backends_of = |algorithm, ports: &[u16]| {
        let mut world = World::with(algorithm, &[100; 8]);
        let mut of =
            |port: &u16| world.open(SocketAddrV4::new([10, 1, 2, 3].into(), *port), vip(0));
        ports.iter().map(|port| of(port).slot).collect::<Vec<_>>()
    };
    let ports: Vec<u16> = (1_000..1_100).collect();
    let by_port = backends_of(Algorithm::Hash, &ports);
    assert!(by_port.iter().any(|slot| *slot != by_port[0]));
    assert_eq!(
        by_port,
        backends_of(Algorithm::Hash, &ports),
        "and the same every time"
    );
    let by_address = backends_of(Algorithm::HashAddress, &ports);
    assert!(by_address.iter().all(|slot| *slot == by_address[0]));
}

#[test]
fn a_hash_moves_only_the_clients_of_the_backend_that_is_out() {
    let mut all = World::with(Algorithm::Hash, &[100; 4]);
    let mut fewer = World::with(Algorithm::Hash, &[100; 4]);
    fewer.judge(slot(0, 2), false);
    let mut moved = 0;
    for number in 0..200 {
        let before = all.open(visitor(number), vip(0)).slot;
        let after = fewer.open(visitor(number), vip(0)).slot;
        assert_ne!(after, slot(0, 2));
        if before == slot(0, 2) {
            moved += 1;
        } else {
            assert_eq!(after, before);
        }
    }
    assert!(moved > 20, "{moved} of 200 were on it");
}

#[test]
fn a_ring_whose_next_places_are_all_out_falls_back_to_the_least_loaded() {
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::Hash,
        Algorithm::HashAddress,
    ] {
        let mut world = World::with(algorithm, &[100; 32]);
        for index in 0..31 {
            world.judge(slot(0, index), false);
        }
        for number in 0..40 {
            assert_eq!(world.open(visitor(number), vip(0)).slot, slot(0, 31));
        }
    }
}

#[test]
fn a_service_without_a_ring_still_serves() {
    let mut world = World::with(Algorithm::Hash, &[100]);
    world.service(0).ring_length = 0;
    assert_eq!(world.open(visitor(0), vip(0)).slot, slot(0, 0));
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(vec![
        Algorithm::LeastConnections,
        Algorithm::RoundRobin,
        Algorithm::Hash,
        Algorithm::HashAddress,
    ])
}

/// What may be said of a member: weight, whether it is eligible, whether it is suspect.
fn members() -> impl Strategy<Value = Vec<(u16, bool, bool)>> {
    let member = (
        prop_oneof![Just(0), 1..=1_000_u16],
        any::<bool>(),
        any::<bool>(),
    );
    prop::collection::vec(member, 1..=32)
}

proptest! {
    /// A new connection reaches no member that is out or of weight 0, and no suspect one while
    /// another is not; it is refused only when there is none to reach.
    #[test]
    fn a_new_connection_reaches_only_who_may_be_reached(
        algorithm in algorithms(),
        members in members(),
        visitors in prop::collection::vec(0_u32..1_000_000, 1..60),
    ) {
        let weights: Vec<u16> = members.iter().map(|(weight, ..)| *weight).collect();
        let mut world = World::with(algorithm, &weights);
        let may_serve = |index: u8| members[usize::from(index)].1 && weights[usize::from(index)] > 0;
        let is_suspect = |index: u8| members[usize::from(index)].2;
        for (index, (_, is_eligible, is_suspect)) in (0..).zip(&members) {
            world.judge(slot(0, index), *is_eligible);
            if *is_suspect {
                lb_common::tables::Tables::suspect(&world.tables, slot(0, index));
            }
        }
        let indices = 0..u8::try_from(members.len()).unwrap();
        let is_possible = indices.clone().any(may_serve);
        let is_good_possible = indices.clone().any(|index| may_serve(index) && !is_suspect(index));
        for number in visitors {
            let sent = world.send(&Segment::syn(visitor(number), vip(0)));
            prop_assert_eq!(sent.is_ok(), is_possible);
            let Ok(sent) = sent else { continue };
            let index = sent.forward.slot.index();
            prop_assert!(may_serve(index), "index {} of {:?}", index, members);
            prop_assert!(!is_suspect(index) || !is_good_possible, "index {} of {:?}", index, members);
        }
    }

    /// More half-open connections weigh more, without a step up or down, in shares of the weight;
    /// and those of a flood weigh little.
    #[test]
    fn half_open_connections_weigh_more_the_more_they_are(
        established in 0_u64..100_000,
        half_open in 0_u64..2_000_000,
        weight in 1_u16..=1_000,
    ) {
        let load = |established, half_open| Load { half_open, established, given: 0 };
        let weighed = |load: Load| load.weight_on(weight);
        let here = weighed(load(established, half_open));
        let more = weighed(load(established, half_open + 1));
        prop_assert!((1..=HALF_OPEN_DISCOUNT).contains(&(more - here)), "{here} and {more}");
        prop_assert_eq!(weighed(load(established + 1, half_open)) - here, HALF_OPEN_DISCOUNT);
        let most = u64::from(weight) * HALF_OPEN_RUSH + half_open / HALF_OPEN_DISCOUNT + 1;
        prop_assert!(here <= weighed(load(established + most, 0)));
        let double = load(2 * established, 2 * half_open).weight_on(2 * weight);
        prop_assert_eq!(double, 2 * here, "twice the weight, twice the share");
    }

    /// Held open, no member is ever more than one connection away from its share.
    #[test]
    fn least_connections_is_exact(weights in prop::collection::vec(1_u16..=1_000, 1..8), opens in 1_u32..300) {
        let mut world = World::with(Algorithm::LeastConnections, &weights);
        (0..opens).for_each(|number| _ = world.open(visitor(number), vip(0)));
        let loads: Vec<f64> = (0..).zip(&weights).map(|(index, weight)| {
            let (half_open, _) = world.load(slot(0, index));
            f64::from(u32::try_from(half_open).unwrap()) / f64::from(*weight)
        }).collect();
        for (load, weight) in loads.iter().zip(&weights) {
            // One connection fewer, and it would have been below every other.
            let before_last = load - 1.0 / f64::from(*weight);
            let least = loads.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert!(before_last <= least + 0.001, "{:?} over {:?}", loads, weights);
        }
    }
}
