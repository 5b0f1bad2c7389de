//! Captured packets as a pcapng file, which Wireshark, tshark and tcpdump read.
//!
//! The format is <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>: blocks of a type, a
//! length, a body, and the length again, everything in units of 4 bytes.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::packet::Frame;

/// Which way a frame passed its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It came in.
    In,
    /// It went out.
    Out,
}

/// Writes packets as blocks of a pcapng file.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    /// Names of the interfaces that are described already, by their number in the file.
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn begin(to: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_ne_bytes());
        // Version 1.0, and a section of a length that is not known yet.
        body.extend(1_u16.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        body.extend(u64::MAX.to_ne_bytes());
        let program = concat!("pglb ", env!("CARGO_PKG_VERSION"));
        option(&mut body, SECTION_PROGRAM, program.as_bytes());
        option(&mut body, END, &[]);
        let mut writer = Self {
            to,
            interfaces: Vec::new(),
        };
        writer.block(SECTION, &body)?;
        Ok(writer)
    }

    /// Writes a frame as it passed the interface of that name.
    pub fn frame(
        &mut self,
        frame: &Frame,
        at: SystemTime,
        interface: &str,
        way: Way,
        comment: &str,
    ) -> io::Result<()> {
        let interface = self.describe(interface)?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // Nanoseconds since 1970 fill 64 bits in 2554.
        let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let [high, low] = halves(nanoseconds);
        let mut body = Vec::with_capacity(frame.bytes.len() + 128);
        for word in [interface, high, low, length(&frame.bytes)?, frame.length] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(&frame.bytes);
        fill(&mut body);
        let flags: u32 = match way {
            Way::In => 1,
            Way::Out => 2,
        };
        option(&mut body, PACKET_FLAGS, &flags.to_ne_bytes());
        option(&mut body, COMMENT, comment.as_bytes());
        option(&mut body, END, &[]);
        self.block(PACKET, &body)
    }

    /// Hands on what was written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// The number of an interface, described when it is met first.
    fn describe(&mut self, name: &str) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|known| known == name);
        let number = known.unwrap_or(self.interfaces.len());
        if known.is_none() {
            let mut body = Vec::new();
            body.extend(ETHERNET.to_ne_bytes());
            body.extend(0_u16.to_ne_bytes());
            // No limit to what is captured of a packet.
            body.extend(0_u32.to_ne_bytes());
            option(&mut body, INTERFACE_NAME, name.as_bytes());
            option(&mut body, INTERFACE_RESOLUTION, &[NANOSECONDS]);
            option(&mut body, END, &[]);
            self.block(INTERFACE, &body)?;
            self.interfaces.push(name.to_owned());
        }
        u32::try_from(number).map_err(io::Error::other)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let whole = length(body)? + 12;
        self.to.write_all(&kind.to_ne_bytes())?;
        self.to.write_all(&whole.to_ne_bytes())?;
        self.to.write_all(body)?;
        self.to.write_all(&whole.to_ne_bytes())
    }
}

/// Adds an option: its number, the length of its value, and the value.
fn option(body: &mut Vec<u8>, number: u16, value: &[u8]) {
    let most = value.len().min(usize::from(u16::MAX));
    let length = u16::try_from(most).unwrap_or(u16::MAX);
    body.extend(number.to_ne_bytes());
    body.extend(length.to_ne_bytes());
    body.extend(&value[..most]);
    fill(body);
}

fn fill(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}

fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// How readers tell the byte order of the file.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
/// Timestamps are in units of 10 to the minus 9th seconds.
const NANOSECONDS: u8 = 9;
const END: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Type and body of each block.
    fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let length = word(file, 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(file, length - 4) as usize, length, "told twice");
            blocks.push((word(file, 0), &file[8..length - 4]));
            file = &file[length..];
        }
        blocks
    }

    /// Number and value of each option.
    fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut options = Vec::new();
        loop {
            let number = u16::from_ne_bytes([bytes[0], bytes[1]]);
            let length = usize::from(u16::from_ne_bytes([bytes[2], bytes[3]]));
            if number == END {
                assert_eq!((length, bytes.len()), (0, 4), "the end is the last");
                return options;
            }
            options.push((number, &bytes[4..4 + length]));
            bytes = &bytes[4 + length.next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_file_has_its_interfaces_before_their_packets() {
        let mut file = Vec::new();
        let mut writer = Writer::begin(&mut file).unwrap();
        let at = UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
        let frame = |bytes: &[u8], length| Frame {
            bytes: bytes.to_vec(),
            length,
        };
        let came = frame(b"seventeen letters", 40);
        let left = frame(b"four", 4);
        writer
            .frame(&came, at, "eth0", Way::In, "a, before")
            .unwrap();
        writer
            .frame(&left, at, "eth1", Way::Out, "a, after")
            .unwrap();
        writer.frame(&came, at, "eth0", Way::In, "").unwrap();

        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET]
        );
        let section = blocks[0].1;
        assert_eq!(word(section, 0), BYTE_ORDER);
        assert_eq!(
            section[4..8],
            [1_u16.to_ne_bytes(), 0_u16.to_ne_bytes()].concat()
        );

        let interface = blocks[3].1;
        assert_eq!(interface[..2], ETHERNET.to_ne_bytes());
        assert_eq!(
            options(&interface[8..]),
            [(INTERFACE_NAME, &b"eth1"[..]), (INTERFACE_RESOLUTION, &[9])]
        );

        let packet = blocks[2].1;
        let time = u64::from(word(packet, 4)) << 32 | u64::from(word(packet, 8));
        assert_eq!(time, 1_800_000_000_123_456_789);
        assert_eq!(
            [word(packet, 0), word(packet, 12), word(packet, 16)],
            [0, 17, 40]
        );
        assert_eq!(&packet[20..37], b"seventeen letters");
        assert_eq!(
            options(&packet[40..]),
            [
                (PACKET_FLAGS, &1_u32.to_ne_bytes()[..]),
                (COMMENT, b"a, before")
            ]
        );
        let packet = blocks[4].1;
        assert_eq!(
            [word(packet, 0), word(packet, 12), word(packet, 16)],
            [1, 4, 4]
        );
        assert_eq!(options(&packet[24..])[0].1, 2_u32.to_ne_bytes());
    }
}
