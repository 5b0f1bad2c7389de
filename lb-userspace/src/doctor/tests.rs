//! Each judgment: a host that is fit, one thing changed, and what is said about that.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::facts::{
    Backend, Bpffs, Elsewhere, Facts, Forwarding, Host, Interface, Link, Member, Plan, Reach,
    Route, Service, Settings, Trial, Vip,
};
use super::{Level, judge};
use crate::config::XdpMode;
use crate::report::AttachedMode;
use crate::shell::network::InterfaceAddress;
use crate::shell::network::card::{Card, Channels, XdpFeatures};

const VIP: &str = "10.71.0.100:5432";
/// Native, redirecting, and being redirected to.
const ABLE: XdpFeatures = XdpFeatures(0b111);

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn card(name: &str, subnet: &str) -> Interface {
    let link = Link {
        is_up: true,
        kind: None,
        driver: Some("mlx5_core".into()),
        controller: None,
        lower: None,
        vlans: Vec::new(),
        mtu: 1500,
        addresses: vec![InterfaceAddress {
            address: address(subnet),
            prefix_len: 24,
            is_ours: false,
        }],
        card: Card {
            offloads: Some(names(&["rx-gro", "rx-vlan-hw-parse"])),
            changeable: Some(names(&["rx-gro-hw"])),
            channels: Some(Channels {
                receiving: 4,
                most: 16,
            }),
            xdp: Some(ABLE),
        },
        attached: Some(AttachedMode::Native),
        is_ours: Some(true),
        settings: Settings {
            forwarding: Some(1),
            reverse_path: Some(2),
            accept_local: Some(1),
            send_redirects: Some(0),
            forwarding_v6: Some(1),
        },
    };
    Interface {
        name: name.into(),
        link: Some(link),
    }
}

/// A gateway with everything as it should be, its program attached.
fn fit() -> Facts {
    Facts {
        host: Host {
            release: "6.12.57+deb13-amd64".into(),
            has_btf: true,
            jit: Some(1),
            bpffs: Bpffs::Mounted,
            missing_capabilities: Vec::new(),
            trial: Trial::Accepted,
            cpus: 4,
            tracks_connections: false,
            local_ports: Some((32_768, 60_999)),
        },
        plan: Some(Plan {
            xdp_mode: XdpMode::Auto,
            manages_vip: true,
            is_attached: true,
            has_ipv6: false,
            full_nat_ports: (1024, 32_767),
            services: vec![Service {
                name: "orders-rw".into(),
                vip: socket(VIP),
                cluster: "orders".into(),
                forwarding: Forwarding::Nat,
            }],
        }),
        interfaces: vec![card("eth0", "10.71.0.1"), card("eth1", "10.72.0.1")],
        vips: vec![Vip {
            address: socket(VIP).ip(),
            services: vec!["orders-rw".into()],
            here: Some("eth0".into()),
            elsewhere: Elsewhere::Nobody("eth0".into()),
        }],
        backends: vec![Backend {
            name: "orders/pg1".into(),
            cluster: "orders".into(),
            address: socket("10.72.0.11:5432"),
            reach: Reach::Accepted,
            route: Some(Route::Out {
                interface: "eth1".into(),
                router: None,
            }),
            members: Some(vec![Member {
                vip: Some(socket(VIP)),
                given: 7,
                established: 6,
                replies: 40,
                waiting: BTreeSet::new(),
            }]),
        }],
    }
}

impl Facts {
    fn link(&mut self) -> &mut Link {
        self.interfaces[0].link.as_mut().unwrap()
    }

    fn plan(&mut self) -> &mut Plan {
        self.plan.as_mut().unwrap()
    }

    fn member(&mut self) -> &mut Member {
        &mut self.backends[0].members.as_mut().unwrap()[0]
    }

    fn forward_by(&mut self, forwarding: Forwarding) {
        self.plan().services[0].forwarding = forwarding;
    }

    fn drive_by(&mut self, driver: &str, receiving: u32, most: u32) {
        let link = self.link();
        link.driver = Some(driver.into());
        link.card.channels = Some(Channels { receiving, most });
        link.attached = None;
    }
}

/// Changes one thing about a fit gateway and looks for exactly one finding above `ok`: its level,
/// its subject, and a part of what is found and of what is to be done.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), level: Level, subject: &str, what: &str, remedy: &str) {
    let mut facts = fit();
    change(&mut facts);
    let diagnosis = judge(&facts);
    let [found] = &diagnosis
        .findings
        .iter()
        .filter(|finding| finding.level > Level::Ok)
        .collect::<Vec<_>>()[..]
    else {
        panic!("not one finding: {diagnosis:#?}");
    };
    assert_eq!((found.level, found.subject.as_str()), (level, subject));
    assert_eq!(diagnosis.level, level);
    assert!(found.what.contains(what), "{found:#?}");
    let advised = found.remedy.as_deref().unwrap_or_default();
    assert!(advised.contains(remedy), "{found:#?}");
}

/// Changes something that is no reason for a word.
#[track_caller]
fn check_silence(change: impl FnOnce(&mut Facts)) {
    let mut facts = fit();
    change(&mut facts);
    let diagnosis = judge(&facts);
    assert_eq!(diagnosis.level, Level::Ok, "{diagnosis:#?}");
}

use Level::{Advice, Problem, Warning};

#[test]
fn a_fit_gateway_is_fit() {
    check_silence(|_| {});
    let diagnosis = judge(&fit());
    let is_complete =
        |finding: &super::Finding| finding.remedy.is_none() && !finding.what.is_empty();
    assert!(diagnosis.findings.iter().all(is_complete));
    for subject in [
        "kernel",
        "interface eth0",
        "vip 10.71.0.100",
        "backend orders/pg1",
    ] {
        let is_about = |finding: &super::Finding| finding.subject == subject;
        assert!(diagnosis.findings.iter().any(is_about), "{subject}");
    }
}

#[test]
fn levels_are_ordered() {
    assert!(Level::Ok < Advice && Advice < Warning && Warning < Problem);
}

#[test]
fn the_kernel_is_judged_by_its_version_and_its_types() {
    for old in ["5.14.99", "4.19.0-27-amd64", "5.4"] {
        check(
            |it| it.host.release = old.into(),
            Problem,
            "kernel",
            "older than 5.15",
            "boot Linux",
        );
    }
    for new in ["5.15.0", "5.15", "6.1.0-30-amd64", "10.0-rc1"] {
        check_silence(|it| it.host.release = new.into());
    }
    check(
        |it| it.host.release = "strange".into(),
        Advice,
        "kernel",
        "no version",
        "5.15",
    );
    check(
        |it| it.host.has_btf = false,
        Problem,
        "kernel",
        "/sys/kernel/btf",
        "CONFIG_DEBUG_INFO_BTF",
    );
}

#[test]
fn the_program_must_be_accepted() {
    let rejected = Trial::Rejected("the kernel does not accept it (R5 !read_ok)".into());
    check(
        |it| it.host.trial = rejected,
        Problem,
        "XDP program",
        "R5 !read_ok",
        "5.15",
    );
    check(
        |it| it.host.trial = Trial::NotTried("cannot mount bpffs".into()),
        Advice,
        "XDP program",
        "not tried",
        "as root",
    );
}

#[test]
fn the_rest_of_the_host_is_judged() {
    check(
        |it| it.host.jit = Some(0),
        Warning,
        "BPF compiler",
        "interpreted",
        "bpf_jit_enable=1",
    );
    check_silence(|it| it.host.jit = None);
    check_silence(|it| it.host.bpffs = Bpffs::Mountable);
    check(
        |it| it.host.bpffs = Bpffs::Absent,
        Problem,
        "BPF file system",
        "none",
        "CONFIG_BPF_SYSCALL",
    );
    check(
        |it| it.host.missing_capabilities = vec!["CAP_BPF"],
        Advice,
        "privileges",
        "CAP_BPF",
        "root",
    );
    check(
        |it| it.host.tracks_connections = true,
        Advice,
        "firewall",
        "tracking",
        "INVALID",
    );
}

#[test]
fn an_interface_must_be_there_and_up() {
    check(
        |it| it.interfaces[0].link = None,
        Problem,
        "interface eth0",
        "no such",
        "ip link",
    );
    check(
        |it| it.link().is_up = false,
        Problem,
        "interface eth0",
        "down",
        "ip link set eth0 up",
    );
}

#[test]
fn an_interface_must_be_the_card_itself() {
    let be = |kind: &str| {
        let kind = kind.to_owned();
        move |it: &mut Facts| {
            it.link().kind = Some(kind);
            it.link().lower = Some("enp1s0".into());
        }
    };
    check(
        be("vlan"),
        Warning,
        "interface eth0",
        "generic mode only",
        "name enp1s0 in gateway.interfaces",
    );
    check(
        be("macvlan"),
        Warning,
        "interface eth0",
        "macvlan",
        "enp1s0",
    );
    check(
        be("bridge"),
        Problem,
        "interface eth0",
        "XDP cannot send",
        "interfaces in it",
    );
    check_silence(be("veth"));
    let enslaved = |it: &mut Facts| it.link().controller = Some("br0".into());
    check(
        enslaved,
        Warning,
        "interface eth0",
        "belongs to br0",
        "take it out of br0",
    );
}

#[test]
fn native_xdp_is_judged_by_the_kernel_or_else_by_the_list() {
    let detached = |features: Option<XdpFeatures>, driver: &'static str| {
        move |it: &mut Facts| {
            it.link().attached = None;
            it.link().card.xdp = features;
            it.link().driver = Some(driver.into());
        }
    };
    let subject = "interface eth0";
    check_silence(detached(Some(ABLE), "brand_new"));
    check_silence(detached(None, "mlx5_core"));
    check(
        detached(Some(XdpFeatures(0)), "mlx5_core"),
        Warning,
        subject,
        "by the kernel's word",
        "generic",
    );
    check(
        detached(None, "e1000e"),
        Warning,
        subject,
        "not on the list",
        "generic",
    );
    let forced = |it: &mut Facts| {
        detached(None, "e1000e")(it);
        it.plan().xdp_mode = XdpMode::Native;
    };
    check(forced, Problem, subject, "no native XDP", "use a card");
    let fell_back = |it: &mut Facts| it.link().attached = Some(AttachedMode::Generic);
    check(
        fell_back,
        Warning,
        subject,
        "attached in generic mode, though",
        "pglb detach",
    );
}

#[test]
fn generic_mode_is_accepted_where_it_was_asked_for() {
    let generic = |it: &mut Facts| {
        it.plan().xdp_mode = XdpMode::Generic;
        it.link().attached = Some(AttachedMode::Generic);
        it.link().mtu = 1500;
        it.interfaces.truncate(1);
        it.backends.clear();
    };
    check(
        generic,
        Advice,
        "interface eth0",
        "several times slower",
        "auto",
    );
}

#[test]
fn a_program_of_somebody_else_is_in_the_way() {
    check(
        |it| it.link().is_ours = Some(false),
        Problem,
        "interface eth0",
        "another XDP",
        "xdp off",
    );
    check_silence(|it| it.link().is_ours = None);
}

#[test]
fn an_interface_must_take_what_is_redirected_to_it() {
    let deaf = |it: &mut Facts| it.link().card.xdp = Some(XdpFeatures(0b011));
    check(
        deaf,
        Problem,
        "interface eth0",
        "cannot be redirected",
        "ndo_xdp_xmit",
    );
    let deaf_veth = |it: &mut Facts| {
        deaf(it);
        it.link().kind = Some("veth".into());
    };
    check(
        deaf_veth,
        Problem,
        "interface eth0",
        "cannot be redirected",
        "gro on",
    );
    // Before a program is there, most drivers do not say.
    check_silence(|it| {
        deaf(it);
        it.link().attached = None;
    });
    let alone = |it: &mut Facts| {
        deaf(it);
        it.interfaces.truncate(1);
        it.backends.clear();
    };
    check(
        alone,
        Advice,
        "interface eth0",
        "cannot be redirected",
        "only interface",
    );
}

#[test]
fn packets_must_fit_one_page() {
    let jumbo = |driver: &'static str, mtu| {
        move |it: &mut Facts| {
            it.drive_by(driver, 4, 16);
            it.link().mtu = mtu;
            it.interfaces[1].link.as_mut().unwrap().mtu = mtu;
            it.interfaces[1].link.as_mut().unwrap().attached = Some(AttachedMode::Native);
        }
    };
    let subject = "interface eth0";
    check(
        jumbo("ena", 9001),
        Warning,
        subject,
        "driver ena has native XDP up to 3498",
        "mtu 3498",
    );
    check(
        jumbo("unheard_of", 9000),
        Warning,
        subject,
        "few drivers",
        "mtu 3498",
    );
    check_silence(jumbo("ena", 3498));
    check_silence(|it| {
        it.interfaces
            .iter_mut()
            .for_each(|it| it.link.as_mut().unwrap().mtu = 9000);
    });
}

#[test]
fn mtus_that_differ_are_told() {
    let differ = |it: &mut Facts| it.link().mtu = 1400;
    check(
        differ,
        Advice,
        "MTU",
        "eth0 has an MTU of 1400 and eth1 one of 1500",
        "same MTU",
    );
}

#[test]
fn cards_must_not_merge_packets() {
    let merge = |name: &'static str| {
        move |it: &mut Facts| {
            it.link().attached = None;
            it.link().card.offloads = Some(names(&[name]));
        }
    };
    let subject = "interface eth0";
    check(
        merge("rx-lro"),
        Warning,
        subject,
        "large receive offload",
        "ethtool -K eth0 lro off",
    );
    check(
        merge("rx-gro-hw"),
        Warning,
        subject,
        "hardware GRO",
        "ethtool -K eth0 rx-gro-hw off",
    );
    let virtual_machine = |it: &mut Facts| {
        it.drive_by("virtio_net", 4, 16);
        it.link().card.offloads = Some(names(&["rx-gro-hw"]));
    };
    check_silence(virtual_machine);
    let fixed = |it: &mut Facts| {
        virtual_machine(it);
        it.link().card.changeable = Some(names(&["rx-gro"]));
    };
    check(
        fixed,
        Warning,
        subject,
        "does not let itself be told",
        "guest_tso4",
    );
    check_silence(|it| {
        merge("rx-gro-hw")(it);
        it.link().attached = Some(AttachedMode::Native);
    });
}

#[test]
fn vlan_tags_must_not_be_hidden() {
    let tagged = |it: &mut Facts| it.link().vlans = vec!["eth0.7".into()];
    check(
        tagged,
        Warning,
        "interface eth0",
        "carries eth0.7",
        "ethtool -K eth0 rxvlan off",
    );
    check_silence(|it| {
        tagged(it);
        it.link().card.offloads = Some(names(&["rx-gro"]));
    });
}

#[test]
fn queues_are_judged_by_what_the_driver_wants() {
    let subject = "interface eth0";
    let with = |driver: &'static str, receiving, most| {
        move |it: &mut Facts| it.drive_by(driver, receiving, most)
    };
    check(
        with("ena", 8, 8),
        Warning,
        subject,
        "8 of 8 queues",
        "ethtool -L eth0 combined 4",
    );
    check_silence(with("ena", 4, 8));
    check(
        with("i40e", 2, 64),
        Problem,
        subject,
        "2 queues for 4 CPUs",
        "combined 4",
    );
    check_silence(with("i40e", 4, 64));
    check(
        with("virtio_net", 4, 4),
        Advice,
        subject,
        "under a lock",
        "8 queues",
    );
    check_silence(with("virtio_net", 4, 8));
    check(
        with("mlx5_core", 1, 16),
        Advice,
        subject,
        "1 queues for 4 CPUs",
        "combined 4",
    );
    // What has no more queues is not told to have more; nor is a virtual interface.
    check_silence(with("igb", 2, 2));
    check_silence(|it| {
        it.drive_by("veth", 1, 16);
        it.link().kind = Some("veth".into());
    });
}

#[test]
fn settings_that_were_changed_again_are_problems() {
    let subject = "interface eth0";
    let set = |settings: Settings| move |it: &mut Facts| it.link().settings = settings;
    let good = fit().link().settings;
    let not_forwarding = Settings {
        forwarding: Some(0),
        ..good
    };
    check(
        set(not_forwarding),
        Problem,
        subject,
        "ip_forward=0",
        "net.ipv4.conf.eth0.forwarding=1",
    );
    let strict = Settings {
        reverse_path: Some(1),
        ..good
    };
    check(
        set(strict),
        Problem,
        subject,
        "strict",
        "net.ipv4.conf.eth0.rp_filter=2",
    );
    check_silence(set(Settings {
        reverse_path: Some(0),
        ..good
    }));
    let refusing = Settings {
        accept_local: Some(0),
        ..good
    };
    check(
        set(refusing),
        Problem,
        subject,
        "dropped",
        "net.ipv4.conf.eth0.accept_local=1",
    );
    let telling = Settings {
        send_redirects: Some(1),
        ..good
    };
    check(
        set(telling),
        Problem,
        subject,
        "past this gateway",
        "net.ipv4.conf.eth0.send_redirects=0",
    );
    check_silence(set(Settings::default()));
    // Before it runs, `pglb run` is going to set them.
    check_silence(|it| {
        it.plan().is_attached = false;
        it.link().settings = Settings {
            forwarding: Some(0),
            ..strict
        };
    });
}

#[test]
fn ipv6_must_be_forwarded_where_it_is_needed() {
    check_silence(|it| it.link().settings.forwarding_v6 = Some(0));
    let stopped = |it: &mut Facts| {
        it.plan().has_ipv6 = true;
        it.link().settings.forwarding_v6 = Some(0);
    };
    check(
        stopped,
        Problem,
        "interface eth0",
        "IPv6 packets that arrive here are not forwarded",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    );
    check_silence(|it| {
        stopped(it);
        it.plan().is_attached = false;
    });
}

#[test]
fn full_nat_must_have_its_ports_to_itself() {
    let ports = |low, high| {
        move |it: &mut Facts| {
            it.forward_by(Forwarding::FullNat);
            it.host.local_ports = Some((low, high));
        }
    };
    check_silence(ports(32_768, 60_999));
    for (low, high) in [(1024, 65_535), (32_767, 60_999), (2000, 3000)] {
        check(
            ports(low, high),
            Problem,
            "ports",
            "other's replies",
            "\"32768 60999\"",
        );
    }
    check_silence(|it| it.host.local_ports = Some((1024, 65_535)));
}

#[test]
fn a_vip_belongs_to_one_host() {
    let subject = "vip 10.71.0.100";
    let owner = || Elsewhere::Owner("eth0".into(), [2, 0, 0, 0, 0, 0x99]);
    check(
        |it| it.vips[0].elsewhere = owner(),
        Problem,
        subject,
        "02:00:00:00:00:99 on eth0",
        "another VIP",
    );
    let stand_by = |it: &mut Facts| {
        it.vips[0].elsewhere = owner();
        it.vips[0].here = None;
        it.plan().manages_vip = false;
    };
    check(
        stand_by,
        Advice,
        subject,
        "has it now",
        "gateway in service",
    );
    check(
        |it| it.vips[0].elsewhere = Elsewhere::Routed,
        Advice,
        subject,
        "no subnet",
        "routers",
    );
    let unknown = Elsewhere::Unknown("permission denied".into());
    check(
        |it| it.vips[0].elsewhere = unknown,
        Advice,
        subject,
        "permission denied",
        "root",
    );
}

#[test]
fn dsr_reminds_of_what_the_backends_need() {
    let subject = "vip 10.71.0.100";
    let dsr = |it: &mut Facts| it.forward_by(Forwarding::Dsr);
    check(
        dsr,
        Advice,
        subject,
        "dsr",
        "ip address add 10.71.0.100/32 dev lo",
    );
    check(
        dsr,
        Advice,
        subject,
        "dsr",
        "arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
    );
}

#[test]
fn a_backend_must_be_reached() {
    let subject = "backend orders/pg1";
    let reach = |reach: Reach| move |it: &mut Facts| it.backends[0].reach = reach;
    check(
        reach(Reach::Refused),
        Warning,
        subject,
        "nobody listens",
        "listen_addresses",
    );
    check(
        reach(Reach::Silent),
        Problem,
        subject,
        "does not answer",
        "firewall",
    );
    let failed = Reach::Failed("network is unreachable".into());
    check(
        reach(failed),
        Problem,
        subject,
        "network is unreachable",
        "route",
    );
}

#[test]
fn the_way_to_a_backend_is_by_a_configured_interface() {
    let subject = "backend orders/pg1";
    let route = |route: Route| move |it: &mut Facts| it.backends[0].route = Some(route);
    let out = |interface: &str, router: Option<&str>| Route::Out {
        interface: interface.into(),
        router: router.map(address),
    };
    check(
        route(Route::Local),
        Problem,
        subject,
        "this gateway itself",
        "another host",
    );
    check(
        route(Route::None),
        Problem,
        subject,
        "no route",
        "ip route add 10.72.0.11",
    );
    check(
        route(out("eth9", None)),
        Problem,
        subject,
        "eth9",
        "add \"eth9\" to gateway.interfaces",
    );
    check_silence(route(out("eth1", Some("10.72.0.254"))));
    check_silence(|it| it.backends[0].route = None);

    // Or by a VLAN device above one.
    let mut tagged = fit();
    tagged.interfaces[1].link.as_mut().unwrap().vlans = vec!["eth1.7".into()];
    tagged.backends[0].route = Some(out("eth1.7", None));
    let mut findings = judge(&tagged).findings.into_iter();
    assert!(findings.all(|it| it.subject != subject || it.level == Level::Ok));
    let mut far = fit();
    far.forward_by(Forwarding::Dsr);
    far.backends[0].route = Some(out("eth1", Some("10.72.0.254")));
    let diagnosis = judge(&far);
    let is_it = |finding: &super::Finding| {
        finding.level == Problem && finding.what.contains("router 10.72.0.254")
    };
    assert!(diagnosis.findings.iter().any(is_it), "{diagnosis:#?}");
}

#[test]
fn a_backend_beside_the_clients_answers_them_directly() {
    let beside = |it: &mut Facts| {
        it.backends[0].address = socket("10.71.0.11:5432");
        it.backends[0].route = Some(Route::Out {
            interface: "eth0".into(),
            router: None,
        });
    };
    check(
        beside,
        Advice,
        "backend orders/pg1",
        "subnet of VIP 10.71.0.100",
        "full-nat",
    );
    check_silence(|it| {
        beside(it);
        it.forward_by(Forwarding::FullNat);
    });
}

#[test]
fn replies_must_come_back_through_the_gateway() {
    let subject = "backend orders/pg1";
    let waiting = |count: u16| -> BTreeSet<SocketAddr> {
        (0..count)
            .map(|number| SocketAddr::from(([10, 71, 0, 10], 40_000 + number)))
            .collect()
    };
    let mute = |given, count| {
        move |it: &mut Facts| {
            *it.member() = Member {
                vip: Some(socket(VIP)),
                given,
                waiting: waiting(count),
                ..Member::default()
            };
        }
    };
    // Both remedies are named.
    check(
        mute(1, 1),
        Problem,
        subject,
        "such as that of 10.71.0.10:40000",
        "default route of 10.72.0.11",
    );
    check(
        mute(1, 1),
        Problem,
        subject,
        "do not come back",
        "forwarding = \"full-nat\" for service orders-rw",
    );
    check(mute(3, 0), Problem, subject, "3 connections", "full-nat");
    check_silence(mute(2, 0));
    check_silence(mute(0, 0));
    // Of a backend that has answered others, a lost SYN or two mean nothing.
    check_silence(|it| it.member().waiting = waiting(2));
    check(
        |it| it.member().waiting = waiting(3),
        Warning,
        subject,
        "some clients",
        "default route",
    );
    // What the host cannot reach either is told once.
    let down = |it: &mut Facts| {
        mute(9, 9)(it);
        it.backends[0].reach = Reach::Refused;
    };
    check(down, Warning, subject, "nobody listens", "start PostgreSQL");
    // With dsr nothing comes back, and nothing should.
    let mut dsr = fit();
    mute(9, 9)(&mut dsr);
    dsr.forward_by(Forwarding::Dsr);
    assert_eq!(judge(&dsr).level, Advice, "the reminder alone");
    let full_nat = |it: &mut Facts| {
        mute(9, 9)(it);
        it.forward_by(Forwarding::FullNat);
    };
    check(
        full_nat,
        Problem,
        subject,
        "do not come back",
        "this gateway's address",
    );
    check(
        |it| it.backends[0].members = None,
        Advice,
        subject,
        "not seen",
        "root",
    );
}

#[test]
fn without_a_configuration_the_host_is_judged_alone() {
    let mut facts = fit();
    (facts.plan, facts.vips, facts.backends) = (None, Vec::new(), Vec::new());
    facts.link().settings.forwarding = Some(0);
    assert_eq!(judge(&facts).level, Level::Ok, "{:#?}", judge(&facts));
}
