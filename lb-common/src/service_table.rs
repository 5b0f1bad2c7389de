//! Where a service lies in its table: an array, of which its key names a few rows. They are read in a
//! fraction of the time that a `HASH` takes, and every SYN reads them.
//!
//! A row that is found stays a row of this table while the packet is handled, and the controller, its
//! only writer, never moves a service to another one.

use crate::family::Address;
use crate::filter;
use crate::limits::MAX_SERVICES;
use crate::service::{Service, ServiceKey};

/// Rows of the table: eight times what it may hold, services and their VIPs, so that none finds its
/// rows taken.
pub const SERVICE_ROWS: u32 = 8 * 2 * MAX_SERVICES as u32;
/// Rows in which one service may lie.
const NAMED: u32 = 8;

/// A row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRow<A> {
    /// What the service is found by.
    pub key: ServiceKey<A>,
    /// The service.
    pub service: Service,
    is_used: u32,
}

impl<A> ServiceRow<A> {
    /// A row with a service.
    pub const fn new(key: ServiceKey<A>, service: Service) -> Self {
        Self {
            key,
            service,
            is_used: 1,
        }
    }

    /// The same row, as nobody finds it: how a service is taken out, and how a new one begins, so that
    /// it is not seen half written.
    #[must_use]
    pub fn hidden(self) -> Self {
        Self { is_used: 0, ..self }
    }

    /// Whether there is a service in it.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.is_used != 0
    }
}

impl<A: PartialEq> ServiceRow<A> {
    /// Whether the service with this key is in it.
    #[inline(always)]
    pub fn is_of(&self, key: &ServiceKey<A>) -> bool {
        self.is_used() && self.key == *key
    }
}

/// The rows in which the service with this key may lie.
#[inline(always)]
pub fn rows<A: Address>(key: &ServiceKey<A>) -> impl Iterator<Item = u32> + Clone + use<A> {
    let first = filter::hash(key.vip());
    (0..NAMED).map(move |step| (first + step) % SERVICE_ROWS)
}

/// Which of the rows that its key names is for a service: the one in which it lies, or else the first
/// that is free. `None` if all are taken.
pub fn row_for<A: Address>(
    key: &ServiceKey<A>,
    mut named: impl Iterator<Item = (u32, ServiceRow<A>)> + Clone,
) -> Option<(u32, ServiceRow<A>)> {
    let free = named.clone().find(|(_, row)| !row.is_used());
    named.find(|(_, row)| row.is_of(key)).or(free)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    use super::*;
    use crate::family::v4;
    use crate::flow::Endpoint;
    use crate::service::{Algorithm, ServiceId};

    fn service(number: u16) -> Service {
        Service::new(ServiceId(number), 1, Algorithm::LeastConnections, 0)
    }

    /// As many keys as there can be, of one kind.
    fn keys<A: Copy>(endpoint: impl Fn(u16) -> (A, u16)) -> Vec<ServiceKey<A>> {
        let key = |number| {
            let (address, port) = endpoint(number);
            let port = port.to_be_bytes();
            ServiceKey::new(Endpoint { address, port })
        };
        (0..2 * MAX_SERVICES).map(key).collect()
    }

    fn row_of<A: Address>(key: &ServiceKey<A>, table: &[ServiceRow<A>]) -> usize {
        let named = rows(key).map(|row| (row, table[row as usize]));
        row_for(key, named).expect("a row").0 as usize
    }

    fn find_all<A: Address>(keys: &[ServiceKey<A>]) {
        let empty = ServiceRow::new(keys[0], service(0)).hidden();
        let mut table = std::vec![empty; SERVICE_ROWS as usize];
        for round in 0..3 {
            for (number, key) in (round..).zip(keys) {
                let row = row_of(key, &table);
                table[row] = ServiceRow::new(*key, service(number));
            }
            assert_eq!(table.iter().filter(|row| row.is_used()).count(), keys.len());
            // What goes leaves the others where they are.
            for key in keys.iter().step_by(3) {
                let row = row_of(key, &table);
                table[row] = table[row].hidden();
            }
            for (number, key) in (round..).zip(keys) {
                let mut found = rows(key).map(|row| table[row as usize]);
                let found = found.find(|row| row.is_of(key));
                let is_there = (number - round) % 3 != 0;
                assert_eq!(
                    found.map(|row| row.service),
                    is_there.then(|| service(number))
                );
            }
        }
    }

    #[test]
    fn services_are_found_however_alike_their_addresses_are() {
        let last = |number: u16| number.to_be_bytes()[1];
        find_all(&keys(|number| {
            (v4(Ipv4Addr::new(10, 71, 0, last(number))), 5432)
        }));
        find_all(&keys(|number| {
            (v4(Ipv4Addr::new(10, 71, last(number), 100)), 5432)
        }));
        find_all(&keys(|number| {
            (v4(Ipv4Addr::new(10, 71, 0, 100)), 5432 + number)
        }));
        find_all(&keys(|number| {
            let vip: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0x71, 0, 0, 0, 0, number).into();
            (vip.widen(), 5432)
        }));
    }
}
