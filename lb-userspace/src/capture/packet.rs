//! A packet as it came and as it left, put together from what the kernel program tells of it.
//!
//! The program keeps a packet's first bytes as it came, and sends the whole packet as it leaves:
//! what lies behind the kept bytes is rewritten by nobody, and so taken from there.

use lb_common::capture::{HEADER_BYTES, Record};
use lb_common::reason::Reason;

use super::headers::{Headers, Payload};

/// A packet that XDP did not pass to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it came: nanoseconds of `CLOCK_MONOTONIC`.
    pub nanoseconds: u64,
    /// The index of the interface that it came from.
    pub ingress: u32,
    /// The packet as it came.
    pub before: Frame,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not forwarded.
    pub reason: Option<Reason>,
}

/// The bytes of a packet, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first bytes.
    pub bytes: Vec<u8>,
    /// How many there were, at least as many as are known.
    pub length: u32,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It left like this.
    Forwarded(Frame),
    /// Its sender got this as an answer.
    Answered(Frame),
    /// Nothing.
    Dropped,
}

impl Packet {
    /// The packet of a record, which `left` follows: its bytes as it left.
    pub fn of(record: &Record, left: &[u8]) -> Self {
        // The kernel's numbers of `XDP_ABORTED` and `XDP_DROP`.
        let is_dropped = matches!(record.action, 0 | 1);
        let after = Frame {
            bytes: left.to_vec(),
            length: record.length_after,
        };
        let start = record.header();
        let is_answer = !is_dropped && answers(&after.bytes, start);
        // What is dropped lies there as it came, unless it was on the way to become an answer.
        let has_rest = if is_dropped {
            is_untouched(record, left)
        } else {
            !is_answer
        };
        let mut bytes = start.to_vec();
        if has_rest {
            bytes.extend(rest(record, left));
        }
        Self {
            nanoseconds: record.nanoseconds,
            ingress: record.ingress,
            before: Frame {
                bytes,
                length: record.length_before,
            },
            outcome: if is_dropped {
                Outcome::Dropped
            } else if is_answer {
                Outcome::Answered(after)
            } else {
                Outcome::Forwarded(after)
            },
            reason: record.reason(),
        }
    }
}

/// Whether a dropped packet is still as it came, but for VLAN tags that were taken off to read it.
fn is_untouched(record: &Record, left: &[u8]) -> bool {
    const ETHERNET: usize = 14;
    let tags = record.length_before.saturating_sub(record.length_after) as usize;
    match (left.get(ETHERNET..), record.header().get(ETHERNET + tags..)) {
        (Some(left), Some(start)) => left.starts_with(start),
        _ => false,
    }
}

/// What of `left` lay behind the kept bytes when the packet came. A tag that was added or taken
/// off lies before them, and has moved the rest by as much.
fn rest<'a>(record: &Record, left: &'a [u8]) -> &'a [u8] {
    let kept = record.header().len() as u64;
    let start = (kept + u64::from(record.length_after))
        .checked_sub(u64::from(record.length_before))
        .and_then(|start| usize::try_from(start).ok());
    start.and_then(|start| left.get(start..)).unwrap_or(&[])
}

/// Whether the packet went back to its sender: from where it was sent to, or as an ICMP message
/// where there was TCP.
fn answers(answer: &[u8], packet: &[u8]) -> bool {
    let (Some(answer), Some(packet)) = (Headers::read(answer), Headers::read(packet)) else {
        return false;
    };
    let has_turned = match (answer.endpoints(), packet.endpoints()) {
        (Some((from, to)), Some((source, destination))) => from == destination && to == source,
        (None, None) => answer.source == packet.destination && answer.destination == packet.source,
        _ => false,
    };
    let is_message =
        matches!(answer.payload, Payload::Icmp { .. }) && matches!(packet.payload, Payload::Tcp(_));
    has_turned || is_message
}

const _: () = assert!(
    HEADER_BYTES.is_multiple_of(2),
    "the kernel keeps pairs of bytes"
);

#[cfg(test)]
pub(super) mod tests {
    use super::super::headers::tests::{frame, tagged};
    use super::*;

    const HEADER: usize = HEADER_BYTES as usize;
    pub(crate) const DROP: u32 = 1;
    pub(crate) const TX: u32 = 3;
    pub(crate) const REDIRECT: u32 = 4;

    /// What the kernel program would tell of a packet.
    pub(crate) fn record(before: &[u8], after: &[u8], action: u32) -> Record {
        let mut header = [0xee; HEADER];
        let kept = before.len().min(HEADER) / 2 * 2;
        header[..kept].copy_from_slice(&before[..kept]);
        Record {
            nanoseconds: 5,
            length_before: u32::try_from(before.len()).unwrap(),
            length_after: u32::try_from(after.len()).unwrap(),
            captured: u32::try_from(after.len()).unwrap(),
            ingress: 2,
            action,
            refusal: 0,
            header,
        }
    }

    fn whole(bytes: &[u8]) -> Frame {
        Frame {
            bytes: bytes.to_vec(),
            length: u32::try_from(bytes.len()).unwrap(),
        }
    }

    #[test]
    fn a_forwarded_packet_is_whole_before_and_after() {
        for payload in [0, 1, 5, 60, 61, 73, 74, 75, 76, 1400] {
            let payload: Vec<u8> = (0..payload)
                .map(|byte: u16| byte.to_be_bytes()[1])
                .collect();
            for (client, vip, backend, vlans, vlans_after) in [
                (
                    "10.0.0.9:1000",
                    "10.0.0.1:5432",
                    "10.2.0.3:5432",
                    &[][..],
                    &[][..],
                ),
                (
                    "[fd::9]:1000",
                    "[fd::1]:5432",
                    "[fd::3]:5432",
                    &[7, 8],
                    &[9, 8],
                ),
                // A tag that is taken off, and one that is added.
                ("[fd::9]:1000", "[fd::1]:5432", "[fd::3]:5432", &[7], &[]),
                ("10.0.0.9:1000", "10.0.0.1:5432", "10.2.0.3:5432", &[], &[3]),
            ] {
                let before = tagged(vlans, client, vip, "PA", &payload);
                let after = tagged(vlans_after, client, backend, "PA", &payload);
                let packet = Packet::of(&record(&before, &after, REDIRECT), &after);
                assert_eq!(packet.before, whole(&before));
                assert_eq!(packet.outcome, Outcome::Forwarded(whole(&after)));
            }
        }
    }

    #[test]
    fn what_was_not_sent_is_not_made_up() {
        let before = frame("10.0.0.9:1000", "10.0.0.1:5432", "PA", &[7; 1000]);
        let after = frame("10.0.0.9:1000", "10.2.0.3:5432", "PA", &[7; 1000]);
        let packet = Packet::of(&record(&before, &after, TX), &after[..200]);
        assert_eq!(packet.before.bytes, before[..200]);
        assert_eq!(packet.before.length, 1054);
        let Outcome::Forwarded(after) = packet.outcome else {
            panic!("{:?}", packet.outcome);
        };
        assert_eq!((after.bytes.len(), after.length), (200, 1054));
    }

    #[test]
    fn a_refused_packet_has_lost_its_payload_to_the_answer() {
        for (client, vip) in [
            ("10.0.0.9:1000", "10.0.0.1:5432"),
            ("[fd::9]:1000", "[fd::1]:5432"),
        ] {
            let before = frame(client, vip, "PA", &[7; 200]);
            let answer = frame(vip, client, "R", b"");
            let record = Record {
                refusal: Reason::UnknownSegment.index() + 1,
                ..record(&before, &answer, REDIRECT)
            };
            let packet = Packet::of(&record, &answer);
            assert_eq!(packet.before.bytes, before[..HEADER]);
            assert_eq!(packet.before.length as usize, before.len());
            assert_eq!(packet.outcome, Outcome::Answered(whole(&answer)));
            assert_eq!(packet.reason, Some(Reason::UnknownSegment));
        }
    }

    #[test]
    fn a_dropped_packet_is_whole_unless_it_was_changed_already() {
        let before = frame("10.0.0.9:1000", "10.0.0.1:5432", "S", &[7; 200]);
        let packet = Packet::of(&record(&before, &before, DROP), &before);
        assert_eq!(packet.before, whole(&before));
        assert_eq!(packet.outcome, Outcome::Dropped);

        let tagged = tagged(&[7, 8], "10.0.0.9:1000", "10.0.0.1:5432", "S", &[7; 200]);
        let packet = Packet::of(&record(&tagged, &before, DROP), &before);
        assert_eq!(packet.before, whole(&tagged));

        let half_made = frame("10.0.0.1:5432", "10.0.0.9:1000", "R", &[7; 200]);
        let packet = Packet::of(&record(&before, &half_made, DROP), &half_made);
        assert_eq!(packet.before.bytes, before[..HEADER]);
        assert_eq!(packet.outcome, Outcome::Dropped);
    }

    #[test]
    fn a_translated_icmp_error_keeps_what_it_quoted() {
        let error = |to: [u8; 4], about: &[u8]| {
            let mut error = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 254], to, 64)
                .icmpv4_raw(3, 4, [0, 0, 5, 0x78])
                .write(&mut error, &about[14..])
                .unwrap();
            error
        };
        let about = |from: &str| frame(from, "10.0.0.9:1000", "A", &[8; 300]);
        let before = error([10, 0, 0, 1], &about("10.0.0.1:5432"));
        let after = error([10, 2, 0, 3], &about("10.2.0.3:5432"));
        let packet = Packet::of(&record(&before, &after, TX), &after);
        assert_eq!(packet.before, whole(&before));
        assert_eq!(packet.outcome, Outcome::Forwarded(whole(&after)));
    }
}
