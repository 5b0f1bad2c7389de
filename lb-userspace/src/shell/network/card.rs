//! What a network card does on its own before a program sees a packet, as the kernel's netlink
//! families `ethtool` (Linux 5.6) and `netdev` (Linux 6.3) tell it to anybody.

use std::collections::BTreeSet;
use std::io;

use super::super::generic_netlink::{Family, GenericNetlink, attribute, attributes, text};

/// What is known of one card; `None` where the kernel or the driver does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// The offloads that are on, by the names that `ethtool -k` of newer versions has too.
    pub offloads: Option<BTreeSet<String>>,
    /// The offloads, on or off, that can be changed.
    pub changeable: Option<BTreeSet<String>>,
    /// Its queues.
    pub channels: Option<Channels>,
    /// What its driver can do for XDP.
    pub xdp: Option<XdpFeatures>,
}

/// The queues of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Channels {
    /// Queues that receive.
    pub receiving: u32,
    /// The most that it could have.
    pub most: u32,
}

/// What a driver can do for XDP at this moment, bits of `enum netdev_xdp_act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Whether a program can run in the driver, and pass, drop and send back.
    pub fn is_native(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether packets can be redirected from it.
    pub fn redirects(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether packets can be redirected to it.
    pub fn takes_redirected(self) -> bool {
        self.0 & 1 << 2 != 0
    }
}

/// Asks for everything; what cannot be asked stays `None`.
pub fn read(name: &str, index: u32) -> Card {
    let features = ask_ethtool(FEATURES_GET, name).ok();
    let offloads = |which| Some(read_offloads(features.as_ref()?, which));
    Card {
        offloads: offloads(FEATURES_ACTIVE),
        changeable: offloads(FEATURES_HARDWARE),
        channels: read_channels(name).ok(),
        xdp: read_xdp(index).ok().flatten(),
    }
}

fn read_offloads(answer: &[u8], which: u16) -> BTreeSet<String> {
    let set = attributes(answer).find(|(kind, _)| *kind == which);
    set.map(|(_, bits)| set_bits(bits)).unwrap_or_default()
}

/// The names in a bit set of ethtool's. Without a mask it lists the bits that are set; with one,
/// those that the mask names, and marks those that are set.
fn set_bits(set: &[u8]) -> BTreeSet<String> {
    let has = |bytes: &[u8], wanted: u16| attributes(bytes).any(|(kind, _)| kind == wanted);
    let is_list = has(set, BITSET_NOMASK);
    attributes(set)
        .filter(|(kind, _)| *kind == BITSET_BITS)
        .flat_map(|(_, bits)| attributes(bits))
        .filter(|(_, bit)| is_list || has(bit, BIT_VALUE))
        .filter_map(|(_, bit)| {
            let (_, name) = attributes(bit).find(|(kind, _)| *kind == BIT_NAME)?;
            let name = name.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        })
        .collect()
}

fn read_channels(name: &str) -> io::Result<Channels> {
    let answer = ask_ethtool(CHANNELS_GET, name)?;
    let number = |wanted: u16| {
        let found = attributes(&answer).find(|(kind, _)| *kind == wanted);
        let bytes = found.and_then(|(_, value)| value.get(..4)?.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    Ok(Channels {
        receiving: number(CHANNELS_RX) + number(CHANNELS_COMBINED),
        most: number(CHANNELS_RX_MAX) + number(CHANNELS_COMBINED_MAX),
    })
}

fn ask_ethtool(command: u8, name: &str) -> io::Result<Vec<u8>> {
    let mut netlink = GenericNetlink::open()?;
    let family = netlink.family("ethtool")?;
    let header = attribute(HEADER_DEV_NAME, &text(name));
    netlink.ask(family, command, &attribute(HEADER | NESTED, &header))
}

fn read_xdp(index: u32) -> io::Result<Option<XdpFeatures>> {
    let mut netlink = GenericNetlink::open()?;
    let family: Family = netlink.family("netdev")?;
    let question = attribute(DEV_IFINDEX, &index.to_ne_bytes());
    let answer = netlink.ask(family, DEV_GET, &question)?;
    let features = attributes(&answer).find(|(kind, _)| *kind == DEV_XDP_FEATURES);
    let bytes = features.and_then(|(_, value)| value.get(..8)?.try_into().ok());
    Ok(bytes.map(|bytes| XdpFeatures(u64::from_ne_bytes(bytes))))
}

// `linux/ethtool_netlink.h`
const FEATURES_GET: u8 = 11;
const FEATURES_HARDWARE: u16 = 2;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const CHANNELS_GET: u8 = 17;
const CHANNELS_RX_MAX: u16 = 2;
const CHANNELS_COMBINED_MAX: u16 = 5;
const CHANNELS_RX: u16 = 6;
const CHANNELS_COMBINED: u16 = 9;
/// The first attribute of every request.
const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const NESTED: u16 = 0x8000;
// `linux/netdev.h`
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::lone_thread;

    #[test]
    fn an_interface_that_is_not_there_tells_nothing() {
        assert_eq!(read("nosuch0", 1 << 30), Card::default());
    }

    #[test]
    #[ignore = "needs root"]
    fn a_virtual_cable_tells_its_offloads_queues_and_features() {
        lone_thread::with_own_network(|| async {
            lone_thread::ip("link add here index 77 type veth peer name there");
            lone_thread::ip("link set here up");
            lone_thread::ip("link set there up");
            let card = read("here", 77);
            let offloads = card.offloads.unwrap();
            assert!(offloads.contains("rx-vlan-hw-parse"), "{offloads:?}");
            assert!(!offloads.contains("rx-lro"), "{offloads:?}");
            let changeable = card.changeable.unwrap();
            assert!(!changeable.contains("rx-lro"), "{changeable:?}");
            assert!(changeable.contains("rx-vlan-hw-parse"), "{changeable:?}");
            let channels = card.channels.unwrap();
            assert!(channels.receiving >= 1 && channels.most >= channels.receiving);
            // The family `netdev` is younger than the oldest kernel that pglb runs on.
            if let Some(xdp) = card.xdp {
                assert!(xdp.is_native() && xdp.redirects(), "{xdp:?}");
            }
        });
    }
}
