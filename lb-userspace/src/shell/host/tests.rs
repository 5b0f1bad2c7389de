use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, socket};

use super::*;
use crate::shell::checksum::{checksum, sum_words};
use crate::shell::clock;
use crate::shell::lone_thread::{Host, ip, with_own_network};

/// A configuration for the interface `here` with one VIP, and its control socket in a directory
/// that goes with it.
struct Scene {
    config: Config,
    directory: PathBuf,
}

impl Scene {
    fn new(name: &str, vip: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pglb-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("pglb.sock");
        let text = format!(
            "[gateway]\ninterfaces = [\"here\"]\ncontrol_socket = \"{}\"\n\
             [cluster.orders]\nbackends = [{{ name = \"pg1\", address = \"10.72.0.11:5432\" }}]\n\
             [[service]]\nname = \"orders\"\nvip = \"10.71.0.100:5432\"\ncluster = \"orders\"\n\
             role = \"any\"\n",
            socket.display()
        );
        let mut config = crate::config::check("pglb.toml", &text).unwrap();
        config.services[0].vip = vip.parse().unwrap();
        Self { config, directory }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Every setting that may be changed, of every interface.
fn snapshot() -> BTreeMap<String, u8> {
    let mut values = BTreeMap::new();
    for interface in settings::names_with_ipv6().unwrap() {
        for (setting, _) in WORDS {
            let value = settings::read(&interface, setting).unwrap();
            values.insert(setting.name(&interface), value);
        }
    }
    values
}

#[track_caller]
fn check_settings(changed: &[(&str, u8)], before: &BTreeMap<String, u8>) {
    let mut expected = before.clone();
    for (name, value) in changed {
        assert!(expected.insert((*name).to_owned(), *value).is_some());
    }
    assert_eq!(snapshot(), expected);
}

const OF_IPV4: [(&str, u8); 5] = [
    ("net.ipv4.conf.all.send_redirects", 0),
    ("net.ipv4.conf.here.send_redirects", 0),
    ("net.ipv4.conf.here.forwarding", 1),
    ("net.ipv4.conf.here.accept_local", 1),
    ("net.ipv4.conf.here.rp_filter", 2),
];

#[test]
#[ignore = "needs root"]
fn ipv6_is_left_alone_where_the_configuration_has_none() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        settings::set("here", Setting::ReversePath, 1).unwrap();
        let before = snapshot();
        let scene = Scene::new("host4", "10.71.0.100:5432");
        let network = Network::open().unwrap();
        let_forward(&network, &scene.config).await.unwrap();
        check_settings(&OF_IPV4, &before);
        restore_settings(&scene.config.gateway).unwrap();
        check_settings(&[], &before);
    });
}

#[test]
#[ignore = "needs root"]
fn ipv6_forwards_listens_to_routers_and_is_put_back() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        ip("link add deaf type veth peer name routed");
        settings::set("here", Setting::ReversePath, 1).unwrap();
        settings::set("deaf", Setting::AcceptRa, 0).unwrap();
        settings::set("routed", Setting::Ipv6Forwarding, 1).unwrap();
        let before = snapshot();
        let scene = Scene::new("host6", "[2001:db8:71::100]:5432");
        let changed = [
            ("net.ipv6.conf.all.forwarding", 1),
            ("net.ipv6.conf.default.forwarding", 1),
            ("net.ipv6.conf.lo.forwarding", 1),
            ("net.ipv6.conf.here.forwarding", 1),
            ("net.ipv6.conf.there.forwarding", 1),
            ("net.ipv6.conf.deaf.forwarding", 1),
            ("net.ipv6.conf.default.accept_ra", 2),
            ("net.ipv6.conf.here.accept_ra", 2),
            ("net.ipv6.conf.there.accept_ra", 2),
        ];
        let changed: Vec<_> = OF_IPV4.into_iter().chain(changed).collect();
        // The second time is that of a controller started anew.
        for _ in 0..2 {
            let network = Network::open().unwrap();
            let_forward(&network, &scene.config).await.unwrap();
            check_settings(&changed, &before);
        }
        restore_settings(&scene.config.gateway).unwrap();
        check_settings(&[], &before);
        assert_eq!(fs::read_dir(&scene.directory).unwrap().count(), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_does_not_forward_though_all_do_is_changed_alone() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        settings::set("all", Setting::Ipv6Forwarding, 1).unwrap();
        settings::set("here", Setting::Ipv6Forwarding, 0).unwrap();
        settings::set("there", Setting::Ipv6Forwarding, 0).unwrap();
        let before = snapshot();
        let scene = Scene::new("host6all", "[2001:db8:71::100]:5432");
        let network = Network::open().unwrap();
        let_forward(&network, &scene.config).await.unwrap();
        let changed = [
            ("net.ipv4.conf.all.send_redirects", 0),
            ("net.ipv4.conf.here.send_redirects", 0),
            ("net.ipv4.conf.here.forwarding", 1),
            ("net.ipv4.conf.here.accept_local", 1),
            ("net.ipv6.conf.here.forwarding", 1),
            ("net.ipv6.conf.here.accept_ra", 2),
        ];
        check_settings(&changed, &before);
        restore_settings(&scene.config.gateway).unwrap();
        check_settings(&[], &before);
    });
}

/// What a router says on `interface` of itself, for half an hour.
fn advertise_router(interface: &str, router: std::net::Ipv6Addr) {
    let mut frame = [0; 14 + 40 + 16];
    frame[0..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let (ip, message) = frame[14..].split_at_mut(40);
    ip[0] = 0x60;
    ip[5] = 16;
    ip[6] = 58;
    ip[7] = 255;
    ip[8..24].copy_from_slice(&router.octets());
    ip[24..40].copy_from_slice(&std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    message[0] = 134;
    message[4] = 64;
    message[6..8].copy_from_slice(&1800_u16.to_be_bytes());
    let sum = checksum(sum_words(&ip[8..]) + 16 + 58 + sum_words(message));
    message[2..4].copy_from_slice(&sum);

    let link = getifaddrs()
        .unwrap()
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    File::from(socket).write_all(&frame).unwrap();
}

fn has_default_route(by: &str) -> bool {
    let show = ["-6", "route", "show", "default"];
    let output = Command::new("ip").args(show).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(by)
}

async fn await_default_route(router: &Host, number: u16) {
    let address = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number);
    let begin = clock::now();
    while !has_default_route(&address.to_string()) {
        assert!(begin.elapsed() < Duration::from_secs(10), "no {address}");
        router.run(move || advertise_router("there", address));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
#[ignore = "needs root"]
fn a_default_route_from_a_router_is_kept_and_a_new_one_taken() {
    with_own_network(|| async {
        let router = Host::new();
        ip("link add here type veth peer name there");
        router.take("there");
        ip("link set here up");
        router.ip("link set there up");
        await_default_route(&router, 1).await;
        let scene = Scene::new("hostra", "[2001:db8:71::100]:5432");
        let network = Network::open().unwrap();
        let_forward(&network, &scene.config).await.unwrap();
        assert!(has_default_route("fe80::1"));
        await_default_route(&router, 2).await;
        restore_settings(&scene.config.gateway).unwrap();
        assert!(has_default_route("fe80::2"));
        await_default_route(&router, 3).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_vip_that_vanishes_is_added_again() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        ip("link set there up");
        ip("link set here up");
        let scene = Scene::new("vips", "[2001:db8:71::100]:5432");
        let network = Network::open().unwrap();
        let vip = [("here".to_owned(), "2001:db8:71::100".parse().unwrap())];
        take_vips(&network, &scene.config).await.unwrap();
        assert_eq!(network.own_vips().await.unwrap(), vip);

        // Switched off and on again, it has no IPv6 address that anybody gave it.
        ip("link set here down");
        ip("link set here up");
        assert_eq!(network.own_vips().await.unwrap(), []);
        keep_vips(&network, &scene.config).await;
        assert_eq!(network.own_vips().await.unwrap(), vip);
        std::net::TcpListener::bind("[2001:db8:71::100]:5432").unwrap();

        assert_eq!(
            drop_vips(&network, &scene.config.gateway).await.unwrap(),
            vip
        );
        assert_eq!(network.own_vips().await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn vips_of_either_family_that_no_service_has_are_taken_off() {
    with_own_network(|| async {
        ip("link add here type veth peer name there");
        let mut scene = Scene::new("vipsgone", "[2001:db8:71::100]:5432");
        let network = Network::open().unwrap();
        for vip in ["10.71.0.100:5432", "[2001:db8:71::101]:5432"] {
            take_vips(&network, &scene.config).await.unwrap();
            scene.config.services[0].vip = vip.parse().unwrap();
        }
        take_vips(&network, &scene.config).await.unwrap();
        let vip = ("here".to_owned(), "2001:db8:71::101".parse().unwrap());
        assert_eq!(network.own_vips().await.unwrap(), [vip]);
        scene.config.gateway.manage_vip = false;
        scene.config.services[0].vip = "10.71.0.1:5432".parse().unwrap();
        take_vips(&network, &scene.config).await.unwrap();
        keep_vips(&network, &scene.config).await;
        assert_eq!(network.own_vips().await.unwrap().len(), 1);
    });
}
