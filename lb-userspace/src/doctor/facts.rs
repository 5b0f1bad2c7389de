//! What there is to judge: plain data, collected by [`super::look`] and made up by tests.
//! `None` is what could not be seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::XdpMode;
use crate::report::AttachedMode;
use crate::shell::network::InterfaceAddress;
use crate::shell::network::card::Card;

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host.
    pub host: Host,
    /// What the configuration asks of it; `None` without a configuration.
    pub plan: Option<Plan>,
    /// The configured interfaces in their order; without a configuration, every card that is up.
    pub interfaces: Vec<Interface>,
    /// The VIPs of the configuration.
    pub vips: Vec<Vip>,
    /// The backends of the configuration.
    pub backends: Vec<Backend>,
}

/// The host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release, such as `6.18.2-amd64`.
    pub release: String,
    /// Whether the kernel describes its own types.
    pub has_btf: bool,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u8>,
    /// The BPF file system.
    pub bpffs: Bpffs,
    /// The capabilities that `pglb run` needs and this process has not.
    pub missing_capabilities: Vec<&'static str>,
    /// Whether the kernel accepts the XDP program.
    pub trial: Trial,
    /// How many CPUs there are.
    pub cpus: u32,
    /// Whether connection tracking has entries in this network namespace.
    pub tracks_connections: bool,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub local_ports: Option<(u16, u16)>,
}

/// Whether maps can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// It is mounted where the pins go.
    Mounted,
    /// It is not, and the kernel has it: `pglb run` mounts it.
    Mountable,
    /// The kernel does not have it.
    Absent,
}

/// Whether the kernel accepts the XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It does.
    Accepted,
    /// It does not, and why.
    Rejected(String),
    /// It was not tried, and why.
    NotTried(String),
}

/// What the configuration asks of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Whether pglb brings the VIPs to this host itself.
    pub manages_vip: bool,
    /// Whether pglb's program is on one of the interfaces now.
    pub is_attached: bool,
    /// Whether a VIP or a backend has an IPv6 address.
    pub has_ipv6: bool,
    /// The ports that `full-nat` gives to its connections, both ends included.
    pub full_nat_ports: (u16, u16),
    /// The services.
    pub services: Vec<Service>,
}

impl Plan {
    /// Whether a service forwards in this way.
    pub fn forwards_by(&self, way: Forwarding) -> bool {
        self.services
            .iter()
            .any(|service| service.forwarding == way)
    }
}

/// A service, as far as the network is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What clients connect to.
    pub vip: SocketAddr,
    /// Its cluster.
    pub cluster: String,
    /// How packets are forwarded.
    pub forwarding: Forwarding,
}

words! {
    /// How packets are forwarded, including what this version may not be able to do.
    pub enum Forwarding {
        /// Replies come back through the gateway.
        Nat = "nat",
        /// Replies come to the gateway's own address.
        FullNat = "full-nat",
        /// The backend answers the client itself.
        Dsr = "dsr",
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What is known of it; `None` when there is none of this name.
    pub link: Option<Link>,
}

impl Interface {
    /// Whether it is the card that the packets of the VLAN device `name` travel over.
    pub fn carries(&self, name: &str) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.vlans.iter().any(|it| it == name))
    }
}

/// An interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
    /// What kind of virtual interface it is, such as `vlan`; `None` for a card.
    pub kind: Option<String>,
    /// Its driver, or its kind.
    pub driver: Option<String>,
    /// The bridge or bond that it belongs to.
    pub controller: Option<String>,
    /// The interface that it lies on, such as a VLAN's.
    pub lower: Option<String>,
    /// The VLAN interfaces that lie on it, also with another one between.
    pub vlans: Vec<String>,
    /// Largest packet that it sends (bytes).
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Its offloads, queues and XDP features.
    pub card: Card,
    /// How an XDP program is attached to it, whoever did that.
    pub attached: Option<AttachedMode>,
    /// Whether that program is pglb's.
    pub is_ours: Option<bool>,
    /// Its settings.
    pub settings: Settings,
}

/// The kernel's settings of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.conf.INTERFACE.forwarding`
    pub forwarding: Option<u8>,
    /// `net.ipv4.conf.INTERFACE.rp_filter`, or that of `all` when it is higher.
    pub reverse_path: Option<u8>,
    /// `net.ipv4.conf.INTERFACE.accept_local`, or that of `all` when it is higher.
    pub accept_local: Option<u8>,
    /// `net.ipv4.conf.INTERFACE.send_redirects`, or that of `all` when it is higher.
    pub send_redirects: Option<u8>,
    /// `net.ipv6.conf.INTERFACE.forwarding`, or that of `all` when it is lower.
    pub forwarding_v6: Option<u8>,
}

/// A VIP of one or more services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The services that have it, by name.
    pub services: Vec<String>,
    /// The interface of this host that has it now.
    pub here: Option<String>,
    /// Whether another host has it.
    pub elsewhere: Elsewhere,
}

/// Whether another host has a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// Nobody answered for it on this interface's network.
    Nobody(String),
    /// Somebody did: the interface, and the other host's MAC.
    Owner(String, [u8; 6]),
    /// It is in no subnet of a configured interface, so there is nobody to ask.
    Routed,
    /// It could not be asked, and why.
    Unknown(String),
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name as `cluster/name`.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Where the server listens.
    pub address: SocketAddr,
    /// What a TCP connection from this host met.
    pub reach: Reach,
    /// The way to it.
    pub route: Option<Route>,
    /// What the kernel's tables say of it, for each service; empty when pglb has no tables here.
    pub members: Option<Vec<Member>>,
}

/// What a TCP connection met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It was accepted.
    Accepted,
    /// The host answered that nobody listens.
    Refused,
    /// Nobody answered in time.
    Silent,
    /// It could not be tried, and why.
    Failed(String),
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is this host.
    Local,
    /// There is none.
    None,
    /// Out of an interface, and by a router where there is one.
    Out {
        /// The interface's name.
        interface: String,
        /// The next router; `None` when the backend is on the link.
        router: Option<IpAddr>,
    },
}

/// A backend as one service sees it, by the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The service's VIP and port.
    pub vip: Option<SocketAddr>,
    /// Connections that were ever given to it.
    pub given: u64,
    /// Connections that were ever established.
    pub established: u64,
    /// Packets of its replies that were ever seen.
    pub replies: u64,
    /// Clients whose SYN it was sent a while ago and has not answered.
    pub waiting: BTreeSet<SocketAddr>,
}
