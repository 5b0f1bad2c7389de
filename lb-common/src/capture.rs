//! `pglb capture`: packets as they came and as they leave, shown while somebody looks.
//!
//! The command says in [`Capture`] until when it looks, and renews that; a command that is killed
//! turns capturing off by saying nothing. The kernel sends it one [`Record`] for each packet that
//! XDP does not pass to the host, followed by the packet as it leaves.

use crate::flow::Tick;
use crate::reason::Reason;

/// Bytes that are kept of a packet as it came: Ethernet, two VLAN tags, IPv6 and a TCP header with
/// all the options it may have are 122; an ICMP error with the headers that it quotes is shorter.
pub const HEADER_BYTES: u32 = 128;

/// How long one renewal keeps capturing on: 2 s.
pub const RENEWED_FOR: Tick = Tick(119);

/// Most bytes of a packet as it leaves that a record may carry: a jumbo frame. A record with its
/// packet must stay below the 65,536 bytes of an entry of the perf buffer.
pub const MOST_BYTES: u32 = 9_216;

/// A packet's first bytes.
pub type Header = [u8; HEADER_BYTES as usize];

/// Whether somebody looks. The command writes it, the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capture {
    /// Capturing is on while this is later than now; 0 is off.
    pub until: Tick,
    /// Bytes that are sent of each packet as it leaves, [`MOST_BYTES`] at most.
    pub snap: u32,
}

impl Capture {
    /// Capturing is on from `now` until it should have been renewed.
    pub const fn renewed(now: Tick, snap: u32) -> Self {
        let until = match now.0.wrapping_add(RENEWED_FOR.0) {
            // Just this tick stands for off.
            0 => 1,
            until => until,
        };
        Self {
            until: Tick(until),
            snap,
        }
    }

    /// Whether somebody may be looking: what it costs to ask when nobody does.
    #[inline(always)]
    pub const fn is_set(&self) -> bool {
        self.until.0 != 0
    }

    /// Whether somebody looks now.
    #[inline(always)]
    pub const fn is_on(&self, now: Tick) -> bool {
        // Ticks wrap: `until` is later when it is less than half a turn ahead.
        self.is_set() && now.0.wrapping_sub(self.until.0) > u32::MAX / 2
    }
}

/// A packet: what is known of it besides its bytes as it leaves, which follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it came: nanoseconds of `CLOCK_MONOTONIC`.
    pub nanoseconds: u64,
    /// Its length in bytes as it came.
    pub length_before: u32,
    /// Its length in bytes as it leaves.
    pub length_after: u32,
    /// How many bytes of it follow.
    pub captured: u32,
    /// The index of the interface that it came from.
    pub ingress: u32,
    /// The XDP action.
    pub action: u32,
    /// 1 + [`Reason::index`] of the reason that it was not forwarded for; 0 when it was.
    pub refusal: u32,
    /// Its first bytes as it came, in pairs, as far as there were that many.
    pub header: Header,
}

impl Record {
    /// Size in bytes.
    pub const SIZE: usize = 160;

    /// A record as the kernel has sent it, and the bytes that follow it; nothing when it is cut.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (nanoseconds, rest) = bytes.split_first_chunk()?;
        let (length_before, rest) = word(rest)?;
        let (length_after, rest) = word(rest)?;
        let (captured, rest) = word(rest)?;
        let (ingress, rest) = word(rest)?;
        let (action, rest) = word(rest)?;
        let (refusal, rest) = word(rest)?;
        let (header, rest) = rest.split_first_chunk()?;
        let record = Self {
            nanoseconds: u64::from_ne_bytes(*nanoseconds),
            length_before,
            length_after,
            captured,
            ingress,
            action,
            refusal,
            header: *header,
        };
        // The kernel fills records up to a multiple of 8 bytes.
        Some((record, rest.get(..captured as usize)?))
    }

    /// Its first bytes as it came: an even number of them.
    pub fn header(&self) -> &[u8] {
        let length = self.length_before.min(HEADER_BYTES) / 2 * 2;
        &self.header[..length as usize]
    }

    /// Why it was not forwarded.
    pub fn reason(&self) -> Option<Reason> {
        let index = self.refusal.checked_sub(1)?;
        Reason::ALL.get(index as usize).copied()
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_ne_bytes(*word), rest))
}

const _: () = assert!(size_of::<Record>() == Record::SIZE, "no padding");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capturing_ends_by_itself_when_it_is_not_renewed() {
        for start in [0, 1, 1_000, u32::MAX - 200, u32::MAX - 118, u32::MAX] {
            let after = |ticks: u32| Tick(start.wrapping_add(ticks));
            let capture = Capture::renewed(after(0), 64);
            assert!(capture.is_set(), "{start}");
            assert!(capture.is_on(after(0)), "{start}");
            assert!(capture.is_on(after(118)), "{start}");
            assert!(!capture.is_on(after(120)), "{start}");
            assert!(!capture.is_on(after(1_000_000)), "{start}");
        }
        assert_eq!(Tick::milliseconds(RENEWED_FOR.0), 1996);
    }

    #[test]
    fn nothing_written_is_off() {
        assert!(!Capture::default().is_on(Tick(0)));
        assert!(!Capture::default().is_on(Tick(u32::MAX)));
    }

    #[test]
    fn records_are_read_with_what_follows_them() {
        let mut bytes = 7_u64.to_ne_bytes().to_vec();
        for word in [70_u32, 66, 3, 2, 4, 1] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([9; HEADER_BYTES as usize]);
        bytes.extend([1, 2, 3, 0, 0, 0, 0, 0]);
        let (record, after) = Record::read(&bytes).unwrap();
        assert_eq!(after, [1, 2, 3]);
        assert_eq!(
            (record.nanoseconds, record.ingress, record.action),
            (7, 2, 4)
        );
        assert_eq!((record.length_before, record.length_after), (70, 66));
        assert_eq!(record.header(), [9; 70]);
        assert_eq!(record.reason(), Some(Reason::ALL[0]));
        for length in 0..Record::SIZE + 3 {
            assert!(Record::read(&bytes[..length]).is_none(), "{length}");
        }
    }
}
