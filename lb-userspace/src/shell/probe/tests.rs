use super::*;

mod fake;
mod postgres;
mod real;

use self::fake::{Server, answer, message, ready, refusal, welcome};

fn target(address: SocketAddr) -> Target {
    Target {
        address,
        kind: ProbeKind::Postgres,
        user: "pglb".to_owned(),
        database: "postgres".to_owned(),
        password: None,
        tls: Tls::Disable,
        ca_file: None,
        timeout: Duration::from_secs(5),
    }
}

fn down(why: &str) -> Outcome {
    Outcome::Down {
        why: why.to_owned(),
    }
}

fn misconfigured(message: &str) -> Outcome {
    Outcome::Misconfigured {
        message: message.to_owned(),
    }
}

#[track_caller]
fn check_state(state: &str, stage: Stage, expected: &str) {
    let outcome = classify_state(&SqlState::from_code(state), "words".to_owned(), stage);
    let (found, message) = match outcome {
        Outcome::Up(facts) => panic!("{facts:?}"),
        Outcome::Starting { message } => ("starting", message),
        Outcome::Full { message } => ("full", message),
        Outcome::Misconfigured { message } => ("misconfigured", message),
        Outcome::Down { why } => ("down", why),
    };
    assert_eq!((found, message.as_str()), (expected, "words"), "{state}");
}

#[test]
fn the_sqlstate_alone_says_what_a_refusal_means() {
    for stage in [Stage::Connecting, Stage::Asking] {
        check_state("57P03", stage, "starting");
        check_state("53300", stage, "full");
        for state in ["28000", "28P01", "28XXX", "3D000", "42501"] {
            check_state(state, stage, "misconfigured");
        }
        for state in ["57P01", "57P02", "57014", "XX000", "53200", "58030"] {
            check_state(state, stage, "down");
        }
    }
    check_state("55000", Stage::Connecting, "misconfigured");
    check_state("55000", Stage::Asking, "down");
}

#[tokio::test]
async fn a_server_that_refuses_is_heard_out() {
    let message = |state| format!("{state} no");
    for (state, expected) in [
        (
            "57P03",
            Outcome::Starting {
                message: message("57P03"),
            },
        ),
        (
            "53300",
            Outcome::Full {
                message: message("53300"),
            },
        ),
        (
            "28000",
            Outcome::Misconfigured {
                message: message("28000"),
            },
        ),
        (
            "3D000",
            Outcome::Misconfigured {
                message: message("3D000"),
            },
        ),
        (
            "57P01",
            Outcome::Down {
                why: message("57P01"),
            },
        ),
    ] {
        let (server, target) = Server::start().await;
        let serve = async {
            let mut peer = server.accept().await;
            peer.read_start().await;
            peer.write(&refusal("FATAL", state)).await;
        };
        let (outcome, ()) = tokio::join!(handshake(&target), serve);
        assert_eq!(outcome, expected);
    }
}

#[tokio::test]
async fn a_handshake_ends_with_terminate_and_fin() {
    let (server, target) = Server::start().await;
    let serve = async {
        let mut peer = server.accept().await;
        let start = String::from_utf8(peer.read_start().await).unwrap();
        for setting in [
            "user\0pglb\0",
            "database\0postgres\0",
            "application_name\0pglb\0",
        ] {
            assert!(start.contains(setting), "{start:?}");
        }
        peer.write(&welcome()).await;
        assert_eq!(peer.read().await, Some((b'X', Vec::new())));
        // What a server says last, as with TLS, must not be answered by a reset.
        peer.write(b"last words").await;
        assert_eq!(peer.read().await, None);
        peer.write(b"very last words").await;
    };
    let (outcome, ()) = tokio::join!(handshake(&target), serve);
    let Outcome::Up(facts) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        facts,
        Facts {
            latency: facts.latency,
            ..Facts::default()
        }
    );
    assert!(facts.latency > Duration::ZERO);
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let (_server, mut target) = Server::start().await;
    target.timeout = Duration::from_millis(50);
    assert_eq!(handshake(&target).await, down("timeout after 50ms"));
    assert_eq!(
        Session::new().observe(&target).await,
        down("timeout after 50ms")
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused() {
    let (server, mut target) = Server::start().await;
    drop(server);
    assert_eq!(handshake(&target).await, down("connection refused"));
    assert_eq!(
        Session::new().observe(&target).await,
        down("connection refused")
    );
    target.kind = ProbeKind::Tcp;
    assert_eq!(handshake(&target).await, down("connection refused"));
    target.kind = ProbeKind::None;
    assert!(matches!(handshake(&target).await, Outcome::Up(_)));
}

#[tokio::test]
async fn a_mere_tcp_server_is_up_when_it_accepts() {
    let (server, mut target) = Server::start().await;
    target.kind = ProbeKind::Tcp;
    let (outcome, mut peer) = tokio::join!(handshake(&target), server.accept());
    assert!(matches!(outcome, Outcome::Up(_)), "{outcome:?}");
    assert_eq!(peer.read().await, None);
}

#[tokio::test]
async fn what_is_no_postgres_is_down() {
    for (bytes, why) in [
        (&b""[..], CLOSED),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "connection closed within a message",
        ),
        (b"+\0\0\0\0", NOT_POSTGRES),
        (&ready(), "unexpected message from server"),
    ] {
        let (server, target) = Server::start().await;
        let serve = async {
            let mut peer = server.accept().await;
            peer.read_start().await;
            peer.write(bytes).await;
        };
        let (outcome, ()) = tokio::join!(handshake(&target), serve);
        assert_eq!(outcome, down(why));
    }
}

#[tokio::test]
async fn a_password_that_is_asked_for_and_not_there_is_a_misconfiguration() {
    let (server, target) = Server::start().await;
    let serve = async {
        let mut peer = server.accept().await;
        peer.read_start().await;
        peer.write(&message(b'R', &3_u32.to_be_bytes())).await;
        assert_eq!(peer.read().await, None);
    };
    let (outcome, ()) = tokio::join!(handshake(&target), serve);
    assert_eq!(outcome, misconfigured("password missing"));
}

#[tokio::test]
async fn tls_is_used_as_the_words_say() {
    for (tls, expected) in [
        (Tls::Prefer, None),
        (Tls::Require, Some("server does not support TLS")),
        (Tls::VerifyFull, Some("server does not support TLS")),
    ] {
        let (server, mut target) = Server::start().await;
        target.tls = tls;
        let serve = async {
            let mut peer = server.accept().await;
            assert_eq!(peer.read_start().await, 80_877_103_u32.to_be_bytes());
            peer.write(b"N").await;
            if expected.is_none() {
                peer.read_start().await;
                peer.write(&welcome()).await;
                assert_eq!(peer.read().await, Some((b'X', Vec::new())));
            }
        };
        let (outcome, ()) = tokio::join!(handshake(&target), serve);
        match expected {
            Some(message) => assert_eq!(outcome, misconfigured(message)),
            None => assert!(matches!(outcome, Outcome::Up(_)), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_named() {
    let (_server, mut target) = Server::start().await;
    target.tls = Tls::VerifyFull;
    target.ca_file = Some(PathBuf::from("/nonexistent/ca.pem"));
    let Outcome::Misconfigured { message } = handshake(&target).await else {
        panic!()
    };
    assert!(
        message.starts_with("ca_file /nonexistent/ca.pem: "),
        "{message}"
    );
    target.ca_file = Some(PathBuf::from("/dev/null"));
    let expected = misconfigured("ca_file /dev/null: no certificate in it");
    assert_eq!(handshake(&target).await, expected);
}

const REPLICA: [(&str, Option<&str>); 12] = [
    ("in_recovery", Some("t")),
    ("role", Some("pglb")),
    ("sees_statistics", Some("t")),
    ("timeline", Some("7")),
    ("system_identifier", Some("7277694203142172922")),
    ("lsn", Some("16/B374D848")),
    ("receive_lsn", None),
    ("is_streaming", Some("f")),
    ("used", Some("12")),
    ("active", Some("3")),
    ("max_connections", Some("100")),
    ("reserved", Some("3")),
];

#[tokio::test]
async fn a_session_asks_over_one_connection_and_replaces_it_when_it_is_lost() {
    let (server, target) = Server::start().await;
    let serve = async {
        let mut first = server.accept().await;
        let question = first.welcome_and_hear().await;
        assert!(question.starts_with(b"SET LOCAL statement_timeout = 5000; WITH "));
        first.write(&answer(&REPLICA)).await;
        let (kind, _) = first.read().await.unwrap();
        assert_eq!(kind, b'Q', "the same connection");
        first.write(&answer(&REPLICA)).await;
        drop(first);

        let mut second = server.accept().await;
        second.welcome_and_hear().await;
        // A refusal of the statement alone leaves the connection open.
        second
            .write(&[refusal("ERROR", "42501"), ready()].concat())
            .await;
        assert_eq!(second.read().await.unwrap().0, b'Q', "the same connection");
        // This one ends it, and the question is put again over the next.
        second.write(&refusal("FATAL", "57P01")).await;
        drop(second);

        let mut third = server.accept().await;
        third.welcome_and_hear().await;
        third.write(&answer(&REPLICA)).await;
        assert_eq!(third.read().await, Some((b'X', Vec::new())));
        assert_eq!(third.read().await, None);
    };
    let ask = async {
        let mut session = Session::new();
        let Outcome::Up(facts) = session.observe(&target).await else {
            panic!()
        };
        let expected = Facts {
            latency: facts.latency,
            in_recovery: Some(true),
            timeline: Some(7),
            system_identifier: Some(7_277_694_203_142_172_922),
            lsn: Some(0x16_B374_D848),
            receive_lsn: None,
            is_streaming: Some(false),
            active_backends: Some(3),
            used_connections: Some(12),
            max_connections: Some(100),
            reserved_connections: Some(3),
            default_transaction_read_only: None,
        };
        assert_eq!(facts, expected);
        assert!(matches!(session.observe(&target).await, Outcome::Up(_)));
        timeout(Duration::from_secs(5), session.lost())
            .await
            .expect("the loss is told at once");
        assert_eq!(session.observe(&target).await, misconfigured("42501 no"));
        assert!(matches!(session.observe(&target).await, Outcome::Up(_)));
    };
    timeout(Duration::from_secs(20), async { tokio::join!(ask, serve) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_connects_anew_for_another_target() {
    let (server, target) = Server::start().await;
    let other = Target {
        user: "other".to_owned(),
        ..target.clone()
    };
    let serve = async {
        let mut first = server.accept().await;
        first.welcome_and_hear().await;
        first.write(&answer(&REPLICA)).await;
        let mut second = server.accept().await;
        second.welcome_and_hear().await;
        second.write(&answer(&REPLICA)).await;
        assert_eq!(first.read().await, Some((b'X', Vec::new())));
        second
    };
    let ask = async {
        let mut session = Session::new();
        assert!(matches!(session.observe(&target).await, Outcome::Up(_)));
        assert!(matches!(session.observe(&other).await, Outcome::Up(_)));
        session
    };
    timeout(Duration::from_secs(20), async { tokio::join!(ask, serve) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_role_that_sees_too_little_is_named() {
    let (server, target) = Server::start().await;
    let serve = async {
        let mut peer = server.accept().await;
        peer.welcome_and_hear().await;
        let mut columns = REPLICA;
        columns[2].1 = Some("f");
        peer.write(&answer(&columns)).await;
    };
    let mut session = Session::new();
    let (outcome, ()) = tokio::join!(session.observe(&target), serve);
    assert_eq!(
        outcome,
        misconfigured("role \"pglb\" is no member of pg_monitor")
    );
}

#[test]
fn a_target_never_shows_its_password() {
    let mut target = target("10.72.0.11:5432".parse().unwrap());
    target.password = Some("secret".to_owned());
    let expected = "Target(postgres pglb@10.72.0.11:5432/postgres, tls disable)";
    assert_eq!(format!("{target:?}"), expected);
}
