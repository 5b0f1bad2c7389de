//! How a connection begins.

use lb_common::flow::{Phase, Tick};
use lb_common::limits::SYN_DUPLICATE;
use lb_common::reason::Reason;
use lb_common::service::Algorithm;
use pglb_tests::packets::{ACK, FAR, NEAR, RST, SYN, Segment};

use crate::world::{SECOND, World, backend, client, key, slot, vip};

#[test]
fn a_syn_goes_to_a_backend_and_keeps_the_clients_address() {
    let mut world = World::of(1);
    let syn = Segment::syn(client(0), vip(0));
    let sent = world.send(&syn).unwrap();
    // Without a known next hop the kernel sends it, and lowers the TTL itself.
    assert_eq!(sent.forward.interface, 0);
    assert_eq!(sent.segment, syn.to(backend(1)));
    assert_eq!(world.load(slot(0, 0)), (1, 0));
}

#[test]
fn an_answer_comes_from_the_vip() {
    let mut world = World::of(1);
    world.open(client(0), vip(0));
    let answer = Segment::syn(client(0), backend(1)).syn_ack();
    let sent = world.send(&answer).unwrap();
    assert_eq!(sent.segment, answer.from(vip(0)));
}

#[test]
fn a_connection_is_half_open_until_the_client_answers_the_syn_ack() {
    let mut world = World::of(1);
    let connection = world.open(client(0), vip(0));
    let (up, down) = (key(client(0), vip(0)), key(backend(1), client(0)));
    assert_eq!(world.phase(&up), Some((Phase::SynSent, false)));
    assert_eq!(world.phase(&down), Some((Phase::SynSent, false)));

    world
        .send(&Segment::syn(client(0), backend(1)).syn_ack())
        .unwrap();
    assert_eq!(world.phase(&up), Some((Phase::SynReceived, false)));
    assert_eq!(world.phase(&down), Some((Phase::SynReceived, false)));
    assert_eq!(world.load(connection.slot), (1, 0));

    world.send(&connection.up()).unwrap();
    assert_eq!(world.phase(&up), Some((Phase::Established, true)));
    assert_eq!(world.phase(&down), Some((Phase::Established, true)));
    assert_eq!(world.load(connection.slot), (0, 1));
    // What an RST to either end would need is known from the first packets on.
    assert_eq!(world.flow(&up).last_ack, 7_001);
    assert_eq!(world.flow(&down).last_ack, 1_001);
}

#[test]
fn data_before_the_handshake_is_done_is_refused() {
    let mut world = World::of(1);
    let connection = world.open(client(0), vip(0));
    let early = connection.up().data(b"too early");
    assert_eq!(world.send(&early).unwrap_err(), Reason::UnknownSegment);
    assert_eq!(world.load(connection.slot), (1, 0));
}

#[test]
fn only_an_acknowledgment_of_the_syn_ack_establishes() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    for guess in [0, 7_000, 7_001 + 65_536, 7_001 + (1 << 31)] {
        let answer = connection.up().ack(guess);
        assert_eq!(world.send(&answer).unwrap_err(), Reason::UnknownSegment);
    }
    assert_eq!(world.load(connection.slot), (1, 0));
    // A backend that speaks first may have had more acknowledged.
    world.send(&connection.up().ack(7_001 + 65_535)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 1));
}

#[test]
fn a_connection_goes_on_both_ways_with_its_times_and_numbers_noted() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    world.wait(5);
    let question = connection.up().ack(9_000).data(b"select 1");
    assert_eq!(
        world.send(&question).unwrap().segment,
        question.to(backend(1))
    );
    let answer = connection.down().ack(2_000).data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(0)));
    let (up, down) = (key(client(0), vip(0)), key(backend(1), client(0)));
    assert_eq!(
        (world.flow(&up).last_ack, world.flow(&up).last_seen),
        (9_000, world.now)
    );
    assert_eq!(
        (world.flow(&down).last_ack, world.flow(&down).last_seen),
        (2_000, world.now)
    );
}

#[test]
fn a_known_next_hop_is_written_and_takes_one_from_the_ttl() {
    let mut world = World::of(1);
    let to_backend = world.route(backend(1), 7);
    let to_client = world.route(client(0), 8);
    let syn = Segment::syn(client(0), vip(0)).ttl(33);
    let sent = world.send(&syn).unwrap();
    assert_eq!(sent.forward.interface, 7);
    let expected = syn
        .to(backend(1))
        .ttl(32)
        .macs(to_backend.source, to_backend.destination);
    assert_eq!(sent.segment, expected);

    let answer = Segment::syn(client(0), backend(1)).syn_ack().ttl(2);
    let sent = world.send(&answer).unwrap();
    assert_eq!(sent.forward.interface, 8);
    let expected = answer
        .from(vip(0))
        .ttl(1)
        .macs(to_client.source, to_client.destination);
    assert_eq!(sent.segment, expected);
}

#[test]
fn the_way_is_looked_up_once_and_again_after_a_change_of_routes() {
    let mut world = World::of(1);
    world.route(backend(1), 7);
    world.route(client(0), 8);
    let connection = world.establish(client(0), vip(0));
    let before = world.tables.next_hop_lookups();
    for _ in 0..10 {
        world.send(&connection.up()).unwrap();
        world.send(&connection.down()).unwrap();
    }
    assert_eq!(world.tables.next_hop_lookups(), before);

    world.route(backend(1), 9);
    assert_eq!(world.send(&connection.up()).unwrap().forward.interface, 7);
    world.tables.next_hop_generation += 1;
    assert_eq!(world.send(&connection.up()).unwrap().forward.interface, 9);
    assert_eq!(world.send(&connection.up()).unwrap().forward.interface, 9);
    assert_eq!(world.tables.next_hop_lookups(), before + 1);
}

#[test]
fn a_way_that_only_the_kernel_can_find_is_asked_for_again() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    let sent = world.send(&connection.up()).unwrap();
    assert_eq!((sent.forward.interface, sent.segment.ttl), (0, 64));
    assert_eq!(
        (sent.segment.source_mac, sent.segment.destination_mac),
        (FAR, NEAR)
    );
    world.route(backend(1), 7);
    assert_eq!(world.send(&connection.up()).unwrap().forward.interface, 7);
}

#[test]
fn a_syn_repeated_at_once_keeps_its_backend() {
    let mut world = World::of(2);
    let first = world.open(client(0), vip(0));
    world.wait(SYN_DUPLICATE.0 - 1);
    let second = world.open(client(0), vip(0));
    assert_eq!(second.backend, first.backend);
    assert_eq!(world.load(first.slot), (1, 0), "counted once");
    assert!(world.tables.take_suspects().is_empty());
}

#[test]
fn a_syn_repeated_to_a_silent_backend_goes_to_another() {
    let mut world = World::of(3);
    let first = world.open(client(0), vip(0));
    world.wait(SYN_DUPLICATE.0);
    let second = world.open(client(0), vip(0));
    world.wait(2 * SECOND);
    let third = world.open(client(0), vip(0));
    let mut tried = [first.slot, second.slot, third.slot];
    tried.sort_unstable();
    assert_eq!(tried, [slot(0, 0), slot(0, 1), slot(0, 2)]);
    assert_eq!(world.tables.take_suspects(), [first.slot, second.slot]);
    assert_eq!(world.load(first.slot), (0, 0));
    assert_eq!(world.load(third.slot), (1, 0));
    // A late answer of the first one belongs to nothing any more, and passes untouched.
    let late = Segment::syn(client(0), first.backend).syn_ack();
    assert_eq!(world.send(&late).unwrap_err(), Reason::NotOurs);
    // The last one answers, and has the connection.
    world
        .send(&Segment::syn(client(0), third.backend).syn_ack())
        .unwrap();
    world.send(&third.up()).unwrap();
    assert_eq!(world.load(third.slot), (0, 1));
}

#[test]
fn when_every_backend_was_tried_the_client_still_gets_one() {
    let mut world = World::of(2);
    for _ in 0..5 {
        world.open(client(0), vip(0));
        world.wait(SECOND);
    }
    let load = |index| world.load(slot(0, index)).0;
    assert_eq!(load(0) + load(1), 1);
}

#[test]
fn a_syn_that_was_answered_is_not_sent_elsewhere_when_it_is_repeated() {
    let mut world = World::of(2);
    let connection = world.open_half(client(0), vip(0));
    world.wait(SECOND);
    assert_eq!(world.open(client(0), vip(0)).backend, connection.backend);
    assert!(world.tables.take_suspects().is_empty());
}

#[test]
fn a_refusal_is_kept_from_the_client_whose_next_syn_goes_elsewhere() {
    let mut world = World::of(2);
    let first = world.open(client(0), vip(0));
    let refusal = Segment::between(first.backend, client(0))
        .flags(RST | ACK)
        .ack(1_001);
    assert_eq!(world.send(&refusal).unwrap_err(), Reason::RefusalWithheld);
    assert_eq!(
        world.tables.take_suspects(),
        [first.slot],
        "it is probed at once"
    );

    // The client repeats its SYN; how soon does not matter.
    let second = world.open(client(0), vip(0));
    assert_ne!(second.backend, first.backend);
    assert_eq!(world.load(first.slot), (0, 0));
    assert_eq!(world.load(second.slot), (1, 0));
    assert!(
        world.tables.take_suspects().is_empty(),
        "it is suspect once"
    );
}

#[test]
fn the_client_gets_its_refusal_when_no_other_backend_is_left() {
    let mut world = World::of(2);
    for _ in 0..2 {
        let connection = world.open(client(0), vip(0));
        let refusal = Segment::between(connection.backend, client(0))
            .flags(RST | ACK)
            .ack(1_001);
        match world.send(&refusal) {
            Ok(sent) => assert_eq!(sent.segment, refusal.from(vip(0))),
            Err(reason) => {
                assert_eq!(reason, Reason::RefusalWithheld);
                continue;
            }
        }
        assert_eq!(world.load(slot(0, 0)), (0, 0));
        assert_eq!(world.load(slot(0, 1)), (0, 0));
        return;
    }
    panic!("both refusals were withheld");
}

#[test]
fn a_lone_backend_that_refuses_is_not_hidden() {
    let mut world = World::of(1);
    let connection = world.open(client(0), vip(0));
    let refusal = Segment::between(connection.backend, client(0))
        .flags(RST | ACK)
        .ack(1_001);
    assert_eq!(world.send(&refusal).unwrap().segment, refusal.from(vip(0)));
    assert_eq!(world.load(connection.slot), (0, 0));
}

#[test]
fn a_suspect_backend_is_skipped_while_another_is_eligible() {
    let mut world = World::of(2);
    let first = world.open(client(0), vip(0));
    world.wait(SECOND);
    let second = world.open(client(0), vip(0));
    for number in 1..20 {
        assert_eq!(world.open(client(number), vip(0)).slot, second.slot);
    }
    world.judge(second.slot, false);
    assert_eq!(
        world.open(client(21), vip(0)).slot,
        first.slot,
        "better suspect than none"
    );

    // A probe clears it.
    world.judge(second.slot, true);
    world.member(first.slot).forgiven = 1;
    assert_eq!(world.open(client(22), vip(0)).slot, first.slot);
}

#[test]
fn a_challenge_ack_to_a_syn_reaches_the_client_whose_reset_makes_room() {
    // The backend still has an older connection of the same client port.
    let mut world = World::of(1);
    let connection = world.open(client(0), vip(0));
    let challenge = connection.down().flags(ACK);
    assert_eq!(
        world.send(&challenge).unwrap().segment,
        challenge.from(vip(0))
    );
    let reset = connection.up().flags(RST);
    assert_eq!(world.send(&reset).unwrap().segment, reset.to(backend(1)));
    assert_eq!(world.load(connection.slot), (0, 0));
    world.wait(SECOND);
    let again = world.establish(client(0), vip(0));
    assert_eq!(world.load(again.slot), (0, 1));
}

#[test]
fn a_client_that_gives_up_before_it_has_answered_is_no_load() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    world.send(&connection.up().flags(RST)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 0));
    // The backend may answer that, and is not counted again.
    world.send(&connection.down().flags(RST)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 0));
    assert_eq!(world.tally(connection.slot).half_closed, 1);
}

#[test]
fn a_half_open_flow_pushed_out_by_a_flood_costs_nothing_but_its_own_connection() {
    let mut world = World::of(1);
    let live = world.establish(client(0), vip(0));
    world.tables.resize_transient(4);
    let pushed = world.open_half(client(1), vip(0));
    for number in 2..6 {
        world.open(client(number), vip(0));
    }
    assert_eq!(
        world.send(&pushed.up()).unwrap_err(),
        Reason::UnknownSegment
    );
    assert!(world.send(&live.up()).is_ok());
    assert!(world.send(&live.down()).is_ok());
}

#[test]
fn a_reply_flow_that_was_pushed_out_is_made_anew_when_the_client_answers() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    let mut left = world.tables.transient_flows();
    left.remove(&key(backend(1), client(0))).unwrap();
    world.tables.resize_transient(100);
    left.into_iter()
        .for_each(|(key, flow)| world.tables.set_transient(key, flow));

    world.send(&connection.up()).unwrap();
    let answer = connection.down().data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(0)));
}

#[test]
fn two_services_over_one_backend_do_not_mix_up_one_client_port() {
    let mut world = World::of(2);
    world.add_service(1, Algorithm::LeastConnections, &[(1, 100), (2, 100)]);
    let first = world.establish(client(0), vip(0));
    // The second service would choose the same backend, and must take the other.
    for index in [0, 1] {
        let is_chosen = backend(index + 1) == first.backend;
        let member = world.member(slot(1, index));
        *member = member.weighing(if is_chosen { 1_000 } else { 1 });
    }
    let second = world.establish(client(0), vip(1));
    assert_ne!(second.backend, first.backend);
    for connection in [first, second] {
        let answer = connection.down().data(b"1");
        assert_eq!(
            world.send(&answer).unwrap().segment,
            answer.from(connection.vip)
        );
    }
}

#[test]
fn a_connection_whose_replies_could_not_be_told_apart_is_refused_at_once() {
    let mut world = World::of(1);
    world.add_service(1, Algorithm::LeastConnections, &[(1, 100)]);
    let first = world.establish(client(0), vip(0));
    let syn = Segment::syn(client(0), vip(1));
    assert_eq!(world.send(&syn).unwrap_err(), Reason::ReplyCollision);
    assert_eq!(world.tally(slot(1, 0)).half_opened, 0);
    let answer = first.down().data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(0)));

    // It is free again as soon as the other is closed.
    world.close(&first);
    let second = world.establish(client(0), vip(1));
    let answer = second.down().data(b"2");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(1)));
}

#[test]
fn an_opening_connection_keeps_its_reply_tuple_for_some_seconds() {
    let mut world = World::of(1);
    world.add_service(1, Algorithm::LeastConnections, &[(1, 100)]);
    world.open(client(0), vip(0));
    let syn = Segment::syn(client(0), vip(1));
    world.wait(SECOND);
    assert_eq!(world.send(&syn).unwrap_err(), Reason::ReplyCollision);
    world.wait(4 * SECOND);
    assert!(world.send(&syn).is_ok(), "nobody has answered the other");
}

#[test]
fn an_opening_connection_that_lost_its_reply_tuple_does_not_disturb_the_new_holder() {
    for flags in [SYN, RST] {
        let mut world = World::of(1);
        world.add_service(1, Algorithm::LeastConnections, &[(1, 100)]);
        world.open(client(0), vip(0));
        world.wait(5 * SECOND);
        let holder = world.open(client(0), vip(1));
        let late = Segment::between(client(0), vip(0)).flags(flags);
        match flags {
            SYN => assert_eq!(world.send(&late).unwrap_err(), Reason::ReplyCollision),
            _ => assert!(world.send(&late).is_ok()),
        }
        let answer = Segment::syn(client(0), holder.backend).syn_ack();
        assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(1)));
        world.send(&holder.up()).unwrap();
        assert_eq!(
            (world.load(slot(0, 0)), world.load(slot(1, 0))),
            ((0, 0), (0, 1))
        );
    }
}

#[test]
fn a_client_that_answers_too_late_does_not_take_the_replies_of_another_connection() {
    let mut world = World::of(1);
    world.add_service(1, Algorithm::LeastConnections, &[(1, 100)]);
    let late = world.open_half(client(0), vip(0));
    world.wait(5 * SECOND);
    let holder = world.establish(client(0), vip(1));
    assert_eq!(world.send(&late.up()).unwrap_err(), Reason::ReplyCollision);
    let answer = holder.down().data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(1)));
}

#[test]
fn a_connection_that_was_ended_by_its_generation_holds_no_reply_tuple() {
    let mut world = World::of(1);
    world.add_service(1, Algorithm::LeastConnections, &[(1, 100)]);
    world.establish(client(0), vip(0));
    world.supersede(slot(0, 0));
    let second = world.establish(client(0), vip(1));
    // The first one's client comes again, and must not take the second one's replies along.
    let _ = world.send(&Segment::syn(client(0), vip(0)));
    let answer = second.down().data(b"2");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(1)));
}

#[test]
fn a_syn_with_no_hop_left_leaves_no_trace() {
    let mut world = World::of(1);
    for ttl in [0, 1] {
        let syn = Segment::syn(client(0), vip(0)).ttl(ttl);
        assert_eq!(world.send(&syn).unwrap_err(), Reason::HopLimit);
    }
    assert_eq!(world.tally(slot(0, 0)).half_opened, 0);
    assert!(
        world.tables.transient_flows().is_empty(),
        "{:?}",
        world.tables.transient_flows()
    );
}

#[test]
fn only_a_plain_syn_opens() {
    for flags in 0..=63 {
        let mut world = World::of(1);
        let segment = Segment::between(client(0), vip(0)).flags(flags);
        let result = world.send(&segment).map(drop);
        let expected = match flags {
            // With URG and PSH, which mean nothing here, or without.
            flags if flags & (RST | SYN | ACK | 1) == SYN => Ok(()),
            flags if flags & RST != 0 => Err(Reason::StrayReset),
            _ => Err(Reason::UnknownSegment),
        };
        assert_eq!(result, expected, "flags {flags:#04x}");
    }
}

#[test]
fn ticks_that_wrap_do_not_make_a_syn_old() {
    let mut world = World::of(2);
    world.now = Tick(u32::MAX - 2);
    let first = world.open(client(0), vip(0));
    world.wait(5);
    assert_eq!(world.open(client(0), vip(0)).backend, first.backend);
}
