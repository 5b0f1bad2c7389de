//! Ethernet headers (IEEE 802.3) and VLAN tags (IEEE 802.1Q).

/// An Ethernet (MAC) address.
pub type Mac = [u8; 6];

/// An Ethernet header: 14 bytes.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// The receiver's MAC address.
    pub destination: Mac,
    /// The sender's MAC address.
    pub source: Mac,
    /// What the frame carries: an EtherType, in network byte order.
    pub kind: [u8; 2],
}

impl Ethernet {
    /// Its length in bytes.
    pub const LENGTH: usize = 14;

    /// Writes both MAC addresses.
    #[inline(always)]
    pub fn address(&mut self, destination: &Mac, source: &Mac) {
        self.destination = *destination;
        self.source = *source;
    }

    /// Sends the frame back to where it came from.
    #[inline(always)]
    pub fn turn_round(&mut self) {
        core::mem::swap(&mut self.destination, &mut self.source);
    }
}

/// A VLAN tag as it lies in a frame, behind the MAC addresses: what kind of tag, and priority and
/// VLAN number, each in network byte order.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// [`Tag::CUSTOMER`] or [`Tag::SERVICE`]; zeros for no tag.
    pub kind: [u8; 2],
    /// Priority in the upper four bits, VLAN number in the others.
    pub control: [u8; 2],
}

impl Tag {
    /// Its length in bytes.
    pub const LENGTH: usize = 4;
    /// The EtherType of an ordinary tag (802.1Q).
    pub const CUSTOMER: [u8; 2] = [0x81, 0x00];
    /// The EtherType of a provider's outer tag (802.1ad).
    pub const SERVICE: [u8; 2] = [0x88, 0xa8];

    /// Whether an EtherType announces a tag.
    #[inline(always)]
    pub fn is_announced_by(kind: [u8; 2]) -> bool {
        kind == Self::CUSTOMER || kind == Self::SERVICE
    }
}

/// The VLAN tags that a way out needs, outermost first, as the tables hold them: VLAN number,
/// with the highest bit set for [`Tag::SERVICE`]; 0 for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EgressTags(pub [u16; 2]);

impl EgressTags {
    /// The bit of a provider's outer tag.
    pub const SERVICE: u16 = 0x8000;

    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == [0, 0]
    }

    /// The tags as they lie in a frame.
    #[inline(always)]
    pub fn in_frame(self) -> [Tag; 2] {
        let [outer, inner] = self.0;
        [Self::tag(outer), Self::tag(inner)]
    }

    #[inline(always)]
    fn tag(number: u16) -> Tag {
        if number == 0 {
            return Tag::default();
        }
        Tag {
            kind: if number & Self::SERVICE == 0 {
                Tag::CUSTOMER
            } else {
                Tag::SERVICE
            },
            control: (number & 0x0fff).to_be_bytes(),
        }
    }
}
