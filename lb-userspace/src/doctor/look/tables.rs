//! Facts from the kernel's own tables, where pglb has pinned some: what became of the connections
//! that each backend was given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use lb_common::flow::{Phase, Tick};
use lb_common::member::Slot;

use super::super::facts::Member;
use super::can_see;
use crate::engine::kernel::{backend_address, socket_address};
use crate::engine::recount::client_side;
use crate::shell::bpf_tables::Tables;
use crate::shell::{bpf, clock};

/// A SYN that was sent more recently may still be answered (milliseconds).
const A_WHILE: u64 = 500;

/// What the tables say of each backend; `None` when they cannot be read.
pub(super) fn read(pin_dir: &Path) -> Option<HashMap<SocketAddr, Vec<Member>>> {
    if !bpf::has_tables(pin_dir) {
        return can_see(pin_dir).then(HashMap::new);
    }
    read_members(pin_dir).ok()
}

fn read_members(pin_dir: &Path) -> Result<HashMap<SocketAddr, Vec<Member>>> {
    let tables = Tables::open(pin_dir)?;
    let now = clock::kernel_tick();
    let transient = tables.transient()?;
    let mut found: HashMap<SocketAddr, Vec<Member>> = HashMap::new();
    for (key, service) in tables.services()? {
        for slot in (0..service.members).map(|index| Slot::of(service.id, index)) {
            let backend = tables.backend(tables.member(slot)?.backend)?;
            let tally = tables.slot_tally(slot)?;
            let waiting = client_side(&transient).filter(|(_, flow)| {
                let is_old = Tick::milliseconds(now.since(flow.last_seen)) >= A_WHILE;
                flow.slot == slot && flow.phase() == Phase::SynSent && is_old
            });
            let member = Member {
                vip: Some(socket_address(key.vip())),
                given: tally.half_opened,
                established: tally.established,
                replies: tables.traffic(slot)?.packets_to_client,
                waiting: waiting
                    .map(|(key, _)| socket_address(key.sender()))
                    .collect(),
            };
            let address = backend_address(backend.endpoint());
            found.entry(address).or_default().push(member);
        }
    }
    Ok(found)
}
