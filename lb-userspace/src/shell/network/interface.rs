//! One interface, as netlink describes it.

use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};

/// One interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub index: u32,
    /// Its MAC; `None` for what is no Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Largest packet that it sends (bytes).
    pub mtu: u32,
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
    /// Whether it is one end of a virtual Ethernet cable.
    pub is_veth: bool,
    /// Its addresses of both families.
    pub addresses: Vec<InterfaceAddress>,
    /// The XDP programs on it, whoever attached them.
    pub xdp: Vec<XdpProgram>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// How many leading bits the addresses of its subnet share.
    pub prefix_len: u8,
    /// Whether pglb put it there, in this run or an earlier one.
    pub is_ours: bool,
}

/// An XDP program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// The kernel's number for it, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpPlace,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpPlace {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
    /// In the card.
    Hardware,
}

/// Makes a VIP of an address that is to be added: with the mark by which it is known as ours, also
/// after a restart.
pub(super) fn mark_as_vip(message: &mut AddressMessage, vip: IpAddr, interface: &str) {
    match vip {
        IpAddr::V4(_) => {
            let label = AddressAttribute::Label(label_for(interface));
            message.attributes.push(label);
        }
        // IPv6 addresses carry no label. The metric is that of the subnet's route, and without
        // such a route it is a number that the kernel keeps, and shows in `ip address`, for nothing
        // else (Linux 4.18 and newer; the `proto` of an address came with 5.18 only).
        IpAddr::V6(_) => message.attributes.extend([
            AddressAttribute::RoutePriority(VIP_METRIC),
            AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
            AddressAttribute::CacheInfo(never_a_source()),
        ]),
    }
}

/// An address that is valid for ever and preferred never: the host answers to it, and does not
/// choose it when it speaks to somebody itself (RFC 6724 section 5, rule 3).
fn never_a_source() -> CacheInfo {
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_preferred = 0;
    lifetimes.ifa_valid = u32::MAX;
    lifetimes
}

/// IPv4 addresses carry a label, shown by `ip address`, which must be short.
pub(super) fn label_for(interface: &str) -> String {
    let usual = format!("{interface}:{LABEL}");
    if usual.len() <= MAX_LABEL {
        usual
    } else {
        LABEL.to_owned()
    }
}

pub(super) fn is_our_label(label: &str) -> bool {
    label.rsplit(':').next() == Some(LABEL)
}

pub(super) fn read_interface(
    link: &LinkMessage,
    addresses: &[AddressMessage],
) -> Option<Interface> {
    let index = link.header.index;
    let is_up = link
        .header
        .flags
        .contains(LinkFlags::Up | LinkFlags::LowerUp);
    let mut interface = Interface {
        name: String::new(),
        index,
        mac: None,
        mtu: 0,
        is_up,
        is_veth: false,
        addresses: addresses
            .iter()
            .filter(|message| message.header.index == index)
            .filter_map(read_address)
            .collect(),
        xdp: Vec::new(),
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            interface.name.clone_from(name);
        } else if let LinkAttribute::Address(mac) = attribute {
            if link.header.link_layer_type == LinkLayerType::Ether {
                interface.mac = mac.as_slice().try_into().ok();
            }
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            interface.mtu = *mtu;
        } else if let LinkAttribute::LinkInfo(facts) = attribute {
            interface.is_veth = facts.contains(&LinkInfo::Kind(InfoKind::Veth));
        } else if let LinkAttribute::Xdp(facts) = attribute {
            interface.xdp = read_xdp(facts);
        }
    }
    (!interface.name.is_empty()).then_some(interface)
}

fn read_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut own = None;
    let mut peer = None;
    let mut is_ours = false;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            own = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            peer = Some(*address);
        } else if let AddressAttribute::Label(label) = attribute {
            is_ours = is_our_label(label);
        } else if let AddressAttribute::RoutePriority(metric) = attribute {
            is_ours = *metric == VIP_METRIC;
        }
    }
    // IPv6 has only the second; on a point-to-point IPv4 link that one is the other end.
    let address = own.or(peer)?;
    Some(InterfaceAddress {
        address,
        prefix_len: message.header.prefix_len,
        is_ours,
    })
}

fn read_xdp(facts: &[LinkXdp]) -> Vec<XdpProgram> {
    let mut found = Vec::new();
    let mut only = None;
    let mut only_mode = None;
    for fact in facts {
        if let LinkXdp::DrvProgId(id) = fact {
            found.push(XdpProgram {
                id: *id,
                mode: XdpPlace::Native,
            });
        } else if let LinkXdp::SkbProgId(id) = fact {
            found.push(XdpProgram {
                id: *id,
                mode: XdpPlace::Generic,
            });
        } else if let LinkXdp::HwProgId(id) = fact {
            found.push(XdpProgram {
                id: *id,
                mode: XdpPlace::Hardware,
            });
        } else if let LinkXdp::ProgId(id) = fact {
            only = Some(*id);
        } else if let LinkXdp::Attached(attached) = fact {
            only_mode = place_of(attached);
        }
    }
    // Kernels before 4.18 name a single program only in general terms.
    if found.is_empty()
        && let (Some(id), Some(mode)) = (only, only_mode)
    {
        found.push(XdpProgram { id, mode });
    }
    found
}

fn place_of(attached: &XdpAttached) -> Option<XdpPlace> {
    if *attached == XdpAttached::Driver {
        Some(XdpPlace::Native)
    } else if *attached == XdpAttached::SocketBuffer {
        Some(XdpPlace::Generic)
    } else {
        (*attached == XdpAttached::Hardware).then_some(XdpPlace::Hardware)
    }
}

const LABEL: &str = "pglb";
/// The same four letters as a number.
const VIP_METRIC: u32 = u32::from_be_bytes(*b"pglb");
/// What the kernel has room for in the label of an address (bytes, `IFNAMSIZ` less its end).
const MAX_LABEL: usize = 15;
