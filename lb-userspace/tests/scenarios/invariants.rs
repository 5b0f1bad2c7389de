//! What must hold after every single write, and after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::filter::FilterBit;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::ServiceKey;
use lb_userspace::config::{Config, Role};
use lb_userspace::engine::effect::{Effect, Write};
use lb_userspace::engine::event::Event;
use lb_userspace::engine::kernel::{KernelTables, backend_address, endpoint, socket_address};
use lb_userspace::engine::{Engine, Moment};
use lb_userspace::report::{BackendRole, Health, StatusReport};

/// Writes one entry, as the shell does; a generation never falls.
pub(crate) fn apply(kernel: &mut KernelTables, write: &Write) {
    match write {
        Write::Gateway(gateway) => kernel.gateway = *gateway,
        Write::Member(slot, member) => {
            let before = kernel.members.insert(*slot, *member).unwrap_or_default();
            assert!(
                before.generation <= member.generation && member.generation > 0,
                "the generation of {slot:?} falls: {before:?} to {member:?}"
            );
        }
        Write::Backend(id, backend) => {
            kernel.backends.insert(*id, *backend);
        }
        Write::Ring(id, ring) => {
            kernel.rings.insert(*id, ring.clone());
        }
        Write::Filter(word, bits) => {
            let before = kernel.filter.insert(*word, *bits).unwrap_or_default();
            assert_eq!(before & !bits, 0, "word {word} of the filter loses bits");
        }
        Write::Trunk(interface, trunk) => {
            kernel.trunks.insert(*interface, *trunk);
        }
        Write::RemoveTrunk(interface) => {
            kernel.trunks.remove(interface);
        }
        Write::Vip(vip) => {
            kernel.vips.insert(*vip);
        }
        Write::RemoveVip(vip) => {
            kernel.vips.remove(vip);
        }
        Write::Access(service, address, prefix, access) => {
            kernel.access.insert((*service, *address, *prefix), *access);
        }
        Write::RemoveAccess(service, address, prefix) => {
            kernel.access.remove(&(*service, *address, *prefix));
        }
        Write::Service(key, service) => {
            kernel.services.insert(*key, *service);
        }
        Write::RemoveService(key) => {
            kernel.services.remove(key);
        }
    }
}

/// The eligible members of the service at this VIP, as the kernel sees them: where they are.
pub(crate) fn eligible(kernel: &KernelTables, vip: SocketAddr) -> Vec<(Slot, SocketAddr)> {
    let Some(service) = kernel.services.get(&ServiceKey::new(endpoint(vip))) else {
        return Vec::new();
    };
    let is_chosen = |slot: &Slot, member: &Member| {
        slot.service() == service.id && slot.index() < service.members && member.is_eligible()
    };
    let chosen = kernel
        .members
        .iter()
        .filter(|(slot, member)| is_chosen(slot, member));
    let place = |id: BackendId| {
        assert_ne!(id, BackendId::GATEWAY, "the gateway serves nobody");
        backend_address(kernel.backends[&id].endpoint())
    };
    chosen
        .map(|(slot, member)| (*slot, place(member.backend)))
        .collect()
}

/// After every single write: a primary service never gets a second eligible member. (It may have
/// had several when it was for replicas until now.)
pub(crate) fn check_write(before: &KernelTables, after: &KernelTables, config: &Config) {
    let services = config.services.iter();
    for service in services.filter(|service| service.role == Role::Primary) {
        let had = eligible(before, service.vip);
        let has = eligible(after, service.vip);
        assert!(
            has.len() <= had.len().max(1),
            "{} gets a second primary: {had:?}, then {has:?}",
            service.name
        );
    }
}

/// After every step: reports, tables and effects say the same, and nothing is owed.
pub(crate) fn check_step(
    engine: &Engine,
    kernel: &KernelTables,
    before: &KernelTables,
    effects: &[Effect],
    now: Moment,
) {
    let status = engine.status(Vec::new(), 1, now);
    check_eligibility(&status, kernel);
    check_rings(kernel);
    check_glance(kernel);
    check_limits(kernel);
    check_resets(before, kernel, effects);
    assert!(
        engine.next_deadline() > now,
        "a deadline at {:?} is due still at {now:?}",
        engine.next_deadline()
    );
}

/// A member knows whether its backend has a limit: the kernel looks for it only then.
fn check_limits(kernel: &KernelTables) {
    for (slot, member) in &kernel.members {
        if let Some(backend) = kernel.backends.get(&member.backend)
            && member.is_eligible()
        {
            let has_limit = backend.max_connections != 0;
            assert_eq!(member.is_limited(), has_limit, "the limit of {slot:?}");
        }
    }
}

fn check_eligibility(status: &StatusReport, kernel: &KernelTables) {
    for service in &status.services {
        let in_kernel: BTreeSet<SocketAddr> = eligible(kernel, service.vip)
            .into_iter()
            .map(|(_, place)| place)
            .collect();
        let reported: BTreeSet<SocketAddr> = service
            .backends
            .iter()
            .filter(|b| b.eligible)
            .map(|b| b.address)
            .collect();
        assert_eq!(
            in_kernel, reported,
            "the kernel and the report differ about {}",
            service.name
        );
        let has_two = service.role == Role::Primary && reported.len() > 1;
        assert!(!has_two, "{} has two primaries: {reported:?}", service.name);
        for backend in service.backends.iter().filter(|backend| backend.eligible) {
            let is_known = matches!(backend.health, Health::Up | Health::Unknown);
            assert!(is_known, "eligible for {}: {backend:?}", service.name);
            let is_standby =
                service.role == Role::Primary && backend.role == Some(BackendRole::Replica);
            assert!(
                !is_standby,
                "a replica is eligible for {}: {backend:?}",
                service.name
            );
        }
    }
}

/// A ring names the eligible members of its service, each of them and no other.
fn check_rings(kernel: &KernelTables) {
    for (key, service) in &kernel.services {
        let ring = kernel.rings.get(&service.id).map_or(&[][..], Vec::as_slice);
        if ring.is_empty() {
            continue;
        }
        assert_eq!(ring.len() as u64, u64::from(service.ring_length), "{key:?}");
        let named: BTreeSet<u8> = ring.iter().copied().collect();
        let members = eligible(kernel, socket_address(key.vip()));
        let eligible: BTreeSet<u8> = members.iter().map(|(slot, _)| slot.index()).collect();
        assert_eq!(named, eligible, "{key:?}");
    }
}

/// What is ours at all is ours at a first glance: a VIP for each service and for nothing else, and
/// the filter's bits for each service and each member's backend.
fn check_glance(kernel: &KernelTables) {
    let is_set = |FilterBit { word, bit }| kernel.filter.get(&word).is_some_and(|it| it & bit != 0);
    let vips: BTreeSet<_> = kernel.services.keys().map(|key| key.vip()).collect();
    for vip in &vips {
        assert!(is_set(FilterBit::of_service(*vip)), "{vip:?} is filtered");
    }
    let addresses: BTreeSet<_> = vips.iter().map(|vip| vip.address).collect();
    assert_eq!(kernel.vips, addresses);
    for member in kernel.members.values() {
        if member.backend != BackendId::GATEWAY {
            let place = backend_address(kernel.backends[&member.backend].endpoint());
            let bit = FilterBit::of_backend(endpoint(place));
            assert!(is_set(bit), "what comes from {place} is filtered");
        }
    }
}

/// Whoever's generation is raised is reset in the same step, once, and nobody else is.
fn check_resets(before: &KernelTables, after: &KernelTables, effects: &[Effect]) {
    let raised = |(slot, row): (&Slot, &Member)| {
        let is_raised = after
            .members
            .get(slot)
            .is_some_and(|it| it.generation > row.generation);
        // In a retired slot nothing is alive that could be reset.
        (is_raised && row.backend != BackendId::GATEWAY).then_some(*slot)
    };
    let raised: Vec<Slot> = before.members.iter().filter_map(raised).collect();
    let mut reset: Vec<Slot> = Vec::new();
    for effect in effects {
        if let Effect::Reset { slots, .. } = effect {
            reset.extend(slots);
        }
    }
    reset.sort_unstable();
    reset.dedup();
    assert_eq!(reset, raised, "generations raised and slots reset differ");
}

/// What another controller would find: the tables as they can be read back.
pub(crate) fn found(kernel: &KernelTables) -> KernelTables {
    let mut found = kernel.clone();
    found.members.retain(|_, member| member.generation > 0);
    found
        .backends
        .retain(|_, backend| *backend != lb_common::backend::Backend::default());
    let used: BTreeSet<_> = found.services.values().map(|service| service.id).collect();
    found.rings.retain(|id, _| used.contains(id));
    found
}

/// Another controller that is started over these tables changes neither eligibility nor
/// generations before it has probed anything, nor anything else but what it cannot know.
pub(crate) fn check_restart(engine: &Engine, kernel: &KernelTables, now: Moment) {
    let mut twin = Engine::new(engine.config().clone(), found(kernel), now);
    let mut after = kernel.clone();
    for effect in twin.step(Event::Tick, now) {
        match effect {
            Effect::Write(write) => apply(&mut after, &write),
            Effect::Reset { .. } => panic!("a restart resets: {effect:?}"),
            Effect::Probe(_)
            | Effect::Watch(_)
            | Effect::ResetClients { .. }
            | Effect::ResetFlows(_)
            | Effect::Walk
            | Effect::Remove { .. }
            | Effect::Answer(..)
            | Effect::Tell(..) => {}
        }
    }
    // A restart looks every next hop up again, and holds SYNs anew where nobody is eligible.
    after.gateway.next_hop_generation = kernel.gateway.next_hop_generation;
    let mut expected = kernel.clone();
    for service in after
        .services
        .values_mut()
        .chain(expected.services.values_mut())
    {
        *service = service.holding(false);
    }
    assert_same("members", &after.members, &expected.members);
    assert_same("backends", &after.backends, &expected.backends);
    assert_same("services", &after.services, &expected.services);
    assert_same("rings", &after.rings, &expected.rings);
    assert_same("access lists", &after.access, &expected.access);
    assert_same("the filter", &after.filter, &expected.filter);
    assert_eq!(after.vips, expected.vips);
    assert_eq!(after.gateway, expected.gateway);
}

fn assert_same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    after: &BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
) {
    for (key, value) in after {
        assert_eq!(
            Some(value),
            before.get(key),
            "a restart changes {what} {key:?}"
        );
    }
    assert_eq!(after.len(), before.len(), "a restart drops {what}");
}
