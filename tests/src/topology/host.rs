//! A database host: its link, its address and its routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

use super::{
    CLIENT, FORWARD, GATEWAY, INSIDE, PORT, Plan, Returns, Shape, full_segments, link::Link,
};
use crate::{family::Family, namespace::Namespace};

/// A database host.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    plan: Plan,
    namespace: Namespace,
    _router: Option<Namespace>,
}

impl Host {
    /// Its name, which is also that of the gateway's interface towards it, unless they are on a segment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The gateway's interface towards its `eth1`, where there are spare links.
    pub fn spare(&self) -> String {
        format!("spare{}", self.number)
    }

    /// Its only address.
    pub fn address(&self) -> IpAddr {
        let ipv4 = match self.plan.shape {
            Shape::Segment => Ipv4Addr::new(10, 71, 0, 20 + self.number),
            Shape::Routed | Shape::RouterToClient | Shape::RouterToHosts => {
                Ipv4Addr::new(10, 72, 0, 10 + self.number)
            }
        };
        self.plan.family.address(ipv4)
    }

    /// Where its PostgreSQL listens.
    pub fn postgres(&self) -> SocketAddr {
        (self.address(), PORT).into()
    }

    /// Where its processes run.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The host goes silent with its link up, as after a power cut behind a switch: it answers no ARP, owns no
    /// address and routes nothing. Its processes and their sockets know nothing of it.
    pub fn vanish(&self) -> Result<()> {
        self.namespace.run("ip link set eth0 arp off")?;
        self.namespace
            .run("ip address flush dev eth0 scope global")
            .map(drop)
    }

    /// The host is back as it was before [`Self::vanish`].
    pub fn reappear(&self) -> Result<()> {
        self.namespace.run("ip link set eth0 arp on")?;
        self.address_itself()
    }

    /// Has the host take what is sent to the VIP for its own, and say nothing of it, as `dsr` needs it.
    pub fn answer_for(&self, vip: IpAddr) -> Result<()> {
        let bits = self.plan.family.address_bits();
        self.namespace
            .run("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")?;
        self.namespace
            .run(&format!("ip address add {vip}/{bits} dev lo"))
            .map(drop)
    }

    pub(super) fn build(
        network: &str,
        number: u8,
        plan: Plan,
        gateway: &Namespace,
        client: &Namespace,
        segment: Option<&Namespace>,
    ) -> Result<Self> {
        let name = format!("db{number}");
        let mut host = Self {
            namespace: Namespace::create(format!("{network}-{name}"))?,
            name,
            number,
            plan,
            _router: None,
        };
        match plan.shape {
            Shape::Segment => {
                let segment = segment.context("a segment needs its bridge")?;
                let port = format!("to-{}", host.name);
                Link::between((&host.namespace, "eth0"), (segment, &port))?;
                segment.run(&format!("ip link set {port} master bridge"))?;
            }
            Shape::RouterToHosts => {
                let router = Namespace::create(format!("{network}-router{number}"))?;
                host.connect_by_router(&router, gateway)?;
                host._router = Some(router);
            }
            Shape::Routed | Shape::RouterToClient => host.connect(gateway)?,
        }
        if plan.has_spare_links {
            Link::between((&host.namespace, "eth1"), (gateway, &host.spare()))?;
        }
        if plan.returns == Returns::Directly && plan.shape != Shape::Segment {
            Link::between((&host.namespace, "out"), (client, &host.name))?;
            if plan.family == Family::V6 {
                // Unlike ARP, the client answers for an address on this link only if it has it there too.
                let (own, one) = (plan.family.address(CLIENT), plan.family.address_bits());
                client.run(&format!("ip address add {own}/{one} dev {}", host.name))?;
            }
        }
        host.address_itself()?;
        Ok(host)
    }

    fn connect(&self, gateway: &Namespace) -> Result<()> {
        let (name, one) = (&self.name, self.plan.family.address_bits());
        let at_once = self.plan.family.at_once();
        let (inside, own) = (self.plan.family.address(INSIDE), self.address());
        Link::between((&self.namespace, "eth0"), (gateway, name))?;
        gateway.run(&format!(
            "ip address add {inside}/{one} dev {name}{at_once}"
        ))?;
        gateway
            .run(&format!("ip route add {own}/{one} dev {name} src {inside}"))
            .map(drop)
    }

    fn connect_by_router(&self, router: &Namespace, gateway: &Namespace) -> Result<()> {
        let (name, one) = (&self.name, self.plan.family.address_bits());
        let at_once = self.plan.family.at_once();
        let (inside, own, middle) = (
            self.plan.family.address(INSIDE),
            self.address(),
            self.next_hop(),
        );
        Link::between((router, "eth0"), (gateway, name))?;
        Link::between((&self.namespace, "eth0"), (router, "far"))?.narrow()?;
        gateway.run(&format!(
            "ip address add {inside}/{one} dev {name}{at_once}"
        ))?;
        gateway.run(&format!(
            "ip route add {middle}/{one} dev {name} src {inside}"
        ))?;
        gateway.run(&format!(
            "ip route add {own}/{one} via {middle} src {inside}"
        ))?;
        router.run(FORWARD)?;
        router.run(&format!("ip address add {middle}/{one} dev eth0"))?;
        router.run(&format!("ip address add {middle}/{one} dev far"))?;
        router.run(&format!("ip route add {inside}/{one} dev eth0"))?;
        router.run(&format!("ip route add default via {inside}"))?;
        router
            .run(&format!("ip route add {own}/{one} dev far"))
            .map(drop)
    }

    fn address_itself(&self) -> Result<()> {
        let family = self.plan.family;
        let (one, bits, own) = (family.address_bits(), family.subnet_bits(), self.address());
        let (client, next_hop) = (family.address(CLIENT), self.next_hop());
        let set = |what: &str| self.namespace.run(&format!("ip {what}")).map(drop);
        if self.plan.shape == Shape::Segment {
            set(&format!("address add {own}/{bits} dev eth0"))?;
            return match self.plan.returns {
                Returns::ThroughGateway => set(&format!("route add {client}/{one} via {next_hop}")),
                Returns::Directly => Ok(()),
                Returns::Nowhere => set(&format!("route add blackhole {client}/{one}")),
            };
        }
        let is_narrow = self.plan.shape == Shape::RouterToHosts;
        let segments = if is_narrow {
            full_segments(family)
        } else {
            String::new()
        };
        set(&format!("address add {own}/{one} dev eth0"))?;
        set(&format!("route add {next_hop}/{one} dev eth0"))?;
        // The other hosts, whatever is said of clients.
        set(&format!(
            "route add {} via {next_hop}",
            family.subnet(INSIDE)
        ))?;
        match self.plan.returns {
            Returns::ThroughGateway => {
                set(format!("route add default via {next_hop} {segments}").trim_end())
            }
            Returns::Directly => set(&format!("route add {} dev out", family.subnet(CLIENT))),
            Returns::Nowhere => Ok(()),
        }
    }

    /// Whom it sends to what is not on its own link.
    fn next_hop(&self) -> IpAddr {
        self.plan.family.address(match self.plan.shape {
            Shape::Routed | Shape::RouterToClient => INSIDE,
            Shape::RouterToHosts => Ipv4Addr::new(10, 72, 0, 200 + self.number),
            Shape::Segment => GATEWAY,
        })
    }
}
