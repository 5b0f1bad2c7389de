use proptest::prelude::*;

use super::*;
use crate::config::{
    Algorithm, Fallback, Forwarding, HashOn, NoBackend, OnDown, Role, Service, refuse_shared_ports,
    warnings,
};

const ANNOTATED: &str = include_str!("../../../../config/pglb.toml");
const MINIMAL: &str = include_str!("../../../../config/minimal.toml");

/// A valid file whose lines the tests of broken files replace.
const VALID: &str = r#"[gateway]
interfaces = ["eth0", "eth1"]
max_connections = 4096

[cluster.orders]
backends = [
  { name = "pg1", address = "10.72.0.11:5432" },
  { name = "pg2", address = "10.72.0.12:5432", weight = 50 },
]
[cluster.orders.health]
interval = "1s"
timeout = "1s"
fall = 3

[[service]]
name = "orders-rw"
vip = "10.71.0.100:5432"
cluster = "orders"
role = "primary"

[[service]]
name = "orders-ro"
vip = "10.71.0.100:5433"
cluster = "orders"
role = "replica"
allow = ["10.71.0.0/24"]
"#;

/// The same for IPv6, with the keys that the first one leaves to their defaults.
const VALID_IPV6: &str = r#"[gateway]
interfaces = ["eth0"]
full_nat_ports = "2048-8191"

[cluster.orders]
backends = [
  { name = "pg1", address = "[2001:db8:72::11]:5432" },
  { name = "pg2", address = "[2001:db8:72::12]:5432" },
]

[[service]]
name = "orders-rw"
vip = "[2001:db8:71::100]:5432"
cluster = "orders"
role = "primary"
forwarding = "dsr"
allow = ["2001:db8:71::/64"]
deny = ["2001:db8:71::66/128"]

[[service]]
name = "orders-ro"
vip = "[2001:db8:71::100]:5433"
cluster = "orders"
role = "replica"
forwarding = "full-nat"
source_max_connections = 50
source_max_rate = 100
idle_limit = "9000s"
"#;

fn errors(text: &str) -> Vec<String> {
    match check("pglb.toml", text) {
        Ok(config) => panic!("must not be valid: {config:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// The valid file with one text replaced gives exactly this one sentence.
#[track_caller]
fn check_broken(from: &str, to: &str, sentence: &str) {
    check_broken_in(VALID, from, to, sentence);
}

/// The same for the valid file with IPv6.
#[track_caller]
fn check_broken_ipv6(from: &str, to: &str, sentence: &str) {
    check_broken_in(VALID_IPV6, from, to, sentence);
}

#[track_caller]
fn check_broken_in(valid: &str, from: &str, to: &str, sentence: &str) {
    assert_eq!(valid.matches(from).count(), 1, "{from:?} is not there once");
    let errors = errors(&valid.replace(from, to));
    assert_eq!(errors, [sentence]);
}

/// Keys without a default, which the annotated example shows with a value.
const EXAMPLES: [&str; 5] = [
    "ca_file = ",
    "deny = ",
    "source_max_connections = ",
    "source_max_rate = ",
    "idle_limit = ",
];

#[test]
fn the_annotated_example_is_valid_and_shows_the_defaults() {
    let config = check("pglb.toml", ANNOTATED).unwrap();
    // With every commented-out default put back, the meaning is the same.
    let mut explicit = String::new();
    for line in ANNOTATED.lines() {
        let key = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        });
        // The commented-out keys that have no default.
        let key = key.filter(|key| !EXAMPLES.iter().any(|example| key.starts_with(example)));
        explicit.push_str(key.unwrap_or(line));
        explicit.push('\n');
    }
    assert!(explicit.lines().count() > explicit.matches('#').count());
    assert_eq!(check("pglb.toml", &explicit), Ok(config));
}

#[test]
fn the_annotated_example_names_every_key() {
    let keys = [
        "interfaces",
        "xdp_mode",
        "max_connections",
        "control_socket",
        "metrics",
        "manage_vip",
        "pin_dir",
        "full_nat_ports",
        "backends",
        "kind",
        "user",
        "database",
        "password_file",
        "tls",
        "ca_file",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "max_lag",
        "name",
        "vip",
        "cluster",
        "role",
        "algorithm",
        "hash_on",
        "forwarding",
        "allow",
        "deny",
        "source_max_connections",
        "source_max_rate",
        "idle_limit",
        "on_down",
        "no_backend",
        "hold_time",
        "fallback",
    ];
    for key in keys {
        let is_shown = ANNOTATED.lines().any(|line| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line.starts_with(&format!("{key} = "))
        });
        assert!(is_shown, "{key}");
    }
}

#[test]
fn the_smallest_file_gets_the_defaults() {
    let config = check("minimal.toml", MINIMAL).unwrap();
    assert_eq!(
        config.gateway,
        Gateway {
            interfaces: vec!["eth0".into()],
            xdp_mode: XdpMode::Auto,
            max_connections: 65_536,
            control_socket: "/run/pglb/pglb.sock".into(),
            metrics: None,
            manage_vip: true,
            pin_dir: "/sys/fs/bpf/pglb".into(),
            full_nat_ports: PortRange {
                first: 1024,
                last: 32_767,
            },
        }
    );
    let [cluster] = &config.clusters[..] else {
        panic!("{config:?}");
    };
    assert_eq!(cluster.backends[1].name, "pg2");
    assert_eq!(cluster.backends[1].weight, 100);
    assert_eq!(cluster.backends[1].max_connections, None);
    assert_eq!(
        cluster.health,
        Health {
            kind: ProbeKind::Postgres,
            user: "pglb".into(),
            database: "postgres".into(),
            password_file: None,
            tls: Tls::Prefer,
            ca_file: None,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(250),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            max_lag: 64 << 20,
        }
    );
    assert_eq!(
        config.services,
        [Service {
            name: "rw".into(),
            vip: "10.71.0.100:5432".parse().unwrap(),
            cluster: "main".into(),
            role: Role::Primary,
            algorithm: Algorithm::LeastConnections,
            hash_on: HashOn::AddressAndPort,
            forwarding: Forwarding::Nat,
            allow: None,
            deny: Vec::new(),
            source_max_connections: None,
            source_max_rate: None,
            idle_limit: None,
            on_down: OnDown::Reset,
            no_backend: NoBackend::Reject,
            hold_time: Duration::from_secs(5),
            fallback: Fallback::Primary,
        }]
    );
}

#[test]
fn values_arrive_as_written() {
    let config = check("pglb.toml", VALID).unwrap();
    assert_eq!(config.gateway.max_connections, 4096);
    assert_eq!(config.clusters[0].backends[1].weight, 50);
    let allow = config.services[1].allow.as_ref().unwrap();
    assert_eq!(allow[0].to_string(), "10.71.0.0/24");
}

#[test]
fn values_for_ipv6_arrive_as_written() {
    let config = check("pglb.toml", VALID_IPV6).unwrap();
    let ports = config.gateway.full_nat_ports;
    assert_eq!((ports.first, ports.last), (2048, 8191));
    let backend = &config.clusters[0].backends[0];
    assert_eq!(backend.address, "[2001:db8:72::11]:5432".parse().unwrap());
    let [dsr, full_nat] = &config.services[..] else {
        panic!("{config:?}");
    };
    assert_eq!(dsr.vip, "[2001:db8:71::100]:5432".parse().unwrap());
    assert_eq!(dsr.forwarding, Forwarding::Dsr);
    assert_eq!(dsr.deny[0].to_string(), "2001:db8:71::66/128");
    assert_eq!(dsr.source_max_connections, None);
    assert_eq!(full_nat.forwarding, Forwarding::FullNat);
    assert_eq!(full_nat.deny, []);
    assert_eq!(full_nat.source_max_connections, Some(50));
    assert_eq!(full_nat.source_max_rate, Some(100));
    assert_eq!(full_nat.idle_limit, Some(Duration::from_secs(9000)));
}

#[test]
fn only_dsr_has_an_idle_limit_by_default() {
    let text = VALID_IPV6.replace("idle_limit = \"9000s\"\n", "");
    let config = check("pglb.toml", &text).unwrap();
    let limits: Vec<_> = config.services.iter().map(|it| it.idle_limit).collect();
    assert_eq!(limits, [Some(Duration::from_secs(8000)), None]);
    let text = VALID_IPV6.replace("\"dsr\"", "\"dsr\"\nidle_limit = \"10000s\"");
    let config = check("pglb.toml", &text).unwrap();
    let limit = config.services[0].idle_limit;
    assert_eq!(limit, Some(Duration::from_secs(10_000)));
}

#[test]
fn the_longest_prefix_of_both_lists_decides() {
    let admitted = |lists: &str, clients: [&str; 4]| {
        let text = VALID.replace("allow = [\"10.71.0.0/24\"]", lists);
        let config = check("pglb.toml", &text).unwrap();
        clients.map(|client| config.services[1].admits(client.parse().unwrap()))
    };
    let clients = ["10.71.0.7", "10.71.0.66", "10.71.0.77", "192.0.2.1"];
    assert_eq!(admitted("", clients), [true; 4]);
    assert_eq!(
        admitted("deny = [\"10.71.0.64/26\"]", clients),
        [true, false, false, true]
    );
    assert_eq!(
        admitted("allow = [\"10.71.0.0/24\"]", clients),
        [true, true, true, false]
    );
    // A hole in a hole, in whatever order they are written.
    assert_eq!(
        admitted(
            "allow = [\"10.71.0.66\", \"10.71.0.0/24\"]\ndeny = [\"0.0.0.0/0\", \"10.71.0.64/26\"]",
            clients
        ),
        [true, true, false, false]
    );
    // An exception to what is denied is an allow list as well, so everyone else stays out.
    assert_eq!(
        admitted(
            "allow = [\"10.71.0.66\"]\ndeny = [\"10.71.0.0/24\"]",
            clients
        ),
        [false, true, false, false]
    );
}

#[test]
fn clusters_keep_the_order_of_the_file() {
    let text = VALID.replace(
        "[[service]]\nname = \"orders-ro\"",
        "[cluster.billing]\nbackends = [{ name = \"pg1\", address = \"10.72.1.11:5432\" }]\n\
         [[service]]\nname = \"billing\"\nvip = \"10.71.0.101:5432\"\ncluster = \"billing\"\n\
         role = \"any\"\n[[service]]\nname = \"orders-ro\"",
    );
    let config = check("pglb.toml", &text).unwrap();
    let names: Vec<&str> = config.clusters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["orders", "billing"]);
}

#[test]
fn a_bad_address() {
    check_broken(
        r#"vip = "10.71.0.100:5432""#,
        r#"vip = "10.71.0.100""#,
        r#"pglb.toml:17: service.vip = "10.71.0.100": must be ADDRESS:PORT, for example "10.71.0.100:5432""#,
    );
}

#[test]
fn an_ipv6_address_without_its_brackets() {
    for vip in [r#""2001:db8:71::100:5432""#, r#""[2001:db8:71::100]""#] {
        check_broken_ipv6(
            r#""[2001:db8:71::100]:5432""#,
            vip,
            &format!(
                r#"pglb.toml:13: service.vip = {vip}: must be [ADDRESS]:PORT, for example "[2001:db8::100]:5432""#
            ),
        );
    }
}

#[test]
fn an_ipv4_address_written_as_ipv6() {
    check_broken_ipv6(
        r#""[2001:db8:71::100]:5432""#,
        r#""[::ffff:10.71.0.100]:5432""#,
        r#"pglb.toml:13: service.vip = "[::ffff:10.71.0.100]:5432": must not be an IPv4 address written as IPv6, write "10.71.0.100:5432""#,
    );
    check_broken_ipv6(
        "2001:db8:71::66/128",
        "::ffff:10.71.0.0/120",
        r#"pglb.toml:18: service.deny = "::ffff:10.71.0.0/120": must not be an IPv4 network written as IPv6, write "10.71.0.0/24""#,
    );
}

#[test]
fn an_address_that_is_no_host_on_the_network() {
    for address in ["[::]:5432", "[::1]:5432", "[ff02::1]:5432"] {
        check_broken_ipv6(
            "[2001:db8:72::11]:5432",
            address,
            &format!(
                "pglb.toml:7: cluster.orders.backends.address = \"{address}\": must be the address \
                 of one host on the network, not loopback, multicast or ::"
            ),
        );
    }
    for address in [
        "0.0.0.0:5432",
        "127.0.0.1:5432",
        "224.0.0.1:5432",
        "255.255.255.255:5432",
    ] {
        check_broken(
            "10.72.0.11:5432",
            address,
            &format!(
                "pglb.toml:7: cluster.orders.backends.address = \"{address}\": must be the address \
                 of one host on the network, not loopback, multicast, broadcast or 0.0.0.0"
            ),
        );
    }
}

#[test]
fn an_address_that_is_good_on_one_link_only() {
    for address in ["[fe80::1]:5432", "[fe80::1%2]:5432"] {
        check_broken_ipv6(
            "[2001:db8:71::100]:5432",
            address,
            &format!(
                "pglb.toml:13: service.vip = \"{address}\": must not be link-local (fe80::/10), \
                 such packets are not forwarded"
            ),
        );
    }
    check_broken(
        "10.71.0.100:5432",
        "169.254.0.100:5432",
        r#"pglb.toml:17: service.vip = "169.254.0.100:5432": must not be link-local (169.254.0.0/16), such packets are not forwarded"#,
    );
    check_broken_ipv6(
        "[2001:db8:71::100]:5432",
        "[2001:db8:71::100%2]:5432",
        r#"pglb.toml:13: service.vip = "[2001:db8:71::100%2]:5432": must have no zone ("%"), only link-local addresses need one"#,
    );
}

#[test]
fn families_that_are_mixed() {
    check_broken(
        "10.72.0.12:5432",
        "[2001:db8:72::12]:5432",
        r#"pglb.toml:8: cluster.orders.backends.address = "[2001:db8:72::12]:5432": must be IPv4, like the backend on line 7: a cluster is of one address family"#,
    );
    check_broken(
        "10.72.0.11:5432",
        "[2001:db8:72::11]:5432",
        r#"pglb.toml:8: cluster.orders.backends.address = "10.72.0.12:5432": must be IPv6, like the backend on line 7: a cluster is of one address family"#,
    );
    check_broken(
        "10.71.0.100:5433",
        "[2001:db8:71::100]:5433",
        r#"pglb.toml:23: service.vip = "[2001:db8:71::100]:5433": must be IPv4, like the backend on line 7"#,
    );
    check_broken_ipv6(
        "[2001:db8:71::100]:5433",
        "10.71.0.100:5433",
        r#"pglb.toml:22: service.vip = "10.71.0.100:5433": must be IPv6, like the backend on line 7"#,
    );
    check_broken(
        "10.71.0.0/24",
        "::/0",
        r#"pglb.toml:26: service.allow = "::/0": must be an IPv4 network, because the VIP is IPv4 and so are its clients"#,
    );
    check_broken_ipv6(
        "2001:db8:71::66/128",
        "10.71.0.66/32",
        r#"pglb.toml:18: service.deny = "10.71.0.66/32": must be an IPv6 network, because the VIP is IPv6 and so are its clients"#,
    );
}

#[test]
fn ports_that_dsr_would_have_to_write() {
    check_broken_ipv6(
        "[2001:db8:71::100]:5432",
        "[2001:db8:71::100]:6432",
        r#"pglb.toml:16: service.forwarding = "dsr": must have all backends on the VIP's port 6432, because it writes no ports: line 7 has 5432, line 8 has 5432"#,
    );
    check_broken_ipv6(
        "[2001:db8:72::12]:5432",
        "[2001:db8:72::12]:6432",
        r#"pglb.toml:16: service.forwarding = "dsr": must have all backends on the VIP's port 5432, because it writes no ports: line 8 has 6432"#,
    );
    check_broken(
        r#"role = "replica""#,
        "role = \"replica\"\nforwarding = \"dsr\"",
        r#"pglb.toml:26: service.forwarding = "dsr": must have all backends on the VIP's port 5433, because it writes no ports: line 7 has 5432, line 8 has 5432"#,
    );
    // The others write them.
    for forwarding in ["nat", "full-nat"] {
        let role = format!("role = \"replica\"\nforwarding = \"{forwarding}\"");
        let text = VALID.replace("role = \"replica\"", &role);
        let config = check("pglb.toml", &text).unwrap();
        assert_eq!(config.services[1].forwarding.as_str(), forwarding);
    }
}

#[test]
fn an_unknown_forwarding() {
    check_broken_ipv6(
        "full-nat\"",
        "fullnat\"",
        r#"pglb.toml:25: service.forwarding = "fullnat": must be one of "nat", "full-nat" or "dsr""#,
    );
}

#[test]
fn a_network_in_both_lists() {
    check_broken(
        "allow = [\"10.71.0.0/24\"]",
        "allow = [\"10.71.0.0/24\"]\ndeny = [\"10.71.0.66/32\", \"10.71.0.0/24\"]",
        r#"pglb.toml:27: service.deny = "10.71.0.0/24": must not be in allow as well, line 26 has it"#,
    );
    // However it is spelt.
    check_broken_ipv6(
        "2001:db8:71::66/128",
        "2001:0DB8:71:0::/64",
        r#"pglb.toml:18: service.deny = "2001:0DB8:71:0::/64": must not be in allow as well, line 17 has it"#,
    );
}

#[test]
fn limits_of_one_client_address_out_of_range() {
    for most in ["0", "4194305"] {
        check_broken_ipv6(
            "source_max_connections = 50",
            &format!("source_max_connections = {most}"),
            &format!(
                "pglb.toml:26: service.source_max_connections = {most}: must be a whole number \
                 from 1 to 4194304"
            ),
        );
    }
    for rate in ["0", "1000001"] {
        check_broken_ipv6(
            "source_max_rate = 100",
            &format!("source_max_rate = {rate}"),
            &format!(
                "pglb.toml:27: service.source_max_rate = {rate}: must be a whole number \
                 from 1 to 1000000"
            ),
        );
    }
}

#[test]
fn an_idle_limit_that_would_end_what_is_alive() {
    for limit in ["5m", "7875s"] {
        check_broken_ipv6(
            "9000s",
            limit,
            &format!(
                "pglb.toml:28: service.idle_limit = \"{limit}\": must be over 7875s, the time in \
                 which Linux's keepalive finds that a peer is gone (7200 s and 9 probes 75 s apart)"
            ),
        );
    }
    let shortest = VALID_IPV6.replace("9000s", "7875001ms");
    assert!(check("pglb.toml", &shortest).is_ok());
    check_broken_ipv6(
        "9000s",
        "8761h",
        r#"pglb.toml:28: service.idle_limit = "8761h": must be at most 8760h"#,
    );
    check_broken_ipv6(
        "9000s",
        "never",
        r#"pglb.toml:28: service.idle_limit = "never": must be a duration, for example "250ms", "1s" or "5m""#,
    );
}

#[test]
fn ports_that_full_nat_cannot_have() {
    for (ports, rule) in [
        ("1024", r#"must be FIRST-LAST, for example "1024-32767""#),
        (
            "80-8191",
            "must begin at port 1024 or above, those below are for privileged programs",
        ),
        ("8191-2048", "must have its first port before its last"),
        ("2048-3070", "must hold at least 1024 ports"),
    ] {
        check_broken_ipv6(
            "2048-8191",
            ports,
            &format!("pglb.toml:3: gateway.full_nat_ports = \"{ports}\": {rule}"),
        );
    }
}

#[test]
fn ports_that_the_kernel_gives_away_as_well() {
    let config = check("pglb.toml", VALID_IPV6).unwrap();
    assert_eq!(refuse_shared_ports(&config, (32_768, 60_999)), Ok(()));
    assert_eq!(
        refuse_shared_ports(&config, (8_191, 60_999)).unwrap_err(),
        "gateway.full_nat_ports = \"2048-8191\": must not overlap the ports that the kernel gives \
         to the host's own connections, 8191-60999 (net.ipv4.ip_local_port_range), because service \
         orders-ro is full-nat; change one of the two"
    );
    let config = check("pglb.toml", VALID).unwrap();
    assert_eq!(refuse_shared_ports(&config, (1024, 65_535)), Ok(()));
}

#[test]
fn an_unknown_key() {
    check_broken(
        "timeout = ",
        "time_out = ",
        r#"pglb.toml:12: cluster.orders.health.time_out = "1s": unknown key, did you mean "timeout"?"#,
    );
    check_broken(
        "max_connections = 4096",
        "color = \"red\"",
        "pglb.toml:3: gateway.color = \"red\": unknown key, the keys here are interfaces, xdp_mode, \
         max_connections, control_socket, metrics, manage_vip, pin_dir, full_nat_ports",
    );
}

#[test]
fn a_misspelt_required_key_is_one_mistake() {
    check_broken(
        "interfaces = ",
        "interface = ",
        r#"pglb.toml:2: gateway.interface = ["eth0", "eth1"]: unknown key, did you mean "interfaces"?"#,
    );
}

#[test]
fn an_unknown_section() {
    check_broken(
        "[gateway]",
        "[gatevay]",
        r#"pglb.toml:1: gatevay: unknown key, did you mean "gateway"?"#,
    );
}

#[test]
fn a_misspelt_section_is_one_mistake() {
    let text = VALID.replace("cluster.orders", "clusters.orders");
    assert_eq!(
        errors(&text),
        [r#"pglb.toml:5: clusters: unknown key, did you mean "cluster"?"#]
    );
    let text = VALID.replace("[[service]]", "[[services]]");
    assert_eq!(
        errors(&text),
        [r#"pglb.toml:15: services: unknown key, did you mean "service"?"#]
    );
}

#[test]
fn a_missing_key() {
    check_broken(
        "vip = \"10.71.0.100:5432\"\n",
        "",
        r#"pglb.toml:15: service.vip is missing: must be ADDRESS:PORT, for example "10.71.0.100:5432""#,
    );
    check_broken(
        ", address = \"10.72.0.11:5432\"",
        "",
        r#"pglb.toml:7: cluster.orders.backends.address is missing in { name = "pg1" }: must be ADDRESS:PORT, for example "10.72.0.11:5432""#,
    );
}

#[test]
fn a_wrong_type() {
    check_broken(
        "fall = 3",
        "fall = \"3\"",
        r#"pglb.toml:13: cluster.orders.health.fall = "3": must be a whole number from 1 to 100"#,
    );
    check_broken(
        r#"["eth0", "eth1"]"#,
        r#""eth0""#,
        r#"pglb.toml:2: gateway.interfaces = "eth0": must be a list of interface names, for example ["eth0", "eth1"]"#,
    );
    check_broken(
        "interval = \"1s\"",
        "interval = 1",
        r#"pglb.toml:11: cluster.orders.health.interval = 1: must be a duration, for example "250ms", "1s" or "5m""#,
    );
}

#[test]
fn an_unknown_word() {
    check_broken(
        r#"role = "primary""#,
        r#"role = "leader""#,
        r#"pglb.toml:19: service.role = "leader": must be one of "primary", "replica" or "any""#,
    );
}

#[test]
fn an_address_used_twice() {
    check_broken(
        "10.72.0.12:5432",
        "10.72.0.11:5432",
        r#"pglb.toml:8: cluster.orders.backends.address = "10.72.0.11:5432": is taken, a backend on line 7 has it"#,
    );
    check_broken(
        "10.71.0.100:5433",
        "10.71.0.100:5432",
        r#"pglb.toml:23: service.vip = "10.71.0.100:5432": is taken, a service on line 17 has it"#,
    );
}

#[test]
fn a_vip_that_is_a_backend() {
    check_broken(
        "10.71.0.100:5433",
        "10.72.0.11:5433",
        r#"pglb.toml:23: service.vip = "10.72.0.11:5433": must not be the address of a backend, line 7 has it"#,
    );
    check_broken_ipv6(
        "[2001:db8:71::100]:5433",
        "[2001:DB8:72:0::11]:5433",
        r#"pglb.toml:22: service.vip = "[2001:DB8:72:0::11]:5433": must not be the address of a backend, line 7 has it"#,
    );
}

#[test]
fn a_name_used_twice() {
    check_broken(
        r#""orders-ro""#,
        r#""orders-rw""#,
        r#"pglb.toml:22: service.name = "orders-rw": is taken, a service on line 16 has it"#,
    );
    check_broken(
        r#""pg2""#,
        r#""pg1""#,
        r#"pglb.toml:8: cluster.orders.backends.name = "pg1": is taken, a backend of this cluster on line 7 has it"#,
    );
}

#[test]
fn an_unknown_cluster() {
    let text = VALID.replacen(r#"cluster = "orders""#, r#"cluster = "order""#, 1);
    assert_eq!(
        errors(&text),
        [r#"pglb.toml:18: service.cluster = "order": no such cluster, did you mean "orders"?"#]
    );
}

#[test]
fn a_cluster_nobody_uses() {
    check_broken(
        "[[service]]\nname = \"orders-rw\"",
        "[cluster.spare]\nbackends = [{ name = \"pg9\", address = \"10.72.0.19:5432\" }]\n\
         [[service]]\nname = \"orders-rw\"",
        "pglb.toml:15: cluster.spare: no service uses this cluster",
    );
}

#[test]
fn numbers_out_of_range() {
    check_broken(
        "weight = 50",
        "weight = 1001",
        "pglb.toml:8: cluster.orders.backends.weight = 1001: must be a whole number from 0 to 1000",
    );
    check_broken(
        "max_connections = 4096",
        "max_connections = 99999999999999999999",
        "pglb.toml:3: gateway.max_connections = 99999999999999999999: must be a whole number from 1024 to 4194304",
    );
    check_broken(
        "fall = 3",
        "fall = 0",
        "pglb.toml:13: cluster.orders.health.fall = 0: must be a whole number from 1 to 100",
    );
    check_broken(
        "fall = 3",
        "rise = -1",
        "pglb.toml:13: cluster.orders.health.rise = -1: must be a whole number from 1 to 100",
    );
}

#[test]
fn times_out_of_range() {
    check_broken(
        "timeout = \"1s\"",
        "timeout = \"0s\"",
        r#"pglb.toml:12: cluster.orders.health.timeout = "0s": must be from 10ms to 1h"#,
    );
    check_broken(
        "timeout = \"1s\"",
        "fast_interval = \"2s\"",
        r#"pglb.toml:12: cluster.orders.health.fast_interval = "2s": must be at most the interval, which is 1s"#,
    );
    check_broken(
        "timeout = \"1s\"",
        "timeout = \"1 second\"",
        r#"pglb.toml:12: cluster.orders.health.timeout = "1 second": must be a duration, for example "250ms", "1s" or "5m""#,
    );
}

#[test]
fn a_bad_size() {
    check_broken(
        "fall = 3",
        "max_lag = \"64\"",
        r#"pglb.toml:13: cluster.orders.health.max_lag = "64": must be a size, for example "512kB", "64MB" or "1GB""#,
    );
}

#[test]
fn empty_lists() {
    check_broken(
        r#"["eth0", "eth1"]"#,
        "[]",
        r#"pglb.toml:2: gateway.interfaces = []: must be a list of interface names, for example ["eth0", "eth1"]"#,
    );
    check_broken(
        r#"["10.71.0.0/24"]"#,
        "[]",
        r#"pglb.toml:26: service.allow = []: must be a list of networks, for example ["10.71.0.0/24"]; leave it out to allow everyone"#,
    );
    check_broken_ipv6(
        r#"["2001:db8:71::66/128"]"#,
        "[]",
        r#"pglb.toml:18: service.deny = []: must be a list of networks, for example ["10.71.0.66/32"]; leave it out to deny nobody"#,
    );
}

#[test]
fn a_bad_network() {
    check_broken(
        r#"["10.71.0.0/24"]"#,
        r#"["10.71.0.7/24"]"#,
        r#"pglb.toml:26: service.allow = "10.71.0.7/24": must have no bits set after the prefix, write "10.71.0.0/24""#,
    );
    check_broken_ipv6(
        "2001:db8:71::/64",
        "2001:db8:71::7/64",
        r#"pglb.toml:17: service.allow = "2001:db8:71::7/64": must have no bits set after the prefix, write "2001:db8:71::/64""#,
    );
    check_broken_ipv6(
        "2001:db8:71::66/128",
        "2001:db8:71::66/129",
        r#"pglb.toml:18: service.deny = "2001:db8:71::66/129": must have a prefix length of 0 to 128"#,
    );
}

#[test]
fn a_role_that_the_probe_cannot_tell() {
    let text = VALID.replace("interval = \"1s\"", "kind = \"tcp\"");
    assert_eq!(
        errors(&text),
        [
            r#"pglb.toml:19: service.role = "primary": must be "any", because cluster orders has health.kind = "tcp", which tells no role"#,
            r#"pglb.toml:25: service.role = "replica": must be "any", because cluster orders has health.kind = "tcp", which tells no role"#,
        ]
    );
}

#[test]
fn text_that_is_no_toml() {
    check_broken(
        r#"role = "primary""#,
        "role = primary",
        "pglb.toml:19: role = primary: is not valid TOML, string values must be quoted, expected literal string",
    );
    check_broken(
        "[gateway]",
        "[gateway",
        "pglb.toml:1: [gateway: is not valid TOML, unclosed table, expected `]`",
    );
}

#[test]
fn a_key_written_twice() {
    check_broken(
        "fall = 3",
        "fall = 3\nfall = 4",
        "pglb.toml:14: fall = 4: is not valid TOML, duplicate key",
    );
}

#[test]
fn an_empty_file() {
    assert_eq!(
        errors(""),
        [
            "pglb.toml:1: gateway is missing: a [gateway] section names the interfaces",
            "pglb.toml:1: cluster is missing: a [cluster.NAME] section names the backends",
            "pglb.toml:1: service is missing: a [[service]] section names the VIP",
        ]
    );
}

#[test]
fn sections_of_another_shape() {
    let text = VALID.replace("[[service]]", "[service]");
    assert!(!errors(&text).is_empty());
    assert_eq!(
        errors("gateway = 1\ncluster = []\nservice = {}"),
        [
            "pglb.toml:1: gateway = 1: must be a section, write [gateway]",
            "pglb.toml:2: cluster = []: must be sections, write [cluster.NAME]",
            "pglb.toml:3: service = {}: must be sections, write [[service]]",
        ]
    );
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_their_lines() {
    let text = VALID
        .replace("4096", "12")
        .replace("weight = 50", "weight = \"heavy\"")
        .replace("fall = 3", "fall = 0")
        .replace(r#"role = "replica""#, r#"role = "slave""#);
    let lines: Vec<usize> = check("f", &text)
        .unwrap_err()
        .iter()
        .map(|e| e.line)
        .collect();
    assert_eq!(lines, [3, 8, 13, 25]);
}

#[test]
fn what_the_tables_cannot_hold() {
    let backends = |cluster: usize, count: usize| {
        let rows: Vec<String> = (0..count)
            .map(|i| {
                format!(
                    "{{ name = \"pg{i}\", address = \"10.{cluster}.0.{}:5432\" }}",
                    i + 1
                )
            })
            .collect();
        format!(
            "[cluster.c{cluster}]\nbackends = [\n{}\n]\n",
            rows.join(",\n")
        )
    };
    let service = |index: usize, cluster: usize| {
        format!(
            "[[service]]\nname = \"s{index}\"\nvip = \"10.200.0.1:{}\"\ncluster = \"c{cluster}\"\nrole = \"any\"\n",
            5432 + index
        )
    };
    let gateway = "[gateway]\ninterfaces = [\"eth0\"]\n";

    let one_too_many = format!("{gateway}{}{}", backends(1, 33), service(0, 1));
    let sentences = errors(&one_too_many);
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(
        sentences[0].contains("must be at most 32 backends in a cluster"),
        "{sentences:?}"
    );

    let mut all = gateway.to_owned();
    for cluster in 1..=8 {
        all += &backends(cluster, 32);
        all += &service(cluster, cluster);
    }
    let sentences = errors(&all);
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(
        sentences[0].contains("must be at most 255 backends in all"),
        "{sentences:?}"
    );

    // The lists of all services together are what the table must hold.
    let networks = |first: u8, count: u16| {
        let networks: Vec<String> = (0..count)
            .map(|i| format!("\"{first}.{}.{}.0/24\"", i / 256, i % 256))
            .collect();
        networks.join(", ")
    };
    let lists = |denied| {
        format!(
            "{gateway}{}{}allow = [{}]\n{}deny = [{}]\n",
            backends(1, 2),
            service(0, 1),
            networks(11, 10_000),
            service(1, 1),
            networks(12, denied)
        )
    };
    assert!(check("pglb.toml", &lists(6_384)).is_ok());
    let sentences = errors(&lists(6_385));
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(
        sentences[0].contains("service.deny: must be at most 16384 networks in all services"),
        "{sentences:?}"
    );

    let mut many = format!("{gateway}{}", backends(1, 2));
    for index in 0..65 {
        many += &service(index, 1);
    }
    let sentences = errors(&many);
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(
        sentences[0].contains("must be at most 64 services"),
        "{sentences:?}"
    );
}

#[test]
fn a_file_that_is_not_there_is_a_warning() {
    let text = VALID.replace("fall = 3", "password_file = \"/nonexistent/password\"");
    let config = check("pglb.toml", &text).unwrap();
    assert_eq!(
        warnings(&config),
        [r#"cluster.orders.health.password_file = "/nonexistent/password": no such file"#]
    );
}

/// The text with one stretch of characters replaced.
fn mutate(text: &str, at: usize, length: usize, with: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = at % (characters.len() + 1);
    let end = (at + length).min(characters.len());
    let (before, after) = (&characters[..at], &characters[end..]);
    before
        .iter()
        .copied()
        .chain(with.chars())
        .chain(after.iter().copied())
        .collect()
}

/// Every text is a configuration, or at least one whole sentence.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    if let Err(errors) = check("pglb.toml", text) {
        prop_assert!(!errors.is_empty());
        let lines = text.lines().count().max(1) + 1;
        for error in errors {
            prop_assert!((1..=lines).contains(&error.line), "{error}");
            prop_assert!(!error.rule.is_empty(), "{error}");
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_text_is_judged(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn any_toml_like_text_is_judged(
        text in r#"((\[{1,2}(gateway|cluster(\.[a-z"]{1,3}){1,2}|service)\]{1,2})?\n?(interfaces|vip|backends|health|name|max_lag|allow|deny|forwarding|idle_limit|source_max_(rate|connections)|full_nat_ports) ?= ?(\["[a-z0-9./:]{0,9}"\]|"\[[a-f0-9:.]{0,9}\]:[0-9]{0,5}"|"[0-9]{0,5}-[0-9]{0,5}"|[0-9]{1,25}|"[^"\n]{0,9}"|\{[a-z]{0,5} = 1\}|true|1979-05-27|nan)\n){1,5}"#,
    ) {
        check_any(&text)?;
    }

    #[test]
    fn any_change_of_a_valid_file_is_judged(
        at: usize,
        length in 0..40usize,
        with in "[ -~\n]{0,12}|.{0,3}",
    ) {
        check_any(&mutate(ANNOTATED, at, length, &with))?;
        check_any(&mutate(VALID, at, length, &with))?;
        check_any(&mutate(VALID_IPV6, at, length, &with))?;
    }
}
