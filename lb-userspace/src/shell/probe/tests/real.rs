//! The probe against real servers.

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;

use super::postgres::{Postgres, run, write_certificates};
use super::*;

async fn facts_of(session: &mut Session, target: &Target) -> Facts {
    match session.observe(target).await {
        Outcome::Up(facts) => facts,
        other @ (Outcome::Starting { .. }
        | Outcome::Full { .. }
        | Outcome::Misconfigured { .. }
        | Outcome::Down { .. }) => panic!("{target:?}: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn a_primary_and_its_replica_say_what_they_are() {
    let primary = Postgres::start("primary");
    let replica = Postgres::follow(&primary, "replica");
    let (mut of_primary, mut of_replica) = (Session::new(), Session::new());

    let before = facts_of(&mut of_primary, &primary.target()).await;
    assert_eq!(
        (before.in_recovery, before.timeline),
        (Some(false), Some(1))
    );
    assert_eq!((before.is_streaming, before.receive_lsn), (None, None));
    assert_eq!(
        (before.max_connections, before.reserved_connections),
        (Some(20), Some(1))
    );
    assert_eq!(
        (before.active_backends, before.used_connections),
        (Some(0), Some(1))
    );
    assert_eq!(before.default_transaction_read_only, Some(false));
    let identifier = primary.sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(before.system_identifier.unwrap().to_string(), identifier);

    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)");
    let after = facts_of(&mut of_primary, &primary.target()).await;
    assert!(after.lsn > before.lsn, "{after:?}");

    let facts = facts_of(&mut of_replica, &replica.target()).await;
    assert_eq!((facts.in_recovery, facts.timeline), (Some(true), Some(1)));
    assert_eq!(facts.is_streaming, Some(true));
    assert_eq!(facts.system_identifier, before.system_identifier);
    replica.await_sql("SELECT count(*) FROM t", "10000");
    let facts = facts_of(&mut of_replica, &replica.target()).await;
    assert!(
        facts.lsn >= before.lsn && facts.receive_lsn >= facts.lsn,
        "{facts:?}"
    );

    // The primary goes away: the session hears of it at once, the replica says so too.
    primary.pg_ctl("stop -m fast");
    timeout(Duration::from_secs(5), of_primary.lost())
        .await
        .expect("the loss is told");
    assert_eq!(
        of_primary.observe(&primary.target()).await,
        down("connection refused")
    );
    let pid = replica.sql("SELECT count(*) FROM pg_stat_wal_receiver");
    assert_eq!(pid, "0");
    let facts = facts_of(&mut of_replica, &replica.target()).await;
    assert_eq!((facts.is_streaming, facts.timeline), (Some(false), Some(1)));

    // And a promotion is seen over the very same session, before any checkpoint.
    replica.sql("SELECT pg_promote()");
    let facts = facts_of(&mut of_replica, &replica.target()).await;
    assert_eq!((facts.in_recovery, facts.timeline), (Some(false), Some(2)));
    let opened = replica
        .read_log()
        .matches("connection authorized: user=pglb")
        .count();
    assert_eq!(opened, 1);
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn a_server_on_ipv6_is_asked_as_any_other() {
    let postgres = Postgres::start("ipv6");
    write_certificates(&postgres.directory);
    let directory = postgres.directory.display();
    postgres.configure(&format!(
        "listen_addresses = '::1'\nssl = on\n\
         ssl_cert_file = '{directory}/server.crt'\nssl_key_file = '{directory}/server.key'\n"
    ));
    postgres.pg_ctl("restart");
    let target = postgres.target_at(Ipv6Addr::LOCALHOST.into());
    assert_eq!(
        handshake(&postgres.target()).await,
        down("connection refused"),
        "only IPv6 is there"
    );

    assert!(matches!(handshake(&target).await, Outcome::Up(_)));
    let tcp = Target {
        kind: ProbeKind::Tcp,
        ..target.clone()
    };
    assert!(matches!(handshake(&tcp).await, Outcome::Up(_)));
    let mut session = Session::new();
    let facts = facts_of(&mut session, &target).await;
    assert_eq!((facts.in_recovery, facts.timeline), (Some(false), Some(1)));
    // A certificate names the address without the brackets that it has beside a port.
    for (authority, is_welcome) in [("authority.crt", true), ("stranger.crt", false)] {
        let verified = Target {
            tls: Tls::VerifyFull,
            ca_file: Some(postgres.directory.join(authority)),
            ..target.clone()
        };
        let outcome = handshake(&verified).await;
        let is_up = matches!(outcome, Outcome::Up(_));
        assert_eq!(is_up, is_welcome, "{authority}: {outcome:?}");
    }
    drop(session);
    postgres.pg_ctl("stop -m fast");
    assert_eq!(handshake(&target).await, down("connection refused"));
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn probes_leave_no_complaint_in_the_log() {
    let postgres = Postgres::start("polite");
    let target = postgres.target();
    for _ in 0..20 {
        assert!(matches!(handshake(&target).await, Outcome::Up(_)));
    }
    let tcp = Target {
        kind: ProbeKind::Tcp,
        ..target.clone()
    };
    assert!(matches!(handshake(&tcp).await, Outcome::Up(_)));
    let mut session = Session::new();
    for _ in 0..20 {
        facts_of(&mut session, &target).await;
    }
    drop(session);
    let count = |words| postgres.read_log().matches(words).count();
    // The server of the last one may still be on its way out, and the test's own task too.
    for _ in 0..1000 {
        if count("disconnection: session time: ") >= 21 + 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(count("connection authorized: user=pglb"), 21);
    assert_eq!(count("disconnection: session time: "), 21 + 2);
    for complaint in [
        "unexpected EOF",
        "reset by peer",
        "incomplete startup",
        "could not",
        "FATAL",
    ] {
        assert_eq!(count(complaint), 0, "{complaint}: {}", postgres.read_log());
    }
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn refusals_of_a_real_server_are_told_apart() {
    let postgres = Postgres::start("refusing");
    let target = postgres.target();
    let mut session = Session::new();
    let wrong = Target {
        password: Some("wrong".to_owned()),
        ..target.clone()
    };
    let expected = "28P01 password authentication failed for user \"pglb\"";
    assert_eq!(handshake(&wrong).await, misconfigured(expected));
    let none = Target {
        password: None,
        ..target.clone()
    };
    assert_eq!(handshake(&none).await, misconfigured("password missing"));
    let elsewhere = Target {
        database: "nosuch".to_owned(),
        ..target.clone()
    };
    let expected = "3D000 database \"nosuch\" does not exist";
    assert_eq!(session.observe(&elsewhere).await, misconfigured(expected));
    let nobody = Target {
        user: "nobody".to_owned(),
        ..target.clone()
    };
    let expected = "role \"nobody\" is no member of pg_monitor";
    assert_eq!(session.observe(&nobody).await, misconfigured(expected));
    assert!(matches!(handshake(&nobody).await, Outcome::Up(_)));

    // Full: what is connected stays, what is new is told so.
    facts_of(&mut session, &target).await;
    let mut crowd: Vec<_> = (0..19).map(|_| Session::new()).collect();
    for one in &mut crowd {
        if let Outcome::Full { message } = one.observe(&target).await {
            assert!(message.starts_with("53300 "), "{message}");
        }
    }
    assert!(matches!(handshake(&target).await, Outcome::Full { .. }));
    let facts = facts_of(&mut session, &target).await;
    assert_eq!(facts.used_connections, Some(19));
    drop(crowd);

    // A server process that hangs is given up, and another one asked the next time.
    drop(session);
    let mut session = Session::new();
    let hasty = Target {
        timeout: Duration::from_millis(500),
        ..target.clone()
    };
    let own = "FROM pg_stat_activity WHERE usename = 'pglb'";
    // The farewell of the last session is a task of this very thread.
    let count = format!("SELECT count(*) {own}");
    let begin = clock::now();
    while postgres.sql(&count) != "0" {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "sessions are left"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    facts_of(&mut session, &hasty).await;
    let pid = postgres.sql(&format!("SELECT pid {own}"));
    run(Command::new("kill").args(["-STOP", &pid]));
    let outcome = session.observe(&hasty).await;
    let again = session.observe(&hasty).await;
    run(Command::new("kill").args(["-CONT", &pid]));
    assert_eq!(outcome, down("timeout after 500ms"));
    assert!(matches!(again, Outcome::Up(_)), "{again:?}");
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn a_stopped_postmaster_and_a_recovering_server_are_no_surprise() {
    let postgres = Postgres::start("stalled");
    let target = Target {
        timeout: Duration::from_millis(300),
        ..postgres.target()
    };
    let pid_file = fs::read_to_string(postgres.directory.join("data/postmaster.pid")).unwrap();
    let pid = pid_file.lines().next().unwrap().to_owned();
    let mut session = Session::new();
    facts_of(&mut session, &target).await;
    run(Command::new("kill").args(["-STOP", &pid]));
    let (new, old) = (handshake(&target).await, session.observe(&target).await);
    run(Command::new("kill").args(["-CONT", &pid]));
    assert_eq!(new, down("timeout after 300ms"));
    assert!(
        matches!(old, Outcome::Up(_)),
        "the old session's server was not stopped: {old:?}"
    );

    // Standby mode without hot standby never takes connections: starting, for ever.
    postgres.pg_ctl("stop -m fast");
    fs::write(postgres.directory.join("data/standby.signal"), "").unwrap();
    postgres.configure("hot_standby = off\n");
    let mut start = postgres.owner("pg_ctl");
    start
        .args(["start", "--silent", "-W", "-l"])
        .arg(postgres.log());
    run(start.arg("-D").arg(postgres.directory.join("data")));
    let begin = clock::now();
    loop {
        let outcome = handshake(&target).await;
        if let Outcome::Starting { message } = outcome {
            assert!(message.starts_with("57P03 "), "{message}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{outcome:?}");
    }
}

#[tokio::test]
#[ignore = "needs root and PostgreSQL"]
async fn tls_of_a_real_server_is_used_as_the_words_say() {
    let postgres = Postgres::start("tls");
    let files = postgres.directory.clone();
    write_certificates(&files);
    let directory = files.display();
    let files_of = |name| {
        let certificate = format!("ssl_cert_file = '{directory}/{name}.crt'");
        format!("ssl = on\n{certificate}\nssl_key_file = '{directory}/{name}.key'\n")
    };
    postgres.configure(&files_of("server"));
    postgres.pg_ctl("restart");
    let with = |tls, ca: Option<&str>| {
        let ca_file = ca.map(|name| files.join(name));
        Target {
            tls,
            ca_file,
            ..postgres.target()
        }
    };
    for tls in [Tls::Disable, Tls::Prefer, Tls::Require] {
        let outcome = handshake(&with(tls, None)).await;
        assert!(matches!(outcome, Outcome::Up(_)), "{tls}: {outcome:?}");
    }
    let outcome = handshake(&with(Tls::VerifyFull, Some("authority.crt"))).await;
    assert!(matches!(outcome, Outcome::Up(_)), "{outcome:?}");
    let mut session = Session::new();
    facts_of(&mut session, &with(Tls::Prefer, None)).await;
    drop(session);
    for ca in [None, Some("stranger.crt")] {
        let Outcome::Misconfigured { message } = handshake(&with(Tls::VerifyFull, ca)).await else {
            panic!("a stranger's certificate was believed");
        };
        assert!(
            message.starts_with("TLS: invalid peer certificate"),
            "{message}"
        );
    }
    let log = postgres.read_log();
    assert_eq!(log.matches("SSL enabled").count(), 4, "{log}");
    for complaint in ["unexpected EOF", "reset by peer"] {
        assert_eq!(log.matches(complaint).count(), 0, "{log}");
    }

    // An authority that serves: libpq takes it, rustls does not, and the reason is said.
    postgres.configure(&files_of("authority"));
    postgres.pg_ctl("restart");
    let expected =
        "TLS: the server's certificate is that of an authority (CA:TRUE), not of a server";
    let outcome = handshake(&with(Tls::VerifyFull, Some("authority.crt"))).await;
    assert_eq!(outcome, misconfigured(expected));

    // Whoever may come without TLS only comes without when TLS is merely preferred.
    let rule = "hostnossl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(files.join("data/pg_hba.conf"), rule).unwrap();
    postgres.pg_ctl("restart");
    assert!(matches!(
        handshake(&with(Tls::Prefer, None)).await,
        Outcome::Up(_)
    ));
    let refused = handshake(&with(Tls::Require, None)).await;
    assert!(
        matches!(refused, Outcome::Misconfigured { .. }),
        "{refused:?}"
    );
}
