//! What the engine knows: the backends, and the services with their members.

use lb_common::member::{BackendId, Slot};
use lb_common::service::ServiceId;

use super::Moment;
use super::health::HealthState;
use super::recount::Error;
use super::verdict::{Stance, Verdict};
use crate::config;
use crate::report::{Admin, BackendRole};

/// One server.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its row of the backend table.
    pub id: BackendId,
    /// The name of its cluster.
    pub cluster: String,
    /// How it is configured.
    pub config: config::Backend,
    /// How it is probed.
    pub rules: config::Health,
    /// What the operator wants of it.
    pub admin: Admin,
    /// The weight that the operator has set.
    pub weight: Option<u16>,
    /// What the probes found.
    pub health: HealthState,
    /// Connections ended or found gone by the controller.
    pub reaped: Reaped,
    /// What the last walk found wrong with the count.
    pub miscounted: Error,
    /// Whether what its row's tally says so far is another backend's.
    pub is_fresh: bool,
}

impl Backend {
    /// The weight in force.
    pub fn weight(&self) -> u16 {
        self.weight.unwrap_or(self.config.weight)
    }

    /// The name as messages have it: `cluster/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.cluster, self.config.name)
    }
}

/// One service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its row of the member table.
    pub id: ServiceId,
    /// How it is configured.
    pub config: config::Service,
    /// The backends of its cluster, in the order of the configuration.
    pub members: Vec<Member>,
    /// Since when it has had no eligible member.
    pub without_backend_since: Option<Moment>,
    /// The eligible members, by index, and their weights: what its choice is made of.
    pub shape: Vec<(u8, u16)>,
    /// The ring for this shape.
    pub ring: Vec<u8>,
}

/// A backend as one service sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The backend, by its place in the engine's list.
    pub backend: usize,
    /// Its slot.
    pub slot: Slot,
    /// Flows of another generation are superseded.
    pub generation: u32,
    /// Whether it serves, and why.
    pub verdict: Verdict,
    /// Whether it has been eligible since its generation was last raised: only then does it have
    /// connections to reset.
    pub has_served: bool,
    /// As what it has served since its connections were last reset.
    pub served_as: Option<BackendRole>,
    /// Suspicions that a probe has cleared.
    pub forgiven: u32,
    /// Where the turns of least-connections count from.
    pub baseline: u64,
    /// Connections ended or found gone by the controller.
    pub reaped: Reaped,
    /// What the last walk found wrong with the count.
    pub miscounted: Error,
    /// Whether what the slot's tally says so far is another member's.
    pub is_fresh: bool,
}

impl Member {
    /// Takes a new verdict: a member that is out starts a new generation when its connections are
    /// to be reset.
    pub fn accept(&mut self, verdict: Verdict, role: Option<BackendRole>, is_reset: bool) {
        match verdict.stance {
            Stance::Eligible => {
                self.has_served = true;
                // A promoted replica owes its connections a reset, which can wait for as long as
                // it goes on for want of another one.
                if self.served_as != Some(BackendRole::Replica) {
                    self.served_as = role.or(self.served_as);
                }
            }
            Stance::NoNew => {}
            Stance::Out => {
                if self.has_served && is_reset {
                    self.generation += 1;
                    self.has_served = false;
                }
                self.served_as = None;
            }
        }
        self.verdict = verdict;
    }
}

/// Connections that the controller ended itself or found gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Half-open ones.
    pub half_open: u64,
    /// Established ones.
    pub established: u64,
}

impl Reaped {
    /// Counts connections that are gone; negative numbers are back.
    pub fn add(&mut self, gone: Error) {
        self.half_open = self.half_open.saturating_add_signed(gone.half_open);
        self.established = self.established.saturating_add_signed(gone.established);
    }
}
