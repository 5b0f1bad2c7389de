//! From what the kernel's tables hold to what they should hold: the writes, in an order in which
//! each intermediate state is safe.

use lb_common::member::Member;

use super::effect::Write;
use super::kernel::KernelTables;

/// The writes that turn `applied` into `wanted`.
///
/// First what takes new connections away or ends old ones, then what new entries refer to, then
/// the entries themselves, and the removal of what nothing refers to any more last.
pub fn plan(applied: &KernelTables, wanted: &KernelTables) -> Vec<Write> {
    let mut writes = Vec::new();
    if applied.gateway != wanted.gateway {
        writes.push(Write::Gateway(wanted.gateway));
    }
    for (word, bits) in &wanted.filter {
        if applied.filter.get(word) != Some(bits) {
            writes.push(Write::Filter(*word, *bits));
        }
    }
    for (interface, trunk) in &wanted.trunks {
        if applied.trunks.get(interface) != Some(trunk) {
            writes.push(Write::Trunk(*interface, *trunk));
        }
    }
    let changed = || {
        let differs = |slot| applied.members.get(slot) != wanted.members.get(slot);
        wanted.members.iter().filter(move |(slot, _)| differs(slot))
    };
    let stops = |slot: &_, member: &Member| {
        let before = applied.members.get(slot);
        let is_raised = |it: &Member| it.is_eligible() && it.generation != member.generation;
        !member.is_eligible() || before.is_some_and(is_raised)
    };
    let member = |(slot, member): (&_, &_)| Write::Member(*slot, *member);
    writes.extend(
        changed()
            .filter(|(slot, member)| stops(slot, member))
            .map(member),
    );
    for (id, backend) in &wanted.backends {
        if applied.backends.get(id) != Some(backend) {
            writes.push(Write::Backend(*id, *backend));
        }
    }
    writes.extend(
        changed()
            .filter(|(slot, member)| !stops(slot, member))
            .map(member),
    );
    for (id, ring) in &wanted.rings {
        if applied.rings.get(id) != Some(ring) {
            writes.push(Write::Ring(*id, ring.clone()));
        }
    }
    for (key, access) in &wanted.access {
        if applied.access.get(key) != Some(access) {
            let (service, address, prefix) = *key;
            writes.push(Write::Access(service, address, prefix, *access));
        }
    }
    let added = wanted.vips.difference(&applied.vips);
    writes.extend(added.map(|vip| Write::Vip(*vip)));
    for (key, service) in &wanted.services {
        if applied.services.get(key) != Some(service) {
            writes.push(Write::Service(*key, *service));
        }
    }
    let gone = applied
        .services
        .keys()
        .filter(|key| !wanted.services.contains_key(key));
    writes.extend(gone.map(|key| Write::RemoveService(*key)));
    let removed = applied.vips.difference(&wanted.vips);
    writes.extend(removed.map(|vip| Write::RemoveVip(*vip)));
    for key in applied.access.keys() {
        if !wanted.access.contains_key(key) {
            let (service, address, prefix) = *key;
            writes.push(Write::RemoveAccess(service, address, prefix));
        }
    }
    for interface in applied.trunks.keys() {
        if !wanted.trunks.contains_key(interface) {
            writes.push(Write::RemoveTrunk(*interface));
        }
    }
    writes
}

#[cfg(test)]
mod tests;
