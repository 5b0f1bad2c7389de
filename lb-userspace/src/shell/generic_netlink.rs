//! Questions to the kernel's generic netlink families, which rtnetlink does not know: one request,
//! one answer, no change of anything.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// A connection to the kernel. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct GenericNetlink {
    socket: Socket,
    sequence: u32,
}

/// A family's number in this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family(u16);

impl GenericNetlink {
    /// Opens the connection.
    pub fn open() -> io::Result<Self> {
        let protocol = Some(Protocol::from(NETLINK_GENERIC));
        let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, protocol)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The family of this name; an error when the kernel has none.
    pub fn family(&mut self, name: &str) -> io::Result<Family> {
        let question = attribute(CTRL_ATTR_FAMILY_NAME, &text(name));
        let answer = self.ask(Family(GENL_ID_CTRL), CTRL_CMD_GETFAMILY, &question)?;
        let number = attributes(&answer)
            .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
            .and_then(|(_, value)| Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?)));
        number.map(Family).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("netlink family {name} has no number"),
            )
        })
    }

    /// Sends a command with its attributes and returns the attributes of the answer.
    pub fn ask(&mut self, family: Family, command: u8, question: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let request = message(family, command, self.sequence, question);
        self.socket.write_all(&request)?;
        let mut buffer = vec![0; LONGEST_ANSWER];
        loop {
            let length = self.socket.read(&mut buffer)?;
            for (header, body) in messages(&buffer[..length]) {
                if header.sequence != self.sequence {
                    continue;
                }
                return if header.kind == NLMSG_ERROR {
                    Err(refusal(body))
                } else {
                    Ok(body.get(GENERIC_HEADER..).unwrap_or_default().to_vec())
                };
            }
        }
    }
}

/// An attribute in its wire form, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(padded(usize::from(length)));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

/// A text as the kernel wants it in an attribute.
pub fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The attributes that these bytes hold; what does not fit its own length ends them.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & KIND_MASK;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn message(family: Family, command: u8, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = MESSAGE_HEADER + GENERIC_HEADER + body.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(family.0.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel fills in the sender.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([command, VERSION, 0, 0]);
    bytes.extend(body);
    bytes
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let number = |from: usize| {
            Some(u32::from_ne_bytes(
                rest.get(from..from + 4)?.try_into().ok()?,
            ))
        };
        let length = usize::try_from(number(0)?).ok()?;
        let header = Header {
            kind: u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?),
            sequence: number(8)?,
        };
        let body = rest.get(MESSAGE_HEADER..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((header, body))
    })
}

fn refusal(body: &[u8]) -> io::Error {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok());
    let negated = number.map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(negated.saturating_neg())
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The kernel answers at once; this only keeps a lost answer from being waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any answer that is asked for here (bytes).
const LONGEST_ANSWER: usize = 65_536;
const AF_NETLINK: i32 = 16;
const NETLINK_GENERIC: i32 = 16;
/// The family that knows the others.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const VERSION: u8 = 1;
/// `struct nlmsghdr`, `struct genlmsghdr` and `struct nlattr` (bytes).
const MESSAGE_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// Without the marks for "nested" and "network byte order".
const KIND_MASK: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let bytes = [attribute(7, b"abcde"), attribute(0x8001, &[])].concat();
        assert_eq!(bytes.len(), 12 + 4);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(7, &b"abcde"[..]), (1, &[])]);
    }

    #[test]
    fn attributes_that_are_cut_off_end_the_list() {
        let bytes = attribute(7, b"abcde");
        for length in 0..9 {
            assert_eq!(attributes(&bytes[..length]).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0, 4, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn the_kernel_knows_its_own_controller_and_no_family_that_is_not_there() {
        let mut netlink = GenericNetlink::open().unwrap();
        assert_eq!(netlink.family("nlctrl").unwrap(), Family(GENL_ID_CTRL));
        let error = netlink.family("nosuchfamily").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
