//! A flood of SYNs from addresses where nobody is.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::{clock, namespace::Namespace, packets::Segment};

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
                    let frame = Segment::syn(source(number), target).bytes();
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
