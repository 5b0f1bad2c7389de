//! A SQL connection that stays open and is asked one question again and again.

use std::future::pending;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::Severity;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{NOT_POSTGRES, Stage, Target, classify, connect, handshake, no_answer};
use crate::config::ProbeKind;
use crate::engine::observation::{Facts, Outcome};
use crate::shell::clock;

/// A persistent SQL connection to one backend, or the wish for one.
#[derive(Default)]
pub struct Session {
    live: Option<Live>,
}

/// An open connection and the task that moves its bytes.
struct Live {
    /// With whom it was opened: for another target another one is needed.
    target: Target,
    client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// A session that connects at its first question.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the backend for its facts, over a connection that is opened first where there is none.
    ///
    /// One that was lost since the last question is replaced at once, so that the outcome is always
    /// that of a connection which works now. Backends that are no PostgreSQL get a handshake.
    pub async fn observe(&mut self, target: &Target) -> Outcome {
        if target.kind != ProbeKind::Postgres {
            return handshake(target).await;
        }
        match timeout(target.timeout, self.ask(target)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.abandon();
                no_answer(target)
            }
        }
    }

    /// Waits until the backend closes the connection: never, while none is open.
    ///
    /// It says so the moment a server is shut down or killed, long before the next question.
    pub async fn lost(&mut self) {
        match &mut self.live {
            Some(live) => {
                let _ = (&mut live.driver).await;
                self.live = None;
            }
            None => pending().await,
        }
    }

    async fn ask(&mut self, target: &Target) -> Outcome {
        if let Some(live) = &self.live
            && live.target == *target
            && !live.client.is_closed()
        {
            match ask(&live.client, target.timeout).await {
                Err(error) if is_lost(&error) => {}
                answer => return self.conclude(answer),
            }
        }
        // The old connection, if any, says farewell by itself while the new one is opened.
        self.live = None;
        let link = match connect::open(target).await {
            Ok(link) => link,
            Err(outcome) => return outcome,
        };
        let live = self.live.insert(Live {
            target: target.clone(),
            client: link.client,
            driver: tokio::spawn(link.driver),
        });
        let answer = ask(&live.client, target.timeout).await;
        self.conclude(answer)
    }

    fn conclude(&mut self, answer: Result<Outcome, tokio_postgres::Error>) -> Outcome {
        answer.unwrap_or_else(|error| {
            if is_lost(&error) {
                self.live = None;
            }
            classify(&error, Stage::Asking)
        })
    }

    /// Gives the connection up without a farewell, to which nobody listens.
    fn abandon(&mut self) {
        if let Some(live) = self.live.take() {
            live.driver.abort();
        }
    }
}

/// Whether the connection is of no use any more: everything but a refusal of this one statement.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(refusal) => refusal.parsed_severity() != Some(Severity::Error),
        None => true,
    }
}

/// One message to the server and one answer. Not prepared, in one implicit transaction: so it works
/// through a pooler, and leaves nothing behind, the time limit included.
async fn ask(client: &Client, limit: Duration) -> Result<Outcome, tokio_postgres::Error> {
    let milliseconds = limit.as_millis().max(1);
    let question = format!("SET LOCAL statement_timeout = {milliseconds}; {QUESTION}");
    let begin = clock::now();
    let answer = client.simple_query(&question).await?;
    let latency = begin.elapsed();
    let outcome = answer.iter().find_map(|message| {
        if let SimpleQueryMessage::Row(row) = message {
            read(row, latency)
        } else {
            None
        }
    });
    Ok(outcome.unwrap_or_else(|| Outcome::Down {
        why: NOT_POSTGRES.to_owned(),
    }))
}

fn read(row: &SimpleQueryRow, latency: Duration) -> Option<Outcome> {
    let text = |column: &str| row.try_get(column).ok().flatten();
    let number = |column: &str| text(column)?.parse().ok();
    let position = |column: &str| text(column)?.parse::<PgLsn>().ok().map(u64::from);
    let flag = |column: &str| match text(column)? {
        "t" | "on" => Some(true),
        "f" | "off" => Some(false),
        _ => None,
    };
    let in_recovery = flag("in_recovery")?;
    if !flag("sees_statistics")? {
        let role = text("role")?;
        let message = format!("role \"{role}\" is no member of pg_monitor");
        return Some(Outcome::Misconfigured { message });
    }
    Some(Outcome::Up(Facts {
        latency,
        in_recovery: Some(in_recovery),
        timeline: number("timeline"),
        system_identifier: text("system_identifier")?.parse().ok(),
        lsn: position("lsn"),
        receive_lsn: position("receive_lsn"),
        is_streaming: flag("is_streaming"),
        active_backends: number("active"),
        used_connections: number("used"),
        max_connections: number("max_connections"),
        reserved_connections: number("reserved"),
        default_transaction_read_only: flag("read_only"),
    }))
}

/// Works on PostgreSQL 12 to 18, primary and replica, for a member of `pg_monitor`.
///
/// Whether the server is in recovery is asked once: it can end within the statement, and functions
/// that only a primary has must not be called before. The timeline of a primary is that of the WAL
/// file it writes, that of a replica what its receiver gets; the checkpoint's may be an old one, but
/// is all there is while nothing is received.
const QUESTION: &str = "\
WITH me AS MATERIALIZED (SELECT pg_is_in_recovery() AS in_recovery), \
receiver AS MATERIALIZED (SELECT status, received_tli FROM pg_stat_wal_receiver), \
clients AS MATERIALIZED (SELECT count(*) AS used, \
count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()) AS active \
FROM pg_stat_activity WHERE backend_type = 'client backend') \
SELECT in_recovery, current_user AS role, \
pg_has_role('pg_read_all_stats', 'USAGE') AS sees_statistics, \
CASE WHEN in_recovery THEN coalesce((SELECT nullif(received_tli, 0) FROM receiver), \
(SELECT timeline_id FROM pg_control_checkpoint()))::bigint \
ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END AS timeline, \
(SELECT system_identifier FROM pg_control_system()) AS system_identifier, \
CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn, \
pg_last_wal_receive_lsn() AS receive_lsn, \
CASE WHEN in_recovery THEN coalesce((SELECT status = 'streaming' FROM receiver), false) END \
AS is_streaming, used, active, \
current_setting('max_connections') AS max_connections, \
current_setting('superuser_reserved_connections')::int \
+ coalesce(current_setting('reserved_connections', true), '0')::int AS reserved, \
current_setting('default_transaction_read_only') AS read_only \
FROM me, clients";
