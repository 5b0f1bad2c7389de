//! Whether a backend is up: consecutive results, and when to ask again.
//!
//! ```text
//!               good                     fall bad ones
//!   unknown -----------> up --------------------------------> down
//!      |                 ^ | 57P03: starting, 53300: full       |
//!      | fall bad ones   | v                                    |
//!      +---------------> (starting, full)                       |
//!                        ^ rise good ones                       |
//!                        +--------------------------------------+
//! ```

use std::time::Duration;

use super::Moment;
use super::observation::{Facts, Outcome};
use crate::config::{self, ProbeKind};
use crate::report::{BackendRole, Health};

/// What is known of one backend by asking it.
#[derive(Clone, Debug)]
pub struct HealthState {
    /// The verdict of the probes.
    pub health: Health,
    /// Since when.
    pub since: Moment,
    /// The last result in a few words.
    pub check: String,
    /// What the server last said of itself.
    pub facts: Facts,
    /// The role that it last named; kept while it does not answer.
    pub role: Option<BackendRole>,
    /// Since when its WAL receiver has not been streaming.
    pub detached_since: Option<Moment>,
    /// Whether the kernel has seen it refuse or ignore a SYN since the last good round.
    pub is_suspect: bool,
    rises: u32,
    falls: u32,
    round: Schedule,
    watch: Schedule,
}

/// When a question is to be asked, and whether it is under way.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    due: Moment,
    started: Moment,
    is_running: bool,
}

impl HealthState {
    /// A backend that was never asked; the first round is due at `first`.
    pub fn unknown(first: Moment) -> Self {
        let schedule = Schedule {
            due: first,
            started: first,
            is_running: false,
        };
        Self {
            health: Health::Unknown,
            since: first,
            check: "not probed yet".to_owned(),
            facts: Facts::default(),
            role: None,
            detached_since: None,
            is_suspect: false,
            rises: 0,
            falls: 0,
            round: schedule,
            watch: schedule,
        }
    }

    /// Takes the result of a probe round in; tells whether the health has changed.
    pub fn take_round(
        &mut self,
        handshake: &Outcome,
        session: Option<&Outcome>,
        rules: &config::Health,
        now: Moment,
    ) -> bool {
        if let Some(session) = session {
            self.take_facts(session, now);
        }
        let outcome = worse(handshake, session);
        self.check = describe(outcome, self.facts.latency);
        let before = self.health;
        self.judge(outcome, rules);
        if self.health != before {
            self.since = now;
        }
        let pause = if self.is_settled() {
            rules.interval
        } else {
            rules.fast_interval
        };
        self.round.is_running = false;
        self.round.due = now.max(self.round.started + pause);
        self.watch.due = self.watch.due.max(now);
        self.health != before
    }

    /// Takes what the open session was told between two rounds in. A failure is none yet: it
    /// brings the next round forward.
    pub fn take_watch(&mut self, session: &Outcome, rules: &config::Health, now: Moment) {
        self.watch.is_running = false;
        self.watch.due = now.max(self.watch.started + rules.fast_interval);
        match session {
            Outcome::Up(_) => self.take_facts(session, now),
            Outcome::Starting { .. }
            | Outcome::Full { .. }
            | Outcome::Misconfigured { .. }
            | Outcome::Down { .. } => self.hurry(now),
        }
    }

    /// Brings the next round forward to now.
    pub fn hurry(&mut self, now: Moment) {
        self.round.due = self.round.due.min(now);
    }

    /// Starts a round if one is due.
    pub fn start_round(&mut self, now: Moment) -> bool {
        start(&mut self.round, now)
    }

    /// Starts a question between rounds if one is due and a role could change.
    pub fn start_watch(&mut self, rules: &config::Health, now: Moment) -> bool {
        self.is_watched(rules) && !self.round.is_running && start(&mut self.watch, now)
    }

    /// When the next question is due; `None` while all are under way.
    pub fn next_deadline(&self, rules: &config::Health) -> Option<Moment> {
        let round = (!self.round.is_running).then_some(self.round.due);
        let is_watchable =
            self.is_watched(rules) && !self.watch.is_running && !self.round.is_running;
        let watch = is_watchable.then_some(self.watch.due);
        [round, watch].into_iter().flatten().min()
    }

    /// Counts the result, by the rules, towards a change of health.
    fn judge(&mut self, outcome: &Outcome, rules: &config::Health) {
        let is_alive = !matches!(outcome, Outcome::Down { .. });
        if is_alive {
            self.falls = 0;
        } else {
            self.rises = 0;
            self.falls = self.falls.saturating_add(1);
        }
        self.health = match outcome {
            // A server that will not have the probe is alive: that is loud, and never `down`.
            Outcome::Up(_) | Outcome::Misconfigured { .. } => {
                self.is_suspect = false;
                self.rises = self.rises.saturating_add(1);
                match self.health {
                    Health::Down | Health::Starting if self.rises < rules.rise => self.health,
                    Health::Unknown
                    | Health::Up
                    | Health::Down
                    | Health::Starting
                    | Health::Full => Health::Up,
                }
            }
            Outcome::Starting { .. } => {
                self.rises = 0;
                Health::Starting
            }
            Outcome::Full { .. } => {
                self.is_suspect = false;
                Health::Full
            }
            Outcome::Down { .. } if self.falls >= rules.fall => Health::Down,
            Outcome::Down { .. } => self.health,
        };
    }

    fn take_facts(&mut self, session: &Outcome, now: Moment) {
        if let Outcome::Up(facts) = session {
            self.facts = facts.clone();
            self.detached_since = match facts.is_streaming {
                Some(false) => self.detached_since.or(Some(now)),
                Some(true) | None => None,
            };
            if let Some(in_recovery) = facts.in_recovery {
                self.role = Some(if in_recovery {
                    BackendRole::Replica
                } else {
                    BackendRole::Primary
                });
            }
        }
    }

    /// Whether it has been asked at all.
    pub fn is_asked(&self) -> bool {
        self.health != Health::Unknown || self.falls > 0
    }

    /// Whether the last result was good, and nothing speaks against the next one.
    pub fn is_sound(&self) -> bool {
        self.health == Health::Up && self.has_answered()
    }

    /// Whether the server has answered the last round, and every connection since.
    pub fn has_answered(&self) -> bool {
        self.falls == 0 && !self.is_suspect
    }

    /// Whether the next result cannot change the health by itself.
    fn is_settled(&self) -> bool {
        match self.health {
            Health::Up => self.is_sound(),
            Health::Down => self.rises == 0,
            Health::Unknown | Health::Starting | Health::Full => false,
        }
    }

    /// Whether the role is asked for between rounds: a promotion must not wait for one.
    fn is_watched(&self, rules: &config::Health) -> bool {
        rules.kind == ProbeKind::Postgres && self.health == Health::Up
    }
}

fn start(schedule: &mut Schedule, now: Moment) -> bool {
    let is_due = !schedule.is_running && schedule.due <= now;
    if is_due {
        *schedule = Schedule {
            due: now,
            started: now,
            is_running: true,
        };
    }
    is_due
}

/// The worse of two results: what a new connection would meet, or the session does.
fn worse<'a>(handshake: &'a Outcome, session: Option<&'a Outcome>) -> &'a Outcome {
    let badness = |outcome: &Outcome| match outcome {
        Outcome::Up(_) => 0,
        Outcome::Misconfigured { .. } => 1,
        Outcome::Full { .. } => 2,
        Outcome::Starting { .. } => 3,
        Outcome::Down { .. } => 4,
    };
    match session {
        Some(session) if badness(session) > badness(handshake) => session,
        Some(_) | None => handshake,
    }
}

fn describe(outcome: &Outcome, session_latency: Duration) -> String {
    match outcome {
        Outcome::Up(facts) => {
            let latency = if session_latency.is_zero() {
                facts.latency
            } else {
                session_latency
            };
            format!("ok {:.1} ms", latency.as_secs_f64() * 1000.0)
        }
        Outcome::Starting { message }
        | Outcome::Full { message }
        | Outcome::Misconfigured { message } => message.clone(),
        Outcome::Down { why } => why.clone(),
    }
}

#[cfg(test)]
mod tests;
