//! A backend: can it be reached, by which way, and do its replies come back through this gateway.

use std::net::IpAddr;

use super::Finding;
use super::facts::{Backend, Facts, Forwarding, Interface, Link, Member, Reach, Route, Service};

/// So many connections without any reply are no accident.
const ENOUGH: u64 = 3;
/// So many SYNs without an answer at one time are no accident.
const MANY_WAITING: usize = 3;

/// Judges one backend.
pub(super) fn judge(backend: &Backend, facts: &Facts) -> Vec<Finding> {
    let one = One {
        subject: format!("backend {}", backend.name),
        backend,
        services: facts
            .plan
            .iter()
            .flat_map(|plan| &plan.services)
            .filter(|service| service.cluster == backend.cluster)
            .collect(),
        facts,
    };
    let mut findings = vec![one.judge_reach()];
    findings.extend(one.judge_route());
    findings.extend(one.judge_neighbours());
    findings.extend(one.judge_return());
    findings
}

struct One<'a> {
    subject: String,
    backend: &'a Backend,
    services: Vec<&'a Service>,
    facts: &'a Facts,
}

impl One<'_> {
    fn judge_reach(&self) -> Finding {
        let address = self.backend.address;
        match &self.backend.reach {
            Reach::Accepted => Finding::ok(&self.subject, format!("{address} accepts connections")),
            Reach::Refused => Finding::warning(
                &self.subject,
                format!("the host answers, and nobody listens on {address}"),
                "start PostgreSQL there, and look at its listen_addresses and port",
            ),
            Reach::Silent => Finding::problem(
                &self.subject,
                format!("{address} does not answer"),
                "look at the host, its firewall, and its route back to this gateway",
            ),
            Reach::Failed(why) => Finding::problem(
                &self.subject,
                format!("{address} cannot be reached: {why}"),
                "give this gateway a route to it",
            ),
        }
    }

    fn judge_route(&self) -> Option<Finding> {
        Some(match self.backend.route.as_ref()? {
            Route::Local => Finding::problem(
                &self.subject,
                "it is on this gateway itself: what XDP forwards never arrives at its own host",
                "run PostgreSQL on another host than pglb",
            ),
            Route::None => Finding::problem(
                &self.subject,
                "there is no route to it",
                format!("ip route add {} ...", self.backend.address.ip()),
            ),
            Route::Out { interface, router } => {
                let is_named = |it: &Interface| it.name == *interface || it.carries(interface);
                if !self.facts.interfaces.iter().any(is_named) {
                    return Some(Finding::problem(
                        &self.subject,
                        format!(
                            "the way to it is {interface}, which gateway.interfaces does not name: \
                             its replies are not seen"
                        ),
                        format!(
                            "add \"{interface}\" to gateway.interfaces, or route to it by one of them"
                        ),
                    ));
                }
                let router = (*router)?;
                self.uses(Forwarding::Dsr).then(|| {
                    Finding::problem(
                        &self.subject,
                        format!(
                            "the way to it is router {router}, and dsr reaches only what is on the link: \
                             the packet still has the VIP as its destination"
                        ),
                        "put this gateway and the backend on one network, or set forwarding = \"nat\" or \"full-nat\"",
                    )
                })?
            }
        })
    }

    /// Clients beside the backend are answered past the gateway.
    fn judge_neighbours(&self) -> Option<Finding> {
        let Some(Route::Out {
            interface,
            router: None,
        }) = &self.backend.route
        else {
            return None;
        };
        let address = self.backend.address.ip();
        let mut links = self.facts.interfaces.iter();
        let link = links.find(|it| it.name == *interface)?.link.as_ref()?;
        let is_beside = |service: &&&Service| {
            service.forwarding == Forwarding::Nat && shares_subnet(link, address, service.vip.ip())
        };
        let service = self.services.iter().find(is_beside)?;
        Some(Finding::advice(
            &self.subject,
            format!(
                "it is in the subnet of VIP {}: it answers clients of that subnet directly, from \
                 its own address, and they do not know the answer",
                service.vip.ip()
            ),
            format!(
                "keep clients out of that subnet, or set forwarding = \"full-nat\" for service {}",
                service.name
            ),
        ))
    }

    /// Whether its replies come back through this gateway, by the kernel's tables.
    fn judge_return(&self) -> Option<Finding> {
        let Some(members) = &self.backend.members else {
            return Some(Finding::unseen(
                &self.subject,
                "it was not seen whether its replies come back through this gateway",
                "run `pglb doctor` as root",
            ));
        };
        // What the host itself cannot reach has been told already, and explains the silence.
        if self.backend.reach != Reach::Accepted {
            return None;
        }
        let members = || {
            members.iter().filter_map(|member| {
                let mut services = self.services.iter();
                let service = services.find(|service| Some(service.vip) == member.vip)?;
                (service.forwarding != Forwarding::Dsr).then_some((*service, member))
            })
        };
        if let Some(finding) =
            members().find_map(|(service, member)| self.judge_member(service, member))
        {
            return Some(finding);
        }
        let replies: u64 = members().map(|(_, member)| member.replies).sum();
        (replies > 0)
            .then(|| Finding::ok(&self.subject, "its replies come back through this gateway"))
    }

    fn judge_member(&self, service: &Service, member: &Member) -> Option<Finding> {
        let host = self.backend.address.ip();
        let remedy = match service.forwarding {
            Forwarding::Nat => format!(
                "make this gateway the default route of {host}, or its route to the clients' \
                 networks; or set forwarding = \"full-nat\" for service {}",
                service.name
            ),
            Forwarding::FullNat | Forwarding::Dsr => format!(
                "let {host} route to this gateway's address by the interface that its packets come in by"
            ),
        };
        let is_mute = member.replies == 0 && member.established == 0;
        let name = &service.name;
        let waiting = member.waiting.len();
        if is_mute && let Some(client) = member.waiting.first() {
            let what = format!(
                "no SYN of {name} was ever answered ({waiting} waiting, such as that of {client}), \
                 while this host can connect: its replies to clients do not come back through this \
                 gateway"
            );
            return Some(Finding::problem(&self.subject, what, remedy));
        }
        // Others were answered, so it is the way to some clients, or a queue that is full.
        if let Some(client) = member.waiting.first().filter(|_| waiting >= MANY_WAITING) {
            let what = format!(
                "{waiting} SYNs of {name} are waiting for an answer, such as that of {client}, \
                 while this host can connect: its replies to some clients do not come back through \
                 this gateway, or its queue of new connections is full"
            );
            return Some(Finding::warning(&self.subject, what, remedy));
        }
        (is_mute && member.given >= ENOUGH).then(|| {
            let what = format!(
                "{} connections of {name} were sent to it and no reply was ever seen, while this \
                 host can connect: either it was down then, or its replies to clients do not come \
                 back through this gateway",
                member.given
            );
            Finding::problem(&self.subject, what, remedy)
        })
    }

    fn uses(&self, forwarding: Forwarding) -> bool {
        self.services
            .iter()
            .any(|service| service.forwarding == forwarding)
    }
}

/// Whether two addresses are in one subnet of an interface.
fn shares_subnet(link: &Link, one: IpAddr, other: IpAddr) -> bool {
    link.addresses.iter().any(|subnet| {
        let contains = |address| is_within(address, subnet.address, subnet.prefix_len);
        contains(one) && contains(other)
    })
}

/// Whether an address lies in the subnet of another one. A subnet has room for two.
pub(super) fn is_within(address: IpAddr, subnet: IpAddr, prefix_len: u8) -> bool {
    let (differing, bits) = match (address, subnet) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits() ^ other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let host_bits = u32::saturating_sub(bits, prefix_len.into());
    host_bits > 0 && differing.checked_shr(host_bits).unwrap_or(0) == 0
}
