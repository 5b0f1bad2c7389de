//! Whether a backend may serve a service, and why: health, role and the operator's wish in one
//! place.

use super::Moment;
use super::model::{Backend, Member, Service};
use crate::config::{self, Fallback, Role};
use crate::report::{Admin, BackendRole, Health};

/// What becomes of a member's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It gets new ones.
    Eligible,
    /// It gets no new ones and keeps the old.
    NoNew,
    /// It gets no new ones and the old are reset.
    Out,
}

/// A stance and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of its connections.
    pub stance: Stance,
    /// Why, for the operator.
    pub reason: String,
}

impl Verdict {
    /// A verdict.
    pub fn new(stance: Stance, reason: impl Into<String>) -> Self {
        Self {
            stance,
            reason: reason.into(),
        }
    }

    /// Whether the member gets new connections.
    pub fn is_eligible(&self) -> bool {
        self.stance == Stance::Eligible
    }
}

/// Who is the primary of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Primary {
    /// Nobody that is up.
    Nobody,
    /// This backend, by its place in the engine's list.
    One(usize),
    /// Too early to tell: this one has not been asked yet.
    Unsettled(String),
    /// Several, and nothing to tell which is right: their names.
    Conflict(String),
}

/// Finds the primary of a cluster among its backends: of several the one on the highest timeline,
/// since only a promotion starts a new one. Servers of different origin, or on one timeline, are
/// a conflict that only a person can resolve.
///
/// Nobody is the primary before everybody has been asked: the one who answers first may be an old
/// one that nobody has stopped.
pub fn find_primary(cluster: &[(usize, &Backend)]) -> Primary {
    if let Some((_, silent)) = cluster
        .iter()
        .find(|(_, backend)| !backend.health.is_asked())
    {
        return Primary::Unsettled(silent.config.name.clone());
    }
    let candidates: Vec<(usize, &Backend)> = cluster
        .iter()
        .copied()
        .filter(|(_, backend)| {
            backend.health.role == Some(BackendRole::Primary)
                && !matches!(backend.health.health, Health::Down | Health::Unknown)
        })
        .collect();
    let timeline = |backend: &Backend| backend.health.facts.timeline.unwrap_or(0);
    let highest = candidates
        .iter()
        .map(|(_, backend)| timeline(backend))
        .max()
        .unwrap_or(0);
    let origin = |backend: &Backend| backend.health.facts.system_identifier;
    let is_one_cluster = candidates
        .windows(2)
        .all(|pair| origin(pair[0].1) == origin(pair[1].1));
    let ahead: Vec<&(usize, &Backend)> = candidates
        .iter()
        .filter(|(_, backend)| timeline(backend) == highest)
        .collect();
    match ahead.as_slice() {
        [] => Primary::Nobody,
        [(index, _)] if is_one_cluster => Primary::One(*index),
        _ => {
            let names: Vec<String> = candidates
                .iter()
                .map(|(_, backend)| backend.config.name.clone())
                .collect();
            Primary::Conflict(names.join(" and "))
        }
    }
}

/// Judges one member, without the fallback of a replica service.
pub fn judge(
    service: &Service,
    member: &Member,
    backends: &[Backend],
    primary: &Primary,
    now: Moment,
) -> Verdict {
    let Some(backend) = backends.get(member.backend) else {
        return Verdict::new(Stance::Out, "removed");
    };
    if backend.admin == Admin::Maint {
        return Verdict::new(Stance::Out, "maint: taken out by the operator");
    }
    let state = &backend.health;
    let verdict = match (state.health, service.config.role) {
        (Health::Unknown, _) => before(member, "not probed yet"),
        (Health::Down, _) => Verdict::new(Stance::Out, format!("down: {}", state.check)),
        (Health::Starting | Health::Full, _) => {
            Verdict::new(Stance::NoNew, format!("{}: {}", state.health, state.check))
        }
        (Health::Up, Role::Any) => Verdict::new(Stance::Eligible, "up"),
        (Health::Up, Role::Primary) => judge_primary(service, member, backends, primary),
        (Health::Up, Role::Replica) => judge_replica(service, member, backends, primary, now),
    };
    if !verdict.is_eligible() && state.health != Health::Up {
        return verdict;
    }
    if verdict.stance == Stance::Out {
        return verdict;
    }
    if backend.admin == Admin::Drain {
        return Verdict::new(Stance::NoNew, "drain: no new connections, by the operator");
    }
    if verdict.is_eligible() && backend.weight() == 0 {
        return Verdict::new(Stance::NoNew, "weight 0");
    }
    verdict
}

/// What a member is while nothing is known: what it was before.
fn before(member: &Member, why: &str) -> Verdict {
    if member.verdict.is_eligible() {
        Verdict::new(Stance::Eligible, format!("{why}, eligible as before"))
    } else {
        Verdict::new(Stance::NoNew, why)
    }
}

fn judge_primary(
    service: &Service,
    member: &Member,
    backends: &[Backend],
    primary: &Primary,
) -> Verdict {
    let state = &backends[member.backend].health;
    match (state.role, primary) {
        (None, _) => before(member, &format!("role unknown: {}", state.check)),
        (Some(BackendRole::Replica), _) if member.served_as == Some(BackendRole::Primary) => {
            Verdict::new(Stance::Out, "lost the primary role")
        }
        (Some(BackendRole::Replica), _) => Verdict::new(Stance::NoNew, "standby"),
        (Some(BackendRole::Primary), Primary::Unsettled(name)) => before(
            member,
            &format!("primary, and {name} has not been asked yet"),
        ),
        (Some(BackendRole::Primary), Primary::One(index)) if *index == member.backend => {
            match incumbent(service, member, backends) {
                None => Verdict::new(Stance::Eligible, "primary"),
                Some(name) => {
                    let reason = format!("primary, but {name} was it and does not answer yet");
                    Verdict::new(Stance::NoNew, reason)
                }
            }
        }
        (Some(BackendRole::Primary), Primary::One(index)) => {
            let other = &backends[*index];
            let timeline = other.health.facts.timeline.unwrap_or(0);
            let reason = format!("superseded by {} on timeline {timeline}", other.config.name);
            Verdict::new(Stance::Out, reason)
        }
        (Some(BackendRole::Primary), Primary::Conflict(names)) => Verdict::new(
            Stance::NoNew,
            format!("frozen: {names} are all primary and no timeline decides"),
        ),
        (Some(BackendRole::Primary), Primary::Nobody) => before(member, "no primary is up"),
    }
}

/// Another member that serves as the primary from before a restart and has not said since what
/// it is: until it has, or is down, nobody takes its place.
fn incumbent(service: &Service, member: &Member, backends: &[Backend]) -> Option<String> {
    let is_undecided = |other: &&Member| {
        let state = &backends[other.backend].health;
        other.backend != member.backend
            && other.verdict.is_eligible()
            && (state.health == Health::Unknown || state.role.is_none())
    };
    let other = service.members.iter().find(is_undecided)?;
    Some(backends[other.backend].config.name.clone())
}

fn judge_replica(
    service: &Service,
    member: &Member,
    backends: &[Backend],
    primary: &Primary,
    now: Moment,
) -> Verdict {
    let backend = &backends[member.backend];
    let state = &backend.health;
    let may_fall_back = service.config.fallback == Fallback::Primary;
    match (state.role, primary) {
        (None, _) => before(member, &format!("role unknown: {}", state.check)),
        (Some(BackendRole::Primary), _) if member.served_as == Some(BackendRole::Replica) => {
            Verdict::new(Stance::Out, "was promoted, and is no replica any more")
        }
        // At a restart the one that served for want of replicas goes on until they were asked.
        (Some(BackendRole::Primary), Primary::Unsettled(name)) if may_fall_back => before(
            member,
            &format!("primary, and {name} has not been asked yet"),
        ),
        (Some(BackendRole::Primary), _) => Verdict::new(Stance::NoNew, "primary"),
        (Some(BackendRole::Replica), _) => match primary {
            Primary::One(index) if backends[*index].health.is_sound() => {
                follow(member, backend, &backends[*index], now)
            }
            // It may be failing, or not: until that is known a replica is what it was.
            Primary::One(index) if backends[*index].health.health == Health::Up => {
                let name = &backends[*index].config.name;
                before(member, &format!("replica, and {name} has missed a probe"))
            }
            Primary::Unsettled(name) => before(
                member,
                &format!("replica, and {name} has not been asked yet"),
            ),
            // Without a primary there is nothing to be behind of: reads go on.
            Primary::One(_) | Primary::Nobody | Primary::Conflict(_) => {
                Verdict::new(Stance::Eligible, "replica")
            }
        },
    }
}

/// Whether a replica follows the primary closely enough.
///
/// A replica that has just lost its stream keeps its place for as long as a primary takes to be
/// found down: when it is the primary that fails, its replicas notice before the probes do.
fn follow(member: &Member, replica: &Backend, primary: &Backend, now: Moment) -> Verdict {
    let facts = &replica.health.facts;
    let no_new = |reason: String| Verdict::new(Stance::NoNew, reason);
    if let Some(since) = replica.health.detached_since {
        let patience = replica.rules.interval * replica.rules.fall;
        if !member.verdict.is_eligible() || now >= since + patience {
            return no_new("does not stream from a primary".to_owned());
        }
    }
    if let (Some(own), Some(its)) = (facts.timeline, primary.health.facts.timeline)
        && own < its
    {
        let name = &primary.config.name;
        return no_new(format!("follows timeline {own}, and {name} is on {its}"));
    }
    match lag(replica, primary) {
        Some(lag) if lag > replica.rules.max_lag => no_new(format!(
            "lag {lag} bytes, more than max_lag {}",
            replica.rules.max_lag
        )),
        Some(_) | None => Verdict::new(Stance::Eligible, "replica"),
    }
}

/// How many bytes of WAL a replica is behind the primary's own position.
pub fn lag(replica: &Backend, primary: &Backend) -> Option<u64> {
    let written = primary.health.facts.lsn?;
    Some(written.saturating_sub(replica.health.facts.lsn?))
}

/// Lets the primary serve a replica service that has no eligible member, once every one of them
/// has been asked; one that serves it already, as at a restart, goes on meanwhile.
pub fn fall_back(
    service: &config::Service,
    verdicts: &mut [Verdict],
    members: &[Member],
    backends: &[Backend],
    primary: &Primary,
) {
    let Primary::One(index) = primary else { return };
    let backend = &backends[*index];
    let is_serving = |m: &Member| m.backend == *index && m.verdict.is_eligible();
    let was_asked = |m: &Member| backends[m.backend].health.health != Health::Unknown;
    let may_fall_back = service.role == Role::Replica
        && service.fallback == Fallback::Primary
        && !verdicts.iter().any(Verdict::is_eligible)
        && (members.iter().all(was_asked) || members.iter().any(is_serving))
        && backend.admin == Admin::Ready
        && backend.health.health == Health::Up
        && backend.weight() > 0;
    if !may_fall_back {
        return;
    }
    for (verdict, member) in verdicts.iter_mut().zip(members) {
        if member.backend == *index {
            *verdict = Verdict::new(Stance::Eligible, "primary, as no replica is eligible");
        }
    }
}

#[cfg(test)]
mod tests;
