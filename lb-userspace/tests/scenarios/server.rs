//! PostgreSQL servers as a probe meets them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lb_userspace::engine::observation::{Facts, Outcome};

use crate::site::Site;

/// How a server answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Server {
    /// It serves, and says this of itself.
    Serving(Facts),
    /// Its host answers that nobody listens.
    Refusing,
    /// Nothing comes back at all.
    Silent,
    /// It is starting up (57P03).
    Starting,
    /// Open sessions go on, and every slot is taken (53300).
    Full(Facts),
    /// It will not have the probe (28000).
    Misconfigured,
}

/// What a quick answer takes.
const LATENCY: Duration = Duration::from_millis(1);

/// Bytes of WAL that every primary here has written.
const WRITTEN: u64 = 1 << 30;

impl Server {
    /// A primary on this timeline.
    pub(crate) fn primary(timeline: u32) -> Self {
        Self::Serving(facts(timeline, false, WRITTEN, None))
    }

    /// A replica on this timeline that is so many bytes behind.
    pub(crate) fn replica(timeline: u32, lag: u64, is_streaming: bool) -> Self {
        Self::Serving(facts(timeline, true, WRITTEN - lag, Some(is_streaming)))
    }

    /// The same server, as one of another cluster altogether.
    pub(crate) fn of_system(mut self, system: u64) -> Self {
        if let Self::Serving(facts) = &mut self {
            facts.system_identifier = Some(system);
        }
        self
    }

    /// The same server with every slot taken.
    pub(crate) fn filled(self) -> Self {
        if let Self::Serving(facts) = self {
            Self::Full(facts)
        } else {
            self
        }
    }

    /// How long an answer takes, and what it is: to a fresh connection, and over the session.
    pub(crate) fn answer(&self, timeout: Duration) -> (Duration, Outcome, Outcome) {
        let message = |text: &str| text.to_owned();
        match self {
            Self::Serving(facts) => {
                let handshake = Outcome::Up(Facts {
                    latency: LATENCY,
                    ..Facts::default()
                });
                (LATENCY, handshake, Outcome::Up(facts.clone()))
            }
            Self::Full(facts) => {
                let handshake = Outcome::Full {
                    message: message("53300 sorry, too many clients already"),
                };
                (LATENCY, handshake, Outcome::Up(facts.clone()))
            }
            Self::Refusing => both(
                LATENCY,
                Outcome::Down {
                    why: message("connection refused"),
                },
            ),
            Self::Silent => both(
                timeout,
                Outcome::Down {
                    why: message("timeout"),
                },
            ),
            Self::Starting => both(
                LATENCY,
                Outcome::Starting {
                    message: message("57P03 the database system is starting up"),
                },
            ),
            Self::Misconfigured => both(
                LATENCY,
                Outcome::Misconfigured {
                    message: message("28000 role \"pglb\" does not exist"),
                },
            ),
        }
    }
}

/// The servers of [`Site::of_three`]: a primary and two replicas.
pub(crate) fn of_three(site: &Site) -> BTreeMap<SocketAddr, Server> {
    let replica = || Server::replica(1, 0, true);
    [
        ("pg1", Server::primary(1)),
        ("pg2", replica()),
        ("pg3", replica()),
    ]
    .map(|(name, server)| (site.address(name), server))
    .into()
}

/// One server in each state there is.
pub(crate) fn every_state() -> Vec<Server> {
    vec![
        Server::Refusing,
        Server::replica(2, 0, true),
        Server::Starting,
        Server::primary(2).filled(),
        Server::Misconfigured,
        Server::replica(1, 1 << 29, false),
        Server::primary(3),
        Server::Silent,
        Server::primary(1).of_system(9),
    ]
}

fn both(takes: Duration, outcome: Outcome) -> (Duration, Outcome, Outcome) {
    (takes, outcome.clone(), outcome)
}

fn facts(timeline: u32, in_recovery: bool, lsn: u64, is_streaming: Option<bool>) -> Facts {
    Facts {
        latency: LATENCY,
        in_recovery: Some(in_recovery),
        timeline: Some(timeline),
        system_identifier: Some(7),
        lsn: Some(lsn),
        is_streaming,
        ..Facts::default()
    }
}
