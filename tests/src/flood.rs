//! A flood of SYNs from addresses where nobody is, and single segments in somebody else's name.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::{
    clock, frames,
    namespace::Namespace,
    packets::{PSH, Segment},
};

/// A running flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    worker: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends SYNs out of a namespace, as many a second as `rate` if the machine can, each from another address of the
    /// `/16` of [`NOWHERE`] and another port.
    pub fn start(host: &Namespace, target: SocketAddrV4, rate: u32) -> Result<Self> {
        let (is_over, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (watched, counter) = (Arc::clone(&is_over), Arc::clone(&sent));
        let socket = host
            // With this protocol the kernel takes the whole packet as it is, source included.
            .enter(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)))?
            .context("cannot open a raw socket")?;
        let worker = thread::spawn(move || {
            let started = clock::now();
            while !watched.load(Ordering::Relaxed) {
                let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(0);
                let due = millis * u64::from(rate) / 1000;
                for number in counter.load(Ordering::Relaxed)..due {
                    let frame = Segment::syn(source(number), target)
                        .sequence(sequence(number))
                        .bytes();
                    // A full queue loses a SYN, as any flood does.
                    let _ = sendto(&socket, &frame[ETHERNET..], SendFlags::empty(), &target);
                }
                counter.fetch_max(due, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        Ok(Self {
            is_over,
            sent,
            worker: Some(worker),
        })
    }

    /// Ends it, and says how many SYNs it came to.
    pub fn finish(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends single segments in somebody else's name.
#[derive(Debug)]
pub struct Forger {
    ipv4: OwnedFd,
    ipv6: OwnedFd,
}

impl Forger {
    /// One that sends from a namespace.
    pub fn new(host: &Namespace) -> Result<Self> {
        let open = |family| socket(family, SocketType::RAW, Some(ipproto::RAW));
        let sockets = host.enter(|| Ok((open(AddressFamily::INET)?, open(AddressFamily::INET6)?)));
        let (ipv4, ipv6) =
            sockets?.map_err(|error: Errno| anyhow!("cannot open a raw socket: {error}"))?;
        Ok(Self { ipv4, ipv6 })
    }

    /// Sends a segment with one byte in it, if its flags are those of data.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32) -> Result<()> {
        // The frame of IPv4 is built with the right ports, and gets the addresses of IPv6 afterwards.
        let nowhere = |address: SocketAddr| match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => SocketAddrV4::new(NOWHERE, address.port()),
        };
        let mut segment = Segment::between(nowhere(from), nowhere(to))
            .flags(flags)
            .sequence(sequence);
        segment.acknowledgment = !sequence;
        if flags & PSH != 0 {
            segment = segment.data(b"x");
        }
        let frame = segment.bytes();
        match (from, to) {
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let packet = frames::between_ipv6(*from.ip(), *to.ip(), &segment);
                // A raw socket of IPv6 takes the port for a protocol.
                let target = SocketAddrV6::new(*to.ip(), 0, 0, 0);
                sendto(&self.ipv6, &packet[ETHERNET..], SendFlags::empty(), &target)?;
            }
            _ => {
                sendto(&self.ipv4, &frame[ETHERNET..], SendFlags::empty(), &to)?;
            }
        }
        Ok(())
    }
}

/// The flood's addresses are those of this /16.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 0);
const ETHERNET: usize = 14;
const PAUSE: Duration = Duration::from_millis(1);

/// The sender of a SYN: all addresses in turn, with a port that differs from round to round.
fn source(number: u64) -> SocketAddrV4 {
    let [.., third, fourth] = number.to_be_bytes();
    let [first, second, ..] = NOWHERE.octets();
    let port = 1024 + (number / 65_536 * 7919 + number) % 60_000;
    SocketAddrV4::new(
        Ipv4Addr::new(first, second, third, fourth),
        u16::try_from(port).unwrap_or(u16::MAX),
    )
}

/// The sequence number of a SYN: another one each time, as real floods have it. A backend takes a
/// SYN with the one that it knows for a retransmission.
fn sequence(number: u64) -> u32 {
    let [.., a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
