//! Asks one backend how it is, over the very address that gets the traffic.
//!
//! Two questions: [`handshake`] opens a fresh connection, which tells that new ones work, and
//! [`Session`] keeps one open and asks for role, WAL position and load. Both end politely, with
//! Terminate and FIN, so that the server's log stays clean. Nothing is judged here: SQLSTATE alone
//! says which [`Outcome`] it is, and no text of a server is interpreted.

mod connect;
mod session;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

pub use self::session::Session;
use crate::config::{ProbeKind, Tls};
use crate::engine::observation::{Facts, Outcome};
use crate::shell::clock;

/// Whom to probe, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the server listens.
    pub address: SocketAddr,
    /// What a probe is.
    pub kind: ProbeKind,
    /// The PostgreSQL role to log in as.
    pub user: String,
    /// The database to connect to.
    pub database: String,
    /// The role's password; never shown.
    pub password: Option<String>,
    /// Encryption of the probe's own connection.
    pub tls: Tls,
    /// Certificates that `verify-full` trusts (PEM); `None` is those of the system.
    pub ca_file: Option<PathBuf>,
    /// An answer that takes longer is none.
    pub timeout: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            kind,
            user,
            database,
            tls,
            ..
        } = self;
        write!(f, "Target({kind} {user}@{address}/{database}, tls {tls})")
    }
}

/// Opens a connection of its own, until the server is ready for a query, and closes it again.
pub async fn handshake(target: &Target) -> Outcome {
    let begin = clock::now();
    match target.kind {
        ProbeKind::Postgres => {
            let Ok(opened) = timeout(target.timeout, connect::open(target)).await else {
                return no_answer(target);
            };
            match opened {
                Ok(link) => {
                    let latency = begin.elapsed();
                    link.close().await;
                    Outcome::Up(Facts {
                        latency,
                        ..Facts::default()
                    })
                }
                Err(outcome) => outcome,
            }
        }
        ProbeKind::Tcp => match timeout(target.timeout, TcpStream::connect(target.address)).await {
            Ok(Ok(_)) => Outcome::Up(Facts {
                latency: begin.elapsed(),
                ..Facts::default()
            }),
            Ok(Err(error)) => down(&error),
            Err(_) => no_answer(target),
        },
        ProbeKind::None => Outcome::Up(Facts::default()),
    }
}

/// At which point the server said no: some answers mean another thing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Asking,
}

fn classify(error: &tokio_postgres::Error, stage: Stage) -> Outcome {
    if let Some(refusal) = error.as_db_error() {
        let message = format!("{} {}", refusal.code().code(), refusal.message());
        return classify_state(refusal.code(), message, stage);
    }
    if error.is_closed() {
        return Outcome::Down {
            why: CLOSED.to_owned(),
        };
    }
    let cause = std::error::Error::source(error);
    if let Some(io) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return classify_io(io);
    }
    match cause {
        // What the client itself will not do: no password where one is asked for, no TLS where it
        // is required, a method of authentication that it does not know.
        Some(cause) => Outcome::Misconfigured {
            message: cause.to_string(),
        },
        None => Outcome::Down {
            why: error.to_string(),
        },
    }
}

fn classify_state(state: &SqlState, message: String, stage: Stage) -> Outcome {
    let is_connecting = stage == Stage::Connecting;
    if *state == SqlState::CANNOT_CONNECT_NOW {
        Outcome::Starting { message }
    } else if *state == SqlState::TOO_MANY_CONNECTIONS {
        Outcome::Full { message }
    } else if state.code().starts_with("28")
        || *state == SqlState::INVALID_CATALOG_NAME
        || *state == SqlState::INSUFFICIENT_PRIVILEGE
        // A database that takes no connections; of a query it would be the server's state.
        || (is_connecting && *state == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
    {
        Outcome::Misconfigured { message }
    } else {
        Outcome::Down { why: message }
    }
}

fn classify_io(error: &io::Error) -> Outcome {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(refusal) => Outcome::Misconfigured {
            message: tls::explain(refusal),
        },
        None => down(error),
    }
}

fn down(error: &io::Error) -> Outcome {
    let known = REASONS.iter().find(|(kind, _)| *kind == error.kind());
    let why = match known {
        Some((_, why)) => (*why).to_owned(),
        None => error.to_string(),
    };
    Outcome::Down { why }
}

fn no_answer(target: &Target) -> Outcome {
    Outcome::Down {
        why: format!("timeout after {:?}", target.timeout),
    }
}

const CLOSED: &str = "connection closed";
const NOT_POSTGRES: &str = "the answer is not PostgreSQL's";
const REASONS: [(io::ErrorKind, &str); 11] = [
    (io::ErrorKind::ConnectionRefused, "connection refused"),
    (io::ErrorKind::ConnectionReset, "connection reset"),
    (io::ErrorKind::ConnectionAborted, "connection aborted"),
    (io::ErrorKind::BrokenPipe, CLOSED),
    (io::ErrorKind::UnexpectedEof, CLOSED),
    (io::ErrorKind::HostUnreachable, "host unreachable"),
    (io::ErrorKind::NetworkUnreachable, "network unreachable"),
    (io::ErrorKind::TimedOut, "host does not answer"),
    // The last three are what the parser of messages says of bytes that are none.
    (io::ErrorKind::InvalidInput, NOT_POSTGRES),
    (io::ErrorKind::InvalidData, NOT_POSTGRES),
    (io::ErrorKind::Other, "connection closed within a message"),
];

#[cfg(test)]
mod tests;
