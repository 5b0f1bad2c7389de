//! Where things stand in a frame without VLAN tag and IP options, and how they are read and
//! written: a word at a time, as the kernel allows on machines with unaligned access.
#![expect(
    unsafe_code,
    reason = "packet pointers can only be read after a comparison with the end"
)]

use aya_ebpf::programs::XdpContext;

/// An address family: offsets in bytes from the start of the frame.
pub(crate) trait Family {
    /// The frame type in network byte order, as the machine reads it.
    const KIND: u16;
    /// Words of an address.
    const WORDS: usize;
    /// The sender's address; the receiver's follows.
    const SOURCE: usize;
    /// The IP header's checksum, where it has one.
    const IP_CHECKSUM: Option<usize>;
    /// The TCP header.
    const TCP: usize;
    /// The part of an address in which flows differ, behind the start of the address.
    const LAST_WORD: usize = Self::WORDS * 4 - 4;

    /// Whether the IP header is one that a service takes.
    fn is_plain(frame: &Frame) -> bool;
}

pub(crate) enum V4 {}

impl Family for V4 {
    const KIND: u16 = 0x0800_u16.to_be();
    const WORDS: usize = 1;
    const SOURCE: usize = 26;
    const IP_CHECKSUM: Option<usize> = Some(24);
    const TCP: usize = 34;

    #[inline(always)]
    fn is_plain(frame: &Frame) -> bool {
        const NOT_DF: u16 = 0xbfff_u16.to_be();
        let version_and_length: u8 = frame.read(14);
        let fragment: u16 = frame.read(20);
        let protocol: u8 = frame.read(23);
        version_and_length == 0x45 && fragment & NOT_DF == 0 && protocol == 6
    }
}

pub(crate) enum V6 {}

impl Family for V6 {
    const KIND: u16 = 0x86dd_u16.to_be();
    const WORDS: usize = 4;
    const SOURCE: usize = 22;
    const IP_CHECKSUM: Option<usize> = None;
    const TCP: usize = 54;

    #[inline(always)]
    fn is_plain(frame: &Frame) -> bool {
        let version: u8 = frame.read(14);
        let next_header: u8 = frame.read(20);
        version >> 4 == 6 && next_header == 6
    }
}

/// A frame of which so many bytes are there.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    start: usize,
}

impl Frame {
    /// The frame, if it has at least `LENGTH` bytes.
    #[inline(always)]
    pub(crate) fn of<const LENGTH: usize>(ctx: &XdpContext) -> Option<Self> {
        let start = ctx.data();
        (start + LENGTH <= ctx.data_end()).then_some(Self { start })
    }

    #[inline(always)]
    pub(crate) fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the verifier refuses the program when the offset is not below the length that
        // was compared; it allows unaligned access, and so does the machine.
        unsafe { *((self.start + offset) as *const T) }
    }

    #[inline(always)]
    pub(crate) fn write<T>(&self, offset: usize, value: T) {
        // SAFETY: as in `read`.
        unsafe { *((self.start + offset) as *mut T) = value };
    }
}
