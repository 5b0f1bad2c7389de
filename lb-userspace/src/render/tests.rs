use super::*;
use crate::report::{AttachedMode, CandidateReport, InterfaceReport};

fn backend(name: &str, octet: u8, role: Option<BackendRole>) -> BackendReport {
    BackendReport {
        name: name.into(),
        cluster: "orders".into(),
        address: format!("10.72.0.{octet}:5432").parse().unwrap(),
        admin: Admin::Ready,
        health: Health::Up,
        role,
        eligible: true,
        weight: 100,
        connections: 0,
        lag_bytes: None,
        timeline: role.map(|_| 6),
        check: "sql ok 0.4 ms".into(),
        reason: "serves".into(),
    }
}

fn report() -> StatusReport {
    let pg1 = backend("pg1", 11, Some(BackendRole::Primary));
    let pg2 = backend("pg2", 12, Some(BackendRole::Replica));
    let pg3 = backend("pg3", 13, Some(BackendRole::Replica));
    let pg4 = backend("pg4", 14, None);
    let service = ServiceReport {
        name: "orders-rw".into(),
        vip: "10.71.0.100:5432".parse().unwrap(),
        role: Role::Primary,
        algorithm: crate::config::Algorithm::LeastConnections,
        forwarding: crate::config::Forwarding::Nat,
        state: ServiceState::Ok,
        connections: 212,
        backends: vec![
            BackendReport {
                connections: 212,
                ..pg1.clone()
            },
            BackendReport {
                eligible: false,
                lag_bytes: Some(12_500),
                reason: "is no primary".into(),
                ..pg2.clone()
            },
        ],
    };
    let replicas = ServiceReport {
        name: "orders-ro".into(),
        vip: "10.71.0.100:5433".parse().unwrap(),
        role: Role::Replica,
        state: ServiceState::Degraded,
        connections: 641,
        backends: vec![
            BackendReport {
                eligible: false,
                reason: "is the primary".into(),
                ..pg1
            },
            BackendReport {
                connections: 1,
                lag_bytes: Some(0),
                ..pg2
            },
            BackendReport {
                admin: Admin::Drain,
                eligible: false,
                weight: 0,
                connections: 640,
                lag_bytes: Some(212 << 20),
                reason: "drained by the operator, 640 connections left".into(),
                ..pg3
            },
            BackendReport {
                health: Health::Down,
                eligible: false,
                check: "timeout after 1s".into(),
                reason: "down: 3 probes in a row failed, timeout after 1s".into(),
                ..pg4
            },
        ],
        ..service.clone()
    };
    StatusReport {
        gateway: GatewayReport {
            interfaces: vec![
                InterfaceReport {
                    name: "eth0".into(),
                    xdp_mode: AttachedMode::Native,
                },
                InterfaceReport {
                    name: "eth1".into(),
                    xdp_mode: AttachedMode::Generic,
                },
            ],
            uptime_seconds: 192,
            version: "0.1.0".into(),
            connections: 853,
            max_connections: 262_144,
            pid: 4711,
        },
        services: vec![service, replicas],
    }
}

#[test]
fn status_is_this_table() {
    let text = status(&report(), Colour::Off);
    let expected = "\
pglb 0.1.0 on eth0 (native), eth1 (generic), up 3m 12s, 853 of 262144 connections

orders-rw  10.71.0.100:5432  primary of orders  least-connections  nat  ok  212 connections
BACKEND  ADDRESS          ADMIN  HEALTH  ROLE       ELIGIBLE  WEIGHT  CONNS    LAG  CHECK
pg1      10.72.0.11:5432  ready  up      primary/6  yes          100    212      -  sql ok 0.4 ms
pg2      10.72.0.12:5432  ready  up      replica/6  standby      100      0   12kB  sql ok 0.4 ms

orders-ro  10.71.0.100:5433  replica of orders  least-connections  nat  degraded  641 connections
BACKEND  ADDRESS          ADMIN  HEALTH  ROLE       ELIGIBLE  WEIGHT  CONNS    LAG  CHECK
pg1      10.72.0.11:5432  ready  up      primary/6  no           100      0      -  sql ok 0.4 ms
pg2      10.72.0.12:5432  ready  up      replica/6  yes          100      1     0B  sql ok 0.4 ms
pg3      10.72.0.13:5432  drain  up      replica/6  no             0    640  212MB  sql ok 0.4 ms
pg4      10.72.0.14:5432  ready  down    -          no           100      0      -  timeout after 1s
  pg1: is the primary
  pg3: drained by the operator, 640 connections left
  pg4: down: 3 probes in a row failed, timeout after 1s
";
    assert_eq!(text, expected, "\n{text}");
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}");
}

#[test]
fn colour_changes_no_letter_and_no_column() {
    let plain = status(&report(), Colour::Off);
    let coloured = status(&report(), Colour::On);
    assert!(!plain.contains('\x1b'));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    stripped.push_str(rest);
    assert_eq!(stripped, plain);
}

#[test]
fn a_standby_is_never_alarming() {
    let text = status(&report(), Colour::On);
    let standby = text.lines().find(|line| line.contains("standby")).unwrap();
    let (red, yellow) = (
        AnsiColor::Red.on_default().to_string(),
        AnsiColor::Yellow.on_default().to_string(),
    );
    assert!(
        !standby.contains(&red) && !standby.contains(&yellow),
        "{standby:?}"
    );
    let down = text.lines().find(|line| line.contains("pg4  ")).unwrap();
    assert!(down.contains(&red), "{down:?}");
}

#[test]
fn a_fallback_says_why_it_serves() {
    let mut report = report();
    let primary = &mut report.services[1].backends[0];
    primary.eligible = true;
    primary.reason = "no replica is eligible, fallback".into();
    let text = status(&report, Colour::Off);
    assert!(
        text.contains("\n  pg1: no replica is eligible, fallback\n"),
        "{text}"
    );
}

#[test]
fn connections_are_this_table() {
    let row = |service: &str, client: &str, idle| ConnectionReport {
        service: service.into(),
        backend: "orders/pg1".into(),
        client: client.parse().unwrap(),
        gateway: None,
        state: "established".into(),
        idle_seconds: idle,
    };
    let rows = [
        row("orders-rw", "10.71.0.5:41022", 0),
        row("orders-ro", "10.71.0.250:5000", 7_384),
    ];
    let expected = "\
SERVICE    BACKEND     CLIENT            STATE         IDLE
orders-rw  orders/pg1  10.71.0.5:41022   established     0s
orders-ro  orders/pg1  10.71.0.250:5000  established  2h 3m
2 connections
";
    let text = connections(&rows, Colour::Off);
    assert_eq!(text, expected, "\n{text}");
    assert_eq!(connections(&[], Colour::Off), "0 connections\n");
}

#[test]
fn explanations_name_the_backend_and_every_candidate() {
    let candidate = |backend: &str, eligible, connections, reason: &str| CandidateReport {
        backend: backend.into(),
        eligible,
        reason: reason.into(),
        connections,
        weight: 100,
    };
    let mut report = ExplainReport {
        service: "orders-ro".into(),
        client: "10.71.0.5:41022".parse().unwrap(),
        chosen: Some("orders/pg2".into()),
        candidates: vec![
            candidate("orders/pg2", true, 3, "chosen: fewest connections"),
            candidate("orders/pg10", false, 12, "drained by the operator"),
        ],
    };
    let expected = "\
a new connection from 10.71.0.5:41022 to orders-ro goes to orders/pg2

  BACKEND      ELIGIBLE  CONNS  WEIGHT  REASON
  orders/pg2   yes           3     100  chosen: fewest connections
  orders/pg10  no           12     100  drained by the operator
";
    let text = explain(&report, Colour::Off);
    assert_eq!(text, expected, "\n{text}");
    report.chosen = None;
    let text = explain(&report, Colour::Off);
    assert!(
        text.starts_with("a new connection from 10.71.0.5:41022 to orders-ro finds no backend\n")
    );
}

#[test]
fn a_configuration_is_explained_in_these_lines() {
    let text = include_str!("../../../config/pglb.toml");
    let config = crate::config::check("pglb.toml", text).unwrap();
    let expected = "\
gateway: XDP auto on eth0, eth1, 65536 connections at most, metrics on 127.0.0.1:9632, pglb adds the VIPs

cluster orders: 3 backends, probed by SQL as pglb in database postgres, tls prefer
  every 1s (250ms while changing), timeout 1s; down after 3 failures, up after 2 good probes
  a replica more than 64MB behind gets no new connections
  pg1  10.72.0.11:5432  weight 100
  pg2  10.72.0.12:5432  weight 100
  pg3  10.72.0.13:5432  weight 100, 400 connections at most

service orders-rw: 10.71.0.100:5432 goes to the primary of orders
  least-connections, for 10.71.0.0/24
  nat: backends send their replies through the gateway
  a client address: no limit; a silent connection: kept
  a backend down or in another role: its connections are reset; no backend eligible: rejected at once

service orders-ro: 10.71.0.100:5433 goes to the replicas, or the primary when none is eligible, of orders
  least-connections, for everyone
  nat: backends send their replies through the gateway
  a client address: no limit; a silent connection: kept
  a backend down or in another role: its connections are reset; no backend eligible: rejected at once
";
    let text = meaning(&config);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn forwardings_and_limits_are_explained() {
    let text = r#"
[gateway]
interfaces = ["eth0"]
full_nat_ports = "2048-8191"
[cluster.orders]
backends = [{ name = "pg1", address = "[2001:db8:72::11]:5432" }]
[[service]]
name = "orders-rw"
vip = "[2001:db8:71::100]:5432"
cluster = "orders"
role = "primary"
forwarding = "dsr"
deny = ["2001:db8:71::66/128"]
source_max_rate = 100
[[service]]
name = "orders-ro"
vip = "[2001:db8:71::101]:5433"
cluster = "orders"
role = "any"
forwarding = "full-nat"
allow = ["2001:db8:71::/64"]
deny = ["2001:db8:71::66/128", "2001:db8:71:0:8000::/65"]
source_max_connections = 1
source_max_rate = 10
idle_limit = "3h"
"#;
    let config = crate::config::check("pglb.toml", text).unwrap();
    let expected = "
cluster orders: 1 backend, probed by SQL as pglb in database postgres, tls prefer
  every 1s (250ms while changing), timeout 1s; down after 3 failures, up after 2 good probes
  a replica more than 64MB behind gets no new connections
  pg1  [2001:db8:72::11]:5432  weight 100

service orders-rw: [2001:db8:71::100]:5432 goes to the primary of orders
  least-connections, for everyone, not for 2001:db8:71::66/128
  dsr: each backend has 2001:db8:71::100 on its loopback and answers clients itself
  a client address: 100 new connections a second at most; a silent connection: reset after 8000s
  a backend down or in another role: its connections are reset; no backend eligible: rejected at once

service orders-ro: [2001:db8:71::101]:5433 goes to any backend of orders
  least-connections, for 2001:db8:71::/64, not for 2001:db8:71::66/128, 2001:db8:71:0:8000::/65
  full-nat: backends see the gateway as client, with ports 2048-8191
  a client address: 1 connection at most, 10 new connections a second at most; a silent connection: reset after 3h
  a backend down or in another role: its connections are reset; no backend eligible: rejected at once
";
    let text = meaning(&config);
    assert!(text.ends_with(expected), "\n{text}");
}

#[test]
fn sizes_and_times_are_short() {
    assert_eq!(size(0), "0B");
    assert_eq!(size(1023), "1023B");
    assert_eq!(size(12_500), "12kB");
    assert_eq!(size(u64::MAX), "16777215TB");
    assert_eq!(elapsed(42), "42s");
    assert_eq!(elapsed(3_600), "1h 0m");
    assert_eq!(elapsed(97_200), "1d 3h");
}
