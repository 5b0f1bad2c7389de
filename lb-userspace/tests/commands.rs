//! The binary as a user and a script meet it: what it prints, and how it exits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};

use lb_userspace::protocol::{Request, Response};
use lb_userspace::report::StatusReport;

/// A directory of its own for each test, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("pglb-commands-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pglb(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pglb"))
        .args(line.split_whitespace())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A controller that gives these answers in turn and passes on what it was asked.
fn answer_with(socket: &Path, answers: Vec<Response>) -> Receiver<Request> {
    let listener = UnixListener::bind(socket).unwrap();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut client, _)) = listener.accept() else {
                return;
            };
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).unwrap();
            let _ = sender.send(serde_json::from_str(&line).unwrap());
            let answer = serde_json::to_string(&answer).unwrap();
            let _ = writeln!(client, "{answer}");
        }
    });
    asked
}

/// The report of a gateway whose two services are in these states.
fn report(rw: &str, ro: &str, connections: u64) -> StatusReport {
    let service = |name: &str, state: &str| {
        serde_json::json!({
            "name": name, "vip": "10.71.0.100:5432", "role": "any",
            "algorithm": "least-connections", "forwarding": "nat", "state": state,
            "connections": connections,
            "backends": [{
                "name": "pg1", "cluster": "orders", "address": "10.72.0.11:5432",
                "admin": "ready", "health": "up", "role": "primary", "eligible": true,
                "weight": 100, "connections": connections, "lag_bytes": null, "timeline": 6,
                "check": "sql ok 0.4 ms", "reason": "serves",
            }],
        })
    };
    serde_json::from_value(serde_json::json!({
        "gateway": {
            "interfaces": [{ "name": "eth0", "xdp_mode": "native" }], "uptime_seconds": 12,
            "version": "0.1.0", "connections": connections, "max_connections": 262_144, "pid": 7,
        },
        "services": [service("orders-rw", rw), service("orders-ro", ro)],
    }))
    .unwrap()
}

#[test]
fn the_exit_code_of_status_is_that_of_the_worst_service() {
    for (rw, ro, code) in [
        ("ok", "ok", 0),
        ("ok", "degraded", 1),
        ("no_backend", "degraded", 2),
    ] {
        let directory = Directory::new(&format!("status-{code}"));
        let socket = directory.0.join("s");
        answer_with(&socket, vec![Response::Status(report(rw, ro, 3))]);
        let output = pglb(&format!("status --socket {}", socket.display()));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stdout(&output).contains("orders-rw"), "{output:?}");
        assert!(
            !stdout(&output).contains('\x1b'),
            "colour belongs on a terminal only"
        );
    }
}

#[test]
fn doctor_tells_what_it_sees_of_this_host_to_anybody() {
    let directory = Directory::new("doctor");
    let text = "[gateway]\ninterfaces = [\"nosuch0\"]\nmanage_vip = false\n\
                [cluster.main]\nbackends = [{ name = \"pg1\", address = \"203.0.113.9:1\" }]\n\
                [cluster.main.health]\ntimeout = \"200ms\"\n\
                [[service]]\nname = \"rw\"\nvip = \"198.51.100.1:5432\"\ncluster = \"main\"\nrole = \"primary\"\n";
    let file = directory.write("pglb.toml", text);
    let output = pglb(&format!("doctor --json -c {file}"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(json["level"], "problem");
    let findings = json["findings"].as_array().unwrap();
    for finding in findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["subject", "level", "what", "remedy"]);
    }
    for (subject, what) in [
        ("kernel", "Linux"),
        ("interface nosuch0", "there is no such interface"),
        ("vip 198.51.100.1", "in no subnet"),
        ("backend main/pg1", "203.0.113.9"),
    ] {
        let is_it = |it: &serde_json::Value| {
            it["subject"] == subject && it["what"].as_str().unwrap().contains(what)
        };
        assert!(findings.iter().any(is_it), "{subject}: {json:#}");
    }

    let table = pglb(&format!("doctor -c {file}"));
    assert_eq!(table.status.code(), Some(2));
    assert!(
        stdout(&table).contains("-> name an interface of `ip link`"),
        "{table:?}"
    );
    assert!(!stdout(&table).contains('\x1b'));
}

#[test]
fn doctor_names_the_mistakes_of_a_configuration() {
    let directory = Directory::new("doctor-mistake");
    let file = directory.write("pglb.toml", "[gateway]\ninterfaces = \"eth0\"\n");
    let output = pglb(&format!("doctor -c {file}"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("pglb.toml:2: gateway.interfaces"),
        "{output:?}"
    );
    assert_eq!(stdout(&output), "");

    let output = pglb("doctor -c /nonexistent/pglb.toml");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn status_has_these_keys() {
    let directory = Directory::new("json");
    let socket = directory.0.join("s");
    answer_with(&socket, vec![Response::Status(report("ok", "ok", 3))]);
    let output = pglb(&format!("status --json --socket {}", socket.display()));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = |value: &serde_json::Value| {
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.join(" ")
    };
    // In the order in which a reader wants them.
    assert_eq!(keys(&json), "gateway services");
    assert_eq!(
        keys(&json["services"][0]),
        "name vip role algorithm forwarding state connections backends"
    );
    assert_eq!(
        keys(&json["services"][0]["backends"][0]),
        "name cluster address admin health role eligible weight connections lag_bytes timeline \
         check reason"
    );
}

#[test]
fn a_controller_that_does_not_answer_is_exit_3() {
    let directory = Directory::new("unreachable");
    let socket = directory.0.join("s");
    let shown = socket.display().to_string();
    for command in [
        "status",
        "status --json",
        "connections",
        "drain pg1 --wait",
        "maint pg1",
        "ready pg1",
        "weight pg1 5",
        "kill --backend pg1",
        "explain orders-rw 10.71.0.5:41022",
    ] {
        let output = pglb(&format!("{command} --socket {shown}"));
        assert_eq!(output.status.code(), Some(3), "{command}: {output:?}");
        assert_eq!(
            stderr(&output),
            format!(
                "pglb: no controller answers on {shown}: there is no such socket, \
                 start `pglb run`, or name its control_socket with --socket\n"
            )
        );
    }
    drop(UnixListener::bind(&socket).unwrap());
    let output = pglb(&format!("status --socket {shown}"));
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("is gone, start `pglb run` again"),
        "{output:?}"
    );
}

#[test]
fn a_refusal_is_exit_1_in_the_controllers_words() {
    let directory = Directory::new("refusal");
    let socket = directory.0.join("s");
    let message = "no backend is named pg9".to_owned();
    answer_with(&socket, vec![Response::Refused { message }]);
    let output = pglb(&format!("maint pg9 --socket {}", socket.display()));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "pglb: no backend is named pg9\n");
}

#[test]
fn each_order_asks_what_was_typed() {
    for (index, (command, request)) in [
        ("drain orders/pg1", r#"{"drain":{"backend":"orders/pg1"}}"#),
        ("maint pg1", r#"{"maint":{"backend":"pg1"}}"#),
        ("ready pg1", r#"{"ready":{"backend":"pg1"}}"#),
        (
            "weight pg1 50",
            r#"{"weight":{"backend":"pg1","weight":50}}"#,
        ),
        (
            "kill --service ro",
            r#"{"kill":{"target":{"service":"ro"}}}"#,
        ),
        (
            "kill --client 10.0.0.1",
            r#"{"kill":{"target":{"client":"10.0.0.1"}}}"#,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = Directory::new(&format!("order-{index}"));
        let socket = directory.0.join("s");
        let message = "so be it".to_owned();
        let asked = answer_with(&socket, vec![Response::Done { message }]);
        let output = pglb(&format!("{command} --socket {}", socket.display()));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(stdout(&output), "so be it\n");
        assert_eq!(
            serde_json::to_string(&asked.recv().unwrap()).unwrap(),
            request
        );
    }
}

#[test]
fn drain_waits_for_the_last_connection() {
    let directory = Directory::new("drain");
    let socket = directory.0.join("s");
    let done = Response::Done {
        message: "orders/pg1 drains".into(),
    };
    let status = |connections| Response::Status(report("ok", "ok", connections));
    let asked = answer_with(&socket, vec![done, status(2), status(1), status(0)]);
    let output = pglb(&format!("drain pg1 --wait --socket {}", socket.display()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        stdout(&output),
        "orders/pg1 drains\npg1 has no connections left\n"
    );
    assert_eq!(asked.iter().count(), 4);
}

#[test]
fn drain_that_runs_out_of_time_is_exit_2() {
    let directory = Directory::new("drain-timeout");
    let socket = directory.0.join("s");
    let mut answers = vec![Response::Done {
        message: "orders/pg1 drains".into(),
    }];
    answers.extend((0..20).map(|_| Response::Status(report("ok", "ok", 2))));
    answer_with(&socket, answers);
    let socket = socket.display();
    let output = pglb(&format!(
        "drain pg1 --wait --timeout 300ms --socket {socket}"
    ));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // Two services see two connections each.
    assert_eq!(
        stderr(&output),
        "pglb: pg1 still has 4 connections after 300ms, and keeps draining\n"
    );
}

#[test]
fn check_explains_a_valid_file() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/minimal.toml");
    let output = pglb(&format!("check {example}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with(&format!("{example} is valid\n\ngateway: ")));
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_names_every_mistake_of_a_broken_file() {
    let directory = Directory::new("broken");
    let file = directory.write(
        "broken.toml",
        "[gateway]\ninterfaces = [\"eth0\"]\n[cluster.a]\nbackends = [{ name = \"pg1\", \
         address = \"10.72.0.11\" }]\n[[service]]\nname = \"rw\"\nvip = \"10.71.0.100:5432\"\n\
         cluster = \"a\"\nrole = \"leader\"\n",
    );
    let output = pglb(&format!("check {file}"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    assert_eq!(
        stderr(&output),
        format!(
            "{file}:4: cluster.a.backends.address = \"10.72.0.11\": must be ADDRESS:PORT, \
             for example \"10.72.0.11:5432\"\n\
             {file}:9: service.role = \"leader\": must be one of \"primary\", \"replica\" or \"any\"\n"
        )
    );
}

#[test]
fn a_file_that_cannot_be_read_is_exit_2() {
    let directory = Directory::new("unreadable");
    let missing = directory.0.join("missing.toml").display().to_string();
    let output = pglb(&format!("check {missing}"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        format!("pglb: {missing}: cannot be read: No such file or directory (os error 2)\n")
    );
    let binary = directory.0.join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let output = pglb(&format!("check {}", binary.display()));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("it is not UTF-8 text"),
        "{output:?}"
    );
    let output = pglb(&format!("check {}", directory.0.display()));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn capture_names_the_services_there_are() {
    let directory = Directory::new("capture");
    let config = directory.write(
        "pglb.toml",
        "[gateway]\ninterfaces = [\"eth0\"]\n\
         [cluster.a]\nbackends = [{ name = \"pg1\", address = \"10.72.0.11:5432\" }]\n\
         [[service]]\nname = \"rw\"\nvip = \"10.71.0.100:5432\"\ncluster = \"a\"\nrole = \"primary\"\n\
         [[service]]\nname = \"ro\"\nvip = \"10.71.0.100:5433\"\ncluster = \"a\"\nrole = \"replica\"\n",
    );
    let output = pglb(&format!("capture --service rwx -c {config}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let sentence = format!("pglb: there is no service rwx in {config}; there are rw, ro\n");
    assert_eq!(stderr(&output), sentence);
}
