//! `pglb check` on files that people get wrong: one exact sentence each, exit status 2, and no panic.

use std::{
    env, fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use pglb_tests::{command, gateway};

/// A valid file, from which each broken one differs in one place.
const VALID: &str = r#"[gateway]
interfaces = ["eth0", "eth1"]

[cluster.orders]
backends = [
  { name = "pg1", address = "10.72.0.11:5432" },
  { name = "pg2", address = "10.72.0.12:5432" },
]
[cluster.orders.health]
interval = "1s"

[[service]]
name = "orders-rw"
vip = "10.71.0.100:5432"
cluster = "orders"
role = "primary"
"#;

/// What is replaced by what, and the sentence after the file's name.
const BROKEN: [(&str, &str, &str); 14] = [
    (
        "interval = \"1s\"",
        "intervall = \"1s\"",
        ":10: cluster.orders.health.intervall = \"1s\": unknown key, did you mean \"interval\"?",
    ),
    (
        "interval = \"1s\"",
        "interval = \"soon\"",
        ":10: cluster.orders.health.interval = \"soon\": must be a duration, for example \"250ms\", \"1s\" or \"5m\"",
    ),
    (
        "10.71.0.100:5432",
        "10.71.0.100",
        ":14: service.vip = \"10.71.0.100\": must be ADDRESS:PORT, for example \"10.71.0.100:5432\"",
    ),
    (
        "role = \"primary\"",
        "role = \"leader\"",
        ":16: service.role = \"leader\": must be one of \"primary\", \"replica\" or \"any\"",
    ),
    (
        "10.72.0.12:5432",
        "10.72.0.11:5432",
        ":7: cluster.orders.backends.address = \"10.72.0.11:5432\": is taken, a backend on line 6 has it",
    ),
    (
        "\"pg2\"",
        "\"pg1\"",
        ":7: cluster.orders.backends.name = \"pg1\": is taken, a backend of this cluster on line 6 has it",
    ),
    (
        "cluster = \"orders\"",
        "cluster = \"order\"",
        ":15: service.cluster = \"order\": no such cluster, did you mean \"orders\"?",
    ),
    (
        "[[service]]",
        "[cluster.spare]\nbackends = [{ name = \"pg9\", address = \"10.72.0.19:5432\" }]\n[[service]]",
        ":12: cluster.spare: no service uses this cluster",
    ),
    (
        "{ name = \"pg2\", ",
        "{ name = \"pg2\", weight = 5000, ",
        ":7: cluster.orders.backends.weight = 5000: must be a whole number from 0 to 1000",
    ),
    (
        "10.71.0.100:5432",
        "[2001:db8::100]:5432",
        ":14: service.vip = \"[2001:db8::100]:5432\": must be IPv4, like the backend on line 6",
    ),
    (
        "10.72.0.12:5432",
        "2001:db8::12:5432",
        ":7: cluster.orders.backends.address = \"2001:db8::12:5432\": must be [ADDRESS]:PORT, for example \"[2001:db8::100]:5432\"",
    ),
    (
        "10.71.0.100:5432\"",
        "10.71.0.100:5433\"\nforwarding = \"dsr\"",
        ":15: service.forwarding = \"dsr\": must have all backends on the VIP's port 5433, because it writes no ports: line 6 has 5432, line 7 has 5432",
    ),
    (
        "role = \"primary\"",
        "role = \"primary\"\nidle_limit = \"1h\"",
        ":17: service.idle_limit = \"1h\": must be over 7875s, the time in which Linux's keepalive finds that a peer is gone (7200 s and 9 probes 75 s apart)",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "\"eth0\"",
        ":2: gateway.interfaces = \"eth0\": must be a list of interface names, for example [\"eth0\", \"eth1\"]",
    ),
];

#[test]
fn each_broken_file_gets_its_sentence() {
    for (from, to, sentence) in BROKEN {
        assert!(VALID.contains(from), "{from}");
        let (status, errors, path) = check(&VALID.replacen(from, to, 1));
        assert_eq!(errors, format!("{path}{sentence}"), "{to}");
        assert_eq!(status, Some(2), "{to}");
    }
}

#[test]
fn every_mistake_is_named_at_once() {
    let (from, to, _) = BROKEN[0];
    let (also_from, also_to, _) = BROKEN[3];
    let text = VALID.replacen(from, to, 1).replacen(also_from, also_to, 1);
    let (status, errors, _) = check(&text);
    assert_eq!((status, errors.lines().count()), (Some(2), 2), "{errors}");
}

#[test]
fn what_is_not_even_toml_has_a_line_too() {
    let (status, errors, path) = check(&VALID.replacen("interval = \"1s\"", "interval = ", 1));
    assert_eq!(status, Some(2));
    assert!(errors.starts_with(&format!("{path}:10: ")), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_valid_file_is_explained() {
    let (status, errors, _) = check(VALID);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

/// Exit status, the error text without the program's name, and the path of the file.
fn check(text: &str) -> (Option<i32>, String, String) {
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let path = env::temp_dir().join(format!("pglb-check-{}-{number}.toml", std::process::id()));
    fs::write(&path, text).expect("a temporary file");
    let binary = gateway::find_binary().expect("a built pglb");
    let output = command::observe(Command::new(binary).arg("check").arg(&path)).expect("pglb runs");
    fs::remove_file(&path).expect("the file is ours");
    let errors = command::text_of(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    let errors = errors.trim_end().trim_start_matches("pglb: ").to_owned();
    (output.status.code(), errors, path.display().to_string())
}
