//! Whether a client may open a connection at all: access lists, and limits of one address.

use super::{Arrival, Decision};
use crate::family::{Address, Family};
use crate::flow::{Direction, Endpoint, Flow};
use crate::reason::Reason;
use crate::service::{Access, Service};
use crate::source::SourceKey;
use crate::tables::Tables;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Refuses a SYN whose sender may not open a connection to the service now.
    #[inline(never)]
    pub(super) fn admit(&self, service: &Service) -> Decision {
        let client = self.key.source;
        if let Some(otherwise) = service.restriction() {
            let access = self.tables.access(service.id, client).unwrap_or(otherwise);
            if access == Access::Deny {
                return Decision::of(Err(Reason::Denied));
            }
        }
        let source = SourceKey::new(service.id, client.widen());
        if service.source_rate != 0
            && !self
                .tables
                .keeps_pace(&source, service.source_rate, self.now)
        {
            return Decision::of(Err(Reason::SourceRate));
        }
        self.admit_one_more(service)
    }

    /// Refuses a connection of a client address that has as many as the service allows.
    #[inline(never)]
    pub(super) fn admit_one_more(&self, service: &Service) -> Decision {
        let most = u64::from(service.source_connections);
        let source = SourceKey::new(service.id, self.key.source.widen());
        if most != 0 && self.tables.source_connections(&source) >= most {
            return Decision::of(Err(Reason::SourceLimit));
        }
        Decision::NONE
    }

    /// Counts an established connection for its client's address, if its service limits those.
    #[inline(never)]
    pub(super) fn count_source(&self, flow: &Flow<F::Address>) {
        let (client, vip) = self.client_and_vip(flow);
        if let Ok(service) = self.service(vip)
            && service.source_connections != 0
        {
            let source = SourceKey::new(service.id, client.widen());
            self.tables.count_source(&source);
        }
    }

    /// Counts the end of one.
    #[inline(never)]
    pub(super) fn discount_source(&self, flow: &Flow<F::Address>) {
        let (client, _) = self.client_and_vip(flow);
        let source = SourceKey::new(flow.slot.service(), client.widen());
        self.tables.discount_source(&source);
    }

    #[inline(always)]
    fn client_and_vip(&self, flow: &Flow<F::Address>) -> (F::Address, Endpoint<F::Address>) {
        match flow.direction() {
            Direction::ToBackend => (self.key.source, self.key.receiver()),
            Direction::ToClient => (flow.leaving.destination, flow.leaving.sender()),
        }
    }
}
