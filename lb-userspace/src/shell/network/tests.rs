use super::interface::{is_our_label, label_for};
use super::*;
use crate::shell::lone_thread::{ip, with_own_network};

fn interface(name: &str, index: u32, addresses: &[(&str, u8)]) -> Interface {
    let addresses = addresses
        .iter()
        .map(|&(address, prefix_len)| InterfaceAddress {
            address: address.parse().unwrap(),
            prefix_len,
            is_ours: false,
        });
    Interface {
        name: name.to_owned(),
        index,
        mac: None,
        mtu: 1500,
        is_up: true,
        is_veth: false,
        addresses: addresses.collect(),
        xdp: Vec::new(),
    }
}

#[track_caller]
fn check_home(vip: &str, listed: &[&str], expected: Option<&str>) {
    let present = [
        interface("eth0", 2, &[("10.71.0.1", 24), ("fe80::1", 64)]),
        interface("eth1", 3, &[("10.72.0.1", 16)]),
        interface("eth2", 4, &[("10.72.5.1", 24), ("10.9.0.7", 32)]),
        interface("any", 5, &[("10.0.0.1", 0)]),
        interface("eth6", 6, &[("fe80::6", 64), ("2001:db8:71::1", 64)]),
        interface("eth7", 7, &[("2001:db8:71::1", 60), ("::", 0)]),
    ];
    let listed: Vec<_> = listed.iter().map(|&name| name.to_owned()).collect();
    let home = find_home(&present, vip.parse().unwrap(), &listed);
    assert_eq!(home.map(|interface| interface.name.as_str()), expected);
}

#[test]
fn a_vip_belongs_where_its_subnet_is_or_to_the_first() {
    let all = ["eth0", "eth1", "eth2"];
    check_home("10.71.0.100", &["eth1", "eth0"], Some("eth0"));
    check_home("10.72.9.9", &all, Some("eth1"));
    // The narrower subnet wins.
    check_home("10.72.5.9", &all, Some("eth2"));
    // In nobody's subnet, and an address alone is no subnet.
    check_home("192.0.2.1", &all, Some("eth0"));
    check_home("10.9.0.7", &["eth1", "eth2"], Some("eth1"));
    // An interface that is not listed is not taken, whatever it holds.
    check_home("10.71.0.100", &["eth2"], Some("eth2"));
    check_home("10.71.0.100", &["gone0"], None);
    check_home("10.71.0.100", &["gone0", "any"], Some("any"));
    // The same for IPv6, and no family is in the other's subnet.
    let all = ["eth0", "eth7", "eth6"];
    check_home("2001:db8:71::100", &all, Some("eth6"));
    check_home("2001:db8:71:1::100", &all, Some("eth7"));
    check_home("10.71.0.100", &["eth7", "eth0"], Some("eth0"));
    check_home("2001:db8:1::1", &["any", "eth6"], Some("any"));
}

#[test]
fn our_label_fits_and_is_known_again() {
    for name in ["e", "eth0", "enp0s31f6", "averylongname12"] {
        let label = label_for(name);
        assert!(label.len() <= 15, "{label}");
        assert!(is_our_label(&label), "{label}");
    }
    assert!(!is_our_label("eth0"));
    assert!(!is_our_label("eth0:1"));
    assert!(!is_our_label("pglb0"));
}

#[test]
#[ignore = "needs root"]
fn an_interface_is_read_with_all_that_belongs_to_it() {
    with_own_network(|| async {
        ip("link add here address 02:00:00:00:00:01 mtu 1400 type veth peer name there");
        ip("address add 10.71.0.1/24 dev here");
        let network = Network::open().unwrap();
        let here = network.interface("here").await.unwrap().unwrap();
        assert_eq!(here.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((here.mtu, here.is_up), (1400, false));
        assert_eq!(
            here.addresses,
            interface("", 0, &[("10.71.0.1", 24)]).addresses
        );
        assert_eq!(here.xdp, []);
        assert!(here.index > 1);

        ip("link set here up");
        ip("link set there up");
        let here = network.interface("here").await.unwrap().unwrap();
        assert!(here.is_up);
        assert_eq!(network.interface("lo").await.unwrap().unwrap().mac, None);
        assert_eq!(network.interface("nosuch0").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs root"]
fn a_rule_that_looks_at_more_than_the_receiver_is_seen() {
    with_own_network(|| async {
        let network = Network::open().unwrap();
        assert!(network.routes_by_receiver().await.unwrap());
        for (rule, by_receiver) in [
            ("to 192.0.2.0/24 lookup 100", true),
            ("lookup 100", true),
            ("from 192.0.2.0/24 lookup 100", false),
            ("not from 192.0.2.0/24 lookup 100", false),
            ("iif lo lookup 100", false),
            ("fwmark 7 lookup 100", false),
            ("tos 0x10 lookup 100", false),
            ("ipproto tcp dport 5432 lookup 100", false),
        ] {
            for family in ["-4", "-6"] {
                let rule = match family {
                    "-4" => rule.to_owned(),
                    _ => rule.replace("192.0.2.0/24", "2001:db8:9::/48"),
                };
                ip(&format!("{family} rule add {rule}"));
                let is_seen = network.routes_by_receiver().await.unwrap();
                assert_eq!(is_seen, by_receiver, "{family} {rule}");
                ip(&format!("{family} rule del {rule}"));
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_vip_is_added_once_known_again_and_removed() {
    check_vip("10.71.0.100", "10.71.0.1/24", "10.71.0.100/32");
    check_vip(
        "2001:db8:71::100",
        "2001:db8:71::1/64",
        "2001:db8:71::100/128",
    );
}

#[track_caller]
fn check_vip(vip: &str, subnet: &str, by_hand: &str) {
    let vip: IpAddr = vip.parse().unwrap();
    with_own_network(|| async move {
        ip("link add here type veth peer name there");
        ip(&format!("address add {subnet} dev there"));
        let listed = ["here".to_owned(), "there".to_owned()];
        let network = Network::open().unwrap();
        let place = |is_ours, is_new| VipPlace {
            interface: "there".to_owned(),
            is_ours,
            is_new,
        };

        assert_eq!(
            network.add_vip(vip, &listed).await.unwrap(),
            place(true, true)
        );
        assert_eq!(
            network.add_vip(vip, &listed).await.unwrap(),
            place(true, false)
        );
        let later = Network::open().unwrap();
        assert_eq!(later.own_vips().await.unwrap(), [("there".to_owned(), vip)]);
        assert!(later.remove_vip(vip, "there").await.unwrap());
        assert!(!later.remove_vip(vip, "there").await.unwrap());
        assert_eq!(later.own_vips().await.unwrap(), []);

        ip(&format!("address add {by_hand} dev there"));
        assert_eq!(
            network.add_vip(vip, &listed).await.unwrap(),
            place(false, false)
        );
        assert_eq!(network.own_vips().await.unwrap(), []);
        let gone = ["gone0".to_owned()];
        let elsewhere = match vip {
            IpAddr::V4(_) => "10.1.1.1".parse().unwrap(),
            IpAddr::V6(_) => "2001:db8:1::1".parse().unwrap(),
        };
        let error = network.add_vip(elsewhere, &gone).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "there is no interface gone0"
        );
        // The subnet's own address, with a prefix of its own, is not a VIP.
        let (own, _) = subnet.split_once('/').unwrap();
        let own = own.parse().unwrap();
        assert!(!network.remove_vip(own, "there").await.unwrap());
    });
}

#[test]
#[ignore = "needs root"]
fn an_ipv6_vip_can_be_used_at_once_and_is_no_source() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        ip("link set there up");
        ip("link set here up");
        ip("address add 2001:db8:71::1/64 dev here nodad");
        let vip = "2001:db8:71::100".parse().unwrap();
        let network = Network::open().unwrap();
        let listed = ["here".to_owned()];
        network.add_vip(vip, &listed).await.unwrap();
        // While it was tentative it could not be bound.
        std::net::TcpListener::bind((vip, 5432)).unwrap();
        // By its longest common prefix it would be the source (RFC 6724 section 5, rule 8).
        let own = std::net::UdpSocket::bind("[::]:0").unwrap();
        own.connect("[2001:db8:71::101]:5432").unwrap();
        assert_eq!(own.local_addr().unwrap().ip().to_string(), "2001:db8:71::1");
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_without_ipv6_is_named() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        settings::set("here", Setting::DisableIpv6, 1).unwrap();
        let network = Network::open().unwrap();
        let vip = "2001:db8:71::100".parse().unwrap();
        let error = network.add_vip(vip, &["here".to_owned()]).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "here has no IPv6, so 2001:db8:71::100 cannot be there \
             (net.ipv6.conf.here.disable_ipv6 must be 0)"
        );
    });
}
