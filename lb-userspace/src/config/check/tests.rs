use proptest::prelude::*;

use super::*;
use crate::config::{
    Algorithm, Fallback, Forwarding, HashOn, NoBackend, OnDown, Role, Service, warnings,
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

fn errors(text: &str) -> Vec<String> {
    match check("pglb.toml", text) {
        Ok(config) => panic!("must not be valid: {config:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// The valid file with one text replaced gives exactly this one sentence.
#[track_caller]
fn check_broken(from: &str, to: &str, sentence: &str) {
    assert_eq!(VALID.matches(from).count(), 1, "{from:?} is not there once");
    let errors = errors(&VALID.replace(from, to));
    assert_eq!(errors, [sentence]);
}

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
        // The one commented-out key that has no default.
        let key = key.filter(|key| !key.starts_with("ca_file"));
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
}

#[test]
fn a_bad_network() {
    check_broken(
        r#"["10.71.0.0/24"]"#,
        r#"["10.71.0.7/24"]"#,
        r#"pglb.toml:26: service.allow = "10.71.0.7/24": must have no bits set after the prefix, write "10.71.0.0/24""#,
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
        text in r#"((\[{1,2}(gateway|cluster(\.[a-z"]{1,3}){1,2}|service)\]{1,2})?\n?(interfaces|vip|backends|health|name|max_lag|allow) ?= ?(\["[a-z0-9./:]{0,9}"\]|[0-9]{1,25}|"[^"\n]{0,9}"|\{[a-z]{0,5} = 1\}|true|1979-05-27|nan)\n){1,5}"#,
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
    }
}
