use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteMessage;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

use super::*;
use crate::shell::lone_thread::{ip, with_own_network};

const BOTH_FAMILIES: [&str; 2] = ["10.72.0.11", "2001:db8:72::11"];

fn neighbour(address: &str, state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = 3;
    message.header.state = state;
    let address = match address.parse().unwrap() {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(address));
    if let Some(last) = mac {
        let mac = NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]);
        message.attributes.push(mac);
    }
    message
}

#[test]
fn only_a_changed_or_lost_mac_of_a_neighbour_counts() {
    use NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale};
    for address in BOTH_FAMILIES {
        let mut known = Known::default();
        let mut note = |state, mac| known.note_neighbour(&neighbour(address, state, mac));
        assert!(!note(Incomplete, None), "being asked for");
        for state in [Reachable, Stale, Delay, Probe, Reachable, Stale] {
            assert!(!note(state, Some(1)), "{address} is {state:?}");
        }
        assert!(note(Stale, Some(2)), "another MAC");
        assert!(note(Failed, None), "failed");
        assert!(!note(Failed, None), "still failed");
        assert!(!note(Reachable, Some(2)), "back");
        let gone = neighbour(address, Stale, Some(2));
        assert!(known.forget_neighbour(&gone), "deleted");
        assert!(!known.forget_neighbour(&gone), "deleted again");
    }
}

fn address(address: &str, flags: AddressFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = 3;
    message.attributes = vec![
        AddressAttribute::Address(address.parse().unwrap()),
        AddressAttribute::Flags(flags),
    ];
    message
}

#[test]
fn an_address_counts_when_it_may_be_another_source() {
    for own in BOTH_FAMILIES {
        let mut known = Known::default();
        let mut note = |flags| known.note_address(&address(own, flags));
        assert!(note(AddressFlags::Tentative), "new");
        assert!(note(AddressFlags::empty()), "usable");
        assert!(!note(AddressFlags::empty()), "told again by a router");
        assert!(!note(AddressFlags::Permanent), "no matter of choice");
        assert!(note(AddressFlags::Deprecated), "deprecated");
        let gone = RouteNetlinkMessage::DelAddress(address(own, AddressFlags::empty()));
        assert!(known.note_message(&gone), "deleted");
        assert!(!known.note_message(&gone), "deleted again");
    }
}

#[test]
fn a_link_counts_when_its_state_is_another_one() {
    let mut known = Known::default();
    let mut link = LinkMessage::default();
    link.header.index = 3;
    link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    link.attributes = vec![LinkAttribute::Mtu(1500)];
    assert!(known.note_link(&link), "new");
    link.attributes.push(LinkAttribute::TxQueueLen(1000));
    assert!(!known.note_link(&link), "nothing of importance");
    link.attributes[0] = LinkAttribute::Mtu(1400);
    assert!(known.note_link(&link), "MTU");
    link.header.flags = LinkFlags::Up;
    assert!(known.note_link(&link), "cable pulled");
    link.header.interface_family = AddressFamily::Bridge;
    link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    assert!(!known.note_link(&link), "a bridge's view");
    link.header.interface_family = AddressFamily::Unspec;
    assert!(known.forget_link(&link), "gone");
}

#[test]
fn routes_count_and_cached_ones_do_not() {
    let mut known = Known::default();
    let mut route = RouteMessage::default();
    assert!(known.note_message(&RouteNetlinkMessage::NewRoute(route.clone())));
    assert!(known.note_message(&RouteNetlinkMessage::DelRoute(route.clone())));
    route.header.flags = RouteFlags::Cloned;
    assert!(!known.note_message(&RouteNetlinkMessage::NewRoute(route)));
}

#[test]
fn lost_messages_count_as_a_change() {
    assert!(Known::default().note(&NetlinkPayload::Overrun(Vec::new())));
}

async fn has_signal(signals: &mut Receiver<()>) -> bool {
    timeout(Duration::from_secs(5), signals.recv()).await == Ok(Some(()))
}

/// Nothing can be awaited where nothing shall come: this is several times what a burst takes.
async fn has_silence(signals: &mut Receiver<()>) -> bool {
    timeout(Duration::from_millis(200), signals.recv())
        .await
        .is_err()
}

#[test]
#[ignore = "needs root"]
fn the_kernels_changes_are_told_once_a_burst() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        // Link-local addresses would come a second later, when nobody has objected to them.
        for end in ["there", "here"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        ip("address add 10.71.0.1/24 dev here");
        ip("address add 2001:db8:71::1/64 dev here nodad");
        let (sender, mut signals) = channel(1);
        let watch = tokio::spawn(watch_changes(sender));
        assert!(has_signal(&mut signals).await, "the watch begins");
        // What the links' coming up still brings: IPv6 addresses and their routes.
        while !has_silence(&mut signals).await {}

        for (next_hop, beyond, own) in [
            ("10.71.0.9", "192.0.2.0/24", "10.71.0.2/32"),
            (
                "2001:db8:71::9",
                "2001:db8:9::/64",
                "2001:db8:71::2/128 nodad",
            ),
        ] {
            let learn = |last: u8, state: &str| {
                ip(&format!(
                    "neighbour replace {next_hop} dev here lladdr 02:00:00:00:00:0{last} nud {state}"
                ));
            };
            for state in ["reachable", "stale", "delay", "probe", "reachable"] {
                learn(1, state);
            }
            assert!(
                has_silence(&mut signals).await,
                "{next_hop} is new, then merely in other states"
            );
            learn(2, "stale");
            assert!(has_signal(&mut signals).await, "another MAC");
            ip(&format!("neighbour del {next_hop} dev here"));
            assert!(has_signal(&mut signals).await, "neighbour deleted");
            ip(&format!("route add {beyond} via {next_hop}"));
            assert!(has_signal(&mut signals).await, "a route");
            ip(&format!("route del {beyond} via {next_hop}"));
            assert!(has_signal(&mut signals).await, "the route deleted");
            ip(&format!("address add {own} dev here"));
            assert!(has_signal(&mut signals).await, "an address");
            assert!(has_silence(&mut signals).await, "one signal for it");
        }
        ip("address change 2001:db8:71::1/64 dev here valid_lft 3600 preferred_lft 1800");
        assert!(has_silence(&mut signals).await, "an address told again");
        ip("address change 2001:db8:71::1/64 dev here valid_lft forever preferred_lft 0");
        assert!(has_signal(&mut signals).await, "an address deprecated");
        ip("link set here mtu 1400");
        assert!(has_signal(&mut signals).await, "the MTU");
        assert!(has_silence(&mut signals).await, "one signal for it");
        ip("link set there down");
        assert!(has_signal(&mut signals).await, "the cable");

        drop(signals);
        let ended = timeout(Duration::from_secs(5), watch).await;
        ended
            .expect("the watch ends with its receiver")
            .unwrap()
            .unwrap();
    });
}
