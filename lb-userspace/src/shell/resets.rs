//! Ends connections from outside: sends segments in the name of one end to the other.
//!
//! A reset is `RST` alone, its sequence number exactly the next one that the receiver expects.
//! Linux takes it then, and only then, as the end of the connection (RFC 5961 section 3.2,
//! `tcp_validate_incoming`); no `ACK` is asked for in any state after `SYN-SENT`, and RFC 9293
//! section 3.10.5 sends none with an abort, so none is claimed that could be wrong. A sequence
//! number that is merely near draws a challenge ACK, which the data plane answers in its turn.
//! Neither window nor timestamps count for a reset, so none are needed.

mod segment;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use self::segment::{FLAG_ACK, FLAG_RST, Fields, Segment};

/// The end of a connection, said to `destination` in the name of `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Whom the receiver believes it to come from.
    pub source: SocketAddr,
    /// Whose connection ends.
    pub destination: SocketAddr,
    /// What the receiver expects next: the last acknowledgment number that it sent.
    pub sequence: u32,
}

/// A question to `destination` in the name of `source`, as a keepalive asks it: an `ACK` for a byte
/// that the receiver had long ago. Its answer says what it expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom the receiver believes it to come from, and answers.
    pub source: SocketAddr,
    /// Who is to answer.
    pub destination: SocketAddr,
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

/// A raw socket of each address family, which sends resets and probes.
#[derive(Debug)]
pub struct ResetSender {
    ipv4: Socket,
    /// `None` on a host whose kernel has no IPv6.
    ipv6: Option<Socket>,
}

impl ResetSender {
    /// Opens the sockets, which takes `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let ipv6 = match open_raw(Domain::IPV6) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let ipv4 = open_raw(Domain::IPV4)?;
        Ok(Self { ipv4, ipv6 })
    }

    /// Sends one reset. Waits for a full queue, at most 20 ms.
    pub fn send(&self, reset: &Reset) -> io::Result<()> {
        self.transmit(reset.destination, &reset.segment()?)
    }

    /// Sends one probe. Waits for a full queue, at most 20 ms.
    pub fn probe(&self, probe: &Probe) -> io::Result<()> {
        self.transmit(probe.destination, &probe.segment()?)
    }

    /// Sends all of them, and goes on after a failure.
    pub fn send_all(&self, resets: impl IntoIterator<Item = Reset>) -> Tally {
        resets.into_iter().map(|reset| self.send(&reset)).collect()
    }

    /// Asks all of them, and goes on after a failure.
    pub fn probe_all(&self, probes: impl IntoIterator<Item = Probe>) -> Tally {
        probes.into_iter().map(|probe| self.probe(&probe)).collect()
    }

    fn transmit(&self, destination: SocketAddr, segment: &Segment) -> io::Result<()> {
        let (socket, destination) = self.way_to(destination)?;
        for _ in 0..ATTEMPTS {
            match socket.send_to(segment.as_bytes(), &destination) {
                Ok(_) => return Ok(()),
                Err(error) if is_queue_full(&error) => wait_for_room(socket)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// The socket for a destination, and the destination as that socket takes it.
    fn way_to(&self, destination: SocketAddr) -> io::Result<(&Socket, SockAddr)> {
        match destination {
            SocketAddr::V4(_) => Ok((&self.ipv4, destination.into())),
            SocketAddr::V6(mut address) => {
                let Some(socket) = &self.ipv6 else {
                    return Err(io::Error::from_raw_os_error(EAFNOSUPPORT));
                };
                // A raw IPv6 socket reads a port as a protocol number, and refuses any that is not
                // its own (`rawv6_sendmsg`).
                address.set_port(0);
                Ok((socket, SocketAddr::V6(address).into()))
            }
        }
    }
}

fn open_raw(domain: Domain) -> io::Result<Socket> {
    // This protocol means "the header is mine" in both families, so that the source may be anybody,
    // and receives nothing.
    let protocol = Protocol::from(IPPROTO_RAW);
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // What another worker queued on a slow interface must not stop a whole table of resets.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    Ok(socket)
}

fn wait_for_room(socket: &Socket) -> io::Result<()> {
    let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut room, PollTimeout::from(ATTEMPT_MILLISECONDS))?;
    Ok(())
}

impl Reset {
    fn segment(&self) -> io::Result<Segment> {
        Segment::build(&Fields {
            source: self.source,
            destination: self.destination,
            sequence: self.sequence,
            acknowledgment: 0,
            flags: FLAG_RST,
        })
    }
}

impl Probe {
    fn segment(&self) -> io::Result<Segment> {
        Segment::build(&Fields {
            source: self.source,
            destination: self.destination,
            sequence: self.sequence.wrapping_sub(1),
            acknowledgment: self.acknowledgment,
            flags: FLAG_ACK,
        })
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

const IPPROTO_RAW: i32 = 255;
const ENOBUFS: i32 = nix::errno::Errno::ENOBUFS as i32;
const EAFNOSUPPORT: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;
/// A packet is let wait this often, and this long each time (milliseconds).
const ATTEMPTS: u32 = 4;
const ATTEMPT_MILLISECONDS: u8 = 5;
/// Room for some thousand segments that wait in an interface's queue (bytes).
const SEND_BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests;
