//! What operators are shown: the engine's state as plain reports.

use lb_common::flow::{Flow, FlowKey, Phase, Tick};
use lb_common::service::Forwarding;
use lb_common::tally::Load;

use super::kernel::{Address, Flows, socket_address};
use super::model::{Backend, Member, Service};
use super::recount::client_side;
use super::verdict::{Primary, Stance, lag};
use super::{Engine, Moment};
use crate::config::Role;
use crate::protocol::BackendRef;
use crate::report::{
    Admin, BackendReport, BackendRole, ConnectionReport, GatewayReport, Health, InterfaceReport,
    ServiceReport, ServiceState, StatusReport,
};

impl Engine {
    /// `pglb status`. What the engine does not know of the host is the shell's.
    pub fn status(&self, interfaces: Vec<InterfaceReport>, pid: u32, now: Moment) -> StatusReport {
        let services: Vec<ServiceReport> = self
            .services
            .iter()
            .map(|service| self.service_report(service))
            .collect();
        StatusReport {
            gateway: GatewayReport {
                interfaces,
                uptime_seconds: now.as_secs(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                connections: services.iter().map(|service| service.connections).sum(),
                max_connections: self.config.gateway.max_connections,
                pid,
            },
            services,
        }
    }

    fn service_report(&self, service: &Service) -> ServiceReport {
        let primary = self.primary_of(&service.config.cluster);
        let backends: Vec<BackendReport> = service
            .members
            .iter()
            .map(|member| self.backend_report(member, &primary))
            .collect();
        ServiceReport {
            name: service.config.name.clone(),
            vip: service.config.vip,
            role: service.config.role,
            algorithm: service.config.algorithm,
            forwarding: service.config.forwarding,
            state: self.state(service),
            connections: backends.iter().map(|backend| backend.connections).sum(),
            backends,
        }
    }

    /// A service is `ok` when every backend that could serve it does, or rests on an operator's
    /// wish: the standbys of a primary service, and the primary of a replica service, are as they
    /// should be.
    fn state(&self, service: &Service) -> ServiceState {
        let is_eligible = |member: &&Member| member.verdict.is_eligible();
        if !service.members.iter().any(|member| is_eligible(&member)) {
            return ServiceState::NoBackend;
        }
        let is_as_it_should = |member: &Member| {
            let backend = &self.backends[member.backend];
            let state = &backend.health;
            let is_well = state.health == Health::Up && state.role.is_some();
            match service.config.role {
                _ if backend.admin != Admin::Ready || backend.weight() == 0 => true,
                Role::Any => member.verdict.is_eligible(),
                Role::Primary => is_well && member.verdict.stance != Stance::Out,
                Role::Replica if state.role == Some(BackendRole::Primary) => {
                    is_well && !member.verdict.is_eligible()
                }
                Role::Replica => member.verdict.is_eligible(),
            }
        };
        if service.members.iter().all(is_as_it_should) {
            ServiceState::Ok
        } else {
            ServiceState::Degraded
        }
    }

    fn backend_report(&self, member: &Member, primary: &Primary) -> BackendReport {
        let backend = &self.backends[member.backend];
        let state = &backend.health;
        let lag_bytes = match (state.role, primary) {
            (Some(BackendRole::Replica), Primary::One(index)) => {
                lag(backend, &self.backends[*index])
            }
            _ => None,
        };
        BackendReport {
            name: backend.config.name.clone(),
            cluster: backend.cluster.clone(),
            address: backend.config.address,
            admin: backend.admin,
            health: state.health,
            role: state.role,
            eligible: member.verdict.is_eligible(),
            weight: backend.weight(),
            connections: self.load(member).active(),
            lag_bytes,
            timeline: state.facts.timeline,
            check: state.check.clone(),
            reason: member.verdict.reason.clone(),
        }
    }

    /// The connections that a member has at this moment.
    pub(super) fn load(&self, member: &Member) -> Load {
        let tally = self
            .tallies
            .slots
            .get(&member.slot)
            .copied()
            .unwrap_or_default();
        Load::of(&tally, member.reaped.half_open, member.reaped.established)
    }

    /// `pglb connections`, by what a walk of the tables has found.
    pub fn connections(
        &self,
        established: &Flows,
        transient: &Flows,
        now: Tick,
        service: Option<&str>,
        backend: Option<&BackendRef>,
    ) -> Vec<ConnectionReport> {
        let flows = client_side(established).chain(client_side(transient));
        let mut reports: Vec<ConnectionReport> = flows
            .filter_map(|(key, flow)| {
                let (of, member) = self.owner(flow)?;
                let its = &self.backends[member.backend];
                let is_meant = service.is_none_or(|name| of.config.name == name)
                    && backend.is_none_or(|wanted| wanted.names(&its.cluster, &its.config.name));
                let state = word(flow.phase())?;
                is_meant.then(|| self.connection(key, flow, of, its, state, now))
            })
            .collect();
        reports.sort_by(|a, b| {
            (&a.service, &a.backend, a.client).cmp(&(&b.service, &b.backend, b.client))
        });
        reports
    }

    fn connection(
        &self,
        key: &FlowKey<Address>,
        flow: &Flow<Address>,
        service: &Service,
        backend: &Backend,
        state: &str,
        now: Tick,
    ) -> ConnectionReport {
        ConnectionReport {
            service: service.config.name.clone(),
            backend: backend.name(),
            client: socket_address(key.sender()),
            gateway: (flow.forwarding() == Forwarding::FullNat)
                .then(|| socket_address(flow.leaving.sender())),
            state: state.to_owned(),
            idle_seconds: Tick::milliseconds(now.since(flow.last_seen)) / 1000,
        }
    }

    /// The service and member that a live flow belongs to.
    fn owner(&self, flow: &Flow<Address>) -> Option<(&Service, &Member)> {
        let is_its =
            |member: &&Member| member.slot == flow.slot && member.generation == flow.generation;
        self.services.iter().find_map(|service| {
            let member = service.members.iter().find(is_its)?;
            Some((service, member))
        })
    }

    /// Whether an operator's word names one of the services.
    pub fn has_service(&self, name: &str) -> bool {
        self.services
            .iter()
            .any(|service| service.config.name == name)
    }

    /// Whether an operator's word names a backend.
    pub fn has_backend(&self, reference: &BackendRef) -> bool {
        self.backends
            .iter()
            .any(|backend| reference.names(&backend.cluster, &backend.config.name))
    }
}

/// How a connection in this phase is called; `None` for one that is over.
fn word(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::SynSent | Phase::Refused | Phase::SynReceived => Some("half-open"),
        Phase::Established => Some("established"),
        Phase::Ended | Phase::Reset => None,
    }
}
