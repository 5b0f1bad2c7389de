//! The closed list of what can happen: nothing else changes the engine's mind.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::flow::Tick;
use lb_common::member::{BackendId, Slot};
use lb_common::tally::Tally;

use super::kernel::{Flows, Surroundings};
use super::observation::Outcome;
use crate::config::Config;
use crate::protocol::Request;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed; a deadline may be due.
    Tick,
    /// The configuration was read again and has passed every check.
    Configured(Box<Config>),
    /// A probe round of a backend has ended.
    Probed {
        /// The backend.
        backend: BackendId,
        /// What a fresh connection met.
        handshake: Outcome,
        /// What the open session was told; `None` for what is not PostgreSQL.
        session: Option<Outcome>,
    },
    /// The open session to a backend was asked between two rounds.
    Watched {
        /// The backend.
        backend: BackendId,
        /// What it was told.
        session: Outcome,
    },
    /// The open session to a backend was closed by the other side.
    SessionLost(BackendId),
    /// A backend refused or ignored a SYN.
    Suspected(Slot),
    /// The kernel's tallies, as they are now.
    Counted(Tallies),
    /// Both connection tables were walked.
    Walked {
        /// Established flows.
        established: Flows,
        /// Half-open and ended flows.
        transient: Flows,
        /// The kernel's clock at the walk.
        now: Tick,
        /// The kernel's tallies before the walk; those after it are in the last
        /// [`Event::Counted`].
        before: Tallies,
    },
    /// The connections of an [`super::effect::Effect::Reset`] were ended.
    WasReset {
        /// How many connections, by slot.
        connections: BTreeMap<Slot, u64>,
        /// From the decision until the last RST was sent.
        took: Duration,
        /// The request that asked for it.
        asker: Option<Asker>,
    },
    /// Routes, neighbours, links or addresses have changed.
    NextHopsChanged(Surroundings),
    /// A write to the kernel's tables failed: they are no longer known.
    WriteFailed,
    /// An operator asks for something.
    Asked(Request, Asker),
}

/// Who waits for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker(pub u64);

/// What the kernel has counted, for every slot and backend that is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// By slot.
    pub slots: BTreeMap<Slot, Tally>,
    /// By backend; the gateway's own is the first.
    pub backends: BTreeMap<BackendId, Tally>,
}
