//! Whatever the tables hold and should hold: the writes lead from one to the other, and every
//! state on the way is safe.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::backend::Backend;
use lb_common::family::{Address as _, WideAddress};
use lb_common::flow::Endpoint;
use lb_common::gateway::Gateway;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Algorithm, Service, ServiceId, ServiceKey};
use lb_common::trunk::Trunk;
use lb_common::wire::EgressTags;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::engine::kernel::Address;

const SERVICES: u16 = 3;
const MEMBERS: u8 = 4;
const BACKENDS: u16 = 6;

/// The first two services share a VIP, the third has one of the other family.
fn key(service: u16) -> ServiceKey<Address> {
    let address = match service {
        0 | 1 => Ipv4Addr::new(10, 71, 0, 100).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0x71, 0, 0, 0, 0, 0x100).into(),
    };
    let port = service.to_be_bytes();
    ServiceKey::new(Endpoint { address, port })
}

fn network(service: u16, third: u8) -> (ServiceId, Address, u8) {
    (
        ServiceId(service),
        Ipv4Addr::new(10, 71, third, 0).into(),
        24,
    )
}

prop_compose! {
    fn member()(generation in 1..4_u32, backend in 1..BACKENDS, weight in 0..3_u16,
                is_eligible: bool, baseline in 0..3_u64) -> Member {
        let mut member = Member::default().eligible(is_eligible).weighing(weight);
        member.generation = generation;
        member.backend = BackendId(backend);
        member.baseline = baseline;
        member
    }
}

prop_compose! {
    fn backend()(port: u8, max_connections in 0..3_u32, reaped in 0..3_u64) -> Backend<WideAddress> {
        let mut backend = Backend::default();
        let address = IpAddr::from(Ipv4Addr::new(10, 72, 0, 11)).widen();
        backend.set_endpoint(Endpoint { address, port: [0, port] });
        backend.max_connections = max_connections;
        backend.reaped = reaped;
        backend
    }
}

prop_compose! {
    fn service()(members in 1..=MEMBERS, is_hash: bool, ring_length in 0..4_u32,
                 is_holding: bool, otherwise in access())
                 -> (u8, Algorithm, u32, bool, Access) {
        let algorithm = if is_hash { Algorithm::Hash } else { Algorithm::LeastConnections };
        (members, algorithm, ring_length, is_holding, otherwise)
    }
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Allow), Just(Access::Deny)]
}

prop_compose! {
    fn trunk()(interface in 1..3_u32, tag in 1..3_u16) -> Trunk {
        Trunk { interface, tags: EgressTags([tag, 0]) }
    }
}

prop_compose! {
    fn tables()(
        next_hop_generation in 1..3_u32,
        first_port in 1..3_u16,
        filter in btree_map(0..4_u32, 1..16_u64, 0..4),
        trunks in btree_map(5..9_u32, trunk(), 0..4),
        services in btree_map(0..SERVICES, service(), 0..4),
        members in btree_map((0..SERVICES, 0..MEMBERS), member(), 0..12),
        backends in btree_map(0..BACKENDS, backend(), 0..7),
        rings in btree_map(0..SERVICES, vec(0..MEMBERS, 0..4), 0..4),
        access in btree_map((0..SERVICES, 0..4_u8), access(), 0..6),
    ) -> KernelTables {
        let vips = services.keys().map(|id| key(*id).vip().address).collect();
        let service = |(id, (members, algorithm, length, is_holding, otherwise))| {
            let row = Service::new(ServiceId(id), members, algorithm, length);
            (key(id), row.holding(is_holding).restricted(otherwise))
        };
        KernelTables {
            gateway: Gateway { layout: 1, next_hop_generation, first_port, last_port: 9, seed: 7, shares_next_hops: 1 },
            filter,
            trunks,
            vips,
            services: services.into_iter().map(service).collect(),
            access: access
                .into_iter()
                .map(|((id, third), access)| (network(id, third), access))
                .collect(),
            members: members
                .into_iter()
                .map(|((service, index), row)| (Slot::of(ServiceId(service), index), row))
                .collect(),
            backends: backends.into_iter().map(|(id, row)| (BackendId(id), row)).collect(),
            rings: rings.into_iter().map(|(id, ring)| (ServiceId(id), ring)).collect(),
        }
    }
}

prop_compose! {
    /// Tables as they are, and as the engine may want them: no slot is given up, no generation
    /// falls, no bit of the filter is taken back, and another backend in a slot takes a new generation and is not eligible yet.
    fn change()(applied in tables(), raw in tables()) -> (KernelTables, KernelTables) {
        let mut wanted = raw;
        for (slot, before) in &applied.members {
            let row = wanted.members.entry(*slot).or_insert_with(|| before.eligible(false));
            if row.backend == before.backend {
                row.generation = row.generation.max(before.generation);
            } else {
                *row = row.eligible(false);
                row.generation = before.generation + 1;
            }
        }
        for (word, bits) in &applied.filter {
            *wanted.filter.entry(*word).or_default() |= bits;
        }
        for row in wanted.members.values() {
            wanted.backends.entry(row.backend).or_default();
        }
        (applied, wanted)
    }
}

/// What the tables hold after each write, the first time after none.
fn states(applied: &KernelTables, writes: &[Write]) -> Vec<KernelTables> {
    let mut states = vec![applied.clone()];
    for write in writes {
        let mut next = states[states.len() - 1].clone();
        match write.clone() {
            Write::Gateway(gateway) => next.gateway = gateway,
            Write::Member(slot, member) => drop(next.members.insert(slot, member)),
            Write::Backend(id, backend) => drop(next.backends.insert(id, backend)),
            Write::Ring(id, ring) => drop(next.rings.insert(id, ring)),
            Write::Filter(word, bits) => drop(next.filter.insert(word, bits)),
            Write::Trunk(interface, trunk) => drop(next.trunks.insert(interface, trunk)),
            Write::RemoveTrunk(interface) => drop(next.trunks.remove(&interface)),
            Write::Vip(vip) => drop(next.vips.insert(vip)),
            Write::RemoveVip(vip) => drop(next.vips.remove(&vip)),
            Write::Access(id, address, prefix, access) => {
                next.access.insert((id, address, prefix), access);
            }
            Write::RemoveAccess(id, address, prefix) => {
                next.access.remove(&(id, address, prefix));
            }
            Write::Service(key, service) => drop(next.services.insert(key, service)),
            Write::RemoveService(key) => drop(next.services.remove(&key)),
        }
        states.push(next);
    }
    states
}

fn is_eligible(tables: &KernelTables, slot: Slot) -> bool {
    tables.members.get(&slot).is_some_and(Member::is_eligible)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Arrays keep what nothing refers to any more; everything else is as wanted.
    #[test]
    fn the_writes_lead_to_what_is_wanted((applied, wanted) in change()) {
        let writes = plan(&applied, &wanted);
        let states = states(&applied, &writes);
        let end = &states[states.len() - 1];
        prop_assert_eq!(end.gateway, wanted.gateway);
        prop_assert_eq!(&end.services, &wanted.services);
        prop_assert_eq!(&end.access, &wanted.access);
        prop_assert_eq!(&end.vips, &wanted.vips);
        prop_assert_eq!(&end.trunks, &wanted.trunks);
        prop_assert_eq!(&end.filter, &wanted.filter);
        prop_assert_eq!(&end.members, &wanted.members);
        for (id, row) in &wanted.backends {
            prop_assert_eq!(end.backends.get(id), Some(row));
        }
        for (id, ring) in &wanted.rings {
            prop_assert_eq!(end.rings.get(id), Some(ring));
        }
    }

    /// Each write changes something.
    #[test]
    fn nothing_is_written_twice_or_in_vain((applied, wanted) in change()) {
        let states = states(&applied, &plan(&applied, &wanted));
        for pair in states.windows(2) {
            prop_assert_ne!(&pair[0], &pair[1]);
        }
        prop_assert_eq!(plan(&wanted, &wanted), vec![]);
    }

    /// Whoever is to stop has stopped before anybody starts: no service ever has a member of the
    /// one choice and one of the other, and so no primary service has two.
    #[test]
    fn members_stop_before_others_start((applied, wanted) in change()) {
        let slots: BTreeSet<Slot> = wanted.members.keys().copied().collect();
        let goes = |slot: &Slot| is_eligible(&applied, *slot) && !is_eligible(&wanted, *slot);
        let comes = |slot: &Slot| !is_eligible(&applied, *slot) && is_eligible(&wanted, *slot);
        for state in states(&applied, &plan(&applied, &wanted)) {
            let eligible: Vec<_> = slots.iter().filter(|slot| is_eligible(&state, **slot)).collect();
            let is_old = eligible.iter().any(|slot| goes(slot));
            let is_new = eligible.iter().any(|slot| comes(slot));
            prop_assert!(!(is_old && is_new), "{:?}", eligible);
            for slot in eligible {
                prop_assert!(is_eligible(&applied, *slot) || is_eligible(&wanted, *slot));
            }
        }
    }

    /// A raised generation is there before any entry that others could be chosen by.
    #[test]
    fn old_flows_end_before_anything_begins((applied, wanted) in change()) {
        let comes = |slot: &Slot| !is_eligible(&applied, *slot) && is_eligible(&wanted, *slot);
        let raises = |slot: &Slot| {
            let before = applied.members.get(slot).map(|row| row.generation);
            before.is_some_and(|before| wanted.members[slot].generation > before)
        };
        for state in states(&applied, &plan(&applied, &wanted)) {
            let has_begun = |slot: &Slot| comes(slot) && is_eligible(&state, *slot);
            if wanted.members.keys().any(has_begun) {
                for slot in wanted.members.keys().filter(|slot| raises(slot) && !comes(slot)) {
                    prop_assert_eq!(state.members[slot].generation, wanted.members[slot].generation);
                }
            }
        }
    }

    /// A member that newly becomes eligible refers to a backend that is written already.
    #[test]
    fn whoever_starts_has_a_backend((applied, wanted) in change()) {
        let starts = |slot: &&Slot| !is_eligible(&applied, **slot) && is_eligible(&wanted, **slot);
        for state in states(&applied, &plan(&applied, &wanted)) {
            for slot in wanted.members.keys().filter(starts) {
                if is_eligible(&state, *slot) {
                    let id = state.members[slot].backend;
                    prop_assert_eq!(state.backends.get(&id), wanted.backends.get(&id));
                }
            }
        }
    }

    /// A service that is new or changed finds its members, its ring, its access lists, its VIP and
    /// its bits of the filter; one that goes takes its access lists and its VIP along last.
    #[test]
    fn a_service_finds_everything_it_refers_to((applied, wanted) in change()) {
        for state in states(&applied, &plan(&applied, &wanted)) {
            for (key, service) in &state.services {
                prop_assert!(state.vips.contains(&key.vip().address), "{:?} has no VIP", key);
                let is_lost = |network: &&_| !state.access.contains_key(*network);
                let lost = applied.access.keys().filter(is_lost).count();
                if applied.services.get(key) != Some(service) {
                    prop_assert_eq!(&state.members, &wanted.members);
                    let ring = wanted.rings.get(&service.id);
                    prop_assert!(ring.is_none() || state.rings.get(&service.id) == ring);
                    for (network, access) in &wanted.access {
                        prop_assert_eq!(state.access.get(network), Some(access));
                    }
                    prop_assert_eq!(&state.filter, &wanted.filter);
                }
                if wanted.services.get(key) != Some(service) {
                    prop_assert_eq!(lost, 0, "an access list shrinks under {:?}", key);
                }
            }
        }
    }

    /// Generations never fall.
    #[test]
    fn generations_only_grow((applied, wanted) in change()) {
        for pair in states(&applied, &plan(&applied, &wanted)).windows(2) {
            for (slot, before) in &pair[0].members {
                prop_assert!(pair[1].members[slot].generation >= before.generation);
            }
        }
    }

    /// Over tables that nobody knows, everything is written, and the members that serve nobody
    /// come first.
    #[test]
    fn everything_is_written_over_nothing(wanted in tables()) {
        let writes = plan(&KernelTables::default(), &wanted);
        let states = states(&KernelTables::default(), &writes);
        prop_assert_eq!(&states[states.len() - 1], &wanted);
        let mut starts = false;
        for write in &writes {
            if let Write::Member(_, member) = write {
                prop_assert!(member.is_eligible() || !starts);
                starts |= member.is_eligible();
            }
        }
    }
}
