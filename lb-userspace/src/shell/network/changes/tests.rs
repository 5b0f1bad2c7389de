use rtnetlink::packet_route::route::RouteMessage;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

use super::*;
use crate::shell::lone_thread::{ip, with_own_network};

fn neighbour(mac: Option<u8>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = 3;
    let address = NeighbourAddress::Inet([10, 72, 0, 11].into());
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
    let mut known = Known::default();
    assert!(!known.note_neighbour(&neighbour(None)), "being asked for");
    assert!(!known.note_neighbour(&neighbour(Some(1))), "first answer");
    assert!(!known.note_neighbour(&neighbour(Some(1))), "seen again");
    assert!(known.note_neighbour(&neighbour(Some(2))), "another MAC");
    assert!(known.note_neighbour(&neighbour(None)), "failed");
    assert!(!known.note_neighbour(&neighbour(None)), "still failed");
    assert!(!known.note_neighbour(&neighbour(Some(2))), "back");
    assert!(known.forget_neighbour(&neighbour(Some(2))), "deleted");
    assert!(!known.forget_neighbour(&neighbour(None)), "deleted again");
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
        ip("link set there up");
        ip("link set here up");
        ip("address add 10.71.0.1/24 dev here");
        let (sender, mut signals) = channel(1);
        let watch = tokio::spawn(watch_changes(sender));
        assert!(has_signal(&mut signals).await, "the watch begins");
        // What the links' coming up still brings: IPv6 addresses and their routes.
        while !has_silence(&mut signals).await {}

        let neighbour = "dev here lladdr 02:00:00:00:00";
        ip(&format!(
            "neighbour replace 10.71.0.9 {neighbour}:01 nud reachable"
        ));
        ip(&format!(
            "neighbour replace 10.71.0.9 {neighbour}:01 nud stale"
        ));
        assert!(
            has_silence(&mut signals).await,
            "a new neighbour, then a state"
        );
        ip(&format!(
            "neighbour replace 10.71.0.9 {neighbour}:02 nud stale"
        ));
        assert!(has_signal(&mut signals).await, "another MAC");
        ip("neighbour del 10.71.0.9 dev here");
        assert!(has_signal(&mut signals).await, "neighbour deleted");
        ip("route add 192.0.2.0/24 via 10.71.0.9");
        assert!(has_signal(&mut signals).await, "a route");
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
