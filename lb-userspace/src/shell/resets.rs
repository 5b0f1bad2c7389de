//! Ends connections from outside: sends segments in the name of one end to the other.
//!
//! A reset is `RST` alone, its sequence number exactly the next one that the receiver expects.
//! Linux takes it then, and only then, as the end of the connection (RFC 5961 section 3.2,
//! `tcp_validate_incoming`); no `ACK` is asked for in any state after `SYN-SENT`, and RFC 9293
//! section 3.10.5 sends none with an abort, so none is claimed that could be wrong. A sequence
//! number that is merely near draws a challenge ACK, which the data plane answers in its turn.
//! Neither window nor timestamps count for a reset, so none are needed.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The end of a connection, said to `destination` in the name of `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Whom the receiver believes it to come from.
    pub source: SocketAddrV4,
    /// Whose connection ends.
    pub destination: SocketAddrV4,
    /// What the receiver expects next: the last acknowledgment number that it sent.
    pub sequence: u32,
}

/// A question to `destination` in the name of `source`, as a keepalive asks it: an `ACK` for a byte
/// that the receiver had long ago. Its answer says what it expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom the receiver believes it to come from, and answers.
    pub source: SocketAddrV4,
    /// Who is to answer.
    pub destination: SocketAddrV4,
    /// What the receiver is believed to expect next; the segment carries the number before it.
    pub sequence: u32,
    /// The last sequence number that the receiver sent, plus one.
    pub acknowledgment: u32,
}

/// What became of many segments.
#[derive(Debug, Default)]
pub struct Tally {
    /// Segments handed to the network.
    pub sent: u64,
    /// Segments that could not be.
    pub failed: u64,
    /// The first failure, for the log.
    pub first_error: Option<io::Error>,
}

/// A raw IPv4 socket that sends resets and probes.
#[derive(Debug)]
pub struct ResetSender {
    socket: Socket,
}

impl ResetSender {
    /// Opens the socket, which takes `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // This protocol means "the header is mine" and receives nothing.
        let protocol = Protocol::from(IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        // What another worker queued on a slow interface must not stop a whole table of resets.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        Ok(Self { socket })
    }

    /// Sends one reset. Waits for a full queue, at most 20 ms.
    pub fn send(&self, reset: &Reset) -> io::Result<()> {
        self.transmit(reset.destination, &reset.segment())
    }

    /// Sends one probe. Waits for a full queue, at most 20 ms.
    pub fn probe(&self, probe: &Probe) -> io::Result<()> {
        self.transmit(probe.destination, &probe.segment())
    }

    /// Sends all of them, and goes on after a failure.
    pub fn send_all(&self, resets: impl IntoIterator<Item = Reset>) -> Tally {
        resets.into_iter().map(|reset| self.send(&reset)).collect()
    }

    /// Asks all of them, and goes on after a failure.
    pub fn probe_all(&self, probes: impl IntoIterator<Item = Probe>) -> Tally {
        probes.into_iter().map(|probe| self.probe(&probe)).collect()
    }

    fn transmit(&self, destination: SocketAddrV4, segment: &[u8; SEGMENT_LEN]) -> io::Result<()> {
        let destination = SockAddr::from(destination);
        for _ in 0..ATTEMPTS {
            match self.socket.send_to(segment, &destination) {
                Ok(_) => return Ok(()),
                Err(error) if is_queue_full(&error) => self.wait_for_room()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let mut room = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        poll(&mut room, PollTimeout::from(ATTEMPT_MILLISECONDS))?;
        Ok(())
    }
}

impl Reset {
    fn segment(&self) -> [u8; SEGMENT_LEN] {
        build_segment(self.source, self.destination, self.sequence, 0, FLAG_RST)
    }
}

impl Probe {
    fn segment(&self) -> [u8; SEGMENT_LEN] {
        let before = self.sequence.wrapping_sub(1);
        build_segment(
            self.source,
            self.destination,
            before,
            self.acknowledgment,
            FLAG_ACK,
        )
    }
}

impl FromIterator<io::Result<()>> for Tally {
    fn from_iter<I: IntoIterator<Item = io::Result<()>>>(results: I) -> Self {
        let mut tally = Self::default();
        for result in results {
            match result {
                Ok(()) => tally.sent += 1,
                Err(error) => {
                    tally.failed += 1;
                    tally.first_error.get_or_insert(error);
                }
            }
        }
        tally
    }
}

/// Whether the packet may go out in a moment: the socket's own buffer or the interface's queue.
fn is_queue_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(ENOBUFS)
}

fn build_segment(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
) -> [u8; SEGMENT_LEN] {
    let mut segment = [0; SEGMENT_LEN];
    segment[0] = 0x45;
    segment[2..4].copy_from_slice(&TOTAL_LENGTH.to_be_bytes());
    segment[6] = DO_NOT_FRAGMENT;
    segment[8] = TTL;
    segment[9] = PROTOCOL_TCP;
    segment[12..16].copy_from_slice(&source.ip().octets());
    segment[16..20].copy_from_slice(&destination.ip().octets());
    segment[20..22].copy_from_slice(&source.port().to_be_bytes());
    segment[22..24].copy_from_slice(&destination.port().to_be_bytes());
    segment[24..28].copy_from_slice(&sequence.to_be_bytes());
    segment[28..32].copy_from_slice(&acknowledgment.to_be_bytes());
    segment[32] = 5 << 4;
    segment[33] = flags;
    if flags & FLAG_ACK != 0 {
        // A closed window would stop the receiver where it takes the segment at its word.
        segment[34..36].copy_from_slice(&[0xff; 2]);
    }
    let header_sum = checksum(sum_words(&segment[..20]));
    segment[10..12].copy_from_slice(&header_sum);
    // The pseudo-header: both addresses, the protocol and the length of the TCP part.
    let pseudo = sum_words(&segment[12..20]) + u32::from(PROTOCOL_TCP) + 20;
    let tcp_sum = checksum(pseudo + sum_words(&segment[20..]));
    segment[36..38].copy_from_slice(&tcp_sum);
    segment
}

fn sum_words(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)))
        .sum()
}

fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!(folded + (folded >> 16))).to_be_bytes();
    [high, low]
}

/// An IPv4 and a TCP header, neither with options (bytes).
const TOTAL_LENGTH: u16 = 40;
const SEGMENT_LEN: usize = TOTAL_LENGTH as usize;
const IPPROTO_RAW: i32 = 255;
const PROTOCOL_TCP: u8 = 6;
const DO_NOT_FRAGMENT: u8 = 0x40;
const TTL: u8 = 64;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;
const ENOBUFS: i32 = nix::errno::Errno::ENOBUFS as i32;
/// A packet is let wait this often, and this long each time (milliseconds).
const ATTEMPTS: u32 = 4;
const ATTEMPT_MILLISECONDS: u8 = 5;
/// Room for some thousand segments that wait in an interface's queue (bytes).
const SEND_BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests;
