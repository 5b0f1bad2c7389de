//! An interface: is it there, has it native XDP, and does it hand packets over as they came.

use super::Finding;
use super::driver::{self, Driver, Queues, USUAL_LARGEST_MTU};
use super::facts::{Facts, Interface, Link};
use super::settings;
use crate::config::XdpMode;
use crate::report::AttachedMode;
use crate::shell::network::card::Channels;

/// Judges one interface.
pub(super) fn judge(interface: &Interface, facts: &Facts) -> Vec<Finding> {
    let name = interface.name.as_str();
    let subject = format!("interface {name}");
    let Some(link) = &interface.link else {
        let remedy = "name an interface of `ip link` in gateway.interfaces";
        return vec![Finding::problem(
            &subject,
            "there is no such interface",
            remedy,
        )];
    };
    let one = One {
        name,
        subject,
        link,
        driver: link.driver.as_deref().and_then(driver::find),
        mode: facts
            .plan
            .as_ref()
            .map_or(XdpMode::Auto, |plan| plan.xdp_mode),
        cpus: facts.host.cpus,
        has_others: facts.interfaces.len() > 1,
    };
    let mut findings: Vec<Finding> = [
        one.judge_link(),
        one.judge_place(),
        one.judge_native(),
        one.judge_stranger(),
        one.judge_receiver(),
        one.judge_mtu(),
        one.judge_lro(),
        one.judge_hardware_gro(),
        one.judge_vlan_offload(),
        one.judge_queues(),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(plan) = &facts.plan {
        findings.extend(settings::judge_interface(name, link, plan));
    }
    findings
}

/// Compares the interfaces with each other.
pub(super) fn compare(interfaces: &[Interface]) -> Option<Finding> {
    let mtus = || {
        let with_mtu = |it: &Interface| Some((it.name.clone(), it.link.as_ref()?.mtu));
        interfaces.iter().filter_map(with_mtu)
    };
    let (narrow, low) = mtus().min_by_key(|(_, mtu)| *mtu)?;
    let (wide, high) = mtus().max_by_key(|(_, mtu)| *mtu)?;
    (low != high).then(|| {
        Finding::advice(
            "MTU",
            format!("{narrow} has an MTU of {low} and {wide} one of {high}"),
            format!(
                "give all links the same MTU, or see that no firewall drops ICMP: packets that are \
                 too big for {narrow} are found out by it alone"
            ),
        )
    })
}

struct One<'a> {
    name: &'a str,
    subject: String,
    link: &'a Link,
    driver: Option<&'static Driver>,
    mode: XdpMode,
    cpus: u32,
    has_others: bool,
}

impl One<'_> {
    fn ok(&self, what: impl Into<String>) -> Finding {
        Finding::ok(&self.subject, what)
    }

    fn advice(&self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::advice(&self.subject, what, remedy)
    }

    fn warning(&self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::warning(&self.subject, what, remedy)
    }

    fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::problem(&self.subject, what, remedy)
    }

    fn is_native(&self) -> bool {
        self.link.attached == Some(AttachedMode::Native)
    }

    fn driver_name(&self) -> &str {
        self.link.driver.as_deref().unwrap_or("unknown")
    }

    fn judge_link(&self) -> Option<Finding> {
        (!self.link.is_up).then(|| {
            let remedy = format!("ip link set {} up, and look at its cable", self.name);
            self.problem("it is down, or has no carrier", remedy)
        })
    }

    /// Whether it is the interface that should have been named.
    fn judge_place(&self) -> Option<Finding> {
        if let Some(controller) = &self.link.controller {
            return Some(self.warning(
                format!(
                    "it belongs to {controller}: its packets are seen here, its addresses are there"
                ),
                format!(
                    "take it out of {controller} and give it the addresses: XDP cannot send to a \
                     bridge, and a bond takes the program itself"
                ),
            ));
        }
        let kind = self.link.kind.as_deref()?;
        let lower = self.link.lower.as_deref().unwrap_or("the card below it");
        match kind {
            "bridge" | "team" => Some(self.problem(
                format!("it is a {kind}, to which XDP cannot send"),
                "name the interfaces in it instead, with the addresses and routes on them",
            )),
            "vlan" | "macvlan" | "ipvlan" | "vxlan" | "geneve" => Some(self.warning(
                format!("it is a {kind}, which has XDP in generic mode only"),
                format!("name {lower} in gateway.interfaces instead"),
            )),
            _ => None,
        }
    }

    /// Whether the program runs, or would run, in the driver.
    fn judge_native(&self) -> Option<Finding> {
        if self.mode == XdpMode::Generic {
            let what = "xdp_mode = \"generic\": several times slower than native";
            return Some(self.advice(
                what,
                "set xdp_mode = \"auto\" where the driver has native XDP",
            ));
        }
        let (is_native, by) = match (self.link.card.xdp, self.driver) {
            (Some(features), _) => (features.is_native(), "by the kernel's word"),
            (None, Some(_)) => (true, "by the list of drivers that have it"),
            (None, None) => (false, "it is not on the list of drivers that have it"),
        };
        let driver = self.driver_name();
        let remedy = "use a card whose driver has it, or accept it with xdp_mode = \"generic\"";
        Some(match (self.link.attached, is_native) {
            (Some(AttachedMode::Native), _) => {
                self.ok(format!("XDP is attached in the driver, {driver}"))
            }
            (Some(AttachedMode::Generic), true) => self.warning(
                format!(
                    "XDP is attached in generic mode, though driver {driver} has native XDP ({by})"
                ),
                "take away what hinders it, named in the lines below and in the log of `pglb run`, \
                 then `pglb detach` and start again",
            ),
            (None, true) => self.ok(format!("driver {driver} has native XDP ({by})")),
            (Some(AttachedMode::Generic) | None, false) => {
                let what = format!(
                    "driver {driver} has no native XDP ({by}): generic mode is several times slower"
                );
                if self.mode == XdpMode::Native && self.link.attached.is_none() {
                    self.problem(what, remedy)
                } else {
                    self.warning(what, remedy)
                }
            }
        })
    }

    /// Whether somebody else's program is in the place.
    fn judge_stranger(&self) -> Option<Finding> {
        (self.link.attached.is_some() && self.link.is_ours == Some(false)).then(|| {
            let remedy = format!(
                "ip link set {} xdp off, if nothing else needs it",
                self.name
            );
            self.problem(
                "another XDP program is attached, so pglb's cannot be",
                remedy,
            )
        })
    }

    /// Whether packets can be redirected to it. Most drivers say so only once a program is there.
    fn judge_receiver(&self) -> Option<Finding> {
        let features = self.link.card.xdp?;
        let is_veth = self.link.kind.as_deref() == Some("veth");
        let is_decided = self.is_native() || is_veth;
        (is_decided && features.is_native() && !features.takes_redirected()).then(|| {
            let what = "packets cannot be redirected to it, or sent back out of it, by XDP";
            match (is_veth, self.has_others) {
                (true, _) => self.problem(
                    what,
                    "ethtool -K PEER gro on, at the other end of this veth",
                ),
                (false, true) => self.problem(what, "use a card whose driver can (ndo_xdp_xmit)"),
                (false, false) => self.advice(what, "nothing, as long as it is the only interface"),
            }
        })
    }

    fn judge_mtu(&self) -> Option<Finding> {
        let largest = self
            .driver
            .map_or(USUAL_LARGEST_MTU, |driver| driver.largest_mtu);
        let mtu = self.link.mtu;
        if mtu <= largest || self.is_native() || self.mode == XdpMode::Generic {
            return None;
        }
        let what = match self.driver {
            Some(_) => format!(
                "its MTU is {mtu}, and driver {} has native XDP up to {largest}",
                self.driver_name()
            ),
            None => format!("its MTU is {mtu}, and few drivers have native XDP above {largest}"),
        };
        let remedy = format!(
            "ip link set {} mtu {largest}, and the same on all its network",
            self.name
        );
        Some(self.warning(what, remedy))
    }

    fn judge_lro(&self) -> Option<Finding> {
        self.has_offload("rx-lro").then(|| {
            self.warning(
                "large receive offload is on: the card merges packets, which cannot be forwarded, \
                 and most drivers refuse native XDP",
                format!("ethtool -K {} lro off", self.name),
            )
        })
    }

    /// Once a program is in the driver, the card does not merge any more, whatever this says.
    fn judge_hardware_gro(&self) -> Option<Finding> {
        const NAME: &str = "rx-gro-hw";
        if !self.has_offload(NAME) || self.is_native() {
            return None;
        }
        let changeable = self.link.card.changeable.as_ref();
        let is_fixed = changeable.is_some_and(|changeable| !changeable.contains(NAME));
        match (self.driver_name(), is_fixed) {
            ("virtio_net", true) => Some(self.warning(
                "the host of this virtual machine merges packets and does not let itself be told \
                 otherwise: native XDP will be refused",
                "set guest_tso4, guest_tso6, guest_ecn and guest_ufo of this card to off on that host",
            )),
            // This driver turns it off when a program comes.
            ("virtio_net", false) => None,
            _ => Some(self.warning(
                "hardware GRO is on: the card merges packets, and most drivers refuse native XDP",
                format!("ethtool -K {} {NAME} off", self.name),
            )),
        }
    }

    fn judge_vlan_offload(&self) -> Option<Finding> {
        let is_hidden = self.has_offload("rx-vlan-hw-parse") && !self.link.vlans.is_empty();
        is_hidden.then(|| {
            self.warning(
                format!(
                    "it carries {} and takes VLAN tags off before native XDP sees them: tagged and \
                     untagged packets look the same",
                    self.link.vlans.join(", ")
                ),
                format!("ethtool -K {} rxvlan off", self.name),
            )
        })
    }

    fn judge_queues(&self) -> Option<Finding> {
        let channels = self.link.card.channels?;
        // A virtual interface has no interrupts to spread.
        if self.link.kind.is_some() || channels.receiving == 0 {
            return None;
        }
        let rule = self.driver.map_or(Queues::Any, |driver| driver.queues);
        let Channels { receiving, most } = channels;
        let (cpus, name, driver) = (self.cpus, self.name, self.driver_name());
        match rule {
            Queues::AtMostHalf if receiving * 2 > most && !self.is_native() => Some(self.warning(
                format!(
                    "it uses {receiving} of {most} queues, and {driver} wants half of them free \
                     for native XDP"
                ),
                format!("ethtool -L {name} combined {}", (most / 2).max(1)),
            )),
            Queues::OnePerCpu if receiving < cpus => Some(self.problem(
                format!(
                    "it has {receiving} queues for {cpus} CPUs: {driver} drops, without a word, \
                     what is redirected to it on the others"
                ),
                format!(
                    "ethtool -L {name} combined {cpus}, or keep the interrupts of the other \
                     interfaces to the first {receiving} CPUs"
                ),
            )),
            Queues::SparePerCpu if receiving + cpus > most => Some(self.advice(
                format!(
                    "it uses {receiving} of {most} queues: without {cpus} free ones, XDP sends \
                     under a lock"
                ),
                format!(
                    "give this virtual machine's card {} queues",
                    receiving.max(1) + cpus
                ),
            )),
            Queues::Any | Queues::AtMostHalf | Queues::OnePerCpu | Queues::SparePerCpu => {
                let wanted = cpus.min(most);
                (receiving < wanted && rule != Queues::AtMostHalf).then(|| {
                    self.advice(
                        format!(
                            "{receiving} queues for {cpus} CPUs: the other CPUs get no packets"
                        ),
                        format!("ethtool -L {name} combined {wanted}"),
                    )
                })
            }
        }
    }

    fn has_offload(&self, name: &str) -> bool {
        let offloads = self.link.card.offloads.as_ref();
        offloads.is_some_and(|offloads| offloads.contains(name))
    }
}
