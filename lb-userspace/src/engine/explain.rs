//! `pglb explain`: the kernel's own choice, asked on the host over a copy of its tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::choose::{self, Standing};
use lb_common::family::{Address, Family, V4, V6, WideAddress};
use lb_common::flow::{Endpoint, FlowKey};
use lb_common::member::Slot;
use lb_common::service::{Service as ServiceRow, ServiceKey};

use super::Engine;
use super::host_tables::HostTables;
use super::kernel::endpoint;
use super::model::{Member, Service};
use crate::report::{CandidateReport, ExplainReport};

/// The members of a service, as the kernel weighs them for one client.
struct Ranking {
    chosen: Option<Slot>,
    standings: BTreeMap<Slot, Standing>,
}

impl Engine {
    /// Which backend a new connection of `client` to the service would get, and why; `None` when
    /// there is no such service. `turn` is how many turns a round-robin service has taken.
    pub fn explain(&self, service: &str, client: SocketAddr, turn: u64) -> Option<ExplainReport> {
        let service = self
            .services
            .iter()
            .find(|known| known.config.name == service)?;
        let is_allowed = service.config.admits(client.ip());
        let ranking = self.rank(service, client, turn)?;
        let chosen = ranking.chosen.filter(|_| is_allowed);
        let candidates = service.members.iter().map(|member| {
            let standing = ranking.standings.get(&member.slot);
            let standing = standing.copied().unwrap_or(Standing::Ineligible);
            self.candidate(member, standing, chosen == Some(member.slot), is_allowed)
        });
        let of_slot = |slot| {
            service
                .members
                .iter()
                .find(|member| Some(member.slot) == slot)
        };
        Some(ExplainReport {
            service: service.config.name.clone(),
            client,
            chosen: of_slot(chosen).map(|member| self.backends[member.backend].name()),
            candidates: candidates.collect(),
        })
    }

    fn candidate(
        &self,
        member: &Member,
        standing: Standing,
        is_chosen: bool,
        is_allowed: bool,
    ) -> CandidateReport {
        let backend = &self.backends[member.backend];
        let reason = match standing {
            _ if !is_allowed => {
                "the service's allow list or deny list keeps the client out".to_owned()
            }
            Standing::Good if is_chosen => format!("chosen: {}", member.verdict.reason),
            Standing::Good | Standing::Tried => member.verdict.reason.clone(),
            Standing::Suspect => "suspect: it refused or ignored a connection".to_owned(),
            Standing::Ineligible if member.verdict.is_eligible() && backend.weight() > 0 => {
                "at its max_connections".to_owned()
            }
            Standing::Ineligible => member.verdict.reason.clone(),
        };
        CandidateReport {
            backend: backend.name(),
            eligible: is_allowed && standing < Standing::Ineligible,
            reason,
            connections: self.load(member).active(),
            weight: backend.weight(),
        }
    }

    /// What the kernel would choose for a client.
    fn rank(&self, service: &Service, client: SocketAddr, turn: u64) -> Option<Ranking> {
        let vip = endpoint(service.config.vip);
        let row = self.applied.services.get(&ServiceKey::new(vip))?;
        let client = endpoint(client).map(IpAddr::widen);
        let vip = vip.map(IpAddr::widen);
        Some(if service.config.vip.is_ipv4() {
            self.rank_in::<V4>(service, row, client, vip, turn)
        } else {
            self.rank_in::<V6>(service, row, client, vip, turn)
        })
    }

    fn rank_in<F: Family>(
        &self,
        service: &Service,
        row: &ServiceRow,
        client: Endpoint<WideAddress>,
        vip: Endpoint<WideAddress>,
        turn: u64,
    ) -> Ranking
    where
        F::Address: Ord + Default,
    {
        let tables: HostTables<F> = self.copy_tables(service, turn);
        let key = FlowKey::between(client, vip).map(Address::narrow);
        let choice = choose::choose(&tables, row, &key, 0);
        let standing = |member: &Member| {
            let standing = choose::consider(&tables, member.slot, 0).standing();
            (member.slot, standing)
        };
        Ranking {
            chosen: choice.is_possible().then(|| choice.slot()),
            standings: service.members.iter().map(standing).collect(),
        }
    }

    fn copy_tables<F: Family>(&self, service: &Service, turn: u64) -> HostTables<F>
    where
        F::Address: Ord + Default,
    {
        let mut tables = HostTables::new();
        tables.members.clone_from(&self.applied.members);
        tables.backends.clone_from(&self.applied.backends);
        tables.rings.clone_from(&self.applied.rings);
        for (slot, tally) in &self.tallies.slots {
            tables.set_slot_tally(*slot, *tally);
        }
        for (id, tally) in &self.tallies.backends {
            tables.set_backend_tally(*id, *tally);
        }
        tables.set_turn(service.id, turn);
        tables
    }

    /// The row of a service, to read its turns by.
    pub fn service_row(&self, name: &str) -> Option<lb_common::service::ServiceId> {
        self.services
            .iter()
            .find(|service| service.config.name == name)
            .map(|service| service.id)
    }
}
